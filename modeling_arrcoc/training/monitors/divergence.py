"""A monitor of how far compressed tokens are from the host's own."""

from pathlib import Path
from typing import Any

from ...distribution import gaussian_divergence, nearest_levels
from ...host_statistics import ChannelStatistics, HostStatistics, RunningMoments
from .base import Monitor


class DivergenceMonitor(Monitor):
    """KL divergence of the visual tokens of each level of detail from the host's own, channel by channel.

    Tokens are gathered between looks, so that their moments are those of many images.

    Args:
        statistics ([`HostStatistics`], `str` or `Path`): measured on the host at full detail, or a folder with them.
        action, every: as of [`Monitor`].
        most (`float`): divergence in nats a channel above which the language model reads something it never saw.
        least_tokens (`int`): tokens that a level must have to be judged.
    """

    name = "divergence"

    def __init__(
        self,
        statistics: HostStatistics | str | Path,
        action: str = "warn",
        every: int = 100,
        most: float = 0.5,
        least_tokens: int = 32,
    ):
        super().__init__(action, every)
        self.statistics = statistics
        self.most, self.least_tokens = most, least_tokens
        self.host: ChannelStatistics | None = None
        self.levels: dict[int, RunningMoments] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not isinstance(self.statistics, HostStatistics):
            self.statistics = HostStatistics.from_pretrained(self.statistics)
        self.statistics.check(self.trainer.base)
        self.host = self.statistics.layers["tokens"]

    def observe(self) -> None:
        record = self.trainer.last_forward
        if record.allocation is None or record.visual_tokens is None:
            return
        levels = nearest_levels(record.allocation.levels).cpu()
        for index, tokens in enumerate(record.visual_tokens):
            start = int(record.allocation.budgets[:index].sum())
            own = levels[start : start + len(tokens)]
            for level in own.unique().tolist():
                self.levels.setdefault(level, RunningMoments()).update(tokens.cpu()[own == level])

    def look(self) -> None:
        divergences = {}
        for level, moments in sorted(self.levels.items()):
            if moments.count >= self.least_tokens and self.host is not None:
                divergences[level] = float(gaussian_divergence(*moments.moments(), self.host))
        self.levels = {}
        worst = self.worst(max(divergences.values(), default=0.0))
        if divergences:
            self.log({f"level_{level}": divergence for level, divergence in divergences.items()})
        problem = f"compressed tokens are {worst:.3g} nats a channel from the host's own, above {self.most:g}"
        self.judge(None if worst <= self.most else problem)
