import numpy as np
import pytest
import torch

from arrcoc.quadtree import build_quadtree, gather_children, packed_grid, split_gains
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
