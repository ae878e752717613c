"""Policies without a quadtree, against loops over one image at a time."""

import numpy as np
import pytest
import torch

from arrcoc import ArrCocConfig, allocate
from arrcoc.blocks import grid_shape, halve_leaves, leaves_from_heads
from arrcoc.quadtree import packed_grid
from tests.allocation import reference
from tests.allocation.problems import Grid, assert_leaves, random_budgets, random_grids


def test_uniform_is_the_loop() -> None:
    rng = np.random.default_rng(1)
    config = ArrCocConfig(policy="uniform")
    for _ in range(30):
        grids = random_grids(rng, 20, 14)
        budgets = random_budgets(rng, grids)
        cells = sum(rows * cols for rows, cols in grids)
        allocation = allocate(
            torch.zeros(cells, 1), torch.rand(cells) + 0.1, torch.tensor(grids), torch.tensor(budgets), config
        )
        assert (allocation.relevance == 1).all()
        for image, (grid, budget) in enumerate(zip(grids, budgets, strict=True)):
            assert_leaves(allocation, image, reference.uniform_boxes(*grid, budget))


@pytest.mark.parametrize(
    ("grid", "side"), [((2, 2), 2), ((4, 6), 2), ((10, 2), 2), ((48, 50), 2), ((8, 8), 4), ((48, 52), 4)]
)
def test_uniform_at_a_level_is_that_level(grid: Grid, side: int) -> None:
    cells = grid[0] * grid[1]
    allocation = allocate(
        torch.zeros(cells, 1),
        torch.ones(cells),
        torch.tensor([grid]),
        torch.tensor([cells // side**2]),
        ArrCocConfig(policy="uniform"),
    )
    assert (allocation.sizes == side).all()


def test_tiers_are_the_loop() -> None:
    rng = np.random.default_rng(2)
    for _ in range(40):
        side = int(rng.integers(2, 9))
        # Ascending squares and 2 x 3 times squares, like the tiers of the source design at another scale.
        tiers = sorted({int(a) ** 2 for a in rng.integers(1, side + 1, 3)} | {6 * int(rng.integers(1, 3)) ** 2})
        grids = random_grids(rng, 10, 24)
        budgets = random_budgets(rng, grids)
        cells = sum(rows * cols for rows, cols in grids)
        relevance = torch.from_numpy(rng.integers(1, 65, cells) / 64).float()  # sums of these are exact
        config = ArrCocConfig(policy="tiers", tiers=tiers, region_size=side)
        allocation = allocate(torch.zeros(cells, 1), relevance, torch.tensor(grids), torch.tensor(budgets), config)
        start = 0
        for image, (grid, budget) in enumerate(zip(grids, budgets, strict=True)):
            one = relevance[start : start + grid[0] * grid[1]].view(grid).numpy()
            start += grid[0] * grid[1]
            assert_leaves(allocation, image, reference.tier_boxes(*grid, one, budget, tiers, side))


@pytest.mark.parametrize("tiers", [[2, 3, 5, 7], [1, 5, 64, 97], [7], [100, 1000], [3, 4, 13, 16]])
def test_tiers_that_do_not_fit_a_region_still_give_exactly_the_budget(tiers: list[int]) -> None:
    rng = np.random.default_rng(4)
    for side in (2, 4, 8):
        grids = random_grids(rng, 20, 20)
        budgets = torch.tensor(random_budgets(rng, grids))
        cells = sum(rows * cols for rows, cols in grids)
        config = ArrCocConfig(policy="tiers", tiers=tiers, region_size=side)
        allocation = allocate(torch.zeros(cells, 1), torch.rand(cells) + 0.1, torch.tensor(grids), budgets, config)
        assert [len(allocation.image(i).boxes) for i in range(len(grids))] == budgets.tolist()


@pytest.mark.parametrize(
    ("budget", "shapes"),
    [
        (64, {(8, 8)}),
        (100, {(10, 10)}),
        (160, {(10, 16)}),  # no square: ten rows of sixteen
        (256, {(16, 16)}),
        (400, {(20, 20)}),
        (16, {(4, 4)}),  # below the lowest tier
        (1024, {(32, 32)}),  # above the highest
    ],
)
def test_tiers_of_one_region(budget: int, shapes: set[Grid]) -> None:
    allocation = allocate(
        torch.zeros(1024, 1),
        torch.ones(1024),
        torch.tensor([[32, 32]]),
        torch.tensor([budget]),
        ArrCocConfig(policy="tiers"),
    )
    blocks = len(allocation.boxes[:, 0].unique()), len(allocation.boxes[:, 1].unique())
    assert {blocks} == shapes and len(allocation.boxes) == budget


def test_a_tall_region_has_its_tiers_upright() -> None:
    allocation = allocate(
        torch.zeros(640, 1),
        torch.ones(640),
        torch.tensor([[32, 20]]),
        torch.tensor([160]),
        ArrCocConfig(policy="tiers"),
    )
    assert (len(allocation.boxes[:, 0].unique()), len(allocation.boxes[:, 1].unique())) == (16, 10)


def test_tiers_spend_on_the_relevant_region() -> None:
    relevance = torch.full((64, 64), 0.05)
    relevance[:32, 32:] = 1.0
    allocation = allocate(
        torch.zeros(4096, 1),
        relevance.flatten(),
        torch.tensor([[64, 64]]),
        torch.tensor([3 * 64 + 400]),
        ArrCocConfig(policy="tiers"),
    )
    boxes = allocation.boxes
    in_region = (boxes[:, 0] < 32) & (boxes[:, 1] >= 32)
    assert in_region.sum() == 400


def test_topk_keeps_the_most_relevant_cells() -> None:
    rng = np.random.default_rng(5)
    for _ in range(30):
        grids = random_grids(rng, 20, 10)
        budgets = random_budgets(rng, grids)
        cells = sum(rows * cols for rows, cols in grids)
        relevance = torch.from_numpy(rng.integers(1, 6, cells) / 5).float()  # many ties
        config = ArrCocConfig(policy="topk")
        allocation = allocate(torch.zeros(cells, 1), relevance, torch.tensor(grids), torch.tensor(budgets), config)
        start = 0
        for image, (grid, budget) in enumerate(zip(grids, budgets, strict=True)):
            one = relevance[start : start + grid[0] * grid[1]].view(grid).numpy()
            start += grid[0] * grid[1]
            assert_leaves(allocation, image, reference.topk_boxes(one, budget))


@pytest.mark.parametrize("pair_worth", [None, 0.55, 0.9])
@pytest.mark.parametrize("fovea_threshold", [0, 0.5, 1])
@pytest.mark.parametrize("context_share", [0, 0.1, 0.35, 1])
def test_foveated_leaves_are_the_loop(context_share: float, fovea_threshold: float, pair_worth: float | None) -> None:
    """Blocks less the cells that were taken out of them, in raster order of their first cells, with tight boxes."""
    rng = np.random.default_rng(6)
    for _ in range(6):
        grids = random_grids(rng, 8, 10)
        budgets = random_budgets(rng, grids)
        cells = sum(rows * cols for rows, cols in grids)
        relevance = torch.from_numpy(rng.integers(1, 6, cells) / 5).float()  # many ties
        config = ArrCocConfig(
            policy="foveated", context_share=context_share, fovea_threshold=fovea_threshold, pair_worth=pair_worth
        )
        allocation = allocate(torch.zeros(cells, 1), relevance, torch.tensor(grids), torch.tensor(budgets), config)
        for image, ((rows, cols), budget) in enumerate(zip(grids, budgets, strict=True)):
            alone = allocation.image(image)
            known = alone.relevance.view(rows, cols).numpy()
            leaves = reference.foveated_leaves(known, budget, context_share, fovea_threshold, pair_worth)
            assert len(leaves) == budget
            assert alone.boxes.tolist() == [list(reference.bounding_box(leaf)) for leaf in leaves]
            expected = {cell: number for number, leaf in enumerate(leaves) for cell in leaf}
            places = [(y, x) for y in range(rows) for x in range(cols)]
            assert alone.cell_to_leaf.tolist() == [expected[place] for place in places]


def test_a_line_across_two_rows_takes_half_of_the_tokens_in_pairs() -> None:
    """And each cell has its own again as soon as there are enough."""
    relevance = torch.full((64,), 0.001)
    relevance[16:32] = 1.0  # rows 2 and 3
    config = ArrCocConfig(policy="foveated", context_share=0, pair_worth=0.8)

    def sizes(budget: int) -> list[list[int]]:
        found = allocate(torch.zeros(64, 1), relevance, torch.tensor([[8, 8]]), torch.tensor([budget]), config)
        return found.sizes[found.cell_to_leaf[16:32]].tolist()

    assert sizes(9) == [[2, 1]] * 16
    assert sizes(13).count([1, 1]) == 8
    assert sizes(17) == [[1, 1]] * 16


def test_foveated_shows_a_lone_cell_for_one_token() -> None:
    """The quadtree pays ten for it: a cell costs its neighbourhood at every level."""
    relevance = torch.full((64,), 0.01)
    relevance[27] = 1.0
    config = ArrCocConfig(policy="foveated")
    allocation = allocate(torch.zeros(64, 1), relevance, torch.tensor([[8, 8]]), torch.tensor([2]), config)
    assert allocation.boxes.tolist() == [[0, 0, 8, 8], [3, 3, 4, 4]]
    assert allocation.cell_to_leaf.tolist() == [int(cell == 27) for cell in range(64)]
    detail = allocate(torch.eye(64), relevance, torch.tensor([[8, 8]]), torch.tensor([9]), ArrCocConfig())
    assert detail.sizes[detail.cell_to_leaf[27]].prod() > 1


def test_tokens_without_a_relevant_cell_make_the_grid_finer() -> None:
    relevance = torch.full((64,), 0.01)
    relevance[27] = 1.0
    grid, budget = torch.tensor([[8, 8]]), torch.tensor([17])
    config = ArrCocConfig(policy="foveated", fovea_threshold=0.1)
    allocation = allocate(torch.zeros(64, 1), relevance, grid, budget, config)
    assert (allocation.sizes.prod(1) == 1).sum() == 1
    assert (allocation.sizes.prod(1) == 4).sum() == 16  # of one of them a cell is taken
    everything = allocate(torch.zeros(64, 1), relevance, grid, budget, ArrCocConfig(policy="foveated"))
    assert (everything.sizes.prod(1) == 1).sum() == 16


def test_grid_shape_is_the_loop_and_never_exceeds_its_tokens() -> None:
    rows, cols, tokens = torch.meshgrid(torch.arange(1, 18), torch.arange(1, 18), torch.arange(1, 60), indexing="ij")
    down, across = grid_shape(rows, cols, tokens)
    assert (down * across <= tokens).all()
    assert ((down >= 1) & (down <= rows) & (across >= 1) & (across <= cols)).all()
    for r, c, t, d, a in torch.stack([rows, cols, tokens, down, across], -1).view(-1, 5)[::7].tolist():
        assert (d, a) == reference.grid_shape(r, c, t)


def test_halving_takes_the_most_important_leaves_first_and_each_once_a_round() -> None:
    cells = packed_grid(torch.tensor([2]), torch.tensor([6]))
    heads = torch.tensor([0, 0, 0, 3, 3, 5, 0, 0, 0, 3, 3, 5])  # 2x3, 2x2, 2x1
    importance = torch.tensor([1.0, 1, 1, 2, 2, 1] * 2)

    def boxes(budget: int) -> list[list[int]]:
        halved = halve_leaves(cells, heads, torch.tensor([budget]), importance)
        return leaves_from_heads(cells, halved)[0].tolist()

    assert boxes(3) == [[0, 0, 2, 3], [0, 3, 2, 5], [0, 5, 2, 6]]
    assert boxes(4) == [[0, 0, 2, 3], [0, 3, 1, 5], [0, 5, 2, 6], [1, 3, 2, 5]]
    assert boxes(5) == [[0, 0, 2, 2], [0, 2, 2, 3], [0, 3, 1, 5], [0, 5, 2, 6], [1, 3, 2, 5]]
    assert len(boxes(12)) == 12
