"""Losses between distributions: closed forms, slow references, gradients against finite differences."""

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from arrcoc.distribution import (
    BANDWIDTHS,
    DISTRIBUTION_LOSSES,
    distribution_loss,
    gaussian_divergence,
    gaussian_kl,
    level_losses,
    mmd,
    moments_loss,
    nearest_levels,
    sliced_wasserstein,
)
from arrcoc.host_statistics import ChannelStatistics


DIM = 6


def random_tokens(count: int, seed: int, mean: float = 0.0, std: float = 1.0, dim: int = DIM) -> torch.Tensor:
    """Tokens whose channels differ in scale a thousandfold, as those of vision towers do."""
    scale = torch.logspace(-1, 2, dim)
    return (torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) * std + mean) * scale


@pytest.fixture
def host():
    return ChannelStatistics.of(random_tokens(300, 0))


def deterministic(name: str):
    """A loss with the same random directions in every call."""
    if name != "sliced_wasserstein":
        return DISTRIBUTION_LOSSES[name]

    def loss(tokens, host):
        return sliced_wasserstein(tokens, host, generator=torch.Generator().manual_seed(0))

    return loss


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
def test_small_for_the_same_distribution_and_rising_with_the_shift(name, host):
    loss = deterministic(name)
    same = loss(random_tokens(200, 1), host)
    assert same.ndim == 0 and abs(float(same)) < 0.05
    shifted = [float(loss(random_tokens(200, 1, mean=mean), host)) for mean in (0.0, 0.5, 1.0, 2.0)]
    assert shifted == sorted(shifted) and shifted[1] > shifted[0] + 0.01
    narrowed = [float(loss(random_tokens(200, 1, std=std), host)) for std in (1.0, 0.7, 0.5, 0.25)]
    assert narrowed == sorted(narrowed) and narrowed[3] > narrowed[0] + 0.05


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
def test_zero_for_the_hosts_own_tokens(name, host):
    if name == "mmd":  # unbiased: pairs of a token and itself are left out
        assert -0.02 < float(mmd(host.samples, host)) <= 0
    else:
        assert float(deterministic(name)(host.samples, host)) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
def test_gradient_is_that_of_finite_differences(name):
    host = ChannelStatistics.of(random_tokens(20, 0, dim=3).double())
    tokens = random_tokens(9, 1, mean=0.3, std=0.6, dim=3).double().requires_grad_()
    loss = deterministic(name)
    assert torch.autograd.gradcheck(lambda values: loss(values, host), (tokens,), eps=1e-6, atol=1e-6, rtol=1e-3)
    (gradient,) = torch.autograd.grad(loss(tokens, host), tokens)
    assert gradient.isfinite().all() and (gradient != 0).all()


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
def test_does_not_depend_on_the_scale_of_channels(name):
    scale = torch.tensor([0.1, 1.0, 30.0, 100.0, 5.0, 0.1])
    own, tokens = random_tokens(100, 0), random_tokens(50, 1, mean=0.5)
    loss = deterministic(name)
    small = loss(tokens, ChannelStatistics.of(own))
    large = loss(tokens * scale, ChannelStatistics.of(own * scale))
    torch.testing.assert_close(small, large, rtol=0.02, atol=1e-3)


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
def test_descent_makes_tokens_the_hosts(name, host):
    tokens = random_tokens(64, 1, mean=1.0, std=0.3)
    scale = torch.logspace(-1, 2, DIM)
    learned = (tokens / scale).clone().requires_grad_()
    optimizer = torch.optim.Adam([learned], lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        DISTRIBUTION_LOSSES[name](learned * scale, host).backward()
        optimizer.step()
    before, after = (float(gaussian_kl(values, host)) for values in (tokens, learned.detach() * scale))
    assert before > 0.5 and after < 0.15 * before


@pytest.mark.parametrize("name", DISTRIBUTION_LOSSES)
def test_low_precision_and_a_dead_channel(name, host):
    own = random_tokens(100, 0)
    own[:, 2] = 0  # a channel that the host never uses
    host = ChannelStatistics.of(own)
    tokens = random_tokens(40, 1)
    tokens[:, 2] = 0
    tokens = tokens.bfloat16().requires_grad_()
    loss = deterministic(name)(tokens, host)
    loss.backward()
    assert loss.dtype == torch.float32 and loss.isfinite()
    assert tokens.grad.isfinite().all()


def test_moments_are_those_of_the_formula():
    host = ChannelStatistics.of(torch.tensor([[0.0, 10.0], [2.0, 30.0]]))  # means 1, 20; deviations 1, 10
    tokens = torch.tensor([[4.0, 20.0], [8.0, 20.0]])  # means 6, 20; deviations 2, 0
    expected = ((5.0**2 + (2 - 1) ** 2) + (0 + (0 - 1) ** 2)) / 2
    assert float(moments_loss(tokens, host)) == pytest.approx(expected, abs=0.01)


def test_gaussian_kl_is_that_of_torch(host):
    tokens = random_tokens(50, 3, mean=0.4, std=0.5)
    ours = Normal(tokens.mean(0), tokens.std(0, correction=0))
    theirs = Normal(host.mean, host.variance.sqrt())
    torch.testing.assert_close(gaussian_kl(tokens, host), kl_divergence(ours, theirs).mean(), rtol=1e-2, atol=1e-3)
    mean, variance = tokens.mean(0), tokens.var(0, correction=0)
    torch.testing.assert_close(gaussian_kl(tokens, host), gaussian_divergence(mean, variance, host))


def test_mmd_is_the_sum_over_pairs():
    host = ChannelStatistics.of(random_tokens(12, 0))
    tokens = random_tokens(7, 1, mean=0.5)
    ours, theirs = host.standardize(tokens).tolist(), host.standardize(host.samples).tolist()

    def squared(a, b):
        return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))

    distances = sorted(squared(a, b) for i, a in enumerate(theirs) for j, b in enumerate(theirs) if i != j)
    median = distances[(len(distances) - 1) // 2]

    def kernel(a, b):
        return sum(torch.tensor(-squared(a, b) / (2 * w * median)).exp().item() for w in BANDWIDTHS) / len(BANDWIDTHS)

    own = sum(kernel(a, b) for i, a in enumerate(ours) for j, b in enumerate(ours) if i != j) / (7 * 6)
    hosts = sum(kernel(a, b) for i, a in enumerate(theirs) for j, b in enumerate(theirs) if i != j) / (12 * 11)
    between = sum(kernel(a, b) for a in ours for b in theirs) / (7 * 12)
    assert float(mmd(tokens, host)) == pytest.approx(own + hosts - 2 * between, abs=1e-5)


@pytest.mark.parametrize("count", [1, 5, 12, 31])
def test_sliced_wasserstein_is_the_integral_over_quantiles(count):
    host = ChannelStatistics.of(random_tokens(12, 0))
    tokens = random_tokens(count, 1, mean=0.5)
    axes = torch.randn(DIM, 3, generator=torch.Generator().manual_seed(4))
    axes = axes / axes.norm(dim=0)
    expected = 0.0
    for axis in axes.T:
        ours = (host.standardize(tokens) @ axis).sort().values
        theirs = (host.standardize(host.samples) @ axis).sort().values
        # Every token `12` times and every sample `count` times: samples of one size, matched in order.
        both = ours.repeat_interleave(12), theirs.repeat_interleave(count)
        expected += float((both[0] - both[1]).square().mean()) / 3
    found = sliced_wasserstein(tokens, host, directions=3, generator=torch.Generator().manual_seed(4))
    assert float(found) == pytest.approx(expected, rel=1e-4)


def test_sliced_wasserstein_sees_what_moments_do_not():
    """Two clusters with the moments of one Gaussian: the moments agree, the distributions do not."""
    generator = torch.Generator().manual_seed(0)
    host = ChannelStatistics.of(torch.randn(2000, 1, generator=generator))
    clusters = torch.cat([torch.full((200, 1), -1.0), torch.full((200, 1), 1.0)]) * host.variance.sqrt() + host.mean
    assert float(moments_loss(clusters, host)) < 1e-3 and abs(float(gaussian_kl(clusters, host))) < 1e-3
    assert float(sliced_wasserstein(clusters, host)) > 0.1 and float(mmd(clusters, host)) > 0.02


def test_levels_are_judged_apart(host):
    levels = torch.tensor([0.0] * 20 + [0.5] * 10 + [1.4] * 10 + [1.5] * 20 + [3.0] * 7)
    tokens = torch.cat([random_tokens(60, 1), random_tokens(7, 2)])
    tokens[40:60] *= 0.3
    losses = level_losses("kl", tokens, levels, host)
    assert losses.keys() == {0, 1, 2}  # level 3 has too few tokens
    assert losses[2] > 0.3 > max(losses[0], losses[1])
    for level, part in ((0, slice(0, 20)), (1, slice(20, 40)), (2, slice(40, 60))):
        torch.testing.assert_close(losses[level], gaussian_kl(tokens[part], host))
    mean = distribution_loss("kl", tokens, levels, host)
    torch.testing.assert_close(mean, sum(losses.values()) / 3)
    assert level_losses("kl", tokens, levels, host, least=2).keys() == {0, 1, 2, 3}


def test_nearest_levels():
    levels = torch.tensor([0.0, 0.5, 0.79, 1.0, 1.49, 1.5, 3.2])
    assert nearest_levels(levels).tolist() == [0, 1, 1, 1, 1, 2, 3]


@pytest.mark.parametrize("count", [0, 3])
def test_too_few_tokens_give_a_zero_that_can_be_added(count, host):
    tokens = random_tokens(count, 0).requires_grad_()
    loss = distribution_loss("moments", tokens, torch.zeros(count), host)
    loss.backward()
    assert float(loss.detach()) == 0 and not tokens.grad.any()


def test_unknown_loss(host):
    with pytest.raises(ValueError, match="'histogram'; expected one of .*'kl', 'mmd', 'moments'"):
        distribution_loss("histogram", random_tokens(9, 0), torch.zeros(9), host)
