"""Allocations as they are kept with an item: a list of numbers."""

from collections.abc import Sequence

import torch

from arrcoc.outputs import Allocation


def leaves_of(allocation: Allocation, index: int = 0) -> list[int]:
    """Rows and columns of an image's grid, then top, left, bottom and right of each of its leaves, in one list."""
    single = allocation.image(index)
    return [*single.grids[0].tolist(), *single.boxes.flatten().tolist()]


def allocation_of(leaves: Sequence[int]) -> Allocation:
    """The allocation of one image that `leaves_of` wrote down, with relevance 1."""
    (rows, cols), boxes = leaves[:2], torch.tensor(leaves[2:], dtype=torch.long).view(-1, 4)
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
    )
