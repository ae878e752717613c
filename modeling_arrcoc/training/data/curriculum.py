"""Curriculum: how hard samples are, and when hard ones are drawn."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .mixture import Weights
from .rows import Row


DIFFICULTIES = ("easy", "medium", "hard", "very hard")
DIFFICULTY_SHARES = (0.2, 0.4, 0.3, 0.1)


def difficulty_scores(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Scores to start from: what the data set says, "medium" where it says nothing.

    Args:
        rows (`Sequence[Row]`): the samples.

    Returns:
        `(samples,)` 0 for "easy" to 3 for "very hard".

    Raises:
        ValueError: a difficulty is none of `DIFFICULTIES`.
    """
    unknown = sorted({str(row.difficulty) for row in rows} - {*DIFFICULTIES, "None"})
    if unknown:
        raise ValueError(f"difficulty must be one of {DIFFICULTIES}, found {unknown}")
    return np.array([float(DIFFICULTIES.index(row.difficulty or "medium")) for row in rows])


def rescored(
    scores: NDArray[np.float64], indices: ArrayLike, losses: ArrayLike, momentum: float = 0.7
) -> NDArray[np.float64]:
    """Move scores towards what the model finds hard now.

    Losses and scores live on different scales, so a loss counts by its place among the losses given: the sample at
    quantile q of the losses is drawn towards the difficulty at quantile q of `DIFFICULTY_SHARES`, where the lowest
    fifth, for one, reaches from -0.5 to 0.5 around "easy".

    Args:
        scores (`NDArray`): `(samples,)` difficulty of each sample, on the scale of `difficulty_scores`.
        indices: `(measured,)` samples whose loss is known; the last entry counts for a sample with several.
        losses: `(measured,)` their losses.
        momentum (`float`): share of the old score that stays.

    Returns:
        `(samples,)` new scores.

    Raises:
        ValueError: indices and losses differ in number, or a loss is not finite.
    """
    indices, losses = np.asarray(indices, np.int64), np.asarray(losses, np.float64)
    if indices.shape != losses.shape or not np.isfinite(losses).all():
        raise ValueError(f"expected one finite loss for each of {len(indices)} samples, found {losses!r}")
    latest = dict(zip(indices.tolist(), losses.tolist(), strict=True))
    if not latest:
        return scores.copy()
    places, values = np.array(list(latest)), np.array(list(latest.values()))
    ordered = np.sort(values)
    ranks = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")  # (measured,) doubled
    new = scores.copy()
    edges = np.cumsum((0.0, *DIFFICULTY_SHARES))
    drawn = np.interp(ranks / (2 * len(values)), edges, np.arange(len(edges)) - 0.5)
    new[places] = momentum * scores[places] + (1 - momentum) * drawn
    return new


def difficulty_buckets(
    scores: ArrayLike, shares: Sequence[float] = DIFFICULTY_SHARES, seed: int = 0
) -> NDArray[np.int64]:
    """Sort samples into buckets of fixed shares by difficulty.

    Args:
        scores: `(samples,)` difficulty of each sample; equal ones are ordered at random.
        shares (`Sequence[float]`): share of the samples in each bucket, easiest first; scaled to a sum of 1.
        seed (`int`): of the order among equals.

    Returns:
        `(samples,)` number of each sample's bucket, from 0 for the easiest.
    """
    scores = np.asarray(scores, np.float64)
    ties = np.random.default_rng(seed).random(len(scores))
    order = np.lexsort((ties, scores))
    edges = np.rint(np.cumsum(shares) / sum(shares) * len(scores)).astype(np.int64)
    buckets = np.empty(len(scores), np.int64)
    buckets[order] = np.searchsorted(edges, np.arange(len(scores)), side="right")
    return buckets


@dataclass(frozen=True)
class Curriculum:
    """How often each bucket of difficulty is drawn as training goes on: from `start` in a straight line to `end`.

    Args:
        start (`tuple[float, ...]`): weight of each bucket at the beginning, easiest first.
        end (`tuple[float, ...]`): from progress `until` on.
        until (`float`): progress in (0, 1] at which `end` is reached.

    Raises:
        ValueError: the two differ in length, or `until` lies outside (0, 1].
    """

    start: tuple[float, ...] = (0.60, 0.30, 0.10, 0.0)
    end: tuple[float, ...] = DIFFICULTY_SHARES
    until: float = 0.5

    def __post_init__(self) -> None:
        if len(self.start) != len(self.end) or not 0 < self.until <= 1:
            raise ValueError(f"start and end must be equally long and until lie in (0, 1], found {self}")

    def __call__(self, progress: float) -> dict[Hashable, float]:
        """Weight of each bucket at a progress from 0 to 1: what `WeightedOrder` takes."""
        way = min(1.0, progress / self.until)
        first, last = (np.asarray(side) / sum(side) for side in (self.start, self.end))
        return dict(enumerate(((1 - way) * first + way * last).tolist()))


def combined_weights(mixture: Weights, curriculum: Callable[[float], Weights]) -> Callable[[float], Weights]:
    """Weights of (group, bucket) pairs: a mixture whose groups each follow the curriculum.

    Args:
        mixture (`Mapping`): weight of each group.
        curriculum: weight of each bucket as a function of progress.

    Returns:
        A function of progress for a `WeightedOrder` with `keys=list(zip(groups, buckets))`.
    """

    def weights(progress: float) -> Mapping[Hashable, float]:
        buckets = curriculum(progress)
        return {
            (group, bucket): first * second for group, first in mixture.items() for bucket, second in buckets.items()
        }

    return weights
