"""Question drafts and what all question makers share: the page's text, uniqueness checks, accepted answers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from .canvas import Canvas
from .dice import Dice
from .document import DIFFICULTIES, DOCUMENT_WORDS, Box, Question, union
from .records import Run, Runs
from .vocabulary import Lexicon


_EDGES = re.compile(r"^[^0-9a-z]+|[^0-9a-z]+$")
_NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
_CURRENCY = re.compile(r"^(?:\$|RM |USD |EUR |GBP )(?=\d)")
TIERS = (64, 100, 160, 256, 400)
_MANY_WORDS, _VERY_MANY_WORDS = 60, 170
_SMALL_TEXT = 0.02


@dataclass(frozen=True)
class Draft:
    """A question whose evidence is still given as words and regions of the canvas.

    Args:
        kind: one of :data:`arrcoc.synthetic.document.QUESTION_KINDS`.
        text: the question.
        answers: accepted answers, the printed one first.
        runs: words that hold the answer, one evidence box a line.
        regions: further evidence, as indices of canvas regions.
        mode: "all" or "any".
        key: words the question names.
    """

    kind: str
    text: str
    answers: tuple[str, ...]
    runs: Runs = ()
    regions: tuple[int, ...] = ()
    mode: str = "all"
    key: Runs = ()


Maker = Callable[[], "Draft | None"]


def normalise(text: str) -> str:
    """Lower case words without punctuation at their ends, single blanks between them."""
    return " ".join(part for part in (_EDGES.sub("", word) for word in text.lower().split()) if part)


def _spread(text: str) -> str:
    """Normalised words with a blank on both sides of each, so that repeated words are counted apart."""
    return "".join(f" {word} " for word in normalise(text).split())


class Asker:
    """A page as question makers see it.

    Args:
        canvas: the drawn page.
        kind: kind of document.
        dice: source of randomness.
        words: vocabulary of the split.
    """

    def __init__(self, canvas: Canvas, kind: str, dice: Dice, words: Lexicon) -> None:
        self.canvas, self.kind, self.dice, self.words = canvas, kind, dice, words
        self.noun = DOCUMENT_WORDS[kind][0]
        self._text = _spread(" ".join(word.text for word in canvas.words))
        self._lines: list[Run] | None = None

    def count(self, phrase: str) -> int:
        """How often a phrase is printed on the page, whatever its case and punctuation."""
        wanted = _spread(phrase)
        return self._text.count(wanted) if wanted.strip() else 0

    def unique(self, phrase: str) -> bool:
        """Whether a phrase is printed exactly once."""
        return self.count(phrase) == 1

    @property
    def lines(self) -> list[Run]:
        """All printed lines, as runs of words, in drawing order; turned words are left out."""
        if self._lines is None:
            lines: list[list[int]] = []
            previous: tuple[float, float] | None = None
            for index, word in enumerate(self.canvas.words):
                (x, y), end = word.edges[0], word.edges[-1]
                if y != end[1]:
                    previous = None
                    continue
                if (
                    previous is not None
                    and previous[1] == y
                    and 0 < x - previous[0] < 1.2 * (word.box[3] - word.box[1])
                ):
                    lines[-1].append(index)
                else:
                    lines.append([index])
                previous = end
            self._lines = [tuple(line) for line in lines]
        return self._lines

    def text(self, run: Run) -> str:
        """Printed text of a line."""
        return self.canvas.text_of((run,))


def accepted(text: str) -> tuple[str, ...]:
    """The printed text, and it without currency sign, thousands separators and final punctuation."""
    found = [text, text.rstrip(".,;:"), _CURRENCY.sub("", text)]
    if _NUMBER.fullmatch(found[-1]):
        found.append(found[-1].replace(",", ""))
    return tuple(dict.fromkeys(item for item in found if item))


def number_in(text: str) -> float | None:
    """The number a cell shows, None if it shows something else."""
    match = _NUMBER.fullmatch(_CURRENCY.sub("", text).rstrip("%"))
    return float(match.group().replace(",", "")) if match else None


def bare(key: str) -> str:
    """A label without numbering, star and final punctuation."""
    return re.sub(r"^(?:\*|\d+\. )", "", key).rstrip(" :.") or key


def difficulty(kind: str, boxes: list[Box], words: int, size: tuple[int, int], damage: float) -> str:
    """Difficulty bucket of a question, by counting what makes it hard.

    One point each: more than 60 words on the page; more than 170; evidence lower than 2 % of the longer side (small
    print); a picture damaged by more than 0.35; an answer that takes a second step (cells, comparisons, counts of
    something, relations) or more than two evidence boxes. 0 points: easy, 1: medium, 2 or 3: hard, more: very hard.

    Args:
        kind: kind of question.
        boxes: evidence in pixels.
        words: number of words on the page.
        size: (width, height) of the picture in pixels.
        damage: 0 … 1, from :func:`arrcoc.synthetic.augment.augment`.

    Returns:
        One of :data:`arrcoc.synthetic.document.DIFFICULTIES`.
    """
    lowest = min((box[3] - box[1] for box in boxes), default=max(size))
    points = sum(
        (
            words > _MANY_WORDS,
            words > _VERY_MANY_WORDS,
            lowest < _SMALL_TEXT * max(size),
            damage > 0.35,
            kind in ("table_cell", "compare", "relation", "count") or len(boxes) > 2,
        )
    )
    return DIFFICULTIES[(0, 1, 2, 2, 3, 3)[points]]


def suggested_budget(question: Question, size: tuple[int, int], cell: int = 32) -> int:
    """How many visual tokens a question should need, as supervision for learned budgets.

    Cells that evidence or key touch keep a token each, the others share one among sixteen: the smallest tier that
    holds these, and the next one for hard questions.

    Args:
        question: a question with boxes in pixels.
        size: (width, height) of the picture in pixels.
        cell: side of a cell in pixels.

    Returns:
        One of :data:`TIERS`.
    """
    columns, rows = -(-size[0] // cell), -(-size[1] // cell)
    kept = {
        (row, column)
        for x0, y0, x1, y1 in (*question.evidence, *question.key_boxes)
        for row in range(int(y0 // cell), min(int(y1 // cell) + 1, rows))
        for column in range(int(x0 // cell), min(int(x1 // cell) + 1, columns))
    }
    needed = len(kept) + -(-(rows * columns - len(kept)) // 16)
    tier = next((index for index, tokens in enumerate(TIERS) if tokens >= needed), len(TIERS) - 1)
    harder = question.difficulty in DIFFICULTIES[2:]
    return TIERS[min(tier + harder, len(TIERS) - 1)]


def finish(
    draft: Draft, words: list[Box | None], regions: list[Box | None], size: tuple[int, int], damage: float
) -> Question | None:
    """Give a draft its boxes on the final picture; None if a part of the evidence is no longer on it."""

    def lines(runs: Runs) -> list[Box] | None:
        boxes = []
        for run in runs:
            parts = [words[index] for index in run]
            known = [part for part in parts if part is not None]
            if len(known) < len(parts):
                return None
            boxes.append(_rounded(union(known)))
        return boxes

    evidence, key = lines(draft.runs), lines(draft.key)
    marks = [regions[index] for index in draft.regions]
    known_marks = [_rounded(mark) for mark in marks if mark is not None]
    if evidence is None or key is None or len(known_marks) < len(marks):
        return None
    boxes = evidence + known_marks
    visible = sum(box is not None for box in words)
    return Question(
        text=draft.text,
        answers=draft.answers,
        evidence=tuple(boxes),
        evidence_mode=draft.mode,
        kind=draft.kind,
        difficulty=difficulty(draft.kind, boxes, visible, size, damage),
        key_boxes=tuple(key),
    )


def _rounded(box: Box) -> Box:
    return (round(box[0], 1), round(box[1], 1), round(box[2], 1), round(box[3], 1))
