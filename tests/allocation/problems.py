"""Random grids and budgets, and leaves that are compared."""

import numpy as np

from arrcoc.outputs import Allocation
from tests.allocation import reference


Grid = tuple[int, int]


def random_grids(rng: np.random.Generator, count: int, longest: int) -> list[Grid]:
    """Grids of all shapes, one in six of them a single row or column."""
    sides = rng.integers(1, longest + 1, (count, 2))
    thin = rng.random(count) < 1 / 6
    sides[thin, rng.integers(0, 2, thin.sum())] = 1
    return [(int(rows), int(cols)) for rows, cols in sides]


def random_budgets(rng: np.random.Generator, grids: list[Grid]) -> list[int]:
    return [int(rng.integers(1, rows * cols + 1)) for rows, cols in grids]


def assert_leaves(allocation: Allocation, image: int, boxes: list[reference.Box]) -> None:
    """The leaves of an image of the batch are exactly these, in this order."""
    alone = allocation.image(image)
    rows, cols = alone.grids[0].tolist()
    assert alone.boxes.tolist() == [list(box) for box in boxes]
    assert alone.cell_to_leaf.tolist() == reference.cell_to_leaf(boxes, rows, cols)
