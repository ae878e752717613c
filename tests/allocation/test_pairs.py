"""Windows of pairs of cells, against a loop over places, and which cells become pairs where print is seen."""

import pytest
import torch

from arrcoc import Allocation, ArrCocConfig, allocate
from arrcoc.multiresolution import cells_to_patches, draw_leaves, patches_to_cells
from arrcoc.pairs import print_of_rows, row_windows
from arrcoc.quadtree import packed_grid


GRIDS = torch.tensor([[5, 3], [1, 4], [2, 2]])
SIDE = 8  # pixels a side of a cell
OPTIONS = {"stage": "pixels", "policy": "foveated", "context_share": 0, "pair_worth": 0.9, "pair_drawing": "window"}


def cells_of_page(page: torch.Tensor) -> torch.Tensor:
    """A page `(height, width)` as three channels of cells `(cells, 3, SIDE, SIDE)`."""
    rows, cols = page.shape[0] // SIDE, page.shape[1] // SIDE
    tiles = page.view(rows, SIDE, cols, SIDE).transpose(1, 2).reshape(rows * cols, 1, SIDE, SIDE)
    return tiles.expand(-1, 3, -1, -1)


def page_with_lines(rows: int, cols: int, lines: list[tuple[int, int]]) -> torch.Tensor:
    """White paper with print in some rows of pixels, from the first to before the second of each line."""
    page = torch.ones(rows * SIDE, cols * SIDE)
    for first, last in lines:
        page[first:last, ::2] = 0
    return page


def found_of(page: torch.Tensor, relevance: list[list[float]], budget: int) -> Allocation:
    grid, values = torch.tensor([[len(relevance), len(relevance[0])]]), torch.tensor(relevance).flatten()
    prints = print_of_rows(cells_of_page(page))
    options = ArrCocConfig(**OPTIONS)
    return allocate(torch.zeros(len(values), 1), values, grid, torch.tensor([budget]), options, prints=prints)


def test_print_is_what_changes_along_a_row_of_pixels():
    cells = torch.rand(4, 6, SIDE, SIDE)
    cells[1] = cells[1, :, :, :1]  # ruled lines
    prints = print_of_rows(cells)
    assert (prints[1] == 0).all()
    gray = cells[2].mean(0)
    expected = [
        sum(abs(float(gray[y, x + 1] - gray[y, x])) for x in range(SIDE - 1)) / (SIDE - 1) for y in range(SIDE)
    ]
    assert prints[2].tolist() == pytest.approx(expected, rel=1e-5)
    assert print_of_rows(cells.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("seed", range(4))
def test_windows_are_the_loop_over_places(seed):
    generator = torch.Generator().manual_seed(seed)
    cells = packed_grid(*GRIDS.unbind(1))
    prints = torch.rand(len(cells.y), SIDE, generator=generator) * (torch.rand(len(cells.y), SIDE) > 0.4)
    prints[4] = 0
    relevance = torch.rand(len(cells.y), generator=generator) + 0.1
    begins, kept = row_windows(prints, relevance, cells)
    start = 0
    for rows, cols in GRIDS.tolist():
        for y in range(rows - 1):
            pairs = [(start + y * cols + x, start + (y + 1) * cols + x) for x in range(cols)]
            both = [torch.cat([relevance[cell] * prints[cell] for cell in pair]) for pair in pairs]
            print_ = torch.stack(both).sum(0)  # (2 * SIDE,)
            middle = float((print_ * (torch.arange(2 * SIDE) + 0.5)).sum() / print_.sum())
            scores = [
                float(print_[begin : begin + SIDE].sum() / print_.sum()) - 1e-3 * abs(begin + SIDE / 2 - middle) / SIDE
                for begin in range(SIDE + 1)
            ]
            for upper, lower in pairs:
                begin = round(float(begins[upper]) * SIDE)
                assert scores[begin] >= max(scores) - 1e-6
                for share, cell, shown in (
                    (kept[upper, 0], upper, slice(begin, SIDE)),
                    (kept[upper, 1], lower, slice(0, begin)),
                ):
                    expected = prints[cell, shown].sum() / prints[cell].sum() if prints[cell].any() else 1.0
                    assert float(share) == pytest.approx(float(expected), abs=1e-5)
        start += rows * cols


@pytest.mark.parametrize(
    ("line", "expected"), [((5, 9), 3), ((2, 10), 2), ((7, 14), 6), ((0, 16), 4), ((0, 3), 0), ((0, 0), 4)]
)
def test_a_window_is_over_the_line_of_print(line, expected):
    """With the line in its middle, as far as it can be; without any print in the middle of the pair."""
    prints = print_of_rows(cells_of_page(page_with_lines(2, 1, [line])))
    begins, _ = row_windows(prints, torch.ones(2), packed_grid(torch.tensor([2]), torch.tensor([1])))
    assert float(begins[0]) * SIDE == expected


def test_cells_that_a_line_lies_across_become_pairs():
    """Two lines, each across two rows, of which the inner rows are more relevant: shrunk, these would be pairs."""
    page = page_with_lines(6, 6, [(13, 19), (29, 35)])  # rows 1 and 2, rows 3 and 4
    relevance = [[0.01] * 6, [0.6] * 6, [1.0] * 6, [1.0] * 6, [0.6] * 6, [0.01] * 6]
    found = found_of(page, relevance, 13)
    assert found.windows is not None
    pairs = found.boxes[found.windows >= 0].tolist()
    assert len(pairs) == 12 and sorted({(top, bottom) for top, _, bottom, _ in pairs}) == [(1, 3), (3, 5)]
    shrunk = ArrCocConfig(policy="foveated", context_share=0, pair_worth=0.9)
    values = torch.tensor(relevance).flatten()
    without = allocate(torch.zeros(36, 1), values, torch.tensor([[6, 6]]), torch.tensor([7]), shrunk)
    assert (without.boxes[:, 0] == 2).sum() == 6


def test_what_is_drawn_of_a_pair_is_the_line():
    page = page_with_lines(3, 2, [(6, 13)])
    relevance = [[1.0, 0.01], [1.0, 0.01], [0.01, 0.01]]
    found = found_of(page, relevance, 2)
    cells = cells_of_page(page)
    drawn = draw_leaves(cells, found)[(found.windows >= 0).nonzero()[0, 0]]
    begin = round(float(found.windows.max()) * SIDE)
    assert begin <= 6 and begin + SIDE >= 13
    torch.testing.assert_close(drawn[0], page[begin : begin + SIDE, :SIDE])
    assert torch.equal(patches_to_cells(cells_to_patches(drawn[None], 2), 3, SIDE // 2, 2)[0], drawn)


def test_a_line_within_a_row_needs_no_pair():
    """Its cells are as good by themselves, and the blank ones below are worth little."""
    found = found_of(page_with_lines(3, 4, [(1, 7)]), [[1.0] * 4, [0.05] * 4, [0.01] * 4], 5)
    assert found.windows is not None and (found.windows < 0).all()
    assert found.sizes[found.cell_to_leaf[:4]].tolist() == [[1, 1]] * 4


@pytest.mark.parametrize(
    ("relevance", "budget", "expected"),
    [
        ([[1.0, 1.0], [1.0, 1.0], [0.01, 0.5], [0.01, 0.02]], 2, 1),
        # Of the block nothing is left that reaches up to the two pairs, which are shrunk.
        ([[1.0, 1.0], [1.0, 1.0], [0.01, 0.5], [0.01, 0.02]], 3, 0),
        ([[0.01, 0.01], [1.0, 0.01], [1.0, 0.01], [0.02, 0.01]], 2, 1),
    ],
)
def test_pairs_have_windows_where_the_coarse_grid_shows_the_rest_of_them(relevance, budget, expected):
    found = found_of(page_with_lines(4, 2, [(5, 11), (13, 19)]), relevance, budget)
    assert found.windows is not None and int((found.windows >= 0).sum()) == expected
    assert (found.sizes[found.windows >= 0] == torch.tensor([2, 1])).all()


def test_without_pixels_pairs_have_no_windows():
    values = torch.tensor([1.0, 1.0, 0.01, 0.01])
    found = allocate(
        torch.zeros(4, 1), values, torch.tensor([[4, 1]]), torch.tensor([2]), ArrCocConfig(**OPTIONS), prints=None
    )
    assert found.windows is None and [2, 1] in found.sizes.tolist()


def test_the_ends_of_a_line_come_before_what_its_windows_leave_out():
    """Of the next line, which the cells of the first show too, nothing was asked."""
    page = page_with_lines(4, 6, [(12, 19), (21, 24)])  # rows 1 and 2, and in row 2 the beginning of another one
    relevance = [[0.01] * 6, [0.3, 1.0, 1.0, 1.0, 1.0, 0.3], [0.3, 1.0, 1.0, 1.0, 1.0, 0.3], [0.01] * 6]
    found = found_of(page, relevance, 7)
    assert found.windows is not None and int((found.windows >= 0).sum()) == 6
