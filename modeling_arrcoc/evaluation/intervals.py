"""Confidence intervals by resampling images, alone and for paired differences."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean and the bounds within which it lies.

    Attributes:
        mean (`float`): over the items.
        low, high (`float`): bounds of the interval.
    """

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.mean:.4g} [{self.low:.4g}, {self.high:.4g}]"


def _cluster_sums(values: Sequence[float], groups: Sequence[Hashable] | None) -> tuple[NDArray, NDArray]:
    """Sum of the values and number of items of each group, `(groups,)` each."""
    numbers = np.asarray(values, np.float64)
    if numbers.ndim != 1 or not len(numbers) or not np.isfinite(numbers).all():
        raise ValueError(f"expected a list of at least one finite value, found {values!r:.200}")
    if groups is None:
        return numbers, np.ones_like(numbers)
    if len(groups) != len(numbers):
        raise ValueError(f"found {len(groups)} groups for {len(numbers)} values")
    index: dict[Hashable, int] = {}
    place = np.array([index.setdefault(group, len(index)) for group in groups])
    return np.bincount(place, numbers), np.bincount(place).astype(np.float64)


def bootstrap_interval(
    values: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a mean (Efron, "Bootstrap methods", Annals of Statistics 7(1), 1979).

    Questions about one image are no independent draws, so images are drawn, with all of their questions.

    Args:
        values (`Sequence[float]`): one an item.
        groups (`Sequence[Hashable]`, *optional*): the image of each item; every item its own if not given.
        confidence (`float`): share of resamples inside the interval.
        resamples (`int`): number of resamples.
        seed (`int`): of the draws; the same for any two calls that are to be compared.

    Raises:
        ValueError: if there are no values or one is not finite, or `confidence` lies outside (0, 1).
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise ValueError(
            f"expected a confidence in (0, 1) and at least one resample, found {confidence} and {resamples}"
        )
    sums, counts = _cluster_sums(values, groups)
    generator = np.random.default_rng(seed)
    step = max(1, 2_000_000 // len(sums))  # resamples at once, so that memory stays small
    means = []
    for start in range(0, resamples, step):
        drawn = generator.integers(0, len(sums), (min(step, resamples - start), len(sums)))
        means.append(sums[drawn].sum(1) / counts[drawn].sum(1))
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.concatenate(means), [tail, 1 - tail])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def paired_difference(
    first: Sequence[float],
    second: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    confidence: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> Interval:
    """Bootstrap of the mean of `first - second` on the same items; arguments as in `bootstrap_interval`.

    Raises:
        ValueError: if the two have different lengths, or as in `bootstrap_interval`.
    """
    if len(first) != len(second):
        raise ValueError(f"paired values must be of the same items, found {len(first)} and {len(second)}")
    differences = [a - b for a, b in zip(first, second, strict=True)]
    return bootstrap_interval(differences, groups, confidence, resamples, seed)
