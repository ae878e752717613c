"""What a synthetic document is: an image, its words with boxes, and questions with answers and evidence."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from PIL import Image


Box = tuple[float, float, float, float]
Point = tuple[float, float]

SPLITS = ("train", "validation", "heldout")

KINDS = (
    "form",
    "receipt",
    "invoice",
    "table",
    "bar_chart",
    "line_chart",
    "pie_chart",
    "letter",
    "page",
    "sign",
    "scene",
)

QUESTION_KINDS = (
    "key_value",
    "doc_field",
    "doc_type",
    "checkbox",
    "table_cell",
    "chart_value",
    "count",
    "compare",
    "exists",
    "attribute",
    "relation",
    "read_line",
    "text_next",
    "locate_text",
    "locate_object",
)

# What each kind is called; the first name is used in questions, all are accepted as answers.
DOCUMENT_WORDS = {
    "form": ("form",),
    "receipt": ("receipt",),
    "invoice": ("invoice",),
    "table": ("table",),
    "bar_chart": ("bar chart", "chart"),
    "line_chart": ("line chart", "chart"),
    "pie_chart": ("pie chart", "chart"),
    "letter": ("letter",),
    "page": ("page", "page of text"),
    "sign": ("sign",),
    "scene": ("picture",),
}

DIFFICULTIES = ("easy", "medium", "hard", "very hard")


@dataclass(frozen=True)
class Word:
    """One word as it lies on the final image.

    Args:
        text: the characters, without white space.
        box: ink rectangle (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
        char_edges: ``len(text) + 1`` points (x, y) in pixels on the middle line of the word: character ``i`` lies
            between points ``i`` and ``i + 1``. Points and not numbers, so that turned words are described too.
    """

    text: str
    box: Box
    char_edges: tuple[Point, ...]

    def char_centers(self) -> list[Point]:
        """Centre (x, y) in pixels of every character."""
        edges = self.char_edges
        return [((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in zip(edges, edges[1:], strict=False)]


@dataclass(frozen=True)
class Question:
    """A question that the image answers.

    Args:
        text: the question.
        answers: accepted answers; the first one is the text as printed.
        evidence: boxes in pixels of the final image, or an empty tuple where no place shows the answer (a "no").
        evidence_mode: ``"all"`` the boxes together hold the answer, ``"any"`` each of them alone does.
        kind: one of :data:`QUESTION_KINDS`.
        difficulty: one of :data:`DIFFICULTIES`, see :func:`arrcoc.synthetic.questions.difficulty`.
        key_boxes: boxes of the key, labels or headers that the question names, one a line.
    """

    text: str
    answers: tuple[str, ...]
    evidence: tuple[Box, ...]
    evidence_mode: str
    kind: str
    difficulty: str
    key_boxes: tuple[Box, ...] = ()


@dataclass(frozen=True)
class Document:
    """An image with everything known about it.

    Args:
        image: RGB picture.
        words: every printed word, in drawing order (lines are contiguous).
        questions: several questions; at least one.
        kind: one of :data:`KINDS`.
        seed: what it was generated from, together with ``split``.
        split: one of :data:`SPLITS`.
        layout: name of the layout variant.
        styles: names of the typefaces and face transforms used.
    """

    image: Image.Image
    words: tuple[Word, ...]
    questions: tuple[Question, ...]
    kind: str
    seed: int
    split: str
    layout: str
    styles: frozenset[str] = field(default_factory=frozenset)


def union(boxes: Iterable[Box]) -> Box:
    """The smallest box around ``boxes`` (at least one)."""
    x0s, y0s, x1s, y1s = zip(*boxes, strict=True)
    return (min(x0s), min(y0s), max(x1s), max(y1s))
