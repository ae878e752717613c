"""Monitors of what reaches the optimizer: gradient norms by component, and numbers that are none."""

import math
from typing import Any

from .base import Monitor


class GradientNormMonitor(Monitor):
    """Gradient norm of each component before clipping: exploding, or dead.

    A component is dead if it is to be trained and no gradient reaches it: it is bypassed, saturated or detached.

    Args:
        action, every: as of [`Monitor`]; norms are judged at each step, their highest is logged every `every` steps.
        most (`float`): norm above which a component explodes.
        least (`float`): norm below which a component gets nothing.
        dead_steps (`int`): steps in a row that it must get nothing to be dead.
    """

    name = "gradient_norm"

    def __init__(
        self, action: str = "warn", every: int = 100, most: float = 10.0, least: float = 1e-8, dead_steps: int = 10
    ):
        super().__init__(action, every)
        self.most, self.least, self.dead_steps = most, least, dead_steps
        self.highest: dict[str, float] = {}
        self.idle: dict[str, int] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        _check_norms(self)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        norms = {component: self.trainer.gradient_norms.get(component, 0.0) for component in self._learning()}
        problems = []
        for component, norm in norms.items():
            self.highest[component] = max(self.highest.get(component, 0.0), norm)
            self.idle[component] = 0 if norm >= self.least else self.idle.get(component, 0) + 1
            if norm > self.most:
                problems.append(f"the gradient of {component} explodes: its norm is {norm:.3g}, above {self.most:g}")
            elif self.idle[component] >= self.dead_steps:
                problems.append(
                    f"the gradient of {component} is dead: its norm is {norm:.3g} for {self.idle[component]} steps"
                )
        self.judge("; ".join(problems) or None)

    def look(self) -> None:
        self.log(self.highest)
        self.highest = {}

    def _learning(self) -> list[str]:
        """Components that are to learn at this step."""
        groups = self.trainer.optimizer.param_groups
        return list(
            dict.fromkeys(
                group["component"] for group in groups if any(parameter.requires_grad for parameter in group["params"])
            )
        )


class NonFiniteMonitor(Monitor):
    """A guard against NaN and infinity in gradients: the step is not taken, so that they never reach the weights.

    Args:
        action, every: as of [`Monitor`]; each step is judged, and the number of those not taken is logged every
            `every` steps. In fp16 mixed precision, where overflow is a matter of routine, the gradient scaler passes
            steps over by itself.
    """

    name = "non_finite"

    def __init__(self, action: str = "stop", every: int = 100):
        super().__init__(action, every)
        self.dropped = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        _check_norms(self)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer.accelerator.scaler is not None:
            return
        wrong = [name for name, norm in self.trainer.gradient_norms.items() if not math.isfinite(norm)]
        if wrong:
            self.dropped += 1
            for group in self.trainer.optimizer.param_groups:
                for parameter in group["params"]:
                    parameter.grad = None
        loss = self.trainer.last_forward.loss
        problem = f"the gradient of {', '.join(wrong)} is not finite at a loss of {loss:.4g}; the step is not taken"
        self.judge(problem if wrong else None)

    def look(self) -> None:
        self.log({"steps_not_taken": float(self.dropped)})


def _check_norms(monitor: Monitor) -> None:
    trainer = monitor.trainer
    if not trainer.args.max_grad_norm or trainer.is_deepspeed_enabled:
        raise ValueError(
            f"the monitor {monitor.name!r} reads the norms that gradients are clipped by: `max_grad_norm` must be "
            "positive, and DeepSpeed, which clips by itself, does not show them"
        )
