"""Did the tokens go where the answer is? Needs an allocation and boxes of evidence, no answer and no weights."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from arrcoc.outputs import Allocation
from arrcoc.training.data.evidence import evidence_cells
from arrcoc.training.data.rows import Row


PARTS = 32  # parts of a cell's height that a window's ends are told to


@dataclass(frozen=True)
class Coverage:
    """How an image's evidence was seen.

    Attributes:
        full_detail (`float`): share of the evidence's area that lies in cells which are tokens of their own, or in
            windows of pairs.
        resolution (`float`): mean linear resolution over the evidence's area: 1 at full detail, 1/2 where four cells
            are one token, 0 where cells were dropped.
    """

    full_detail: float
    resolution: float


def cell_resolution(allocation: Allocation) -> Tensor:
    """Linear resolution at which each cell is seen, of shape `(cells,)`: `1 / sqrt(cells of its leaf)`, 0 if dropped.

    It counts the cells that went into a token wherever they lie, so that scattered cells that were merged into one are
    seen no better than a block of as many; and those of the leaf's box, all of which a drawing of it shows.
    """
    leaf = allocation.cell_to_leaf
    kept = leaf >= 0
    merged = torch.bincount(leaf[kept], minlength=len(allocation.boxes))  # (leaves,)
    sizes = torch.maximum(merged, allocation.sizes.prod(1))
    resolution = torch.zeros(len(leaf), device=leaf.device)
    resolution[kept] = sizes[leaf[kept]].rsqrt()
    return resolution


def part_resolution(allocation: Allocation) -> Tensor:
    """Linear resolution at which parts of cells of one image are seen, of shape `(rows, PARTS, cols)`: that of their
    cells, but of a pair of which a window is drawn 1 inside of the window and 0 outside."""
    rows, cols = _grid(allocation.grids)
    resolution = cell_resolution(allocation).view(rows, 1, cols).repeat(1, PARTS, 1)
    if allocation.windows is not None:
        leaf = allocation.cell_to_leaf.view(rows, 1, cols).clamp(min=0)
        part = torch.arange(rows * PARTS, device=leaf.device).view(rows, PARTS, 1)
        below = (part + 0.5) / PARTS - (allocation.boxes[leaf, 0] + allocation.windows[leaf])  # (rows, PARTS, cols)
        inside = ((below > 0) & (below < 1)).to(resolution)
        resolution = torch.where(allocation.windows[leaf] < 0, resolution, inside)
    return resolution


def coverage_of(resolution: Tensor, shares: Tensor) -> Coverage:
    """Coverage of evidence.

    Args:
        resolution (`Tensor` of shape `(cells,)`): of an image's cells, or of parts of them of one size.
        shares (`Tensor` of shape `(cells,)`): share of each that evidence covers.

    Raises:
        ValueError: if no evidence lies on the image.
    """
    area = shares.double()
    total = area.sum()
    if total <= 0:
        raise ValueError("found no evidence on the image")
    full = (area * (resolution >= 1)).sum() / total
    return Coverage(float(full), float((area * resolution.double()).sum() / total))


def evidence_coverage(
    allocation: Allocation,
    boxes: Sequence[tuple[float, float, float, float]],
    image_size: tuple[int, int],
    mode: str = "all",
) -> Coverage:
    """Coverage of one image's evidence by its allocation.

    Args:
        allocation ([`Allocation`]): of one image.
        boxes (`Sequence`): (x0, y0, x1, y1) of the evidence in pixels of the image before the processor resized it.
        image_size (`tuple[int, int]`): (width, height) of that image in pixels.
        mode (`str`): `"all"`: the boxes together hold the answer, their union counts; `"any"`: each does alone, the
            one that is seen best counts.

    Raises:
        ValueError: if the allocation holds several images, there is no evidence, or the mode is neither of the two.
    """
    if len(allocation) != 1:
        raise ValueError(f"evidence belongs to one image, but the allocation holds {len(allocation)}; use .image(i)")
    rows, cols = _grid(allocation.grids)
    if allocation.windows is None:
        return _best(cell_resolution(allocation), boxes, image_size, (rows, cols), mode)
    return _best(part_resolution(allocation).flatten(), boxes, image_size, (rows * PARTS, cols), mode)


def resized_coverage(
    native_grid: tuple[int, int],
    resized_grid: tuple[int, int],
    boxes: Sequence[tuple[float, float, float, float]],
    image_size: tuple[int, int],
    mode: str = "all",
) -> Coverage:
    """Coverage of evidence on an image that was resized as a whole: as if each token were a leaf of a native grid.

    Args:
        native_grid, resized_grid (`tuple[int, int]`): rows and columns of cells before and after.
        boxes, image_size, mode: as in `evidence_coverage`.
    """
    native, resized = native_grid[0] * native_grid[1], resized_grid[0] * resized_grid[1]
    resolution = torch.full((native,), min(1.0, (resized / native) ** 0.5))
    return _best(resolution, boxes, image_size, native_grid, mode)


def row_coverage(allocation: Allocation, row: Row) -> Coverage | None:
    """Coverage of a row's evidence: the mean over its images with evidence, `None` if there are none.

    Args:
        allocation ([`Allocation`]): of the row's images.
        row ([`Row`]): the row.

    Raises:
        ValueError: if the row and the allocation have different numbers of images.
    """
    if len(allocation) != len(row.images):
        raise ValueError(f"found an allocation of {len(allocation)} images for a row of {len(row.images)}")
    found = [
        evidence_coverage(allocation.image(index), boxes, size, row.evidence_mode)
        for index, (boxes, size) in enumerate(zip(row.evidence or (), row.image_sizes(), strict=False))
        if boxes
    ]
    if not found:
        return None
    full, resolution = zip(*((part.full_detail, part.resolution) for part in found), strict=True)
    return Coverage(sum(full) / len(found), sum(resolution) / len(found))


def _grid(grids: Tensor) -> tuple[int, int]:
    rows, cols = grids[0].tolist()
    return rows, cols


def _best(
    resolution: Tensor,
    boxes: Sequence[tuple[float, float, float, float]],
    image_size: tuple[int, int],
    grid: tuple[int, int],
    mode: str,
) -> Coverage:
    if mode not in ("all", "any"):
        raise ValueError(f"mode must be 'all' or 'any', found {mode!r}")
    parts = [boxes] if mode == "all" else [[box] for box in boxes]
    shares = [evidence_cells(part, image_size, grid) for part in parts]
    found = [coverage_of(resolution.cpu(), share) for share in shares if share.any()]
    if not found:
        raise ValueError("found no evidence on the image")
    return max(found, key=lambda coverage: (coverage.resolution, coverage.full_detail))
