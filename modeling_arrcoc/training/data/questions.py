"""Several questions about one image, of different kinds and so of different budgets."""

import re
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from PIL import Image

from arrcoc.processing import question_type_budget

from .rows import Row


QUESTION_KINDS = ("summary", "comparison", "targeted", "extraction")

_COMPARISON = re.compile(
    r"\b(?:compar(?:e[sd]?|ing|isons?)|differences?(?: between)?|differ|versus|vs|than|(?:more|less|fewer) or (?:more|"
    r"less|fewer)|which (?:one )?(?:is|are|was|has|had) (?:the )?(?:more|most|less|least|\w+er|\w+est)"
    r"|(?:high|low|larg|small|bigg|great|old|young|long|short)est)\b",
    re.IGNORECASE,
)


def question_kind(question: str) -> str:
    """What a question asks for.

    Args:
        question (`str`): in English.

    Returns:
        `"summary"` of the whole image, `"comparison"` of several things, `"targeted"` look at one (yes or no, find,
        a title or date), or `"extraction"` of something written or shown.
    """
    budget = question_type_budget(question)
    if budget == 400:
        return "summary"
    if _COMPARISON.search(question):
        return "comparison"
    return "targeted" if budget < 256 else "extraction"


def questions_per_image(rows: Sequence[Row], most: int, seed: int = 0) -> list[Row]:
    """Choose some questions of each image, of as many kinds as there are.

    Args:
        rows (`Sequence[Row]`): with any number of rows an image; text-only rows are all kept.
        most (`int`): questions to keep of each image.
        seed (`int`): of the choice among questions of a kind.

    Returns:
        The chosen rows in their old order.

    Raises:
        ValueError: `most` is below 1.
    """
    if most < 1:
        raise ValueError(f"most must be at least 1, found {most}")
    by_image: dict[Hashable, list[int]] = {}
    for index, row in enumerate(rows):
        by_image.setdefault(_image_key(row) or index, []).append(index)
    dice = np.random.default_rng(seed)
    chosen: list[int] = []
    for indices in by_image.values():
        # The k-th question of every kind comes before the k+1-th of any.
        turns: dict[str, int] = {}
        ranked = []
        for index in dice.permutation(indices).tolist():
            kind = question_kind(rows[index].question)
            turns[kind] = turns.get(kind, 0) + 1
            ranked.append((turns[kind], QUESTION_KINDS.index(kind), index))
        chosen += [index for *_, index in sorted(ranked)[:most]]
    return [rows[index] for index in sorted(chosen)]


def _image_key(row: Row) -> tuple[Any, ...]:
    return tuple(id(image) if isinstance(image, Image.Image) else image for image in row.images)
