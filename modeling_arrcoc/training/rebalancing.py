"""Mixtures that follow validation: tasks that are unlearned are drawn more often from the next epoch on."""

import math
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from transformers import TrainerCallback

from .data.curriculum import combined_weights
from .data.mixture import WeightedOrder, Weights, rebalanced, task_group
from .data.rows import Row


_LOSS = re.compile(r"monitor/validation/domain/(.+)/loss")


class MixtureRule(TrainerCallback):
    """At the beginning of each epoch, gives the groups more weight whose validation loss is above its lowest.

    It reads what the monitor `validation` has logged, which checkpoints hold: a resumed run has the same weights.

    Args:
        rows (`Sequence[Row]`): the training data, which say what group a task belongs to.
        order ([`WeightedOrder`]): of the samples, by group, or by (group, bucket) with a curriculum.
        weights (`Mapping`): weight of each group at the beginning.
        curriculum (*optional*): weight of each bucket of difficulty as a function of progress.
        tolerance, factor (`float`): as of [`rebalanced`], which is applied to the last losses before each epoch.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        order: WeightedOrder,
        weights: Weights,
        curriculum: Callable[[float], Weights] | None = None,
        tolerance: float = 0.1,
        factor: float = 1.5,
    ):
        self.groups = {row.task: task_group(row) for row in rows}
        self.order, self.weights, self.curriculum = order, weights, curriculum
        self.tolerance, self.factor = tolerance, factor

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        weights: dict[Hashable, float] = dict(self.weights)
        best: dict[Hashable, float] = {}
        looks = list(self._looks(state.log_history))
        for epoch in range(1, int(state.epoch or 0) + 1):
            found = [losses for time, losses in looks if epoch - 1 < time <= epoch]
            for losses in found:
                best |= {group: min(loss, best.get(group, math.inf)) for group, loss in losses.items()}
            if found:
                weights = rebalanced(weights, found[-1], best, self.tolerance, self.factor)
        self.order.weights = weights if self.curriculum is None else combined_weights(weights, self.curriculum)

    def _looks(self, history: Sequence[Mapping[str, Any]]) -> Iterator[tuple[float, dict[Hashable, float]]]:
        """Epoch and mean loss of each group, whenever the monitor has looked."""
        for entry in history:
            losses: dict[Hashable, list[float]] = {}
            for name, loss in entry.items():
                domain = _LOSS.fullmatch(name)
                if domain and domain[1] in self.groups and math.isfinite(loss):
                    losses.setdefault(self.groups[domain[1]], []).append(loss)
            if losses:
                yield entry["epoch"], {group: sum(values) / len(values) for group, values in losses.items()}


__all__ = ["MixtureRule"]
