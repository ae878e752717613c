"""Rules of updating: components that learn in turn, flat and exploding losses, and setting back to a good state.

All are [`~transformers.TrainerCallback`]s that [`ArrCocTrainerMixin`] adds as its arguments ask. Anything else may set
training back with [`request_rollback`], from a callback that runs between a backward pass and the next forward pass,
such as `on_pre_optimizer_step` or `on_step_end`, and in all processes alike.
"""

import copy
import logging
import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from .components import named_components


logger = logging.getLogger(__name__)


@runtime_checkable
class Attachable(Protocol):
    """A callback that wants to know its trainer: `attach` is called when it is added to one, and on resuming."""

    def attach(self, trainer: Any) -> None: ...


@dataclass
class Snapshot:
    """Weights that are trained and the optimizer's state at one step, in the host's memory.

    Attributes:
        step (`int`): optimizer step.
        parameters (`list[Tensor]`): in the model's order.
        optimizer (`dict`): state of the optimizer.
    """

    step: int
    parameters: list[Tensor]
    optimizer: dict[str, Any]

    @classmethod
    def take(cls, trainer: Any) -> "Snapshot":
        """Copy the state of a trainer."""
        parameters = [_local(parameter).to("cpu", copy=True) for parameter in trained_parameters(trainer)]
        return cls(trainer.state.global_step, parameters, _to_cpu(trainer.optimizer.state_dict()))

    @torch.no_grad()
    def restore(self, trainer: Any) -> None:
        """Set weights and optimizer back. Learning rates, and what is read next, stay where they are."""
        for parameter, value in zip(trained_parameters(trainer), self.parameters, strict=True):
            _local(parameter).copy_(value)
            parameter.grad = None
        rates = [group["lr"] for group in trainer.optimizer.param_groups]
        trainer.optimizer.load_state_dict(copy.deepcopy(self.optimizer))
        for group, rate in zip(trainer.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate


class RollBack:
    """The last good states of a trainer.

    A state is good once a healthy loss was seen after it: the newest one is kept as a candidate until then.
    """

    def __init__(self) -> None:
        self.count = 0
        self.good: Snapshot | None = None
        self.candidate: Snapshot | None = None

    def confirm(self, trainer: Any, every: int) -> None:
        """Say that the loss is healthy: the candidate is good, and where it is old enough there is a new one.

        Args:
            trainer: in training.
            every (`int`): optimizer steps between two states.
        """
        step = trainer.state.global_step
        if self.candidate is not None and step > self.candidate.step:
            self.good = self.candidate
        if self.candidate is None or step - self.candidate.step >= every:
            self.candidate = Snapshot.take(trainer)

    def save(self, path: Path) -> None:
        """Write the states to a file, so that a resumed run goes back to where an uninterrupted one would."""
        states = {name: None if state is None else vars(state) for name, state in self._states().items()}
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save({"count": self.count, **states}, path)

    @classmethod
    def load(cls, path: Path) -> "RollBack":
        """Read what `save` wrote."""
        rollback, content = cls(), torch.load(path, map_location="cpu", weights_only=True)
        rollback.count = content["count"]
        for name in rollback._states():
            setattr(rollback, name, None if content[name] is None else Snapshot(**content[name]))
        return rollback

    def _states(self) -> dict[str, Snapshot | None]:
        return {"good": self.good, "candidate": self.candidate}


def request_rollback(trainer: Any, reason: str, rate_factor: float | None = None) -> bool:
    """Set weights and optimizer back to the last good state at once, and lower the learning rates.

    Gradients of the current step are dropped with the weights that they were computed at. Data go on.

    Args:
        trainer ([`ArrCocTrainerMixin`]): in training.
        reason (`str`): said in the log.
        rate_factor (`float`, *optional*): what rates are multiplied by; defaults to `rollback_rate_factor`.

    Returns:
        `bool`: whether there was a state to go back to. If not, or if this would be one time too many, training is
        told to stop.
    """
    rollback, arguments = trainer.rollback, trainer.args
    state = rollback.good or rollback.candidate
    if state is None or rollback.count >= arguments.max_rollbacks:
        logger.error("training stops at step %d: %s", trainer.state.global_step, reason)
        trainer.control.should_training_stop = True
        return False
    rollback.count += 1
    state.restore(trainer)
    scale_learning_rates(trainer, arguments.rollback_rate_factor if rate_factor is None else rate_factor)
    rollback.good, rollback.candidate = state, None
    logger.warning("step %d: %s; back to the state of step %d", trainer.state.global_step, reason, state.step)
    trainer.state.log_history.append(
        {"step": trainer.state.global_step, "rollback": reason, "rollback_to_step": state.step}
    )
    return True


def scale_learning_rates(trainer: Any, factor: float) -> None:
    """Multiply the learning rates of all groups, now and for the rest of their schedules; checkpoints keep it."""
    for group in trainer.optimizer.param_groups:
        for name in ("lr", "initial_lr"):
            if name in group:
                group[name] = group[name] * factor
    scheduler = trainer.lr_scheduler
    scheduler.base_lrs = [rate * factor for rate in scheduler.base_lrs]


def trained_parameters(trainer: Any) -> list[nn.Parameter]:
    """What the optimizer holds, in its order; also those that rest at the moment."""
    return [parameter for group in trainer.optimizer.param_groups for parameter in group["params"]]


def _local(parameter: Tensor) -> Tensor:
    """This process's part of a parameter, which may be sharded."""
    data = parameter.detach()
    return data.to_local() if hasattr(data, "to_local") else data


def _to_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return _local(state).to("cpu", copy=True)
    if isinstance(state, dict):
        return {key: _to_cpu(value) for key, value in state.items()}
    if isinstance(state, list | tuple):
        return type(state)(_to_cpu(value) for value in state)
    return state


def remember(callbacks: Sequence[TrainerCallback], states: Mapping[str, Any]) -> None:
    """Give rules back what they remembered when a checkpoint was written; their own arguments stay as they are.

    Args:
        callbacks (`Sequence[TrainerCallback]`): of the trainer; those that are no [`ExportableState`] are passed over.
        states (`Mapping`): by name of the class what `ExportableState.state` said, a list of such for several rules of
            a class.
    """
    rules: dict[str, list[Any]] = {}
    for callback in callbacks:
        if isinstance(callback, ExportableState):
            rules.setdefault(type(callback).__name__, []).append(callback)
    for name, same in rules.items():
        found = states.get(name, [])
        found = found if isinstance(found, list) else [found]
        for rule, state in zip(same, found[-len(same) :], strict=False):  # transformers adds the newest at the end
            for attribute, value in state.get("attributes", {}).items():
                setattr(rule, attribute, value)


class UpdateCycle(TrainerCallback):
    """Lets components learn in turn, one set an optimizer step, over all batches that are accumulated for it.

    Components that rest require no gradient: none is computed, so that none is lost, and the optimizer passes them
    over with their running means untouched. Which step of the cycle it is follows from the number of optimizer steps,
    also after resuming.

    Args:
        cycle (`list[list[str]]`): names of the components that learn in each step.
    """

    def __init__(self, cycle: list[list[str]]):
        self.cycle = cycle
        self.parameters: dict[str, list[nn.Parameter]] = {}
        self.bridge_vision_blocks = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, model: nn.Module, **kwargs: Any) -> None:
        self.parameters = {}
        for component, _, parameter in named_components(model, args.bridge_vision_blocks):
            if parameter.requires_grad:
                self.parameters.setdefault(component, []).append(parameter)
        learning = {component for components in self.cycle for component in components}
        if forgotten := sorted(self.parameters.keys() - learning):
            raise ValueError(f"`update_cycle` never names {', '.join(forgotten)}, which are to be trained")
        if idle := [components for components in self.cycle if not self.parameters.keys() & set(components)]:
            raise ValueError(f"`update_cycle` has the steps {idle}, in which nothing is trained")

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        learning = self.cycle[state.global_step % len(self.cycle)]
        self._require(lambda component: component in learning)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._require(lambda component: True)

    def _require(self, learns: Any) -> None:
        for component, parameters in self.parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(learns(component))


class PlateauRule(TrainerCallback, ExportableState):
    """Lowers learning rates where the logged loss has not fallen for a number of optimizer steps.

    Args:
        patience (`int`): optimizer steps without a lower loss.
        factor (`float`): what rates are multiplied by.
        least (`float`): share by which a loss must be lower to count.
    """

    def __init__(self, patience: int, factor: float = 0.5, least: float = 1e-3):
        self.patience, self.factor, self.least = patience, factor, least
        self.best, self.since = math.inf, 0
        self.trainer: Any = None

    def attach(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None or not math.isfinite(loss):
            return
        if loss < self.best - self.least * abs(self.best) if math.isfinite(self.best) else True:
            self.best, self.since = loss, state.global_step
        elif state.global_step - self.since >= self.patience:
            scale_learning_rates(self.trainer, self.factor)
            logger.warning("step %d: no lower loss since step %d; lower rates", state.global_step, self.since)
            self.since = state.global_step

    def state(self) -> dict[str, Any]:
        return {
            "args": {"patience": self.patience, "factor": self.factor, "least": self.least},
            "attributes": {"best": self.best, "since": self.since},
        }


class SpikeRule(TrainerCallback, ExportableState):
    """Sets training back where the logged loss jumps up or is not finite, and keeps good states to go back to.

    Args:
        ratio (`float`): how many times the median of the last losses is a jump.
        every (`int`): optimizer steps between two states.
        window (`int`): losses that the median is over.
        least (`int`): losses that must have been seen before one is called a jump.
    """

    def __init__(self, ratio: float, every: int, window: int = 20, least: int = 5):
        self.ratio, self.every, self.window, self.least = ratio, every, window, least
        self.losses: list[float] = []
        self.trainer: Any = None

    def attach(self, trainer: Any) -> None:
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        rollback = self.trainer.rollback
        if rollback.good is None and rollback.candidate is None:  # not those of a checkpoint
            rollback.candidate = Snapshot.take(self.trainer)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        loss = (logs or {}).get("loss")
        if loss is None:
            return
        if not math.isfinite(loss):
            request_rollback(self.trainer, f"the loss is {loss}")
        elif len(self.losses) >= self.least and loss > self.ratio * median(self.losses):
            request_rollback(self.trainer, f"the loss is {loss:.4g} after {median(self.losses):.4g}")
        else:
            self.losses = list(deque([*self.losses, loss], self.window))
            self.trainer.rollback.confirm(self.trainer, self.every)

    def state(self) -> dict[str, Any]:
        arguments = {"ratio": self.ratio, "every": self.every, "window": self.window, "least": self.least}
        return {"args": arguments, "attributes": {"losses": self.losses}}


__all__ = ["Attachable", "PlateauRule", "RollBack", "SpikeRule", "UpdateCycle", "remember", "request_rollback"]
