"""Weights and other numbers that change with the optimizer step."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


INTERPOLATIONS = ("linear", "cosine", "steps")


@dataclass(frozen=True)
class Schedule:
    """A number by optimizer step, through given points; constant before the first and after the last.

    Args:
        points (`tuple[tuple[int, float], ...]`): optimizer steps, ascending, and the values there.
        interpolation (`str`): between two points: `"linear"`; `"cosine"`, which starts and ends flat; or `"steps"`,
            which keeps the value of the earlier one.

    Raises:
        ValueError: if there is no point, steps do not ascend, a value is not finite, or the interpolation is unknown.
    """

    points: tuple[tuple[int, float], ...]
    interpolation: str = "linear"

    def __post_init__(self) -> None:
        steps = [step for step, _ in self.points]
        if not steps or steps[0] < 0 or steps != sorted(set(steps)):
            raise ValueError(f"found a schedule with the steps {steps}; expected at least one, from 0, ascending")
        if not all(math.isfinite(value) for _, value in self.points):
            raise ValueError(f"found a schedule through {list(self.points)}; expected finite values")
        if self.interpolation not in INTERPOLATIONS:
            raise ValueError(f"found the interpolation {self.interpolation!r}; expected one of {INTERPOLATIONS}")

    def __call__(self, step: int) -> float:
        """Value at an optimizer step."""
        first_step, value = self.points[0]
        if step <= first_step:
            return value
        for next_step, next_value in self.points[1:]:
            if step < next_step:
                share = (step - first_step) / (next_step - first_step)
                if self.interpolation == "steps":
                    return value
                if self.interpolation == "cosine":
                    share = (1 - math.cos(math.pi * share)) / 2
                return value + (next_value - value) * share
            first_step, value = next_step, next_value
        return value

    def __mul__(self, factor: float) -> "Schedule":
        return Schedule(tuple((step, value * factor) for step, value in self.points), self.interpolation)


def constant(value: float) -> Schedule:
    """The same value at every step."""
    return Schedule(((0, value),))


def linear(start: float, end: float, steps: int, delay: int = 0) -> Schedule:
    """From `start` to `end` in `steps` optimizer steps, after the first `delay`."""
    return Schedule(((delay, start), (delay + steps, end)))


def cosine(start: float, end: float, steps: int, delay: int = 0) -> Schedule:
    """As `linear`, along half a wave of a cosine."""
    return Schedule(((delay, start), (delay + steps, end)), "cosine")


def piecewise(points: Sequence[Sequence[float]], interpolation: str = "linear") -> Schedule:
    """Through points `(step, value)`."""
    return Schedule(tuple((int(step), float(value)) for step, value in points), interpolation)


_KINDS: dict[str, Callable[..., Schedule]] = {
    "constant": constant,
    "linear": linear,
    "cosine": cosine,
    "piecewise": piecewise,
}


def parse_schedule(description: float | Mapping[str, Any] | Schedule) -> Schedule:
    """Read a schedule as it stands in a configuration file.

    Args:
        description: a number, which is constant; or a mapping with `kind` and that function's arguments, such as
            `{"kind": "linear", "start": 0.001, "end": 0.05, "steps": 50000}`.

    Raises:
        ValueError: for anything else; what was found is named.
    """
    if isinstance(description, Schedule):
        return description
    if isinstance(description, int | float) and not isinstance(description, bool):
        return constant(float(description))
    if isinstance(description, Mapping) and description.get("kind") in _KINDS:
        arguments = {name: value for name, value in description.items() if name != "kind"}
        try:
            return _KINDS[description["kind"]](**arguments)
        except TypeError as error:
            raise ValueError(f"found the schedule {dict(description)}: {error}") from None
    raise ValueError(
        f"found the schedule {description!r}; expected a number or a mapping with a kind of {list(_KINDS)}"
    )


__all__ = ["Schedule", "constant", "cosine", "linear", "parse_schedule", "piecewise"]
