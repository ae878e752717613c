"""Mixtures: in which order samples of several groups are drawn, by weights that may change on the way."""

from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from .rows import Row


TASK_WEIGHTS = {"ocr": 0.35, "chart": 0.20, "table": 0.15, "vqa": 0.15, "caption": 0.10, "math": 0.05}
MODALITY_WEIGHTS = {"ocr": 0.50, "vision": 0.35, "text": 0.15}

Weights = Mapping[Hashable, float]
Order = Callable[[int], list[int]]

_READING = ("ocr", "chart", "table")
# Groups of the sets that `arrcoc.synthetic` makes; those of the converters are the task itself.
_SET_TASKS = {
    **{f"synthetic_{kind}": "ocr" for kind in ("form", "receipt", "invoice", "letter", "page", "sign")},
    **{f"synthetic_{kind}": "chart" for kind in ("bar_chart", "line_chart", "pie_chart")},
    "synthetic_table": "table",
    "synthetic_scene": "vqa",
}
_SEGMENTS = 64  # stretches of an epoch within which weights are constant


def task_group(row: Row) -> str:
    """The group of `TASK_WEIGHTS` that a row belongs to; its own `task` where that names another, `"text"` without
    images."""
    if not row.images:
        return "text"
    return _SET_TASKS.get(row.set, row.task)


def modality(row: Row) -> str:
    """The group of `MODALITY_WEIGHTS` that a row belongs to: `"text"`, `"ocr"` (text, chart, table) or `"vision"`."""
    group = task_group(row)
    return "text" if group == "text" else "ocr" if group in _READING else "vision"


def nested_weights(
    keys: Sequence[tuple[Hashable, Hashable]], outer: Weights, inner: Weights
) -> dict[tuple[Hashable, Hashable], float]:
    """Weights of groups within groups, such as tasks within modalities.

    Args:
        keys (`Sequence[tuple]`): (outer, inner) group of each sample.
        outer (`Mapping`): weight of each outer group.
        inner (`Mapping`): weight of each inner group, compared within its outer group only; 1 if not given.

    Returns:
        Weight of each (outer, inner) pair that has samples; the pairs of an outer group share its weight.

    Raises:
        ValueError: an outer group has no weight, or all inner groups that it has samples of have weight 0.
    """
    pairs = dict.fromkeys(keys)
    totals: dict[Hashable, float] = {}
    for first, second in pairs:
        totals[first] = totals.get(first, 0.0) + inner.get(second, 1.0)
    if empty := [group for group, total in totals.items() if total <= 0]:
        raise ValueError(f"all groups within {empty} have weight 0")
    return {
        (first, second): _weight_of(outer, first) * inner.get(second, 1.0) / totals[first] for first, second in pairs
    }


def rebalanced(
    weights: Weights, losses: Weights, best: Weights, tolerance: float = 0.1, factor: float = 1.5
) -> dict[Hashable, float]:
    """Give groups more weight whose validation loss has risen too far above its best.

    Args:
        weights (`Mapping`): weight of each group.
        losses (`Mapping`): validation loss of groups now.
        best (`Mapping`): their best so far.
        tolerance (`float`): rise that is let pass, as a share of the best.
        factor (`float`): by how much the weight of a group beyond it grows.

    Returns:
        New weights with the old sum.
    """
    grown = {
        group: weight * (factor if group in losses and losses[group] > best[group] * (1 + tolerance) else 1.0)
        for group, weight in weights.items()
    }
    scale = sum(weights.values()) / sum(grown.values())
    return {group: weight * scale for group, weight in grown.items()}


class ShuffledOrder:
    """Every sample once an epoch, in another order each time.

    Args:
        size (`int`): number of samples.
        seed (`int`): of the orders.
    """

    def __init__(self, size: int, seed: int = 0):
        self.size = size
        self.seed = seed

    def __call__(self, epoch: int) -> list[int]:
        """Indices of the samples in the order of an epoch."""
        return np.random.default_rng((self.seed, epoch)).permutation(self.size).tolist()


class WeightedOrder:
    """Draws groups by weight and takes the samples of each group in turn, reshuffled on every pass.

    A group of high weight is gone through several times an epoch, one of low weight only in part, and the next epoch
    takes another part. `weights` may be exchanged between epochs, by assignment.

    Args:
        keys (`Sequence`): group of each sample.
        weights: weight of each group, or a function of the progress of training from 0 to 1 that returns them. Groups
            without samples are left out and the others scaled up.
        size (`int`, *optional*): samples an epoch; by default as many as there are.
        epochs (`float`): epochs of the training whose progress is meant.
        seed (`int`): of the draws.

    Raises:
        ValueError: a group has no weight, no group has any, or there are no samples.
    """

    def __init__(
        self,
        keys: Sequence[Hashable],
        weights: Weights | Callable[[float], Weights],
        size: int | None = None,
        epochs: float = 1,
        seed: int = 0,
    ):
        self.weights = weights
        self.size = len(keys) if size is None else size
        self.epochs = epochs
        self.seed = seed
        self.groups: dict[Hashable, list[int]] = {}
        self.regroup(keys)

    def regroup(self, keys: Sequence[Hashable]) -> None:
        """Sort the samples into groups; epochs that are asked for from now on follow these.

        Args:
            keys (`Sequence`): group of each sample.

        Raises:
            ValueError: as at the beginning.
        """
        if not keys:
            raise ValueError("there are no samples to mix")
        self.groups = {}
        for index, key in enumerate(keys):
            self.groups.setdefault(key, []).append(index)
        self.probabilities(0.0)

    def probabilities(self, progress: float) -> list[float]:
        """Probability of each of `groups` at a progress from 0 to 1."""
        weights = self.weights(progress) if callable(self.weights) else self.weights
        given = [_weight_of(weights, group) for group in self.groups]
        total = sum(given)
        if min(given) < 0 or total <= 0:
            raise ValueError(f"weights must not be negative and not all zero, found {dict(weights)!r}")
        return [weight / total for weight in given]

    def __call__(self, epoch: int) -> list[int]:
        """Indices of the samples in the order of an epoch."""
        dice = np.random.default_rng((self.seed, epoch))
        edges = np.linspace(0, self.size, min(_SEGMENTS, self.size) + 1).round().astype(int)
        drawn = [
            dice.choice(len(self.groups), end - start, p=self.probabilities(self._progress(epoch, start)))
            for start, end in zip(edges, edges[1:], strict=False)
        ]
        numbers = np.concatenate(drawn)  # (size,) group of each draw
        order = np.empty(self.size, np.int64)
        for number, members in enumerate(self.groups.values()):
            places = np.flatnonzero(numbers == number)
            passes = -(-len(places) // len(members))
            taken = [dice.permutation(members) for _ in range(passes)]
            if taken:
                order[places] = np.concatenate(taken)[: len(places)]
        return order.tolist()

    def _progress(self, epoch: int, drawn: int) -> float:
        return min(1.0, (epoch + drawn / self.size) / self.epochs)


def _weight_of(weights: Weights, group: Hashable) -> float:
    if group not in weights:
        raise ValueError(f"no weight is given for {group!r}; weights are given for {sorted(map(str, weights))}")
    return weights[group]
