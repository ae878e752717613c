"""Checkpoints that survive being killed at any time.

A folder `checkpoint-N` is always complete: it is written under another name, brought to the disk, and only then
renamed. It is never deleted in place either. So the newest one is where a run goes on, whatever ended it.
"""

import json
import logging
import os
import re
import shutil
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import TrainerState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, TrainOutput


logger = logging.getLogger(__name__)

# The mixin stands before a trainer; to a type checker it is one.
Base: Any = Trainer if TYPE_CHECKING else object

STATE_NAME = "trainer_state.json"
PARTIAL = ".partial-"  # being written
REPLACED = ".replaced-"  # in the way of one that takes its name
DELETED = ".deleted-"  # being deleted
ABANDONED = "abandoned-"  # newer than the checkpoint that the run went back to
_NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)")


class CheckpointError(OSError):
    """A checkpoint that cannot be written or read; its message says which one is left to go on from."""


def checkpoint_steps(folder: str | Path) -> dict[int, Path]:
    """The checkpoints of a run by their step, in ascending order; none if there is no such folder."""
    folder = Path(folder)
    if not folder.is_dir():
        return {}
    found = {int(name[1]): path for path in folder.iterdir() if (name := _NAME.fullmatch(path.name)) and path.is_dir()}
    return dict(sorted(found.items()))


def check_checkpoint(folder: str | Path) -> None:
    """Make sure that the files of a checkpoint can be read, without reading all of them: a truncated, missing or
    forbidden file is found, a flipped bit within a weight is not.

    Raises:
        CheckpointError: that names the folder, the file and what is wrong with it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CheckpointError(f"there is no checkpoint {folder}")
    path = folder / STATE_NAME
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(state, dict) or not isinstance(state.get("global_step"), int):
            raise ValueError("expected an object with `global_step`")
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            if path.name.endswith(".index.json"):
                shards = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
                if missing := sorted(shard for shard in shards if not (path.parent / shard).is_file()):
                    raise ValueError(f"it names {missing[0]}, which is missing")
            elif path.suffix == ".safetensors":
                with safe_open(path, "pt"):
                    pass
            elif path.suffix in (".pt", ".pth", ".bin"):
                with zipfile.ZipFile(path):
                    pass
    except (OSError, ValueError, KeyError, SafetensorError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{folder} cannot be read: {path.name}: {_reason(error)}") from error


def last_complete_checkpoint(folder: str | Path) -> Path | None:
    """The newest checkpoint of a run that can be read, with a warning that names any newer one that cannot.

    Args:
        folder (`str` or `Path`): the run's output folder.

    Returns:
        `Path` or `None`: `None` if the run has no checkpoint yet.

    Raises:
        CheckpointError: if it has checkpoints, but none can be read.
    """
    problems = []
    for path in reversed(checkpoint_steps(folder).values()):
        try:
            check_checkpoint(path)
        except CheckpointError as error:
            problems.append(str(error))
        else:
            if problems:
                warnings.warn(f"{'; '.join(problems)}; going back to {path}", stacklevel=2)
            return path
    if problems:
        raise CheckpointError(f"no checkpoint of {folder} can be read: {'; '.join(problems)}")
    return None


def surplus_checkpoints(
    steps: Sequence[int], scores: Mapping[int, float], keep: int, greater_is_better: bool = False
) -> list[int]:
    """Which checkpoints to delete so that the best and the last are left.

    Args:
        steps (`Sequence[int]`): steps of all checkpoints.
        scores (`Mapping[int, float]`): validation score by step. Checkpoints without one, or with NaN, come after all
            others, the newest of them first; of equal scores the older one is better.
        keep (`int`): how many of the best to keep; the last is kept besides.
        greater_is_better (`bool`): whether a high score is a good one.

    Returns:
        `list[int]`: steps in ascending order.
    """
    sign = -1 if greater_is_better else 1

    def rank(step: int) -> tuple[bool, float, int]:
        score = scores.get(step, float("nan"))
        return (True, 0.0, -step) if score != score else (False, sign * score, step)

    return sorted(set(steps) - set(sorted(steps, key=rank)[:keep]) - {max(steps, default=0)})


def tidy(folder: str | Path) -> None:
    """Clear away what a killed run left unfinished."""
    for prefix in (PARTIAL, REPLACED, DELETED):
        for path in Path(folder).glob(f"{prefix}{PREFIX_CHECKPOINT_DIR}-*"):
            checkpoint = path.with_name(path.name.removeprefix(prefix))
            if prefix == REPLACED and not checkpoint.exists():
                path.rename(checkpoint)
            else:
                shutil.rmtree(path)


def publish(partial: Path, checkpoint: Path) -> None:
    """Bring a written folder to the disk and give it its name, in the place of an older one of that name."""
    for parent, _, files in os.walk(partial):
        for name in files:
            _synchronize(Path(parent, name))
        _synchronize(Path(parent))
    replaced = checkpoint.with_name(REPLACED + checkpoint.name)
    if checkpoint.exists():
        checkpoint.rename(replaced)
    partial.rename(checkpoint)
    _synchronize(checkpoint.parent)
    if replaced.exists():
        shutil.rmtree(replaced)


def delete(checkpoint: Path) -> None:
    """Delete a checkpoint so that no part of it is ever taken for a whole one."""
    doomed = checkpoint.with_name(DELETED + checkpoint.name)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed)


def abandon_newer(folder: str | Path, step: int) -> None:
    """Rename the checkpoints after a step, so that a run that goes on from that step is not resumed from them."""
    for newer, path in checkpoint_steps(folder).items():
        if newer > step:
            abandoned = path.with_name(ABANDONED + path.name)
            if abandoned.exists():
                shutil.rmtree(abandoned)
            path.rename(abandoned)
            logger.warning("%s is newer than the checkpoint to go on from; renamed to %s", path, abandoned.name)


class DataEpoch(TrainerCallback):
    """Tells the data set which epoch is read, where it wants to know (`set_epoch`).

    accelerate does so too, but not in the epoch that is resumed from its middle.
    """

    def on_epoch_begin(self, args: Any, state: Any, control: Any, train_dataloader: Any = None, **kwargs: Any) -> None:
        dataset: Any = getattr(train_dataloader, "dataset", None)
        if hasattr(dataset, "set_epoch"):
            dataset.set_epoch(int(state.epoch or 0))


class CheckpointMixin(Base):
    """Atomic checkpoints and exact resuming, for a [`Trainer`] to stand before.

    `save_total_limit` is the number of best checkpoints to keep, by `metric_for_best_model` (the validation loss if
    that is not set); the last one is kept besides.

    An interrupted run goes on with the losses it would have had, on the same software, devices and number of
    processes. One condition is left to the data: transformers fetches batches ahead of the training step, so a dataset
    or collator that draws random numbers must draw them from the row and the epoch, not from the global generators.
    """

    _partial_folder: Path | None = None

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.add_callback(DataEpoch())

    def train(self, resume_from_checkpoint: str | Path | bool | None = None, *args: Any, **kwargs: Any) -> TrainOutput:
        """As in transformers, with one more way to start.

        Args:
            resume_from_checkpoint: a checkpoint to go on from; `True` for the last one of the output folder; `"auto"`
                for the same if there is one, and otherwise a new run. Checkpoints newer than it are renamed, and
                deleted after the next one is written.

        Raises:
            CheckpointError: if the checkpoint cannot be read, or a new one cannot be written.
            ValueError: if `True` finds no checkpoint.
        """
        folder = Path(self.args.output_dir)
        if self.args.should_save:
            tidy(folder)
        self.accelerator.wait_for_everyone()
        checkpoint: Path | None = None
        if resume_from_checkpoint is True or resume_from_checkpoint == "auto":
            checkpoint = last_complete_checkpoint(folder)
            if checkpoint is None and resume_from_checkpoint is True:
                raise ValueError(f"no checkpoint to go on from in {folder}")
        elif resume_from_checkpoint:
            checkpoint = Path(resume_from_checkpoint)
            check_checkpoint(checkpoint)
        if checkpoint is not None and checkpoint.absolute().parent == folder.absolute():
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                abandon_newer(folder, TrainerState.load_from_json(str(checkpoint / STATE_NAME)).global_step)
        output = super().train(None if checkpoint is None else str(checkpoint), *args, **kwargs)
        if self.args.should_save:
            self._delete_surplus(folder)  # a run that was killed after its last checkpoint had no time for it
        return output

    def _get_output_dir(self, trial: Any) -> str:
        # While a checkpoint is written, transformers takes the folder of the unfinished one for the run's.
        return super()._get_output_dir(trial) if self._partial_folder is None else str(self._partial_folder)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        run = Path(self._get_output_dir(trial))
        checkpoint = run / f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        partial = run / (PARTIAL + checkpoint.name)
        try:
            self._partial_folder = partial
            super()._save_checkpoint(model, trial)
            self._partial_folder = None
            self._name_best_checkpoint(run)
            self.accelerator.wait_for_everyone()
            if self.args.should_save:
                self.state.save_to_json(str(partial / checkpoint.name / STATE_NAME))
                publish(partial / checkpoint.name, checkpoint)
                partial.rmdir()
        except (OSError, RuntimeError, SafetensorError) as error:
            self._partial_folder = None
            shutil.rmtree(partial, ignore_errors=True)
            left = max(checkpoint_steps(run), default=None)
            raise CheckpointError(
                # torch does not say of a full disk that it is full.
                f"{checkpoint} could not be written: {_reason(error)} ({_free(run)} free on that disk); "
                + ("there is none to go on from" if left is None else f"step {left} is left to go on from")
            ) from error
        if self.args.should_save:
            for path in run.glob(f"{ABANDONED}{PREFIX_CHECKPOINT_DIR}-*"):
                shutil.rmtree(path)
            self._delete_surplus(run)
        self.accelerator.wait_for_everyone()

    def _name_best_checkpoint(self, run: Path) -> None:
        """Say in the state where the best checkpoint will be, not where it was written."""
        step = self.state.best_global_step
        best = run / f"{PREFIX_CHECKPOINT_DIR}-{step}"
        if step and (step == self.state.global_step or best.is_dir()):
            self.state.best_model_checkpoint = str(best)

    def _delete_surplus(self, run: Path) -> None:
        if not self.args.save_total_limit:
            return
        metric = self.args.metric_for_best_model or "loss"
        metric = metric if metric.startswith("eval_") else f"eval_{metric}"
        scores = {entry["step"]: entry[metric] for entry in self.state.log_history if metric in entry}
        checkpoints = checkpoint_steps(run)
        greater = bool(self.args.greater_is_better)
        for step in surplus_checkpoints(list(checkpoints), scores, self.args.save_total_limit, greater):
            delete(checkpoints[step])


def _synchronize(path: Path) -> None:
    """Bring a file or a folder's list of names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _reason(error: Exception) -> str:
    text = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(text.split()) or type(error).__name__


def _free(folder: Path) -> str:
    return f"{shutil.disk_usage(folder).free / 2**30:.1f} GiB"


__all__ = [
    "CheckpointError",
    "CheckpointMixin",
    "abandon_newer",
    "check_checkpoint",
    "checkpoint_steps",
    "last_complete_checkpoint",
    "surplus_checkpoints",
]
