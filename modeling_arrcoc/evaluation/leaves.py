"""Allocations as they are kept with an item: a list of numbers."""

from collections.abc import Sequence

import torch

from arrcoc.outputs import Allocation


def leaves_of(allocation: Allocation, index: int = 0) -> list[float]:
    """Rows and columns of an image's grid, then top, left, bottom and right of what is drawn of each of its leaves, in
    one list; numbers are integers but for windows that begin or end within a cell."""
    single = allocation.image(index)
    edges = single.drawn.flatten().tolist()
    return [*single.grids[0].tolist(), *(int(edge) if edge == int(edge) else edge for edge in edges)]


def allocation_of(leaves: Sequence[float]) -> Allocation:
    """The allocation of one image that `leaves_of` wrote down, with relevance 1.

    A pair of cells whose window is one of them comes back as that cell, and the other one with what is around them.
    """
    rows, cols = map(int, leaves[:2])
    drawn = torch.tensor(leaves[2:], dtype=torch.float64).view(-1, 4)
    boxes = torch.cat([drawn[:, :2].floor(), drawn[:, 2:].ceil()], 1).long()
    windows = (drawn[:, 0] - boxes[:, 0]).float()
    leaf = torch.full((rows, cols), -1)
    areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    for number in areas.argsort(descending=True).tolist():  # a cell within another leaf's box is a leaf of its own
        top, left, bottom, right = boxes[number].tolist()
        leaf[top:bottom, left:right] = number
    return Allocation(
        grids=torch.tensor([[rows, cols]]),
        budgets=torch.tensor([len(boxes)]),
        cell_to_leaf=leaf.flatten(),
        boxes=boxes,
        relevance=torch.ones(rows * cols),
        position_scale=torch.ones(1),
        windows=torch.where(windows > 0, windows, -1.0) if windows.any() else None,
    )
