"""Evidence on the grid: against painting boxes pixel by pixel."""

import numpy as np
import pytest
import torch

from arrcoc.training.data import evidence_cells


def painted(boxes, size, grid, mode):
    """Share of covered pixels of each cell, for boxes and cells with whole pixels."""
    (width, height), (rows, columns) = size, grid
    masks = []
    for x0, y0, x1, y1 in boxes:
        mask = np.zeros((height, width))
        mask[max(0, y0) : max(0, y1), max(0, x0) : max(0, x1)] = 1
        masks.append(mask)
    mask = np.max(masks, 0) if mode == "all" else np.mean(masks, 0)
    return mask.reshape(rows, height // rows, columns, width // columns).mean((1, 3)).reshape(-1)


@pytest.mark.parametrize("mode", ["all", "any"])
@pytest.mark.parametrize("seed", range(8))
def test_shares_equal_painted_pixels(mode, seed):
    dice = np.random.default_rng(seed)
    rows, columns, cell = dice.integers(1, 7, 3).tolist()
    size = (columns * cell, rows * cell)
    boxes = []
    for _ in range(dice.integers(1, 6)):
        x, y = (np.sort(dice.choice(np.arange(-3, side + 4), 2, replace=False)).tolist() for side in size)
        boxes.append((x[0], y[0], x[1], y[1]))
    found = evidence_cells(boxes, size, (rows, columns), mode)
    assert found.dtype == torch.float32
    np.testing.assert_allclose(found.numpy(), painted(boxes, size, (rows, columns), mode), atol=1e-6)


def test_boxes_scale_with_the_image():
    """The grid spans the image whatever its size: boxes of a resized image give the same cells."""
    small = evidence_cells([(10, 10, 30, 20)], (100, 60), (3, 5))
    large = evidence_cells([(25, 40, 75, 80)], (250, 240), (3, 5))
    torch.testing.assert_close(small, large)
    assert float(small.sum()) == pytest.approx(20 * 10 / (20 * 20))


def test_modes():
    """Twice the same place: once together, half a chance each."""
    here, there = (0, 0, 1, 1), (1, 0, 2, 1)
    torch.testing.assert_close(evidence_cells([here, there], (2, 1), (1, 2), "all"), torch.tensor([1.0, 1.0]))
    torch.testing.assert_close(evidence_cells([here, there], (2, 1), (1, 2), "any"), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(evidence_cells([here, here], (2, 1), (1, 2), "all"), torch.tensor([1.0, 0.0]))
    assert evidence_cells([], (2, 1), (3, 2)).tolist() == [0.0] * 6
    with pytest.raises(ValueError, match="mode must be 'all' or 'any', found 'most'"):
        evidence_cells([here], (2, 1), (1, 2), "most")
