"""Adapters against their formulas, and what must hold whatever they have learned."""

import pytest
import torch
import torch.nn.functional as F

from arrcoc.adapter import HEADS, LEVELS, PrototypeAdapter, QualityAdapter, default_adapter_dim, level_ramps
from tests.compression.learned import gradients_after, perturb


DIM, HIDDEN = 32, 16
ADAPTERS = {"quality": QualityAdapter, "prototype": PrototypeAdapter}


@pytest.fixture(params=ADAPTERS)
def adapter(request):
    torch.manual_seed(0)
    return ADAPTERS[request.param](DIM, HIDDEN, num_blocks=2)


@pytest.fixture
def tokens():
    return torch.randn(40, DIM, generator=torch.Generator().manual_seed(1)) * 3


@pytest.fixture
def levels():
    return torch.tensor([0.0, 0.5, 1.0, 1.5, 1.58, 2.0, 3.0, 7.0] * 5)


def naive_transform(transform, hidden):
    """A block's transform of one token."""
    if isinstance(transform, torch.nn.Sequential):
        first, _, last = transform
        return last.weight @ F.gelu(first.weight @ hidden + first.bias) + last.bias
    query = transform.query.weight @ hidden + transform.query.bias
    found, width = [], HIDDEN // HEADS
    for head in range(HEADS):
        part = slice(head * width, (head + 1) * width)
        share = (transform.keys[:, part] @ query[part] / width**0.5).softmax(0)  # (prototypes,)
        found.append(share @ transform.values[:, part])
    return transform.found.weight @ torch.cat(found) + transform.found.bias


def naive_adapter(adapter, tokens, levels):
    """One token after the other; what a level adds is summed level by level."""
    adapted = []
    for token, level in zip(tokens, levels.tolist(), strict=True):
        for block in adapter.blocks:
            embedding, film = torch.zeros(DIM), torch.zeros(2 * DIM)
            for step in range(LEVELS):
                share = min(max(level - step, 0.0), 1.0)
                embedding = embedding + share * block.level.weight[:, step]
                film = film + share * block.film.weight[:, step]
            hidden = F.layer_norm(token, (DIM,), block.norm.weight, block.norm.bias) + embedding
            token = token + film[:DIM] * naive_transform(block.transform, hidden) + film[DIM:]
        adapted.append(token)
    return torch.stack(adapted)


def test_adapter_is_its_formula(adapter, tokens, levels):
    perturb(adapter)
    tokens.requires_grad_()
    ours, theirs = adapter(tokens, levels), naive_adapter(adapter, tokens, levels)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    direction = torch.randn_like(ours)
    inputs = [tokens, *adapter.parameters()]
    for mine, naive in zip(
        torch.autograd.grad((ours * direction).sum(), inputs),
        torch.autograd.grad((theirs * direction).sum(), inputs),
        strict=True,
    ):
        torch.testing.assert_close(mine, naive, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_untrained_it_changes_nothing(adapter, tokens, levels, dtype):
    tokens = tokens.to(dtype)
    adapted = adapter.to(dtype)(tokens, levels)
    assert adapted.dtype == dtype and torch.equal(adapted, tokens)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_full_detail_is_never_touched(adapter, tokens, levels, dtype):
    tokens = tokens.to(dtype)
    adapted = perturb(adapter, scale=1.0).to(dtype)(tokens, levels)
    assert torch.equal(adapted[levels == 0], tokens[levels == 0])
    assert (adapted[levels > 0] != tokens[levels > 0]).any(1).all()


def test_levels_are_continuous(adapter):
    """No jump in the level, and levels differ."""
    perturb(adapter, scale=0.1)
    token = torch.randn(1, DIM)
    levels = torch.linspace(0, 4, 401)
    adapted = adapter(token.expand(401, -1), levels)
    step = adapted.diff(dim=0).norm(dim=1)
    assert step.max() < 0.02 * (adapted[-1] - adapted[0]).norm() + 0.02
    whole = adapted[::100]
    assert torch.cdist(whole, whole).fill_diagonal_(1.0).min() > 0.1


def test_level_ramps():
    ramps = level_ramps(torch.tensor([0.0, 0.25, 1.0, 2.5, 5.0, 9.0]))
    assert ramps.tolist() == [
        [0, 0, 0, 0, 0],
        [0.25, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [1, 1, 0.5, 0, 0],
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 1],
    ]


def test_levels_that_training_never_saw_are_as_the_coarsest_that_it_did(adapter, tokens):
    target = torch.randn_like(tokens)

    def loss():
        return (adapter(tokens, torch.full((len(tokens),), 2.0)) - target).square().mean()

    gradients_after(adapter, loss, 3)
    at = {level: adapter(tokens, torch.full((len(tokens),), level)) for level in (0.0, 1.0, 2.0)}
    assert not torch.allclose(at[2.0], at[1.0], atol=1e-3) and torch.equal(at[0.0], tokens)
    with torch.no_grad():
        for block in adapter.blocks:
            block.level.weight[:, 2:] = 0  # starts at random, but without scale and shift it has no say
    torch.testing.assert_close(
        adapter(tokens, torch.full((len(tokens),), 4.0)), adapter(tokens, torch.full((40,), 2.0))
    )


def test_every_parameter_learns(adapter, tokens, levels):
    target = torch.randn_like(tokens)

    def loss():
        return (adapter(tokens, levels) - target).square().mean()

    at_start = gradients_after(adapter, loss, 0)
    assert {name for name, size in at_start.items() if size > 0} == {f"blocks.{i}.film.weight" for i in range(2)}
    later = gradients_after(adapter, loss, 1)
    assert all(0 < size < float("inf") for size in later.values()), later


def test_it_can_undo_what_averaging_does(adapter):
    """Tokens of level 1 with a quarter of the variance and a shifted mean are brought back; level 0 stays."""
    generator = torch.Generator().manual_seed(0)
    own = torch.randn(256, DIM, generator=generator)
    coarse = own / 2 + 1
    optimizer = torch.optim.Adam(adapter.parameters(), lr=1e-2)
    levels = torch.ones(256)
    for _ in range(150):
        loss = (adapter(coarse, levels) - own).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.15 * (coarse - own).square().mean()
    assert torch.equal(adapter(own, torch.zeros(256)), own)


def test_bfloat16_is_float32_to_rounding(adapter, tokens, levels):
    perturb(adapter, scale=0.1)
    exact = adapter(tokens, levels)
    with torch.autocast("cpu", torch.bfloat16):
        mixed, half = adapter(tokens, levels), adapter(tokens.bfloat16(), levels)
    assert mixed.dtype == torch.float32 and half.dtype == torch.bfloat16
    low = adapter.to(torch.bfloat16)(tokens.bfloat16(), levels)
    for adapted in (mixed, half.float(), low.float()):
        torch.testing.assert_close(adapted, exact, rtol=0.03, atol=0.05)


def count(adapter, *arguments) -> int:
    with torch.device("meta"):
        return sum(parameter.numel() for parameter in adapter(*arguments).parameters())


@pytest.mark.parametrize(
    ("dim", "hidden", "quality", "prototype"),
    [
        (2048, 384, 4.83, 5.42),  # hosts of 2B and 3B
        (2560, 512, 8.00, 8.79),
        (3584, 704, 15.33, 16.42),
        (4096, 832, 20.67, 21.95),  # hosts of 8B
        (5120, 1024, 31.74, 33.31),
    ],
)
def test_default_sizes_in_millions(dim, hidden, quality, prototype):
    assert default_adapter_dim(dim) == hidden
    assert count(QualityAdapter, dim) / 1e6 == pytest.approx(quality, abs=0.01)
    assert count(PrototypeAdapter, dim) / 1e6 == pytest.approx(prototype, abs=0.01)


def test_sizes_are_those_of_the_formula():
    dim, hidden, blocks = 1280, 2560, 3
    perceptron = dim * hidden + hidden + hidden * dim + dim
    block = perceptron + 2 * dim + 3 * LEVELS * dim  # normalisation, level embedding, scale and shift
    assert count(QualityAdapter, dim, hidden, blocks) == blocks * block == 19_737_600


def test_prototypes_must_divide_into_heads():
    with pytest.raises(ValueError, match="width 12; expected a multiple of 8"):
        PrototypeAdapter(DIM, 12)
