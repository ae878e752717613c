"""Evidence coverage, by hand on small grids, and by an integral over pixels."""

from dataclasses import replace

import pytest
import torch

from arrcoc import Allocation
from arrcoc.allocation import uniform_allocation
from arrcoc.evaluation import Coverage, cell_resolution, evidence_coverage, resized_coverage, row_coverage
from arrcoc.evaluation.leaves import allocation_of, leaves_of
from arrcoc.evaluation.peers import merged_allocation
from arrcoc.training.data.rows import Row


def allocation(rows, cols, leaves):
    """An allocation of boxes (top, left, bottom, right); cells in none of them are dropped."""
    cell_to_leaf = torch.full((rows, cols), -1)
    for index, (top, left, bottom, right) in enumerate(leaves):
        cell_to_leaf[top:bottom, left:right] = index
    return Allocation(
        grids=torch.tensor([[rows, cols]]),
        budgets=torch.tensor([len(leaves)]),
        cell_to_leaf=cell_to_leaf.flatten(),
        boxes=torch.tensor(leaves),
        relevance=torch.ones(rows * cols),
        position_scale=torch.ones(1),
    )


# A 2x4 grid of 10 px cells: two single cells on the left top, a 1x2 leaf below, a 2x2 leaf on the right.
MIXED = allocation(2, 4, [(0, 0, 1, 1), (0, 1, 1, 2), (0, 2, 2, 4), (1, 0, 2, 2)])


def test_resolution_of_cells():
    half = 0.5**0.5
    assert cell_resolution(MIXED).tolist() == pytest.approx([1, 1, 0.5, 0.5, half, half, 0.5, 0.5])
    dropped = allocation(1, 3, [(0, 1, 1, 2)])
    assert cell_resolution(dropped).tolist() == [0, 1, 0]


def test_merged_cells_are_seen_as_their_number_says():
    heads = torch.tensor([[0, 0, 2, 0]])  # cells 1 and 3 are merged into cell 0
    merged = merged_allocation(heads, torch.tensor([[2, 2]]))
    assert cell_resolution(merged).tolist() == pytest.approx([3**-0.5, 3**-0.5, 1, 3**-0.5])


def test_a_leaf_with_a_hole_is_seen_as_its_box_is_drawn():
    """A 2x2 leaf less one cell, which is a token of its own."""
    foveated = replace(
        allocation(2, 2, [(0, 0, 2, 2)]),
        budgets=torch.tensor([2]),
        boxes=torch.tensor([[0, 1, 1, 2], [0, 0, 2, 2]]),
        cell_to_leaf=torch.tensor([1, 0, 1, 1]),
    )
    assert cell_resolution(foveated).tolist() == [0.5, 1, 0.5, 0.5]
    again = allocation_of(leaves_of(foveated))
    assert torch.equal(again.cell_to_leaf, foveated.cell_to_leaf) and torch.equal(again.boxes, foveated.boxes)


@pytest.mark.parametrize(
    "boxes, full, resolution",
    [
        ([(0, 0, 20, 10)], 1.0, 1.0),
        ([(20, 0, 40, 20)], 0.0, 0.5),
        ([(15, 0, 25, 10)], 0.5, 0.75),  # half in a cell of its own, half in the 2x2 leaf
        ([(0, 0, 10, 20)], 0.5, (1 + 0.5**0.5) / 2),
        ([(0, 0, 20, 10), (0, 0, 20, 10)], 1.0, 1.0),  # the union counts once
        ([(0, 0, 10, 10), (20, 0, 40, 20)], 100 / 500, (100 + 400 / 2) / 500),
        ([(-50, -50, 10, 10)], 1.0, 1.0),  # cut off at the border
    ],
)
def test_coverage_of_all_boxes(boxes, full, resolution):
    found = evidence_coverage(MIXED, boxes, image_size=(40, 20))
    assert found.full_detail == pytest.approx(full)
    assert found.resolution == pytest.approx(resolution)


def test_one_of_several_places_is_enough():
    boxes = [(20, 0, 40, 20), (12, 0, 18, 10), (0, 10, 10, 20)]
    assert evidence_coverage(MIXED, boxes, (40, 20), mode="any") == Coverage(1.0, 1.0)
    assert evidence_coverage(MIXED, boxes, (40, 20), mode="all").full_detail < 1


def test_boxes_are_on_the_picture_before_it_was_resized():
    """A picture of 400x200 pixels that the processor makes 40x20: the same cells, boxes ten times as large."""
    assert evidence_coverage(MIXED, [(150, 0, 250, 100)], (400, 200)) == Coverage(0.5, 0.75)
    # Stretched in one direction only.
    assert evidence_coverage(MIXED, [(15, 0, 25, 100)], (40, 200)) == Coverage(0.5, 0.75)


def test_a_resized_picture_is_an_even_allocation():
    boxes, size = [(3, 5, 77, 41)], (160, 80)
    even = uniform_allocation(torch.tensor([[8, 16]]), torch.tensor([32]))  # 2x2 leaves
    assert evidence_coverage(even, boxes, size) == resized_coverage((8, 16), (4, 8), boxes, size)
    assert resized_coverage((8, 16), (4, 8), boxes, size).resolution == pytest.approx(0.5)
    assert resized_coverage((8, 16), (8, 16), boxes, size) == Coverage(1.0, pytest.approx(1.0))


# A pair on the left whose window is the lower half of its upper cell and the upper half of its lower one, in a leaf of
# the whole 2x2 grid of 10 px cells.
WINDOW = replace(
    allocation(2, 2, [(0, 0, 2, 2)]),
    budgets=torch.tensor([2]),
    boxes=torch.tensor([[0, 0, 2, 1], [0, 0, 2, 2]]),
    cell_to_leaf=torch.tensor([0, 1, 0, 1]),
    windows=torch.tensor([0.5, -1.0]),
)


@pytest.mark.parametrize(
    ("boxes", "full"),
    [
        ([(0, 6, 10, 14)], 1.0),
        ([(0, 0, 10, 5)], 0.0),
        ([(0, 0, 10, 20)], 0.5),
        ([(0, 4, 5, 9)], 0.8),
        ([(5, 8, 15, 12)], 0.5),
    ],
)
def test_of_a_pair_its_window_is_in_full_detail(boxes, full):
    assert evidence_coverage(WINDOW, boxes, (20, 20)).full_detail == pytest.approx(full, abs=0.02)
    assert evidence_coverage(replace(WINDOW, windows=None), boxes, (20, 20)).full_detail == 0


def test_windows_are_kept_with_an_item():
    written = leaves_of(WINDOW)
    assert written == [2, 2, 0.5, 0, 1.5, 1, 0, 0, 2, 2]
    again = allocation_of(written)
    for name in ("boxes", "cell_to_leaf", "windows"):
        assert torch.equal(getattr(again, name), getattr(WINDOW, name))


def test_coverage_is_an_integral_over_pixels():
    boxes = [(3, 2, 17, 13), (11, 7, 33, 19)]
    scores = cell_resolution(MIXED).view(2, 4)
    inside = {(x, y) for x0, y0, x1, y1 in boxes for x in range(x0, x1) for y in range(y0, y1)}
    seen = [float(scores[y // 10, x // 10]) for x, y in inside]
    found = evidence_coverage(MIXED, boxes, (40, 20))
    assert found.resolution == pytest.approx(sum(seen) / len(seen), abs=1e-6)
    assert found.full_detail == pytest.approx(sum(s == 1 for s in seen) / len(seen), abs=1e-6)


def test_coverage_of_a_row(tmp_path):
    sizes = ((40, 20), (40, 20), (40, 20))
    one = Row("a", "?", ("x",), images=(tmp_path,), sizes=sizes[:1], evidence=(((15, 0, 25, 10),),))
    assert row_coverage(MIXED, one) == Coverage(0.5, 0.75)
    boxes = (((15, 0, 25, 10),), None, ((20, 0, 40, 20),))
    several = Row("b", "?", ("x",), images=(tmp_path,) * 3, sizes=sizes, evidence=boxes)
    even = uniform_allocation(torch.tensor([[2, 4]] * 3), torch.tensor([8, 8, 2]))  # the last of 2x2 leaves
    assert row_coverage(even, several) == Coverage(0.5, 0.75)
    assert row_coverage(MIXED, replace(one, evidence=None)) is None
    assert row_coverage(even, replace(several, evidence=(None, None, None))) is None
    either = replace(one, evidence=(((20, 0, 40, 20), (0, 0, 10, 10)),), evidence_mode="any")
    assert row_coverage(MIXED, either) == Coverage(1.0, 1.0)
    with pytest.raises(ValueError, match="1 images for a row of 3"):
        row_coverage(MIXED, several)


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="no evidence"):
        evidence_coverage(MIXED, [(50, 0, 60, 10)], (40, 20))
    with pytest.raises(ValueError, match="no evidence"):
        evidence_coverage(MIXED, [], (40, 20), mode="any")
    with pytest.raises(ValueError, match="'some'"):
        evidence_coverage(MIXED, [(0, 0, 1, 1)], (40, 20), mode="some")
    both = uniform_allocation(torch.tensor([[2, 2], [2, 2]]), torch.tensor([4, 4]))
    with pytest.raises(ValueError, match="holds 2"):
        evidence_coverage(both, [(0, 0, 1, 1)], (40, 20))
