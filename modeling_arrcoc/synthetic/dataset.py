"""Streams of documents by seed, and their rows in JSON lines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .asking import suggested_budget
from .document import Document
from .fonts import Face
from .generator import Size, check_arguments, generate


@dataclass(frozen=True)
class DocumentStream:
    """Documents of successive seeds, made when asked for.

    Args:
        first: seed of the first document.
        count: number of documents; without end when None.
        stride: step from seed to seed.
        kinds: kinds to choose from, all by default.
        size: as for :func:`arrcoc.synthetic.generate`.
        split: "train", "validation" or "heldout".
        faces: typefaces, by default all of this machine.
        clear: as for :func:`arrcoc.synthetic.generate`.

    Raises:
        ValueError: an argument out of range.
    """

    first: int = 0
    count: int | None = None
    stride: int = 1
    kinds: tuple[str, ...] | None = None
    size: Size | None = None
    split: str = "train"
    faces: tuple[Face, ...] | None = None
    clear: bool = False

    def __post_init__(self) -> None:
        if self.first < 0 or self.stride < 1 or (self.count is not None and self.count < 0):
            raise ValueError(
                "first and count must be >= 0 and stride >= 1, "
                f"found first={self.first}, count={self.count}, stride={self.stride}"
            )
        check_arguments(self.kinds, self.size, self.split, self.faces)

    def shard(self, index: int, shards: int) -> DocumentStream:
        """Every ``shards``-th document from number ``index``: the shards together are the stream.

        Raises:
            ValueError: index outside 0 … shards - 1.
        """
        if not 0 <= index < shards:
            raise ValueError(f"shard must lie in 0 … {shards - 1}, found {index}")
        count = None if self.count is None else max(0, -(-(self.count - index) // shards))
        return replace(self, first=self.first + index * self.stride, stride=self.stride * shards, count=count)

    def document(self, seed: int) -> Document:
        """The document of a seed."""
        return generate(seed, self.kinds, self.size, self.split, self.faces, self.clear)

    def __iter__(self) -> Iterator[Document]:
        number = 0
        while self.count is None or number < self.count:
            yield self.document(self.first + number * self.stride)
            number += 1


def rows(document: Document, image: str) -> list[dict[str, Any]]:
    """One JSON-ready row a question.

    Args:
        document: the document.
        image: path of its picture relative to the data set's folder.

    Returns:
        Rows with ``id, image, width, height, question, answers, evidence, evidence_mode, task, set, source, licence``,
        ``difficulty``, ``token_budget`` (a suggestion) and, where the question names something printed, ``key_boxes``.
        Boxes are [x0, y0, x1, y1] in pixels; ``evidence`` is None where no place on the picture shows the answer.
    """
    found = []
    for number, question in enumerate(document.questions):
        row: dict[str, Any] = {
            "id": f"{document.split}_{document.seed}_{number}",
            "image": image,
            "width": document.image.width,
            "height": document.image.height,
            "question": question.text,
            "answers": list(question.answers),
            "evidence": [list(box) for box in question.evidence] or None,
            "evidence_mode": question.evidence_mode,
            "task": question.kind,
            "set": f"synthetic_{document.kind}",
            "source": f"arrcoc.synthetic split={document.split} seed={document.seed} layout={document.layout}",
            "licence": "Apache-2.0",
            "difficulty": question.difficulty,
            "token_budget": suggested_budget(question, document.image.size),
        }
        if question.key_boxes:
            row["key_boxes"] = [list(box) for box in question.key_boxes]
        found.append(row)
    return found
