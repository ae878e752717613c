"""Batches: which samples are trained together, on how many processes, in which order."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch.utils.data import Sampler

from .dataset import RowDataset
from .lengths import SampleLengths
from .mixture import Order, ShuffledOrder


Batches = list[list[int]]

BATCHINGS = ("plain", "grouped", "paired")
# Why rows are not put behind one another in one sequence.
NO_PACKING = (
    "samples are not packed into one sequence, where each would attend to those before it; "
    "'grouped' batches hold samples of nearly the same length, next to no padding, and as many as fit into max_tokens"
)
_WINDOW = 4096  # samples that are sorted by length together


def plain_batches(order: Sequence[int], batch_size: int) -> Batches:
    """Batches of samples as they come; the last may be smaller."""
    return [list(order[start : start + batch_size]) for start in range(0, len(order), batch_size)]


def grouped_batches(
    order: Sequence[int], tokens: ArrayLike, max_tokens: int, batch_size: int | None = None, window: int = _WINDOW
) -> Batches:
    """Batches of samples of nearly the same length, and the more samples the shorter they are.

    Args:
        order (`Sequence[int]`): samples in random order.
        tokens: `(samples,)` tokens of each sample, visual ones included.
        max_tokens (`int`): bound on the tokens of a batch, padding included; a longer sample stands alone.
        batch_size (`int`, *optional*): bound on the samples of a batch.
        window (`int`): samples of the order that are sorted together.

    Returns:
        Batches, within each window from short to long ones.
    """
    lengths = np.asarray(tokens)
    batches: Batches = []
    for start in range(0, len(order), window):
        part = np.asarray(order[start : start + window])
        batch: list[int] = []
        for index in part[np.argsort(lengths[part], kind="stable")].tolist():
            full = batch_size is not None and len(batch) == batch_size
            if batch and (full or (len(batch) + 1) * lengths[index] > max_tokens):
                batches.append(batch)
                batch = []
            batch.append(index)
        batches.append(batch)
    return batches


def paired_batches(order: Sequence[int], tokens: ArrayLike, batch_size: int, window: int = _WINDOW) -> Batches:
    """Batches that each pair heavy samples with light ones, so that all are about equally much work.

    Args:
        order (`Sequence[int]`): samples in random order.
        tokens: `(samples,)` tokens of each sample.
        batch_size (`int`): samples a batch, an even number.
        window (`int`): samples of the order among which partners are sought.

    Raises:
        ValueError: `batch_size` is odd.
    """
    if batch_size % 2:
        raise ValueError(f"pairs need an even batch size, found {batch_size}")
    lengths = np.asarray(tokens)
    batches: Batches = []
    for start in range(0, len(order), window):
        part = np.asarray(order[start : start + window])
        place = {index: number for number, index in enumerate(part.tolist())}
        ranked = part[np.argsort(lengths[part], kind="stable")].tolist()
        half = len(ranked) // 2
        pairs = [[ranked[low], ranked[-1 - low]] for low in range(half)]
        pairs.sort(key=lambda pair: place[pair[0]])  # back to random order
        paired = [index for pair in pairs for index in pair] + ranked[half : len(ranked) - half]
        batches += plain_batches(paired, batch_size)
    return batches


def even_batches(batches: Batches, world_size: int) -> Batches:
    """As many batches as all processes can share evenly, no sample twice if that can be.

    The largest batches are cut in two until their number is a multiple of `world_size`; where all hold one sample, the
    first ones are repeated.
    """
    batches = [list(batch) for batch in batches]
    while len(batches) % world_size:
        place = max(range(len(batches)), key=lambda number: len(batches[number]))
        batch = batches[place]
        if len(batch) == 1:
            return batches + [batches[number % len(batches)] for number in range(-len(batches) % world_size)]
        middle = len(batch) // 2
        batches[place : place + 1] = [batch[:middle], batch[middle:]]
    return batches


class ArrCocBatchSampler(Sampler[list[int]]):
    """Batches of a `RowDataset` for a `DataLoader`, the same in every process and every run with the same seed.

    Batches of one step of all processes stand next to each other and are alike in length, which is how accelerate
    deals them out (`accelerator.prepare`); without accelerate give `rank`. The epoch is that of the data set, so
    `set_epoch` of either serves both. All epochs have as many batches as the first, since trainers count steps by
    that: a longer epoch is cut, a shorter one begins again. `accelerate.skip_first_batches` resumes it exactly.

    Args:
        dataset (`RowDataset`): the samples.
        batching (`str`): `"plain"`; `"grouped"` (by length, batch size inverse to tokens, see `grouped_batches`); or
            `"paired"` (heavy with light samples, see `paired_batches`).
        batch_size (`int`, *optional*): samples a batch; needed but for `"grouped"`, where it is a bound.
        max_tokens (`int`, *optional*): bound on the tokens of a batch, for `"grouped"` alone, which needs it.
        lengths (`SampleLengths`, *optional*): of the data set's rows; needed but for `"plain"`.
        order (*optional*): maps the number of an epoch to the samples of it in order, such as a `WeightedOrder`; by
            default all samples shuffled.
        world_size (`int`): number of processes.
        rank (`int`, *optional*): deliver the batches of this process alone.
        seed (`int`): of the default order and of the order of the steps.

    Raises:
        ValueError: An argument is missing or out of range.
    """

    def __init__(
        self,
        dataset: RowDataset,
        batching: str = "plain",
        batch_size: int | None = None,
        max_tokens: int | None = None,
        lengths: SampleLengths | None = None,
        order: Order | None = None,
        world_size: int = 1,
        rank: int | None = None,
        seed: int = 0,
    ) -> None:
        if batching not in BATCHINGS:
            raise ValueError(f"batching must be one of {BATCHINGS}, found {batching!r}")
        if batching != "grouped" and (batch_size is None or max_tokens is not None):
            raise ValueError(f"batching={batching!r} needs batch_size and takes no max_tokens")
        if batching == "grouped" and max_tokens is None:
            raise ValueError("batching='grouped' needs max_tokens")
        if batching != "plain" and lengths is None:
            raise ValueError(f"batching={batching!r} needs the lengths of the samples (see measure_lengths)")
        if world_size < 1 or not (rank is None or 0 <= rank < world_size):
            raise ValueError(f"rank must lie in 0 … {world_size - 1}, found {rank}")
        self.dataset = dataset
        self.batching = batching
        self.samples_per_batch = batch_size
        self.max_tokens = max_tokens
        self.lengths = lengths
        self.order = ShuffledOrder(len(dataset), seed) if order is None else order
        self.world_size = world_size
        self.rank = rank
        self.seed = seed
        self._steps: int | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the data set and of the batches."""
        self.dataset.set_epoch(epoch)

    def __len__(self) -> int:
        if self._steps is None:
            self._steps = len(self._batches(0)) // self.world_size
        return self._steps * (self.world_size if self.rank is None else 1)

    def __iter__(self) -> Iterator[list[int]]:
        epoch = self.dataset.epoch
        batches = self._batches(epoch)
        found = len(batches) // self.world_size
        self._steps = len(self) // (self.world_size if self.rank is None else 1)
        sequence = np.random.default_rng((self.seed, epoch)).permutation(found)
        for number in range(self._steps):
            first = int(sequence[number % found]) * self.world_size
            if self.rank is None:
                yield from batches[first : first + self.world_size]
            else:
                yield batches[first + self.rank]

    def _batches(self, epoch: int) -> Batches:
        """All batches of an epoch, those of one step side by side."""
        order = self.order(epoch)
        if self.batching == "plain":
            assert self.samples_per_batch is not None
            return even_batches(plain_batches(order, self.samples_per_batch), self.world_size)
        assert self.lengths is not None
        tokens = self.lengths.tokens(self.dataset.image_budgets(epoch))
        if self.batching == "grouped":
            assert self.max_tokens is not None
            batches = grouped_batches(order, tokens, self.max_tokens, self.samples_per_batch)
        else:
            assert self.samples_per_batch is not None
            batches = paired_batches(order, tokens, self.samples_per_batch)
        return even_batches(batches, self.world_size)
