"""Running phases one after another: each starts where the one before it has passed its gate, and goes on where it was
cut off."""

import dataclasses
import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import TrainerCallback

from .monitors.observation import undisturbed
from .phases import Gate, Phase, apply_phase


logger = logging.getLogger(__name__)

WEIGHTS_FILE, RESULT_FILE, START_FILE = "trained.safetensors", "phase.json", "start.json"


class GateError(RuntimeError):
    """A phase did not reach what the next one needs."""


@dataclass(frozen=True)
class PhaseResult:
    """How a phase ended.

    Attributes:
        name (`str`): of the phase.
        passed (`bool`): whether its gate was reached; true without one.
        metrics, start (`dict[str, float]`): of the evaluations after and before it.
    """

    name: str
    passed: bool
    metrics: dict[str, float]
    start: dict[str, float]


def run_phases(
    model: nn.Module,
    phases: Sequence[Phase],
    make_trainer: Callable[[nn.Module, Phase, Path], Any],
    out: str | Path,
) -> tuple[nn.Module | None, list[PhaseResult]]:
    """Run phases one after another; each starts only if the gate of the one before it was passed.

    Each phase has a folder of its own in `out`, with its checkpoints, what it trained and its result. Run again,
    phases that are done are loaded, and one that was cut off goes on from its last checkpoint.

    Args:
        model: a host with ARR-COC.
        phases (`Sequence[Phase]`): the phases.
        make_trainer (`Callable`): makes a trainer of the model as the phase wants it, the phase and its folder. The
            trainer must be able to evaluate if the phase has a gate.
        out (`str` or `Path`): folder of the run.

    Returns:
        `tuple[nn.Module | None, list[PhaseResult]]`: the model, under peft if the last phase has LoRA, and how phases
        ended. Where FSDP or DeepSpeed has taken the model apart, `None` after one phase: a new process goes on.

    Raises:
        GateError: if a phase ends without passing its gate.
    """
    results: list[PhaseResult] = []
    for phase in phases:
        folder = Path(out) / phase.name
        untrained = model
        result = read_result(folder)
        if result is None:
            model = apply_phase(model, phase)
            before = (
                [] if phase.keeps else [(p, p.detach().cpu().clone()) for p in model.parameters() if p.requires_grad]
            )
            trainer = make_trainer(model, phase, folder)
            result = run_phase(trainer, phase, folder)
            if result.passed and (trainer.is_fsdp_enabled or trainer.is_deepspeed_enabled):
                return None, [*results, result]
            if not phase.keeps:
                with torch.no_grad():
                    for parameter, value in before:
                        parameter.copy_(value)
                model = model if model is untrained else model.unload()  # type: ignore[operator]
        elif phase.keeps:
            model = apply_phase(model, phase)
            load_trained(model, folder)
        results.append(result)
        if not result.passed:
            gate = phase.gate or Gate("", 0)
            raise GateError(
                f"phase {phase.name!r} ended with {gate.metric} = {result.metrics[f'eval_{gate.metric}']:.4g}, which "
                f"does not pass its gate ({gate}); delete {folder} to run it again"
            )
    return model, results


class StartingPoint(TrainerCallback):
    """Evaluates before the first step, once: sharded weights can be evaluated only where all is ready for training.

    Random numbers stay as they were, so that a run is the same whether it had to be evaluated or not.

    Args:
        trainer ([`ArrCocTrainer`]): the trainer that it is added to.
        path (`Path`): file with the metrics.
    """

    def __init__(self, trainer: Any, path: Path):
        self.trainer, self.path = trainer, path
        self.metrics: dict[str, float] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.path.exists():
            self.metrics = json.loads(self.path.read_text())
        elif state.global_step:
            raise GateError(
                f"the gate compares with {self.path}, which is missing; delete {self.path.parent} to begin again"
            )
        else:
            with undisturbed(self.trainer.model):
                self.metrics = self.trainer.evaluate()
            _write_json(self.path, self.metrics, self.trainer)


def run_phase(trainer: Any, phase: Phase, folder: Path) -> PhaseResult:
    """Train one phase, save what it trained and write its result, which also says that it is done.

    Args:
        trainer: of a model to which the phase was applied.
        phase ([`Phase`]): the phase.
        folder (`Path`): its folder.

    Raises:
        GateError: if the phase was begun without a gate that compares with its beginning.
    """
    beginning = StartingPoint(trainer, folder / START_FILE)
    if phase.gate is not None and phase.gate.relative:
        trainer.add_callback(beginning)
    trainer.train(resume_from_checkpoint="auto")
    start = beginning.metrics
    metrics = trainer.evaluate() if phase.gate is not None else {}
    passed = phase.gate is None or phase.gate.passes(metrics, start)
    if phase.keeps:
        save_trained(trainer, folder)
    result = PhaseResult(phase.name, passed, metrics, start)
    _write_json(folder / RESULT_FILE, dataclasses.asdict(result), trainer)
    logger.info("phase %s: %s", phase.name, "passed" if passed else "not passed")
    return result


def read_result(folder: Path) -> PhaseResult | None:
    """How the phase in a folder ended, or `None` if it has not."""
    path = folder / RESULT_FILE
    return PhaseResult(**json.loads(path.read_text())) if path.exists() else None


def save_trained(trainer: Any, folder: Path) -> None:
    """Write the weights that a phase trained to `trained.safetensors`, gathered from all processes."""
    model = trainer.deepspeed if trainer.is_deepspeed_enabled else trainer.model
    names = {name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad}
    names = {name.replace("_fsdp_wrapped_module.", "") for name in names}
    state = trainer.accelerator.get_state_dict(model)
    if trainer.args.should_save:
        tensors = {name: value.detach().contiguous().cpu().clone() for name, value in state.items() if name in names}
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / f".{WEIGHTS_FILE}", metadata={"format": "pt"})
        os.replace(folder / f".{WEIGHTS_FILE}", folder / WEIGHTS_FILE)
    trainer.accelerator.wait_for_everyone()


def load_trained(model: nn.Module, folder: Path) -> None:
    """Read what `save_trained` wrote into a model to which the phase was applied.

    Raises:
        ValueError: if the model has no such weights.
    """
    tensors = load_file(folder / WEIGHTS_FILE)
    if unexpected := model.load_state_dict(tensors, strict=False).unexpected_keys:
        raise ValueError(
            f"{folder / WEIGHTS_FILE} holds weights that the model does not have, such as {unexpected[0]}"
        )


def _write_json(path: Path, content: Mapping[str, Any], trainer: Any) -> None:
    if trainer.args.should_save:
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}")
        scratch.write_text(json.dumps(content, indent=2) + "\n")
        os.replace(scratch, path)


__all__ = ["GateError", "PhaseResult", "load_trained", "read_result", "run_phase", "run_phases", "save_trained"]
