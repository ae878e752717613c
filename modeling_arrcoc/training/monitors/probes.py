"""Running the model on a few samples between two steps of training, and reading its answers."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..data.collator import AUXILIARY_KEYS, IGNORED
from ..data.reading import read_rows
from .base import Monitor
from .observation import undisturbed


class ProbeMonitor(Monitor):
    """A monitor that runs the model on samples of its own, the same each time.

    Runs are without gradients and leave training, its random numbers included, as it was. In each process the model
    sees all of the samples.

    Args:
        samples (`Sequence`, `str` or `Path`, *optional*): rows for the trainer's collator, or a file with them; by
            default `size` rows, evenly spaced, of its evaluation data, or of its training data where it has none.
        size (`int`): rows to take.
        batch_size (`int`): rows at a time.
        action, every: as of [`Monitor`].
    """

    def __init__(
        self,
        samples: Sequence[Any] | str | Path | None = None,
        size: int = 8,
        batch_size: int = 8,
        action: str = "warn",
        every: int = 500,
    ):
        super().__init__(action, every)
        if size < 1 or batch_size < 1:
            raise ValueError(f"`size` is {size!r} and `batch_size` {batch_size!r}; allowed are whole numbers from 1")
        self.samples, self.size, self.batch_size = samples, size, batch_size

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        if self.samples is None:
            self.samples = self._own_samples()
        elif isinstance(self.samples, str | Path):
            self.samples = read_rows(self.samples)

    def _own_samples(self) -> list[Any]:
        data = self.trainer.eval_dataset
        if isinstance(data, Mapping):
            data = next(iter(data.values()), None)
        data = self.trainer.train_dataset if data is None else data
        try:
            count = len(data)
        except TypeError:
            raise ValueError(f"the monitor {self.name!r} needs `samples`: the trainer's data have no length") from None
        size = min(self.size, count)
        return [data[place * count // size] for place in range(size)]

    def batches(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The samples as model inputs on the model's device, and what the collator says besides."""
        samples: Any = self.samples
        for start in range(0, len(samples), self.batch_size):
            with undisturbed(self.trainer.model):
                batch = self.trainer.data_collator(list(samples[start : start + self.batch_size]))
            auxiliary = {name: batch[name] for name in AUXILIARY_KEYS if name in batch}
            inputs = {name: value for name, value in batch.items() if name not in auxiliary}
            device = self.trainer.args.device
            yield {n: v.to(device) if isinstance(v, Tensor) else v for n, v in inputs.items()}, auxiliary

    def run(self, inputs: Mapping[str, Any], **options: Any) -> tuple[Any, Any]:
        """Run the model; returns its output and that of its base model."""
        found: list[Any] = []
        handle = self.trainer.base.register_forward_hook(lambda module, args, output: found.append(output))
        arguments = {name: value for name, value in inputs.items() if name != "labels"}
        try:
            with undisturbed(self.trainer.model):
                output = self.trainer.model_wrapped(**arguments, use_cache=False, **options)
        finally:
            handle.remove()
        return output, found[0]

    def answers(self, inputs: Mapping[str, Any]) -> tuple["Answers", Any]:
        """What the model would write at each place of the given answers; also the output of the base model."""
        labels = inputs["labels"][:, 1:]  # of the token after each
        columns = (labels != IGNORED).any(0).nonzero()[:, 0]
        output, base = self.run(inputs, logits_to_keep=columns)
        kept = labels[:, columns]
        row, place = (kept != IGNORED).nonzero().T
        logits, label = output.logits[row, place].float(), kept[row, place]
        losses = F.cross_entropy(logits, label, reduction="none")
        return Answers(len(labels), row, label, logits.argmax(-1), losses), base


@dataclass(frozen=True)
class Answers:
    """Given answers, token by token, and what a model would write there after the same beginning.

    Attributes:
        samples (`int`): rows of the batch.
        row (`Tensor` of shape `(tokens,)`): row of each token.
        label, token (`Tensor` of shape `(tokens,)`): the given token, and the model's most likely one.
        loss (`Tensor` of shape `(tokens,)`): negative log-likelihood of the given one.
    """

    samples: int
    row: Tensor
    label: Tensor
    token: Tensor
    loss: Tensor

    def mean_losses(self) -> Tensor:
        """Mean loss of each row, of shape `(samples,)`; NaN for a row without an answer."""
        return self._sum(self.loss) / self._sum(torch.ones_like(self.loss))

    def right(self) -> Tensor:
        """Whether all tokens of each row are right, of shape `(samples,)`."""
        return self._sum((self.token != self.label).float()) == 0

    def same(self, other: "Answers") -> Tensor:
        """Whether all tokens of each row are those of another run, of shape `(samples,)`."""
        return self._sum((self.token != other.token).float()) == 0

    def _sum(self, values: Tensor) -> Tensor:
        return values.new_zeros(self.samples).index_add(0, self.row, values)
