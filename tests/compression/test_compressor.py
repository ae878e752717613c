"""The variable compressor against a loop over leaves, and what must hold whatever it has learned."""

import pytest
import torch
import torch.nn.functional as F

from arrcoc.allocation import POLICIES
from arrcoc.compressor import (
    EXPERTS,
    VariableCompressor,
    default_compressor_dim,
    expert_shares,
    leaf_softmax_weights,
)
from arrcoc.pooling import pool_leaves
from tests.compression.learned import BUDGETS, DIM, GRIDS, gradients_after, perturb, random_cells


def mean_leaves(features, allocation):
    return pool_leaves(features, allocation.relevance, allocation.cell_to_leaf, len(allocation.boxes))


def naive_compressor(module, features, allocation):
    """One leaf after the other, one cell after the other, one expert after the other."""
    tokens, first_cell, first_leaf = [], 0, 0
    for (rows, cols), budget in zip(allocation.grids.tolist(), allocation.budgets.tolist(), strict=True):
        for leaf in range(first_leaf, first_leaf + budget):
            top, left, bottom, right = allocation.boxes[leaf].tolist()
            height, width = bottom - top, right - left
            cells, relevance, described, scores = [], [], [], []
            for y in range(top, bottom):
                for x in range(left, right):
                    cell = first_cell + y * cols + x
                    if allocation.cell_to_leaf[cell] != leaf:
                        continue
                    offset = [(y + 0.5 - (top + bottom) / 2) / height, (x + 0.5 - (left + right) / 2) / width]
                    place = torch.tensor([height, width]).float().log2().tolist() + offset
                    norm = F.layer_norm(features[cell], (DIM,), module.norm.weight, module.norm.bias)
                    hidden = F.gelu(module.describe(norm) + module.place.weight @ torch.tensor(place))
                    cells.append(features[cell])
                    relevance.append(allocation.relevance[cell])
                    described.append(hidden)
                    scores.append(module.score.weight[0] @ hidden)
            share = (torch.stack(scores) + torch.stack(relevance).log()).softmax(0)  # (cells of the leaf,)
            summary = (share[:, None] * torch.stack(described)).sum(0)
            token = (share[:, None] * torch.stack(cells)).sum(0)
            expanded = F.gelu(module.expand(summary)).chunk(EXPERTS)
            columns = module.residual.weight.chunk(EXPERTS, dim=1)
            for expert, weight in enumerate(expert_shares(torch.tensor([height * width]))[0].tolist()):
                token = token + weight * (columns[expert] @ expanded[expert])
            tokens.append(token)
        first_cell += rows * cols
        first_leaf += budget
    return torch.stack(tokens)


@pytest.mark.parametrize("policy", POLICIES)
def test_compressor_is_the_loop_over_leaves(policy):
    features, allocation = random_cells(policy)
    features.requires_grad_()
    module = perturb(VariableCompressor(DIM, 16))
    ours, theirs = module(features, allocation), naive_compressor(module, features, allocation)
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)

    direction = torch.randn_like(ours)
    inputs = [features, *module.parameters()]
    for mine, naive in zip(
        torch.autograd.grad((ours * direction).sum(), inputs),
        torch.autograd.grad((theirs * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, naive, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_untrained_it_is_the_mean_bit_for_bit(policy, dtype):
    features, allocation = random_cells(policy, dtype)
    tokens = VariableCompressor(DIM, 16).to(dtype)(features, allocation)
    assert tokens.dtype == dtype
    assert torch.equal(tokens, mean_leaves(features, allocation))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("policy", POLICIES)
def test_a_leaf_of_one_cell_is_never_touched(policy, dtype):
    features, allocation = random_cells(policy, dtype)
    module = perturb(VariableCompressor(DIM, 16), scale=1.0).to(dtype)
    tokens = module(features, allocation)
    single = (allocation.sizes.prod(1) == 1).nonzero()[:, 0]
    assert len(single)
    for leaf in single.tolist():
        (cell,) = (allocation.cell_to_leaf == leaf).nonzero()[:, 0].tolist()
        assert torch.equal(tokens[leaf], features[cell])
    several = allocation.sizes.prod(1) > 1
    if policy != "topk":  # which has none
        assert not torch.isclose(tokens, mean_leaves(features, allocation), atol=1e-2)[several].all(1).any()


def test_gradient_of_relevance_is_that_of_the_mean():
    """Untrained, what reaches learned relevance through the weights of the mean is as without a compressor."""
    features, allocation = random_cells()
    relevance = allocation.relevance.requires_grad_()
    direction = torch.randn(len(allocation.boxes), DIM)
    ours = torch.autograd.grad((VariableCompressor(DIM, 16)(features, allocation) * direction).sum(), relevance)
    theirs = torch.autograd.grad((mean_leaves(features, allocation) * direction).sum(), relevance)
    torch.testing.assert_close(ours, theirs)


def test_images_do_not_see_each_other():
    features, allocation = random_cells()
    module = perturb(VariableCompressor(DIM, 16))
    together = module(features, allocation).split(BUDGETS)
    alone = features.split([rows * cols for rows, cols in GRIDS])
    for index, (tokens, cells) in enumerate(zip(together, alone, strict=True)):
        torch.testing.assert_close(tokens, module(cells, allocation.image(index)), rtol=1e-5, atol=1e-5)


def test_leaves_keep_their_order():
    """Only the token of a leaf whose cells change changes."""
    features, allocation = random_cells()
    module = perturb(VariableCompressor(DIM, 16))
    before = module(features, allocation)
    for leaf in (0, 20, len(allocation.boxes) - 1):
        other = features.clone()
        other[allocation.cell_to_leaf == leaf] += torch.randn(DIM)
        changed = (module(other, allocation) != before).any(1)
        assert changed.nonzero().flatten().tolist() == [leaf]


def test_where_a_cell_lies_matters():
    """Mirroring a leaf's cells changes its token: places are two-dimensional, not a bag."""
    allocation = random_cells("uniform")[1].image(3)  # 8 x 8 cells in 9 leaves
    features = torch.randn(64, DIM)
    module = perturb(VariableCompressor(DIM, 16))
    first = allocation.cell_to_leaf == 0
    for axis in (0, 1):
        height, width = allocation.sizes[0].tolist()
        mirrored = features.clone()
        mirrored[first] = features[first].view(height, width, DIM).flip(axis).flatten(0, 1)
        even = torch.ones_like(allocation.relevance)
        same = type(allocation)(**{**vars(allocation), "relevance": even})
        assert not torch.allclose(module(mirrored, same)[0], module(features, same)[0], atol=1e-3)
        torch.testing.assert_close(mean_leaves(mirrored, same)[0], mean_leaves(features, same)[0])


def test_expert_shares():
    areas = torch.cat([torch.tensor([1.0]), torch.linspace(1, 200, 4000)])
    shares = expert_shares(areas)
    assert shares.shape == (len(areas), EXPERTS)
    assert torch.equal(shares[0], torch.zeros(EXPERTS))
    torch.testing.assert_close(shares[areas >= 2].sum(1), torch.ones(int((areas >= 2).sum())))
    assert shares[1:].diff(dim=0).abs().max() < 0.1  # no jump anywhere
    for expert, area in enumerate((2, 4, 8, 16, 32)):
        (own,) = expert_shares(torch.tensor([area]))
        assert own.argmax() == expert and 0.7 < own[expert] < 0.95
    between = expert_shares(torch.tensor([6]))[0]
    assert between[1] > 0.3 and between[2] > 0.3
    assert expert_shares(torch.tensor([64, 1024]))[:, -1].min() > 0.99


def test_leaf_softmax():
    _, allocation = random_cells()
    leaves = len(allocation.boxes)
    scores = torch.randn(len(allocation.relevance)) * 5
    weights = leaf_softmax_weights(scores, allocation.relevance, allocation.cell_to_leaf, leaves)
    for leaf in range(leaves):
        own = allocation.cell_to_leaf == leaf
        share = weights[own] / weights[own].sum()
        torch.testing.assert_close(share, (scores[own] + allocation.relevance[own].log()).softmax(0))
    even = leaf_softmax_weights(torch.full_like(scores, 3.7), allocation.relevance, allocation.cell_to_leaf, leaves)
    assert torch.equal(even, allocation.relevance)
    huge = leaf_softmax_weights(scores * 1e4, allocation.relevance, allocation.cell_to_leaf, leaves)
    assert huge.isfinite().all()
    assert torch.zeros(leaves).index_add(0, allocation.cell_to_leaf, huge).min() > 0


@pytest.mark.parametrize("attentive", [True, False])
def test_every_parameter_learns(attentive):
    features, allocation = random_cells()
    module = VariableCompressor(DIM, 16, attentive=attentive)
    inputs = features if attentive else mean_leaves(features, allocation)
    target = torch.randn(len(allocation.boxes), DIM)

    def loss():
        return (module(inputs, allocation) - target).square().mean()

    at_start = gradients_after(module, loss, 0)
    assert {name for name, size in at_start.items() if size > 0} == {"residual.weight"} | (
        {"score.weight"} if attentive else set()
    )
    later = gradients_after(module, loss, 1)
    assert all(0 < size < float("inf") for size in later.values()), later


def test_tokens_that_the_tower_drew_get_the_residual_alone():
    features, allocation = random_cells()
    leaves = mean_leaves(features, allocation)
    module = VariableCompressor(DIM, 16, attentive=False)
    assert module.score is None
    assert torch.equal(module(leaves, allocation), leaves)
    tokens = perturb(module)(leaves, allocation)
    several = allocation.sizes.prod(1) > 1
    assert torch.equal(tokens[~several], leaves[~several])
    for leaf in several.nonzero().flatten().tolist():
        height, width = allocation.sizes[leaf].tolist()
        place = torch.tensor([height, width, 1, 1]).float().log2()
        norm = F.layer_norm(leaves[leaf], (DIM,), module.norm.weight, module.norm.bias)
        expanded = F.gelu(module.expand(F.gelu(module.describe(norm) + module.place.weight @ place)))
        shares = expert_shares(torch.tensor([height * width]))[0].repeat_interleave(16)
        expected = leaves[leaf] + module.residual.weight @ (expanded * shares)
        torch.testing.assert_close(tokens[leaf], expected, rtol=1e-5, atol=1e-5)


def test_bfloat16_is_float32_to_rounding():
    features, allocation = random_cells()
    module = perturb(VariableCompressor(DIM, 16), scale=0.1)
    exact = module(features, allocation)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = module(features, allocation)
        half = module(features.bfloat16(), allocation)
    assert mixed.dtype == torch.float32 and half.dtype == torch.bfloat16
    low = module.to(torch.bfloat16)(features.bfloat16(), allocation)
    for tokens in (mixed, half.float(), low.float()):
        torch.testing.assert_close(tokens, exact, rtol=0.03, atol=0.03)


@pytest.mark.parametrize(("dim", "millions"), [(2048, 1.66), (3584, 5.08), (4096, 6.63), (5120, 10.36)])
def test_default_sizes(dim, millions):
    with torch.device("meta"):
        module = VariableCompressor(dim)
    assert module.describe.out_features == default_compressor_dim(dim)
    assert sum(parameter.numel() for parameter in module.parameters()) / 1e6 == pytest.approx(millions, abs=0.01)
