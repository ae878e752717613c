"""Distribution matching: losses that pull compressed tokens to the distribution of the host's own, level by level.

All are functions of tokens and of measured [`ChannelStatistics`] of the host, are differentiable in the tokens, and
are computed in float32 at least. Channels are compared in the host's own units: a loss does not depend on their scale.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from .host_statistics import ChannelStatistics


# Squared bandwidths of the kernels of `mmd`, as multiples of the median squared distance of the host's tokens.
BANDWIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0)
DIRECTIONS = 128
# Fewer tokens than this say little about a distribution.
LEAST_TOKENS = 8


def _precise(tokens: Tensor) -> Tensor:
    return tokens.to(torch.promote_types(tokens.dtype, torch.float32))


def _moments(tokens: Tensor) -> tuple[Tensor, Tensor]:
    mean = tokens.mean(0)
    return mean, (tokens - mean).square().mean(0)


def moments_loss(tokens: Tensor, host: ChannelStatistics) -> Tensor:
    """Squared differences of mean and standard deviation, in the host's standard deviations, averaged over channels.

    Args:
        tokens (`Tensor` of shape `(tokens, dim)`): compressed tokens.
        host ([`ChannelStatistics`]): measured on the host's own tokens.

    Returns:
        `Tensor`: a number; 0 where the moments agree.
    """
    mean, variance = _moments(_precise(tokens))
    scale = (host.variance + host.floor).sqrt()
    deviation = (variance + host.floor).sqrt()
    return (((mean - host.mean) / scale).square() + (deviation / scale - 1).square()).mean()


def gaussian_divergence(mean: Tensor, variance: Tensor, host: ChannelStatistics) -> Tensor:
    """KL divergence of a Gaussian from the host's, channel by channel, averaged over channels.

    Args:
        mean, variance (`Tensor` of shape `(dim,)`): of the tokens.
        host ([`ChannelStatistics`]): measured on the host's own tokens.

    Returns:
        `Tensor`: a number in nats; 0 where the moments agree.
    """
    ratio = (variance + host.floor) / (host.variance + host.floor)
    shift = (mean - host.mean).square() / (host.variance + host.floor)
    return (ratio - 1 - ratio.log() + shift).mean() / 2


def gaussian_kl(tokens: Tensor, host: ChannelStatistics) -> Tensor:
    """`gaussian_divergence` of tokens; arguments and result as of `moments_loss`."""
    return gaussian_divergence(*_moments(_precise(tokens)), host)


def _squared_distances(left: Tensor, right: Tensor) -> Tensor:
    squares = left.square().sum(1)[:, None] + right.square().sum(1)
    return (squares - 2 * left @ right.T).clamp(min=0)  # (left, right)


def _mean_of_pairs(kernel: Tensor) -> Tensor:
    """Mean over pairs of different tokens."""
    count = len(kernel)
    return (kernel.sum() - kernel.diagonal().sum()) / (count * (count - 1))


def mmd(tokens: Tensor, host: ChannelStatistics) -> Tensor:
    """Maximum mean discrepancy from the host's sample, squared and unbiased: about 0, and at times below it, for equal
    distributions.

    A mean of Gaussian kernels of several bandwidths around the median distance of the host's tokens (Gretton et al.,
    "A kernel two-sample test", JMLR 13, 2012). The bandwidths do not depend on `tokens`. Arguments and result as of
    `moments_loss`.
    """
    tokens = host.standardize(_precise(tokens))
    samples = host.standardize(host.samples.to(tokens.dtype))
    among_samples = _squared_distances(samples, samples)
    others = ~torch.eye(len(samples), dtype=torch.bool, device=samples.device)
    median = among_samples[others].median().clamp(min=torch.finfo(tokens.dtype).tiny)

    def kernel(distances: Tensor) -> Tensor:
        return torch.stack([(-distances / (2 * width * median)).exp() for width in BANDWIDTHS]).mean(0)

    own = _mean_of_pairs(kernel(_squared_distances(tokens, tokens)))
    return own + _mean_of_pairs(kernel(among_samples)) - 2 * kernel(_squared_distances(tokens, samples)).mean()


def sliced_wasserstein(
    tokens: Tensor, host: ChannelStatistics, directions: int = DIRECTIONS, generator: torch.Generator | None = None
) -> Tensor:
    """Squared 2-Wasserstein distance from the host's sample, averaged over random directions.

    Along a direction it is the integral of the squared difference of the two quantile functions, exact for different
    numbers of tokens (Bonneel et al., "Sliced and Radon Wasserstein barycenters of measures", 2015). Other arguments
    and the result as of `moments_loss`.

    Args:
        directions (`int`): number of directions.
        generator (`torch.Generator`, *optional*): of the directions, on the device of `tokens`.
    """
    tokens = host.standardize(_precise(tokens))
    samples = host.standardize(host.samples.to(tokens.dtype))
    axes = torch.randn(tokens.shape[1], directions, generator=generator, device=tokens.device, dtype=tokens.dtype)
    axes = axes / axes.norm(dim=0)
    ours, theirs = (tokens @ axes).sort(0).values, (samples @ axes).sort(0).values  # (n, directions)
    # Both quantile functions are constant between one multiple of 1 / (n m) at which either steps and the next.
    n, m = len(ours), len(theirs)
    steps = torch.cat([torch.arange(0, n * m + 1, m), torch.arange(0, n * m + 1, n)]).unique().to(tokens.device)
    start, width = steps[:-1], steps.diff().to(tokens.dtype) / (n * m)
    return ((ours[start // m] - theirs[start // n]).square() * width[:, None]).sum(0).mean()


DISTRIBUTION_LOSSES: dict[str, Callable[..., Tensor]] = {
    "moments": moments_loss,
    "kl": gaussian_kl,
    "mmd": mmd,
    "sliced_wasserstein": sliced_wasserstein,
}


def nearest_levels(levels: Tensor) -> Tensor:
    """Whole levels that continuous ones count to: the nearest, the coarser of two; int64 of the same shape.

    Only a leaf of one cell has level 0; half a level, two cells, counts to level 1.
    """
    return (levels + 0.5).floor().long()


def level_losses(
    name: str, tokens: Tensor, levels: Tensor, host: ChannelStatistics, least: int = LEAST_TOKENS
) -> dict[int, Tensor]:
    """A distribution loss for each level of detail by itself.

    Args:
        name (`str`): one of `DISTRIBUTION_LOSSES`.
        tokens (`Tensor` of shape `(tokens, dim)`): compressed tokens of a batch of images.
        levels (`Tensor` of shape `(tokens,)`): level of each, as in [`Allocation`]; see `nearest_levels`.
        host ([`ChannelStatistics`]): measured on the host's own tokens.
        least (`int`): tokens that a level must have to be judged, at least 2.

    Returns:
        `dict[int, Tensor]`: the loss of each level that has enough tokens.

    Raises:
        ValueError: if there is no such loss.
    """
    if name not in DISTRIBUTION_LOSSES:
        raise ValueError(f"found the distribution loss {name!r}; expected one of {sorted(DISTRIBUTION_LOSSES)}")
    nearest = nearest_levels(levels)
    counts = torch.bincount(nearest).tolist() if len(nearest) else []
    loss = DISTRIBUTION_LOSSES[name]
    return {
        level: loss(tokens[nearest == level], host) for level, count in enumerate(counts) if count >= max(least, 2)
    }


def distribution_loss(
    name: str, tokens: Tensor, levels: Tensor, host: ChannelStatistics, least: int = LEAST_TOKENS
) -> Tensor:
    """Mean of `level_losses`, in which levels count alike; if none can be judged, a zero that depends on `tokens`."""
    losses = level_losses(name, tokens, levels, host, least)
    return torch.stack(list(losses.values())).mean() if losses else _precise(tokens).sum() * 0


__all__ = ["DISTRIBUTION_LOSSES", "distribution_loss", "level_losses"]
