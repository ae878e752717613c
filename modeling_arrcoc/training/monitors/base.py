"""What all monitors share: how they log, how they raise an alarm, and what an alarm does."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from transformers import TrainerCallback

from ..updates import request_rollback


logger = logging.getLogger(__name__)

ACTIONS = ("warn", "stop", "rollback")


@dataclass(frozen=True)
class Alarm:
    """Something that went wrong.

    Attributes:
        step (`int`): optimizer step at which it was seen.
        monitor (`str`): name of the monitor.
        message (`str`): what was found, and what is healthy.
        action (`str`): what was done.
    """

    step: int
    monitor: str
    message: str
    action: str


class Monitor(TrainerCallback):
    """A callback of [`ArrCocTrainer`] that watches a run and raises an alarm where it goes wrong.

    Numbers are logged as `monitor/NAME/...` through the trainer, and so reach the console, TensorBoard, W&B and the
    checkpoints. What a monitor compares with is what it has logged before: a resumed run compares with the same.

    Args:
        action (`str`): what an alarm does besides being logged: `"warn"`, nothing; `"stop"`, training ends after this
            step; `"rollback"`, weights and optimizer go back to the last good state with lower rates, which needs
            `spike_ratio` in the trainer's arguments.
        every (`int`): optimizer steps from one look to the next.

    Attributes:
        alarms (`list[Alarm]`): raised so far in this process, without repetitions of a warning.

    Raises:
        ValueError: for an unknown action, or `every` below 1.
    """

    name: str
    trainer: Any = None

    def __init__(self, action: str = "warn", every: int = 100):
        if action not in ACTIONS:
            raise ValueError(f"`action` is {action!r}; allowed are {', '.join(map(repr, ACTIONS))}")
        if every < 1:
            raise ValueError(f"`every` is {every!r}; allowed are whole numbers from 1")
        self.action, self.every = action, every
        self.alarms: list[Alarm] = []
        self.is_alarmed = False

    def attach(self, trainer: Any) -> None:
        """Called by the trainer that the monitor is added to."""
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.trainer is None:
            raise ValueError(f"the monitor {self.name!r} belongs to no trainer; `attach` names it")
        if self.action == "rollback" and getattr(args, "spike_ratio", None) is None:
            raise ValueError(
                f"the monitor {self.name!r} is to roll back, but no states are kept to go back to; set `spike_ratio`"
            )

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observe()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.observe()
        if state.global_step % self.every == 0:
            self.look()

    def observe(self) -> None:
        """Called after each batch: take in what passes by."""

    def look(self) -> None:
        """Called every `every` optimizer steps: log numbers, and `judge` them."""

    def log(self, values: Mapping[str, float]) -> None:
        """Log numbers under this monitor's name."""
        control = self.trainer.control
        due = control.should_log
        self.trainer.log({f"monitor/{self.name}/{key}": value for key, value in values.items()})
        control.should_log = due  # the trainer's own log of this step is still to come

    def logged(self, key: str) -> list[float]:
        """What this monitor has logged of a number so far, also before an interruption; oldest first."""
        name = f"monitor/{self.name}/{key}"
        return [entry[name] for entry in self.trainer.state.log_history if name in entry]

    def first(self, key: str, value: float) -> float:
        """The first finite value logged of a number; `value` if there is none."""
        return next((logged for logged in self.logged(key) if math.isfinite(logged)), value)

    def judge(self, problem: str | None) -> bool:
        """Raise an alarm, or say that all is well.

        Args:
            problem (`str`, *optional*): what is wrong; `None` if nothing is. The same in all processes.

        Returns:
            `bool`: whether there is a problem.
        """
        if problem is None:
            self.is_alarmed = False
            return False
        if self.is_alarmed and self.action == "warn":  # a warning is said once, until all is well again
            return True
        self.is_alarmed = True
        step = self.trainer.state.global_step
        self.alarms.append(Alarm(step, self.name, problem, self.action))
        logger.warning("step %d: monitor %s: %s", step, self.name, problem)
        self.log({"alarm": 1.0})
        if self.action == "stop":
            self.trainer.control.should_training_stop = True
        elif self.action == "rollback":
            request_rollback(self.trainer, f"{self.name}: {problem}")
        return True

    def worst(self, value: float) -> float:
        """The highest value over all processes; NaN counts as the highest."""
        if self.trainer.args.world_size == 1:
            return value
        found = torch.tensor(math.inf if math.isnan(value) else value, device=self.trainer.args.device)
        return float(self.trainer.accelerator.gather(found[None]).max())
