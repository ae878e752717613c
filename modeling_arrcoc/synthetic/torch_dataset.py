"""Documents for `torch.utils.data.DataLoader`: every worker draws its own share of the seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from .dataset import DocumentStream
from .document import Document


class SyntheticDataset(IterableDataset):
    """Streams documents; with several workers each makes every n-th one.

    Args:
        stream: which documents.
        transform: what to make of a document (in the worker, so that pictures need not travel); the document itself
            when None.
    """

    def __init__(self, stream: DocumentStream, transform: Callable[[Document], Any] | None = None) -> None:
        super().__init__()
        self.stream = stream
        self.transform = transform

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        stream = self.stream if worker is None else self.stream.shard(worker.id, worker.num_workers)
        return iter(stream) if self.transform is None else map(self.transform, stream)
