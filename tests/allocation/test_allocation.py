from typing import Any

import numpy as np
import pytest
import torch

from arrcoc import ArrCocConfig, allocate
from arrcoc.allocation import POLICIES, lod_heads, random_gains
from arrcoc.blocks import leaves_from_heads
from arrcoc.outputs import Allocation
from arrcoc.quadtree import QuadTree, build_quadtree, split_gains
from tests.allocation import reference
from tests.allocation.problems import Grid, assert_leaves, random_budgets, random_grids


def gains_by_node(
    tree: QuadTree, gains: list[torch.Tensor], image: int, grid: Grid
) -> dict[reference.Node, np.generic]:
    """Gains of one image of the batch, in their own precision."""
    places = iter(reference.nodes(*grid))  # by level and in raster order, as the tree has them
    found = {}
    for level, nodes in zip(gains, tree.levels[1:], strict=True):
        found.update({place: gain for gain, place in zip(level[nodes.image == image].numpy(), places, strict=False)})
    return found


def allocation_of_heads(tree: QuadTree, heads: torch.Tensor, grids: torch.Tensor, budgets: torch.Tensor) -> Allocation:
    boxes, cell_to_leaf = leaves_from_heads(tree.cells, heads)
    ones = torch.ones(len(heads))
    return Allocation(grids, budgets, cell_to_leaf, boxes, ones, torch.ones(len(grids)))


# --- lod ---


@pytest.mark.parametrize("kind", ["ties", "floats"])
@pytest.mark.parametrize("images", [1, 40])
def test_lod_is_the_priority_queue(kind: str, images: int) -> None:
    # 2 x (100 + 40 x 40) = 3,400 random grids. Integer gains from 0 to 4 make many nodes of equal worth.
    rng = np.random.default_rng(images)
    for _ in range(100 if images == 1 else 40):
        grids, max_level = random_grids(rng, images, 20), int(rng.integers(0, 8))
        budgets = random_budgets(rng, grids)
        tree = build_quadtree(torch.tensor(grids))
        gains = [
            torch.from_numpy(
                rng.integers(0, 5, len(level.image)).astype(float) if kind == "ties" else rng.random(len(level.image))
            )
            for level in tree.levels[1:]
        ]
        heads = lod_heads(tree, gains, torch.tensor(budgets), max_level)
        allocation = allocation_of_heads(tree, heads, torch.tensor(grids), torch.tensor(budgets))
        for image, (grid, budget) in enumerate(zip(grids, budgets, strict=True)):
            boxes = reference.lod_boxes(*grid, gains_by_node(tree, gains, image, grid), budget, max_level)
            assert_leaves(allocation, image, boxes)


@pytest.mark.parametrize("grid", [(1, 130), (130, 3), (65, 65), (48, 50), (64, 64)])
def test_lod_is_the_priority_queue_on_deep_trees(grid: Grid) -> None:
    rng = np.random.default_rng(sum(grid))
    cells = grid[0] * grid[1]
    budgets = [1, 2, 3, 4, 5, 6, cells // 10, cells // 3, cells - 2, cells - 1, cells]
    grids = torch.tensor([grid] * len(budgets))
    tree = build_quadtree(grids)
    of_one_image = [rng.integers(0, 50, len(level.image) // len(budgets)) for level in tree.levels[1:]]
    gains = [torch.from_numpy(np.tile(level, len(budgets)).astype(np.float32)) for level in of_one_image]
    heads = lod_heads(tree, gains, torch.tensor(budgets), 3)
    allocation = allocation_of_heads(tree, heads, grids, torch.tensor(budgets))
    for image, budget in enumerate(budgets):
        boxes = reference.lod_boxes(*grid, gains_by_node(tree, gains, image, grid), budget, 3)
        assert_leaves(allocation, image, boxes)


@pytest.mark.parametrize("policy", ["lod", "random"])
def test_allocate_is_the_priority_queue_on_the_gains_of_the_policy(policy: str) -> None:
    rng = np.random.default_rng(7)
    for round_ in range(20):
        grids, max_level = random_grids(rng, 12, 16), int(rng.integers(0, 8))
        budgets = random_budgets(rng, grids)
        cells = sum(rows * cols for rows, cols in grids)
        features = torch.from_numpy(rng.normal(size=(cells, 6))).float()
        relevance = torch.from_numpy(rng.uniform(0.05, 1, cells)).float()
        config = ArrCocConfig(policy=policy, max_level=max_level, seed=round_)
        allocation = allocate(features, relevance, torch.tensor(grids), torch.tensor(budgets), config)
        tree = build_quadtree(torch.tensor(grids))
        gains = split_gains(tree, features, relevance) if policy == "lod" else random_gains(tree, round_)
        for image, (grid, budget) in enumerate(zip(grids, budgets, strict=True)):
            boxes = reference.lod_boxes(*grid, gains_by_node(tree, gains, image, grid), budget, max_level)
            assert_leaves(allocation, image, boxes)


def test_lod_is_optimal_where_gains_fall() -> None:
    # With four children a node and gains that never rise from a node to its child, no other K leaves keep more.
    rng = np.random.default_rng(3)
    side, root = 8, (3, 0, 0)
    for _ in range(20):
        tree = build_quadtree(torch.tensor([[side, side]]))
        gains: dict[reference.Node, float] = {root: 1.0}
        for level in (3, 2):
            for node in [node for node in reference.nodes(side, side) if node[0] == level]:
                for child in reference.children(node, side, side):
                    gains[child] = gains[node] * rng.random()

        def best(node: reference.Node, gains: dict[reference.Node, float] = gains) -> list[float]:
            """Most gain by the number of splits in the tree below a node."""
            if node[0] == 0:
                return [0.0]
            below = [0.0]
            for child in reference.children(node, side, side):
                other = best(child)
                merged = [float("-inf")] * (len(below) + len(other) - 1)
                for i, a in enumerate(below):
                    for j, b in enumerate(other):
                        merged[i + j] = max(merged[i + j], a + b)
                below = merged
            return [0.0] + [gains[node] + value for value in below]

        tensors = [
            torch.tensor(
                [gains[level, int(y), int(x)] for y, x in zip(nodes.y, nodes.x, strict=True)], dtype=torch.double
            )
            for level, nodes in enumerate(tree.levels[1:], start=1)
        ]
        for splits, expected in enumerate(best(root)):
            heads = lod_heads(tree, tensors, torch.tensor([1 + 3 * splits]), max_level=7)
            boxes, _ = leaves_from_heads(tree.cells, heads)
            leaves = {tuple(box) for box in boxes.tolist()}
            kept = 0.0
            for node in reference.nodes(side, side):
                top, left, bottom, right = reference.node_box(node, side, side)
                kept += gains[node] * any(
                    top <= box[0] and left <= box[1] and box[2] <= bottom and box[3] <= right
                    and box != (top, left, bottom, right) for box in leaves
                )  # fmt: skip
            assert kept == pytest.approx(expected, rel=1e-12)


def test_leaves_grow_beyond_max_level_only_where_the_budget_forces_them() -> None:
    grids, budgets = torch.tensor([[32, 32]] * 4), torch.tensor([15, 16, 17, 64])
    features = torch.zeros(4, 32, 32, 1)
    features[:, :8, :8] = torch.randn(8, 8, 1, generator=torch.Generator().manual_seed(0))  # 63 splits to spend on
    for max_level, largest in ((3, [16, 8, 8, 8]), (2, [16, 16, 16, 4])):
        config = ArrCocConfig(policy="lod", max_level=max_level)
        allocation = allocate(features.view(4096, 1), torch.ones(4096), grids, budgets, config)
        assert [int(allocation.image(i).sizes.max()) for i in range(4)] == largest


def test_detail_goes_where_relevance_is() -> None:
    features = torch.randn(256, 8, generator=torch.Generator().manual_seed(0))
    relevance = torch.full((16, 16), 0.1)
    relevance[:, :8] = 1.0
    grids, budgets = torch.tensor([[16, 16]]), torch.tensor([100])
    boxes = allocate(features, relevance.flatten(), grids, budgets, ArrCocConfig(policy="lod")).boxes
    assert (boxes[:, 1] < 8).sum() > 3 * (boxes[:, 1] >= 8).sum()


def test_blank_cells_get_no_detail() -> None:
    features = torch.zeros(16, 16, 4)
    features[4:8, 8:12] = torch.randn(4, 4, 4, generator=torch.Generator().manual_seed(0))
    budgets = torch.tensor([4 + 3 + 3 + 12])  # 8x8 quarters, then down to the cells of the only drawn 4x4 square
    allocation = allocate(
        features.view(256, 4), torch.ones(256), torch.tensor([[16, 16]]), budgets, ArrCocConfig(policy="lod")
    )
    details = allocation.boxes[allocation.levels == 0]
    assert len(details) == 16
    assert details[:, 0].min() == 4 and details[:, 2].max() == 8
    assert details[:, 1].min() == 8 and details[:, 3].max() == 12


# --- random ---


def test_random_gains_depend_on_seed_and_place_alone() -> None:
    alone = build_quadtree(torch.tensor([[20, 30]]))
    together = build_quadtree(torch.tensor([[3, 70], [20, 30], [20, 30]]))
    gains = random_gains(alone, seed=5)
    packed = random_gains(together, seed=5)
    for level, expected in enumerate(gains):
        assert ((expected >= 0) & (expected < 1)).all()
        for image in (1, 2):
            assert torch.equal(packed[level][together.levels[level + 1].image == image], expected)
    values = torch.cat(gains)
    assert abs(float(values.mean()) - 0.5) < 0.05
    assert len(values.unique()) > 0.99 * len(values)
    for seed in (0, 6, 2**31 - 1):
        other = torch.cat(random_gains(alone, seed))
        assert not torch.equal(other, values)
        assert abs(float(torch.corrcoef(torch.stack([other, values]))[0, 1])) < 0.2


def test_random_policy_ignores_features_and_relevance_but_not_the_seed() -> None:
    grids, budgets = torch.tensor([[9, 11]]), torch.tensor([40])

    def boxes(seed: int) -> list[list[int]]:
        config = ArrCocConfig(policy="random", seed=seed)
        allocation = allocate(torch.randn(99, 3), torch.rand(99) + 0.1, grids, budgets, config)
        assert (allocation.relevance == 1).all()
        return allocation.boxes.tolist()

    assert boxes(3) == boxes(3)
    assert boxes(3) != boxes(4)


# --- allocate ---


@pytest.mark.parametrize("policy", POLICIES)
def test_native_budget_is_the_identity(policy: str) -> None:
    grids = torch.tensor([[5, 7], [1, 1], [1, 13], [16, 16]])
    cells = int(grids.prod(1).sum())
    allocation = allocate(
        torch.randn(cells, 3), torch.rand(cells) + 0.1, grids, grids.prod(1), ArrCocConfig(policy=policy)
    )
    assert torch.equal(allocation.cell_to_leaf, torch.arange(cells))
    assert (allocation.sizes == 1).all()


@pytest.mark.parametrize("policy", [policy for policy in POLICIES if policy != "topk"])
def test_one_leaf_is_the_whole_image(policy: str) -> None:
    grids = torch.tensor([[5, 7], [1, 1], [40, 3]])
    cells = int(grids.prod(1).sum())
    budgets = torch.ones(3, dtype=torch.long)
    allocation = allocate(torch.randn(cells, 3), torch.ones(cells), grids, budgets, ArrCocConfig(policy=policy))
    assert allocation.boxes.tolist() == [[0, 0, 5, 7], [0, 0, 1, 1], [0, 0, 40, 3]]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_images_have_no_leaves(policy: str) -> None:
    none = torch.zeros(0, dtype=torch.long)
    allocation = allocate(
        torch.zeros(0, 3), torch.zeros(0), torch.zeros(0, 2, dtype=torch.long), none, ArrCocConfig(policy=policy)
    )
    assert len(allocation) == 0 and len(allocation.boxes) == 0 and len(allocation.cell_to_leaf) == 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_features_and_relevance_may_have_any_precision(dtype: torch.dtype) -> None:
    features = torch.randn(60, 4).to(dtype).requires_grad_()
    relevance = (torch.rand(60) + 0.1).to(dtype)
    grids, budgets, config = torch.tensor([[6, 10]]), torch.tensor([17]), ArrCocConfig()
    allocation = allocate(features, relevance, grids, budgets, config)
    expected = allocate(features.detach().float(), relevance.float(), grids, budgets, config)
    assert torch.equal(allocation.boxes, expected.boxes)
    assert allocation.relevance.dtype == torch.float32 and not allocation.relevance.requires_grad


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"budgets": torch.tensor([3])}, "found 1 token budgets for 2 images"),
        ({"budgets": torch.tensor([3, 0])}, r"token budgets \[3, 0\].*native counts \[12, 5\]"),
        ({"budgets": torch.tensor([3, -2])}, r"\[3, -2\]"),
        ({"budgets": torch.tensor([13, 5])}, r"\[13, 5\]"),
        ({"features": torch.zeros(16, 2)}, "features of 16 cells and relevance of 17.*have 17 cells"),
        ({"relevance": torch.ones(18)}, "features of 17 cells and relevance of 18"),
        ({"relevance": torch.zeros(17)}, "positive and finite"),
        ({"relevance": torch.full((17,), float("nan"))}, "positive and finite"),
        ({"relevance": torch.full((17,), float("inf"))}, "positive and finite"),
        ({"relevance": torch.linspace(-0.1, 1, 17)}, "positive and finite"),
    ],
)
def test_bad_input_is_refused(change: dict[str, torch.Tensor], message: str) -> None:
    inputs: dict[str, Any] = {
        "features": torch.zeros(17, 2),
        "relevance": torch.ones(17),
        "grids": torch.tensor([[3, 4], [1, 5]]),
        "budgets": torch.tensor([3, 2]),
    }
    with pytest.raises(ValueError, match=message):
        allocate(**{**inputs, **change}, config=ArrCocConfig())


def test_an_unknown_policy_is_refused() -> None:
    config = ArrCocConfig()
    config.policy = "nearest"
    with pytest.raises(ValueError, match="'nearest'.*'lod'"):
        allocate(torch.zeros(4, 1), torch.ones(4), torch.tensor([[2, 2]]), torch.tensor([2]), config)


def test_matched_positions_shrink_the_grid_to_the_budget() -> None:
    config = ArrCocConfig(position_scale="matched")
    grids, budgets = torch.tensor([[8, 8], [6, 10], [3, 5]]), torch.tensor([16, 15, 15])
    allocation = allocate(torch.randn(139, 2), torch.ones(139), grids, budgets, config)
    assert allocation.position_scale.tolist() == [2, 2, 1]
    config = ArrCocConfig(position_scale="native")
    assert allocate(torch.randn(139, 2), torch.ones(139), grids, budgets, config).position_scale.tolist() == [1, 1, 1]
