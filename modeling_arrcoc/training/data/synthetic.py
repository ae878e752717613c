"""Synthetic documents as rows."""

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import overload

from torch.utils.data import IterableDataset

from ...synthetic import Document, DocumentStream
from ...synthetic.dataset import rows as document_rows
from ...synthetic.torch_dataset import SyntheticDataset
from .rows import Row, row_from_dict


def synthetic_rows(document: Document) -> list[Row]:
    """One row a question, with the picture of the document in all of them."""
    return [
        row_from_dict(fields | {"image": document.image}, name=fields["id"]) for fields in document_rows(document, "")
    ]


class SyntheticRows(Sequence[Row]):
    """Rows of a stream of documents by number, made on access: for `RowDataset`, whose samplers then do the rest.

    Row `i` is question `i % questions` of document `i // questions`; a document with fewer questions starts again
    with its first.

    Args:
        stream (`DocumentStream`): with a `count`.
        questions (`int`): rows a document.

    Raises:
        ValueError: The stream has no end, or `questions` is below 1.
    """

    def __init__(self, stream: DocumentStream, questions: int = 1) -> None:
        if stream.count is None:
            raise ValueError("rows by number need a stream with a count")
        if questions < 1:
            raise ValueError(f"questions must be at least 1, found {questions}")
        self.stream = stream
        self.questions = questions

    def __len__(self) -> int:
        assert self.stream.count is not None
        return self.stream.count * self.questions

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        document, question = divmod(index % len(self), self.questions)
        rows = _document_rows(self.stream, document)
        return rows[question % len(rows)]


class SyntheticRowStream(IterableDataset[Row]):
    """Rows of a stream of documents one after another, every worker making its own share of the documents.

    Args:
        stream (`DocumentStream`): with or without end.
    """

    def __init__(self, stream: DocumentStream) -> None:
        super().__init__()
        self.documents = SyntheticDataset(stream, synthetic_rows)

    def __iter__(self) -> Iterator[Row]:
        for rows in self.documents:
            yield from rows


@lru_cache(maxsize=4)
def _document_rows(stream: DocumentStream, number: int) -> list[Row]:
    return synthetic_rows(stream.document(stream.first + number * stream.stride))
