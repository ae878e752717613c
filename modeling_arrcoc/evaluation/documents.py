"""Synthetic documents as a task: chosen by a text, and drawn again from their seeds whenever a picture is needed."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from PIL import Image

from arrcoc.cli.synth import parse_size
from arrcoc.synthetic import Document, DocumentStream
from arrcoc.synthetic.fonts import bundled_face
from arrcoc.training.data.rows import Row, StoredImage
from arrcoc.training.data.synthetic import synthetic_rows

from .tasks import Task, answer_scores


DOCUMENTS = 500
PLAIN = (bundled_face(),)
SYNTAX = "a number of documents, size=PX, kinds=KIND+KIND, split=NAME, clear or plain, with commas between them"


def read_documents(text: str = "", first: int = 0) -> DocumentStream:
    """Documents as they are chosen on the command line.

    Args:
        text (`str`): options with commas between them, each of them optional: how many (500), `size=512`,
            `size=512x768` or `size=256-1024` (pixels), `kinds=form+receipt`, `split=heldout` (the default),
            `validation` or `train`, `clear` for letters of 16 px at least on clean or scanned pages, and `plain`
            for print in the face that comes with Pillow alone.
        first (`int`): seed of the first document.

    Raises:
        ValueError: if an option is unknown, given twice or out of range.
    """
    found: dict[str, Any] = {}
    unsaid: dict[str, Any] = {"first": first, "count": DOCUMENTS, "split": "heldout"}
    for part in filter(None, text.split(",")):
        name, equals, value = part.partition("=")
        if part.isdecimal() and int(part) > 0:
            option: dict[str, Any] = {"count": int(part)}
        elif part == "clear":
            option = {"clear": True}
        elif part == "plain":
            option = {"faces": PLAIN}
        elif equals and name == "size":
            option = {"size": parse_size(value)}
        elif equals and name == "kinds":
            option = {"kinds": tuple(value.split("+"))}
        elif equals and name == "split":
            option = {"split": value}
        else:
            raise ValueError(f"found {part!r} among the options of synthetic documents {text!r}; expected {SYNTAX}")
        if option.keys() & found.keys():
            raise ValueError(f"found a second {part!r} among the options of synthetic documents {text!r}")
        found |= option
    return DocumentStream(**unsaid | found)


def documents_text(stream: DocumentStream) -> str | None:
    """What documents of this stream are drawn like, as `read_documents` reads it; seeds and number are not told.

    `None` for other typefaces of one's own and for sides in steps, which have no text.
    """
    size = stream.size
    parts = [] if stream.kinds is None else [f"kinds={'+'.join(stream.kinds)}"]
    if stream.faces not in (None, PLAIN) or (isinstance(size, range) and size.step != 1):
        return None
    if isinstance(size, range):
        parts.append(f"size={size.start}-{size.stop - 1}")
    elif size is not None:
        parts.append(f"size={size}" if isinstance(size, int) else f"size={size[0]}x{size[1]}")
    parts += [] if stream.split == "heldout" else [f"split={stream.split}"]
    return ",".join([*parts, *["clear"] * stream.clear, *["plain"] * (stream.faces == PLAIN)])


@dataclass(frozen=True)
class Documents:
    """Documents by seed: the data set of a [`StoredImage`], which keeps a seed instead of a picture.

    Args:
        stream ([`arrcoc.synthetic.DocumentStream`]): what documents are drawn like.
    """

    stream: DocumentStream

    def __getitem__(self, seed: int) -> dict[str, Image.Image]:
        return {"image": _document(self.stream, seed).image}

    def row(self, row: Row, seed: int) -> Row:
        """A row about the document of a seed, with the seed in place of its picture."""
        return replace(row, images=(StoredImage(self, seed, "image"),))


@lru_cache(maxsize=8)  # questions about a document follow one another
def _document(stream: DocumentStream, seed: int) -> Document:
    return stream.document(seed)


def synthetic_task(stream: DocumentStream, count: int | None = None) -> Task:
    """Questions about documents that are made on the spot, with every answer's place known; a domain a document kind.

    Args:
        stream ([`arrcoc.synthetic.DocumentStream`]): the documents; `split="heldout"` for those that training never
            shows.
        count (`int`, *optional*): questions; all of the stream's if not given.

    Raises:
        ValueError: if neither the stream nor `count` has an end.
    """
    if stream.count is None and count is None:
        raise ValueError("a task needs an end: give `count`, or a stream with a `count`")
    documents, rows = Documents(stream), list[Row]()
    for document in stream:
        rows += [documents.row(row, document.seed) for row in synthetic_rows(document)]
        if count is not None and len(rows) >= count:
            break
    options = documents_text(stream)
    return Task(
        name="-".join(["synthetic", *(part.rpartition("=")[2] for part in (options or "").split(",") if part)]),
        rows=rows[:count],
        metric="exact_match",
        score=lambda row, prediction: answer_scores(row, prediction, ("exact_match", "anls")),
        domain=lambda row: row.set,
        documents=options,
    )
