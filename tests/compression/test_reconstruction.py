"""How much of a cell its token tells, against cells rebuilt one by one."""

from dataclasses import replace

import pytest
import torch

from arrcoc import Allocation, ArrCocConfig
from arrcoc.allocation import allocate, uniform_allocation
from arrcoc.multiresolution import draw_leaves
from arrcoc.pooling import pool_leaves
from arrcoc.reconstruction import (
    CellDecoder,
    rebuild_features,
    rebuild_pictures,
    reconstructability,
    reconstruction_loss,
)


GRIDS = torch.tensor([(6, 7), (1, 1), (8, 4)])
CELLS = int(GRIDS.prod(1).sum())


def problem(policy: str = "lod", dim: int = 5):
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(CELLS, dim, generator=generator)
    relevance = torch.rand(CELLS, generator=generator) + 0.05
    allocation = allocate(features, relevance, GRIDS, torch.tensor([12, 1, 9]), ArrCocConfig(policy=policy))
    return features, allocation


def image_of_cell() -> torch.Tensor:
    return torch.repeat_interleave(torch.arange(len(GRIDS)), GRIDS.prod(1))


def test_features_are_rebuilt_as_their_token():
    features, allocation = problem()
    tokens = torch.randn(len(allocation.boxes), 5)
    rebuilt = rebuild_features(tokens, allocation)
    for cell, leaf in enumerate(allocation.cell_to_leaf.tolist()):
        assert torch.equal(rebuilt[cell], tokens[leaf])
    features, allocation = problem("topk")
    rebuilt = rebuild_features(features[allocation.cell_to_leaf >= 0], allocation)
    kept = allocation.cell_to_leaf >= 0
    assert not kept.all()
    assert torch.equal(rebuilt, features * kept[:, None])


def test_pictures_are_drawings_blown_up():
    """Each cell is cut out of its leaf's drawing repeated `height x width` times; leaves of all shapes."""
    _, allocation = problem()
    assert (allocation.sizes[:, 0] != allocation.sizes[:, 1]).any() and allocation.sizes.max() > 2
    drawings = torch.rand(len(allocation.boxes), 2, 4, 4)
    rebuilt = rebuild_pictures(drawings, allocation)
    cell = 0
    for rows, cols in GRIDS.tolist():
        for y in range(rows):
            for x in range(cols):
                leaf = int(allocation.cell_to_leaf[cell])
                height, width = allocation.sizes[leaf].tolist()
                large = drawings[leaf].repeat_interleave(height, 1).repeat_interleave(width, 2)
                down, across = y - int(allocation.boxes[leaf, 0]), x - int(allocation.boxes[leaf, 1])
                part = large[:, down * 4 : down * 4 + 4, across * 4 : across * 4 + 4]
                assert torch.equal(rebuilt[cell], part)
                cell += 1
    torch.testing.assert_close(draw_leaves(rebuilt, allocation), drawings)


def test_a_window_is_rebuilt_where_it_was_cut_out():
    """Beyond it stands its edge; the second column is what the whole grid looks like, shrunk."""
    cells = torch.rand(4, 3, 8, 8)
    allocation = Allocation(
        grids=torch.tensor([[2, 2]]),
        budgets=torch.tensor([2]),
        cell_to_leaf=torch.tensor([0, 1, 0, 1]),
        boxes=torch.tensor([[0, 0, 2, 1], [0, 0, 2, 2]]),
        relevance=torch.ones(4),
        position_scale=torch.ones(1),
        windows=torch.tensor([0.375, -1.0]),
    )
    rebuilt = rebuild_pictures(draw_leaves(cells, allocation), allocation)
    assert torch.equal(rebuilt[0, :, 3:], cells[0, :, 3:]) and torch.equal(rebuilt[2, :, :3], cells[2, :, :3])
    assert torch.equal(rebuilt[0, :, :3], cells[0, :, 3:4].expand(3, 3, 8))
    assert torch.equal(rebuilt[2, :, 3:], cells[2, :, 2:3].expand(3, 5, 8))
    assert torch.equal(
        rebuilt[1], rebuild_pictures(draw_leaves(cells, allocation), replace(allocation, windows=None))[1]
    )


def test_pictures_of_dropped_cells_are_blank():
    _, allocation = problem("topk")
    kept = allocation.cell_to_leaf >= 0
    cells = torch.rand(CELLS, 3, 4, 4)
    assert torch.equal(rebuild_pictures(cells[kept], allocation), cells * kept[:, None, None, None])


def test_reconstructability_cell_by_cell():
    features, allocation = problem()
    tokens = pool_leaves(features, allocation.relevance, allocation.cell_to_leaf, len(allocation.boxes))
    rebuilt, image = rebuild_features(tokens, allocation), image_of_cell()
    found = reconstructability(features, rebuilt, GRIDS)
    assert found.shape == (CELLS,) and found.dtype == torch.float32
    for cell in range(CELLS):
        own = features[image == image[cell]]
        scale = (own - own.mean(0)).square().mean()
        error = (features[cell] - rebuilt[cell]).square().mean()
        expected = scale / (scale + error) if scale > 0 else torch.tensor(1.0)
        torch.testing.assert_close(found[cell], expected)
    alone = allocation.sizes.prod(1)[allocation.cell_to_leaf] == 1
    assert (found[alone] == 1).all() and (found[~alone] < 1).all()


def test_what_averaging_loses_is_what_is_not_reconstructable():
    """Equal cells are rebuilt from any leaf; fine stripes are not, and coarse ones are."""
    grid = torch.tensor([(4, 12)])
    cells = torch.zeros(4, 12, 1, 8, 8)
    cells[:, 4:8, :, :, ::2] = 1  # stripes of a pixel
    cells[:, 8:, :, :, 4:] = 1  # stripes of four pixels
    cells = cells.flatten(0, 1)
    allocation = uniform_allocation(grid, torch.tensor([12]))
    assert (allocation.sizes == 2).all()
    rebuilt = rebuild_pictures(draw_leaves(cells, allocation), allocation)
    found = reconstructability(cells, rebuilt, grid).view(4, 12)
    assert (found[:, :4] == 1).all() and (found[:, 8:] == 1).all()
    assert found[:, 4:8].max() < 0.6


def test_blank_images_are_reconstructable():
    cells = torch.full((CELLS, 3), 0.3)
    assert torch.equal(reconstructability(cells, cells.clone(), GRIDS), torch.ones(CELLS))
    _, allocation = problem()
    assert reconstruction_loss(cells, torch.full((len(allocation.boxes), 3), 0.3), allocation).isfinite()


@pytest.mark.parametrize("policy", ["lod", "foveated", "topk"])
def test_weightless_loss(policy):
    features, allocation = problem(policy)
    tokens = torch.randn(len(allocation.boxes), 5, requires_grad=True)
    image, error, scale = image_of_cell(), torch.tensor(0.0), torch.tensor(0.0)
    for cell, leaf in enumerate(allocation.cell_to_leaf.tolist()):
        if leaf >= 0:
            error = error + (tokens[leaf] - features[cell]).square().sum()
            scale = scale + (features[cell] - features[image == image[cell]].mean(0)).square().sum()
    found = reconstruction_loss(features, tokens, allocation)
    torch.testing.assert_close(found, error / scale)
    ours, theirs = (torch.autograd.grad(loss, tokens, retain_graph=True)[0] for loss in (found, error / scale))
    torch.testing.assert_close(ours, theirs)


def test_best_tokens_without_weights_are_the_means():
    features, allocation = problem()
    uniform = torch.ones(CELLS)
    means = pool_leaves(features, uniform, allocation.cell_to_leaf, len(allocation.boxes)).requires_grad_()
    loss = reconstruction_loss(features, means, allocation)
    assert 0 < loss < 1
    assert torch.autograd.grad(loss, means)[0].abs().max() < 1e-6
    native = uniform_allocation(GRIDS, GRIDS.prod(1))
    assert reconstruction_loss(features, features, native) == 0


def test_targets_get_no_gradient():
    features, allocation = problem()
    features.requires_grad_()
    tokens = torch.randn(len(allocation.boxes), 5, requires_grad=True)
    reconstruction_loss(features, tokens, allocation).backward()
    assert features.grad is None and tokens.grad.abs().sum() > 0


def test_decoder_starts_as_the_weightless_prediction():
    features, allocation = problem()
    tokens = torch.randn(len(allocation.boxes), 5)
    decoder = CellDecoder(5, 5, 16)
    torch.testing.assert_close(
        reconstruction_loss(features, tokens, allocation, decoder), reconstruction_loss(features, tokens, allocation)
    )


def test_decoder_learns_what_the_mean_cannot_tell():
    """Tokens that say where in their leaf a cell is bright: a trained decoder tells the cells of a leaf apart."""
    torch.manual_seed(0)
    grid = torch.tensor([(8, 8)] * 8)
    allocation = uniform_allocation(grid, torch.full((8,), 16))
    corner = torch.randint(4, (len(allocation.boxes),))
    tokens = torch.nn.functional.one_hot(corner, 4).float()
    y, x = (torch.arange(64).view(8, 8)[None] // 8 % 2).expand(8, 8, 8), (torch.arange(64) % 2).view(1, 8, 8)
    own = (2 * y + x).flatten()  # corner of the leaf that a cell is in
    cells = (own == corner[allocation.cell_to_leaf]).float()[:, None]
    decoder = CellDecoder(4, 1, 32)
    optimizer = torch.optim.Adam(decoder.parameters(), lr=1e-2)
    for _ in range(200):
        loss = reconstruction_loss(cells, tokens, allocation, decoder)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.05
    assert all(parameter.grad.isfinite().all() for parameter in decoder.parameters())


def test_low_precision_is_computed_in_float32():
    features, allocation = problem()
    tokens = torch.randn(len(allocation.boxes), 5).bfloat16()
    loss = reconstruction_loss(features.bfloat16(), tokens, allocation)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, reconstruction_loss(features.bfloat16().float(), tokens.float(), allocation))


def test_wrong_shapes_are_named():
    features, allocation = problem()
    tokens = torch.zeros(len(allocation.boxes), 5)
    with pytest.raises(ValueError, match=f"found {CELLS - 1} cells and {len(tokens)} tokens"):
        reconstruction_loss(features[1:], tokens, allocation)
    with pytest.raises(ValueError, match="without a decoder"):
        reconstruction_loss(features[:, :3], tokens, allocation)
    with pytest.raises(ValueError, match="one shape"):
        reconstructability(features, features[:, :3], GRIDS)
