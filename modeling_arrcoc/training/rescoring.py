"""Difficulty as the model finds it: a curriculum whose samples are scored anew at the beginning of each epoch."""

import os
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .data.curriculum import difficulty_buckets, difficulty_scores, rescored
from .data.dataset import RowDataset
from .data.mixture import WeightedOrder
from .monitors.probes import ProbeMonitor


class DifficultyRule(ProbeMonitor):
    """Measures the loss of some samples, others in each epoch, and sorts all samples into buckets of difficulty again.

    Scores are kept in a file for each epoch, so that a resumed run reads the samples that it would have read.

    Args:
        dataset ([`RowDataset`]): the training data. Samples are shown at the budgets of their rows, not at those that
            are drawn for training: difficulty is compared at the same.
        groups (`Sequence`): group of each sample in the mixture.
        order ([`WeightedOrder`]): of the samples, by (group, bucket).
        folder (`str` or `Path`): where scores are kept.
        size (`int`): samples that are measured in each epoch.
        seed (`int`): of their choice, and of the order among samples that are equally difficult.
        batch_size (`int`): samples at a time.
    """

    name = "difficulty"

    def __init__(
        self,
        dataset: RowDataset,
        groups: Sequence[Hashable],
        order: WeightedOrder,
        folder: str | Path,
        size: int = 512,
        seed: int = 0,
        batch_size: int = 8,
    ):
        super().__init__([], size, batch_size)
        self.dataset, self.groups, self.order = RowDataset(dataset.rows), groups, order
        self.folder, self.seed = Path(folder), seed

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if not state.global_step and args.should_save:
            for path in self.folder.glob("difficulty-*.npy"):  # of another run
                path.unlink()
        self.trainer.accelerator.wait_for_everyone()

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        epoch = int(state.epoch or 0)
        scores = self._read(epoch)
        self.trainer.accelerator.wait_for_everyone()  # all processes have looked before the file is there
        if scores is None:
            scores = self._measured(epoch)
            if args.should_save:
                self._write(epoch, scores)
        buckets = difficulty_buckets(scores, seed=self.seed).tolist()
        self.order.regroup(list(zip(self.groups, buckets, strict=True)))

    def _measured(self, epoch: int) -> NDArray[np.float64]:
        """`(samples,)` scores, moved by what the model finds hard now."""
        before = self._read(epoch - 1)
        count = len(self.dataset)
        dice = np.random.default_rng((self.seed, epoch))
        places = np.sort(dice.choice(count, min(self.size, count), replace=False))
        self.samples = [self.dataset[place] for place in places.tolist()]
        losses = torch.cat([self.answers(inputs)[0].mean_losses() for inputs, _ in self.batches()]).cpu().numpy()
        self.samples = []
        finite = np.isfinite(losses)
        self.log({"loss": float(losses[finite].mean())})
        scores = difficulty_scores(self.dataset.rows) if before is None else before
        return rescored(scores, places[finite], losses[finite])

    def _path(self, epoch: int) -> Path:
        return self.folder / f"difficulty-{epoch}.npy"

    def _read(self, epoch: int) -> NDArray[np.float64] | None:
        return np.load(self._path(epoch)) if self._path(epoch).exists() else None

    def _write(self, epoch: int, scores: NDArray[np.float64]) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        scratch = self.folder / f".difficulty-{epoch}.npy"
        np.save(scratch, scores)
        os.replace(scratch, self._path(epoch))


__all__ = ["DifficultyRule"]
