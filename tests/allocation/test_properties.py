"""Properties of every allocation, on random grids.

An example of hypothesis is a batch of 24 images of different shapes and budgets, or one image at every budget that it
can have, and each image counts as a grid: 12,000 for the partition, more than 20,000 in all.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from hypothesis import given, seed, settings
from hypothesis import strategies as st
from torch import Tensor

from arrcoc import ArrCocConfig, allocate
from arrcoc.allocation import POLICIES
from arrcoc.outputs import Allocation
from tests.allocation import reference


IMAGES = 24  # of a batch
KINDS = ("noise", "levels", "marks", "blank")


def examples(count: int, start: int = 0) -> Callable[[Callable], Callable]:
    """As many examples, the same in every run and others for every `start`."""

    def decorate(test: Callable) -> Callable:
        return seed(start)(settings(max_examples=count, deadline=None, database=None)(test))

    return decorate


@dataclass(frozen=True)
class Batch:
    """Arguments of `allocate`, packed."""

    features: Tensor
    relevance: Tensor
    grids: Tensor
    budgets: Tensor

    def allocate(self, config: ArrCocConfig) -> Allocation:
        prints = self.features.abs()  # as if each cell had as many rows of pixels as features
        return allocate(self.features, self.relevance, self.grids, self.budgets, config, prints=prints)

    def select(self, images: list[int]) -> "Batch":
        """A batch of these images, in this order."""
        features = self.features.split(self.grids.prod(1).tolist())
        relevance = self.relevance.split(self.grids.prod(1).tolist())
        return Batch(
            torch.cat([features[i] for i in images]),
            torch.cat([relevance[i] for i in images]),
            self.grids[images],
            self.budgets[images],
        )


def draw_features(rng: np.random.Generator, kind: str, cells: int, dim: int) -> np.ndarray:
    """Features of shape `(cells, dim)`: noise; few different values in runs; marks on a blank ground; or all equal."""
    if kind == "noise":
        return rng.normal(size=(cells, dim))
    if kind == "levels":
        return np.repeat(rng.integers(0, 3, (-(-cells // 5), dim)), 5, axis=0)[:cells]
    if kind == "marks":
        return rng.integers(1, 4, (cells, dim)) * (rng.random((cells, 1)) < 0.05)
    return np.full((cells, dim), rng.normal())


small, long = st.integers(1, 12), st.integers(13, 140)
shapes = st.one_of(
    st.tuples(small, small), st.tuples(small, small), st.tuples(st.just(1), long), st.tuples(long, st.just(1)),
    st.tuples(st.integers(1, 3), long),
)  # fmt: skip


@st.composite
def batches(draw: st.DrawFn, images: int = IMAGES, kinds: tuple[str, ...] = KINDS) -> Batch:
    grids = draw(st.lists(st.tuples(shapes, st.integers(0, 100)), min_size=images, max_size=images))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind, dim = draw(st.sampled_from(kinds)), draw(st.sampled_from([1, 2, 7, 40]))
    cells = [rows * cols for (rows, cols), _ in grids]
    features = np.concatenate([draw_features(rng, kind, count, dim) for count in cells])
    relevance = rng.uniform(0.05, 1, sum(cells)) if draw(st.booleans()) else np.full(sum(cells), 0.05)
    return Batch(
        torch.from_numpy(features).float(),
        torch.from_numpy(relevance).float(),
        torch.tensor([shape for shape, _ in grids]),
        torch.tensor([1 + (count - 1) * share // 100 for count, (_, share) in zip(cells, grids, strict=True)]),
    )


max_levels = st.integers(0, 7)


def configs(policy: str) -> st.SearchStrategy[ArrCocConfig]:
    return st.builds(
        ArrCocConfig,
        policy=st.just(policy),
        max_level=max_levels,
        seed=st.integers(0, 2**31 - 1),
        stage=st.just("pixels"),
        pair_worth=st.sampled_from([None, 0.51, 0.9]),
        pair_drawing=st.sampled_from(["shrunk", "window"]),
        region_size=st.sampled_from([3, 4, 8, 32]),
        tiers=st.sampled_from([(64, 100, 160, 256, 400), (4, 9, 16), (1, 2, 6, 12), (5,)]),
    )


def cell_places(allocation: Allocation) -> tuple[Tensor, Tensor]:
    """Image of each cell, of shape `(cells,)`, and its row and column, of shape `(cells, 2)`."""
    counts = allocation.cells_per_image
    image = torch.repeat_interleave(torch.arange(len(counts)), counts)
    within = torch.arange(len(image)) - (counts.cumsum(0) - counts)[image]
    columns = allocation.grids[image, 1]
    return image, torch.stack([within // columns, within % columns], 1)


def assert_partition(allocation: Allocation, budgets: Tensor, policy: str) -> None:
    """Exactly `budgets` leaves; every cell (under `topk` every kept cell) in the leaf whose box holds it."""
    dropped = policy == "topk"
    image, place = cell_places(allocation)
    leaf_image = torch.repeat_interleave(torch.arange(len(budgets)), budgets)
    assert torch.equal(allocation.budgets, budgets)
    assert len(allocation.boxes) == len(leaf_image)
    assert len(allocation.cell_to_leaf) == len(image)

    kept = allocation.cell_to_leaf >= 0
    assert kept.all() or dropped
    leaf, place, cell_image = allocation.cell_to_leaf[kept], place[kept], image[kept]
    box = allocation.boxes[leaf]
    assert torch.equal(leaf_image[leaf], cell_image)
    assert ((place >= box[:, :2]) & (place < box[:, 2:])).all()
    cells = torch.bincount(leaf, minlength=len(allocation.boxes))
    assert (cells == 1).all() if dropped else (cells >= 1).all()
    if allocation.windows is not None:
        for number in (allocation.windows >= 0).nonzero()[:, 0].tolist():
            top, left, bottom, right = allocation.boxes[number].tolist()
            assert (bottom - top, right - left) == (2, 1)
            around = allocation.boxes[(leaf_image == leaf_image[number]) & (allocation.windows < 0)]
            behind = (
                (around[:, 0] <= top) & (around[:, 1] <= left) & (around[:, 2] >= bottom) & (around[:, 3] >= right)
            )
            assert behind.any()  # what the window leaves out is drawn there
    if policy != "foveated":
        # A leaf has as many cells as its box has area: the boxes overlap nowhere and reach over no border.
        assert torch.equal(cells, allocation.sizes.prod(1))
    # A box is no larger than its cells need.
    index = leaf[:, None].expand(-1, 2)
    assert torch.equal(
        allocation.boxes[:, :2].scatter_reduce(0, index, place, "amin", include_self=False), allocation.boxes[:, :2]
    )
    ends = allocation.boxes[:, 2:].scatter_reduce(0, index, place + 1, "amax", include_self=False)
    assert torch.equal(ends, allocation.boxes[:, 2:])
    # Raster order: a leaf's first cell comes after that of the leaf before it.
    first = torch.full_like(cells, len(image)).scatter_reduce(0, leaf, kept.nonzero()[:, 0], "amin")
    assert (first.diff() > 0).all()


@pytest.mark.parametrize("policy", POLICIES)
def test_leaves_are_a_partition_into_exactly_the_budget(policy: str) -> None:
    @examples(100, POLICIES.index(policy))
    @given(batches(), configs(policy))
    def check(batch: Batch, config: ArrCocConfig) -> None:
        assert_partition(batch.allocate(config), batch.budgets, policy)

    check()


@pytest.mark.parametrize("policy", POLICIES)
def test_the_same_again_and_in_any_company(policy: str) -> None:
    @examples(12, POLICIES.index(policy))
    @given(batches(), configs(policy), st.randoms(use_true_random=False))
    def check(batch: Batch, config: ArrCocConfig, random: np.random.Generator) -> None:
        allocation = batch.allocate(config)
        again = batch.allocate(config)
        assert torch.equal(again.boxes, allocation.boxes)
        assert torch.equal(again.cell_to_leaf, allocation.cell_to_leaf)
        order = list(range(IMAGES))
        random.shuffle(order)
        shuffled = batch.select(order).allocate(config)
        for place, index in enumerate(order):
            expected = allocation.image(index)
            for other in (shuffled.image(place), batch.select([index]).allocate(config)):
                assert torch.equal(other.boxes, expected.boxes)
                assert torch.equal(other.cell_to_leaf, expected.cell_to_leaf)
                assert torch.equal(other.relevance, expected.relevance)

    check()


@pytest.mark.parametrize("policy", POLICIES)
def test_one_leaf_and_as_many_as_cells(policy: str) -> None:
    @examples(10, POLICIES.index(policy))
    @given(batches(), configs(policy))
    def check(batch: Batch, config: ArrCocConfig) -> None:
        native = replace(batch, budgets=batch.grids.prod(1)).allocate(config)
        assert torch.equal(native.cell_to_leaf, torch.arange(len(batch.relevance)))
        assert (native.sizes == 1).all()
        single = replace(batch, budgets=torch.ones(IMAGES, dtype=torch.long)).allocate(config)
        assert torch.equal(single.sizes, torch.ones_like(batch.grids) if policy == "topk" else batch.grids)

    check()


@pytest.mark.parametrize("policy", ["lod", "random"])
def test_a_larger_budget_coarsens_no_cell(policy: str) -> None:
    """Every leaf at K + 1 tokens, halves and quarters included, lies within a leaf at K."""

    @examples(60, POLICIES.index(policy))
    @given(batches(images=1), configs(policy))
    def check(batch: Batch, config: ArrCocConfig) -> None:
        cells = len(batch.relevance)
        every_budget = replace(batch.select([0] * cells), budgets=torch.arange(1, cells + 1))
        allocation = every_budget.allocate(config)
        box = allocation.boxes[allocation.cell_to_leaf].view(cells, cells, 4)  # (budgets, cells, 4)
        assert (box[1:, :, :2] >= box[:-1, :, :2]).all()
        assert (box[1:, :, 2:] <= box[:-1, :, 2:]).all()

    check()


@examples(100)
@given(batches(images=8, kinds=("levels", "marks", "blank")), max_levels)
def test_areas_without_distortion_are_split_last(batch: Batch, max_level: int) -> None:
    """A node of equal cells is divided only where every leaf that is left has equal cells too."""
    allocation = batch.allocate(ArrCocConfig(policy="lod", max_level=max_level))
    features = batch.features.split(batch.grids.prod(1).tolist())
    for index, (rows, cols) in enumerate(batch.grids.tolist()):
        alone = allocation.image(index)
        leaf = alone.cell_to_leaf.view(rows, cols)
        picture = features[index].view(rows, cols, -1)

        def is_blank(box: reference.Box, picture: Tensor = picture) -> bool:
            area = picture[box[0] : box[2], box[1] : box[3]]
            return bool((area == area[0, 0]).all())

        divided = [
            node
            for node in reference.nodes(rows, cols)
            if node[0] <= max_level
            for top, left, bottom, right in [reference.node_box(node, rows, cols)]
            if (leaf[top:bottom, left:right] != leaf[top, left]).any() and is_blank((top, left, bottom, right))
        ]
        if divided:
            assert all(is_blank(tuple(box)) for box in alone.boxes.tolist()), (divided, alone.boxes)


@examples(40)
@given(batches(), max_levels)
def test_leaves_keep_to_max_level_where_the_budget_allows(batch: Batch, max_level: int) -> None:
    side = 2**max_level
    roots = (-(-batch.grids // side)).prod(1)
    allocation = replace(batch, budgets=torch.maximum(batch.budgets, roots)).allocate(
        ArrCocConfig(policy="lod", max_level=max_level)
    )
    assert (allocation.sizes <= side).all()
    # Below that the leaves are whole nodes of a coarser level or halves of them.
    allocation = replace(batch, budgets=torch.minimum(batch.budgets, roots)).allocate(
        ArrCocConfig(policy="lod", max_level=max_level)
    )
    assert (allocation.boxes[:, :2] % side == 0).all()


@examples(20)
@given(batches(), max_levels, st.integers(-8, 8))
def test_the_scale_of_features_and_relevance_does_not_matter(batch: Batch, max_level: int, exponent: int) -> None:
    config = ArrCocConfig(policy="lod", max_level=max_level)
    expected = batch.allocate(config).boxes
    assert torch.equal(replace(batch, features=batch.features * 2.0**exponent).allocate(config).boxes, expected)
    assert torch.equal(replace(batch, relevance=batch.relevance * 2.0**exponent).allocate(config).boxes, expected)
