import numpy as np
import pytest
import torch

from arrcoc import ArrCocConfig, allocate
from arrcoc.quadtree import (
    SKETCH_WIDTH,
    build_quadtree,
    gather_children,
    packed_grid,
    scramble,
    sketch_features,
    split_gains,
)
from tests.allocation import reference


GRIDS = [(1, 1), (4, 4), (5, 7), (1, 9), (12, 2), (8, 16), (3, 3)]


def features_and_weights(grids: list[tuple[int, int]], dim: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Random features of shape `(cells, dim)` and weights of shape `(cells,)` in [0.05, 1]."""
    generator = torch.Generator().manual_seed(seed)
    cells = sum(rows * cols for rows, cols in grids)
    return torch.randn(cells, dim, generator=generator), torch.rand(cells, generator=generator) * 0.95 + 0.05


def test_packed_grid_lists_cells_in_raster_order() -> None:
    grid = packed_grid(torch.tensor([2, 1]), torch.tensor([3, 2]))
    assert grid.offsets.tolist() == [0, 6]
    assert grid.image.tolist() == [0] * 6 + [1] * 2
    assert grid.y.tolist() == [0, 0, 0, 1, 1, 1, 0, 0]
    assert grid.x.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert torch.equal(grid.index(grid.image, grid.y, grid.x), torch.arange(8))


def test_nodes_cover_their_children() -> None:
    tree = build_quadtree(torch.tensor(GRIDS))
    assert [len(level.image) for level in tree.levels][-1] == len(GRIDS)  # one root an image
    for level in range(1, len(tree.levels)):
        nodes, finer = tree.levels[level], tree.levels[level - 1]
        for index in range(len(nodes.image)):
            rows, cols = GRIDS[int(nodes.image[index])]
            node = (level, int(nodes.y[index]), int(nodes.x[index]))
            expected = reference.children(node, rows, cols)
            found = [child for child in tree.children[level - 1][index].tolist() if child < len(finer.image)]
            assert [(level - 1, int(finer.y[child]), int(finer.x[child])) for child in found] == expected
            assert all(int(finer.image[child]) == int(nodes.image[index]) for child in found)
            assert all(int(tree.parents[level - 1][child]) == index for child in found)
            assert tree.children[level - 1][index, 0] < len(finer.image)  # the top-left child is never outside


def test_height_is_that_of_the_largest_grid() -> None:
    for side, height in ((1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (64, 6), (65, 7)):
        assert len(build_quadtree(torch.tensor([[1, side], [1, 1]])).levels) == height + 1
    assert len(build_quadtree(torch.zeros(0, 2, dtype=torch.long)).levels) == 1


def test_gather_children_fills_what_lies_outside() -> None:
    tree = build_quadtree(torch.tensor([[3, 3]]))
    values = torch.arange(9.0)
    gathered = gather_children(values, tree.children[0], -1.0)
    assert gathered.tolist() == [[0, 1, 3, 4], [2, -1, 5, -1], [6, 7, -1, -1], [8, -1, -1, -1]]
    pairs = gather_children(torch.stack([values, values], 1), tree.children[0], -1.0)
    assert torch.equal(pairs, gathered[..., None].expand(-1, -1, 2))


@pytest.mark.parametrize("dim", [1, 3, 64])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_split_gains_are_the_distortion_that_a_split_removes(dim: int, offset: float) -> None:
    features, weights = features_and_weights(GRIDS, dim)
    features += offset  # a constant has no distortion, but it costs precision where squares are subtracted
    tree = build_quadtree(torch.tensor(GRIDS))
    gains = split_gains(tree, features, weights)
    assert len(gains) == len(tree.levels) - 1
    start = 0
    for image, (rows, cols) in enumerate(GRIDS):
        x = features[start : start + rows * cols].view(rows, cols, dim).numpy()
        w = weights[start : start + rows * cols].view(rows, cols).numpy()
        start += rows * cols
        for node in reference.nodes(rows, cols):
            level = tree.levels[node[0]]
            found = gains[node[0] - 1][level.index(torch.tensor(image), *torch.tensor(node[1:]))]
            assert float(found) == pytest.approx(reference.split_gain(x, w, node), rel=1e-3, abs=1e-4)


def test_gains_of_a_grid_add_up_to_its_distortion() -> None:
    features, weights = features_and_weights([(9, 14)], 5)
    gains = split_gains(build_quadtree(torch.tensor([[9, 14]])), features, weights)
    total = reference.distortion(features.view(9, 14, 5).numpy(), weights.view(9, 14).numpy(), (0, 0, 9, 14))
    assert float(sum(level.sum() for level in gains)) == pytest.approx(total, rel=1e-5)


@pytest.mark.parametrize("value", [0.1, -2.345, 1e-3, 3e4])
@pytest.mark.parametrize("grid", [(8, 8), (7, 13), (1, 31)])
def test_equal_cells_have_no_gain_at_all(value: float, grid: tuple[int, int]) -> None:
    _, weights = features_and_weights([grid], 1)
    features = torch.full((len(weights), 33), value) * torch.linspace(-1, 1, 33)
    for gains in split_gains(build_quadtree(torch.tensor([grid])), features, weights):
        assert torch.equal(gains, torch.zeros_like(gains))


def test_gains_are_never_negative() -> None:
    rng = np.random.default_rng(0)
    for scale in (1e-6, 1.0, 1e6):
        features = torch.from_numpy(rng.normal(1000, 1, (255, 7)) * scale).float()
        weights = torch.from_numpy(rng.uniform(1e-4, 1, 255)).float()
        for gains in split_gains(build_quadtree(torch.tensor([[15, 17]])), features, weights):
            assert (gains >= 0).all()


def test_gains_have_the_gradient_of_their_weights() -> None:
    features, weights = features_and_weights([(5, 7), (2, 2)], 3)
    tree, features = build_quadtree(torch.tensor([[5, 7], [2, 2]])), features.double()
    weights = weights.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda w: torch.cat(split_gains(tree, features, w)), weights)


@pytest.mark.parametrize("dim", [1, 2, 5, 64, 130])
def test_gains_do_not_depend_on_the_batch(dim: int) -> None:
    features, weights = features_and_weights(GRIDS, dim)
    together = build_quadtree(torch.tensor(GRIDS))
    gains = split_gains(together, features, weights)
    start = 0
    for image, (rows, cols) in enumerate(GRIDS):
        cells = slice(start, start + rows * cols)
        start += rows * cols
        alone = split_gains(build_quadtree(torch.tensor([[rows, cols]])), features[cells], weights[cells])
        for level, expected in enumerate(alone):
            assert torch.equal(gains[level][together.levels[level + 1].image == image], expected)


DTYPES = [torch.float32, torch.bfloat16]


@pytest.mark.parametrize("dim", [65, 130, 1000, 2048])
def test_a_sketch_adds_channels_with_their_signs(dim: int) -> None:
    features, _ = features_and_weights([(3, 5)], dim)
    expected = torch.zeros(15, SKETCH_WIDTH, dtype=torch.float64)
    for channel in range(dim):
        sign = 1 if int(scramble(torch.tensor(channel))) % 2 == 0 else -1
        expected[:, channel % SKETCH_WIDTH] += sign * features[:, channel]
    sketch = sketch_features(features)
    assert sketch.dtype == torch.float32
    torch.testing.assert_close(sketch, expected.float(), rtol=1e-4, atol=1e-4)
    rounded = sketch_features(features.bfloat16())
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected.float(), rtol=2e-2, atol=5e-2)


def test_narrow_features_are_their_own_sketch() -> None:
    features, _ = features_and_weights(GRIDS, SKETCH_WIDTH)
    assert torch.equal(sketch_features(features), features)


@pytest.mark.parametrize("large", [0, 6])
def test_distances_of_sketches_are_right_on_average(large: int) -> None:
    features, _ = features_and_weights([(40, 50)], 2048, seed=1)
    features[:, 100 : 100 + large] *= 50
    sketch = sketch_features(features)
    pairs = torch.randperm(2000, generator=torch.Generator().manual_seed(0)).view(2, -1)
    exact, found = (torch.diff(values[pairs], dim=0)[0].square().sum(1) for values in (features, sketch))
    ratio = found / exact
    assert abs(float(ratio.mean()) - 1) < 0.03
    assert float(ratio.std()) < 1.2 * (2 / SKETCH_WIDTH) ** 0.5
    shift = torch.ones(1, 2048)  # no direction is lost, a change of all channels alike neither
    assert 0.5 < float(sketch_features(shift).square().sum() / 2048) < 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [130, 2048])
def test_a_sketch_does_not_depend_on_the_batch(dim: int, dtype: torch.dtype) -> None:
    features = features_and_weights([(10, 13)], dim)[0].to(dtype) + 3
    together = sketch_features(features)
    for start, end in ((0, 1), (5, 7), (3, 20), (1, 64), (0, 65), (29, 130)):
        assert torch.equal(sketch_features(features[start:end]), together[start:end])
    equal = sketch_features(features[:1].expand(77, -1))
    assert torch.equal(equal, together[:1].expand(77, -1))
    assert sketch_features(features[:0]).shape == (0, SKETCH_WIDTH)


@pytest.mark.parametrize("dtype", DTYPES)
def test_leaves_chosen_by_a_sketch_are_nearly_as_good(dtype: torch.dtype) -> None:
    """On a page of text blocks; blank paper is never split before them."""
    grid, budget = (48, 50), 240
    generator = torch.Generator().manual_seed(0)
    is_text = (torch.rand(12, 25, generator=generator) > 0.85).repeat_interleave(4, 0).repeat_interleave(2, 1)
    features, relevance = features_and_weights([grid], 1024)
    features = (features * is_text.flatten()[:, None] + torch.randn(1024, generator=generator)).to(dtype)

    def chosen_by(measured: torch.Tensor) -> tuple[float, torch.Tensor]:
        allocation = allocate(measured, relevance, torch.tensor([grid]), torch.tensor([budget]), ArrCocConfig())
        x, w = features.double().view(*grid, -1).numpy(), relevance.double().view(grid).numpy()
        total = sum(reference.distortion(x, w, box) for box in allocation.boxes.tolist())
        return total, allocation.sizes.prod(1)[allocation.cell_to_leaf].view(grid)

    exact, _ = chosen_by(features)
    found, sizes = chosen_by(sketch_features(features))
    assert found < 1.03 * exact
    blank = ~is_text[:, :48].view(6, 8, 6, 8).any(3).any(1)  # nodes of 8 x 8 cells without text
    assert blank.any()
    assert (sizes[:, :48].view(6, 8, 6, 8).amin((1, 3))[blank] == 64).all()
