"""The training loop: stages of steps whose batches depend on their number alone, with a state that survives a stop."""

import json
import math
import os
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from .optimizers import build_optimizers
from .workers import share_gradients


Metrics = dict[str, float]
LATE, DONE = 1.0, 1000.0  # what processes tell each other


@dataclass(frozen=True)
class Stage:
    """A part of the training.

    Args:
        name: of the stage.
        steps: optimizer steps.
        rates: learning rates as in `build_optimizers`.
        batch: from the number of a step to its batch.
        loss: from a batch to the loss and what is to be logged of it.
        validate: measures the model; what it returns is logged.
        goal: a measure of `validate` and the value at which the stage ends, its work done.
        warmup: steps of rising rate.
        decay: share of the steps, at the end, of falling rate.
        muon: parts whose matrices learn by Muon, by prefixes of their parameters' names.
        mean: how much of the running mean of the weights a step leaves, which is what the stage ends with; 0 for none.
    """

    name: str
    steps: int
    rates: dict[str, float]
    batch: Callable[[int], dict[str, Tensor]]
    loss: Callable[[dict[str, Tensor]], tuple[Tensor, Metrics]]
    validate: Callable[[], Metrics]
    goal: tuple[str, float] | None = None
    warmup: int = 100
    decay: float = 0.3
    muon: tuple[str, ...] = ()
    mean: float = 0.0

    def factor(self, step: int) -> float:
        """Of the learning rate: a linear rise (of short stages, in a tenth of them), a plateau, a linear fall."""
        rising = (step + 1) / max(1, min(self.warmup, self.steps / 10))
        falling = (self.steps - step) / max(1, self.decay * self.steps)
        return min(1.0, rising, max(0.02, falling))


def atomic_save(state: Any, path: Path) -> None:
    """`torch.save` that leaves either the old file or the whole new one."""
    part = path.with_suffix(".part")
    torch.save(state, part)
    os.replace(part, path)


def to_device(batch: dict[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """A batch on a device."""
    return {name: values.to(device, non_blocking=True) for name, values in batch.items()}


class Trainer:
    """Runs stages one after another and resumes where it was stopped.

    Args:
        model: everything that is trained.
        stages: in their order.
        folder: for `state.pt` and `log.jsonl`.
        save_every: seconds between states.
        log_every, validate_every: steps.
        clip: greatest norm of the gradient.
        worker: number of this process and number of all; see `workers`.
        readers: threads that make batches, each one step further ahead.
    """

    def __init__(
        self,
        model: nn.Module,
        stages: list[Stage],
        folder: Path,
        save_every: float = 120,
        log_every: int = 50,
        validate_every: int = 500,
        clip: float = 1.0,
        worker: tuple[int, int] = (0, 1),
        readers: int = 1,
    ):
        self.model, self.stages, self.folder = model, stages, folder
        self.save_every, self.log_every, self.validate_every, self.clip = save_every, log_every, validate_every, clip
        (self.rank, self.workers), self.readers = worker, readers
        self.device = next(model.parameters()).device
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def names(self) -> list[str]:
        return [stage.name for stage in self.stages]

    @property
    def path(self) -> Path:
        return self.folder / "state.pt"

    def _number(self, step: int) -> int:
        """Of this process's batch, and the seed of its step."""
        return step * self.workers + self.rank

    def log(self, **values: Any) -> None:
        """Append a line to the log and print it; the first process does."""
        if self.rank:
            return
        line = json.dumps({name: round(v, 4) if isinstance(v, float) else v for name, v in values.items()})
        print(line, flush=True)
        with (self.folder / "log.jsonl").open("a") as file:
            file.write(line + "\n")

    def run(self, stop_after: float = math.inf) -> bool:
        """Train until the end, or for `stop_after` seconds; returns whether the end was reached.

        Raises:
            ValueError: if the folder's state is of other stages.
        """
        deadline = time.monotonic() + stop_after
        state: dict[str, Any] = {"stage": 0}
        if self.path.exists():
            state = torch.load(self.path, map_location=self.device)
            if state["stages"] != self.names:
                raise ValueError(f"{self.path} is of the stages {state['stages']}; expected {self.names}")
            self.model.load_state_dict(state["model"])
        for number in range(state["stage"], len(self.stages)):
            resumed = state if number == state["stage"] and "optimizers" in state else None
            if not self._run_stage(number, resumed, deadline):
                return False
        return True

    def _save(
        self, stage: int, step: int, optimizers: list[torch.optim.Optimizer], mean: AveragedModel | None
    ) -> None:
        if self.rank:
            return
        state = {"stages": self.names, "stage": stage, "step": step, "model": self.model.state_dict()}
        state["optimizers"] = [optimizer.state_dict() for optimizer in optimizers]
        if mean is not None:
            state["mean"] = mean.state_dict()
        atomic_save(state, self.path)

    def _run_stage(self, number: int, resumed: dict | None, deadline: float) -> bool:
        stage = self.stages[number]
        optimizers = build_optimizers(self.model, stage.rates, stage.muon)
        mean = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(stage.mean)) if stage.mean else None
        step, signal = 0, 0.0
        if resumed:
            step = resumed["step"]
            for optimizer, values in zip(optimizers, resumed["optimizers"], strict=True):
                optimizer.load_state_dict(values)
            if mean is not None:
                mean.load_state_dict(resumed["mean"])
        saved = began = time.monotonic()
        seen: dict[str, list[float]] = {}
        self.model.train()
        with ThreadPoolExecutor(self.readers) as pool:
            ahead = deque(pool.submit(stage.batch, self._number(step + place)) for place in range(self.readers))
            while step < stage.steps:
                batch = to_device(ahead.popleft().result(), self.device)
                ahead.append(pool.submit(stage.batch, self._number(step + self.readers)))
                signal += LATE * (time.monotonic() > deadline)
                metrics, signal = self._step(stage, optimizers, step, batch, signal)
                if mean is not None:
                    mean.update_parameters(self.model)
                late, done = signal % DONE >= LATE, signal >= DONE or step + 1 == stage.steps
                step, signal = step + 1, 0.0
                for name, value in metrics.items():
                    seen.setdefault(name, []).append(value)
                if step % self.log_every == 0:
                    means = {name: sum(values) / len(values) for name, values in seen.items()}
                    self.log(
                        stage=stage.name, step=step, **means, seconds=(time.monotonic() - began) / len(seen["loss"])
                    )
                    began, seen = time.monotonic(), {}
                if mean is not None and done:
                    self.model.load_state_dict(mean.module.state_dict())
                if self.rank == 0 and (step % self.validate_every == 0 or done):
                    signal = DONE * self._validate(stage, step)
                    began, seen = time.monotonic(), {}
                if late or done or time.monotonic() - saved > self.save_every:
                    self._save(number, step, optimizers, mean)
                    saved = time.monotonic()
                if done:
                    break
                if late:
                    return False
        if number + 1 < len(self.stages) and self.rank == 0:
            state = {"stages": self.names, "stage": number + 1, "model": self.model.state_dict()}
            atomic_save(state, self.path)
        return True

    def _step(
        self, stage: Stage, optimizers: list[torch.optim.Optimizer], step: int, batch: dict[str, Tensor], signal: float
    ) -> tuple[Metrics, float]:
        """One step of the optimizers; returns what is to be logged of it, and what all processes signal."""
        torch.manual_seed(self._number(step))
        loss, metrics = stage.loss(batch)
        loss.backward()
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        signal = share_gradients(trained, signal)
        norm = torch.nn.utils.clip_grad_norm_(trained, self.clip)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * stage.factor(step)
            optimizer.step()
            optimizer.zero_grad()
        return {"loss": loss.item(), "norm": float(norm), **metrics}, signal

    def _validate(self, stage: Stage, step: int) -> bool:
        """Measure and log; returns whether the goal of the stage is reached."""
        self.model.eval()
        with torch.no_grad():
            found = stage.validate()
        self.model.train()
        self.log(stage=stage.name, step=step, **found)
        return stage.goal is not None and found[stage.goal[0]] >= stage.goal[1]
