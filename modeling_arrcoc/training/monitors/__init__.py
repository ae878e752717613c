"""Monitors: callbacks of the trainer that log how a run is doing and raise an alarm where it goes wrong.

>>> trainer.add_callback(FeatureMonitor(action="stop"))
>>> for callback in make_monitors({"gradient_norm": "warn", "vision": {"action": "stop", "every": 200}}):
...     trainer.add_callback(callback)
"""

from collections.abc import Mapping
from typing import Any

from transformers import EarlyStoppingCallback, TrainerCallback

from .answers import HostAbilityMonitor, ValidationMonitor, VisionMonitor
from .base import ACTIONS, Alarm, Monitor
from .budgets import BudgetMonitor
from .divergence import DivergenceMonitor
from .features import AttentionScoreMonitor, FeatureMonitor, pairwise_cosine
from .gradients import GradientNormMonitor, NonFiniteMonitor
from .probes import ProbeMonitor


MONITORS: dict[str, type[TrainerCallback]] = {
    monitor.name: monitor
    for monitor in (
        GradientNormMonitor,
        NonFiniteMonitor,
        AttentionScoreMonitor,
        DivergenceMonitor,
        FeatureMonitor,
        BudgetMonitor,
        ValidationMonitor,
        HostAbilityMonitor,
        VisionMonitor,
    )
} | {"early_stopping": EarlyStoppingCallback}


def make_monitors(options: Mapping[str, Any]) -> list[TrainerCallback]:
    """Monitors from plain values, as they stand in a configuration file.

    Args:
        options (`Mapping`): by name in `MONITORS` the arguments of the monitor; an action by itself, such as `"stop"`,
            for its defaults otherwise; `True` for all defaults, `False` for none of it.

    Raises:
        ValueError: for an unknown name or argument, or a value outside its range.
    """
    monitors = []
    for name, arguments in options.items():
        if name not in MONITORS:
            raise ValueError(f"found the monitor {name!r}; there are {', '.join(map(repr, MONITORS))}")
        if arguments is False:
            continue
        if arguments is True or arguments is None:
            arguments = {}
        elif isinstance(arguments, str):
            arguments = {"action": arguments}
        try:
            monitors.append(MONITORS[name](**arguments))
        except TypeError as error:
            raise ValueError(f"the monitor {name!r} cannot be made of {arguments!r}: {error}") from None
    return monitors


__all__ = [
    "ACTIONS",
    "MONITORS",
    "Alarm",
    "AttentionScoreMonitor",
    "BudgetMonitor",
    "DivergenceMonitor",
    "FeatureMonitor",
    "GradientNormMonitor",
    "HostAbilityMonitor",
    "Monitor",
    "NonFiniteMonitor",
    "ProbeMonitor",
    "ValidationMonitor",
    "VisionMonitor",
    "make_monitors",
    "pairwise_cosine",
]
