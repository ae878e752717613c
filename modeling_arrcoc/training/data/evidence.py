"""Evidence boxes on the grid of cells that the model sees."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .rows import Box


def evidence_cells(
    boxes: Sequence[Box], image_size: tuple[int, int], grid: tuple[int, int], mode: str = "all"
) -> Tensor:
    """Share of each cell that evidence covers.

    The grid spans the whole image, whatever size the processor resizes it to, so boxes are scaled by the ratio of
    grid to image.

    Args:
        boxes (`Sequence`): (x0, y0, x1, y1) in pixels of the image; what lies outside the image is cut off.
        image_size (`tuple[int, int]`): (width, height) of the image in pixels.
        grid (`tuple[int, int]`): (rows, columns) of cells.
        mode (`str`): `"all"`: the boxes together are the evidence, the share is that of their union. `"any"`: each
            box alone is enough, so each counts as the evidence with the same probability: the share is the mean of
            the boxes' shares.

    Returns:
        `(cells,)` float32 in [0, 1], in raster order; zeros without boxes.

    Raises:
        ValueError: `mode` is neither of the two.
    """
    if mode not in ("all", "any"):
        raise ValueError(f"mode must be 'all' or 'any', found {mode!r}")
    rows, columns = grid
    if not boxes:
        return torch.zeros(rows * columns)
    width, height = image_size
    scale = torch.tensor([columns / width, rows / height] * 2, dtype=torch.float64)
    limit = torch.tensor([columns, rows] * 2, dtype=torch.float64)
    cells = torch.minimum((torch.tensor(boxes, dtype=torch.float64) * scale).clamp(min=0), limit)  # (boxes, 4)
    if mode == "any":
        down = _overlap(cells[:, 1], cells[:, 3], rows)  # (boxes, rows)
        across = _overlap(cells[:, 0], cells[:, 2], columns)  # (boxes, columns)
        return (down.T @ across / len(cells)).flatten().float()  # (cells,)

    # All edges cut the picture into a fine grid of which every rectangle is covered wholly or not at all.
    ys = torch.cat([cells[:, 1], cells[:, 3], torch.arange(rows + 1)]).unique()  # (edges,)
    xs = torch.cat([cells[:, 0], cells[:, 2], torch.arange(columns + 1)]).unique()
    middle_y, middle_x = (ys[1:] + ys[:-1]) / 2, (xs[1:] + xs[:-1]) / 2
    inside_y = (cells[:, 1, None] < middle_y) & (middle_y < cells[:, 3, None])  # (boxes, fine rows)
    inside_x = (cells[:, 0, None] < middle_x) & (middle_x < cells[:, 2, None])  # (boxes, fine columns)
    covered = (inside_y.double().T @ inside_x.double()) > 0  # (fine rows, fine columns)
    area = covered * ys.diff()[:, None] * xs.diff()
    shares = torch.zeros(rows, columns, dtype=torch.float64)
    places = middle_y.long()[:, None].expand_as(area), middle_x.long()[None].expand_as(area)
    return shares.index_put_(places, area, accumulate=True).clamp(max=1).flatten().float()  # (cells,)


def _overlap(start: Tensor, end: Tensor, count: int) -> Tensor:
    """Length of each interval `(boxes,)` inside each of `count` unit intervals: `(boxes, count)`."""
    left = torch.arange(count, dtype=start.dtype)
    return (torch.minimum(end[:, None], left + 1) - torch.maximum(start[:, None], left)).clamp(min=0)
