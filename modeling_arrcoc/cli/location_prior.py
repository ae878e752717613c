"""Where on a page the words of a question point: all that `arrcoc inspect` reads in a question without a model."""

import re

import numpy as np


# Phrase -> the place it points to, as (vertical, horizontal) shares of the page; None leaves an axis open.
PLACES: dict[str, tuple[float | None, float | None]] = {
    "top": (0.0, None),
    "upper": (0.0, None),
    "above": (0.0, None),
    "header": (0.0, None),
    "heading": (0.0, None),
    "letterhead": (0.0, None),
    "title": (0.0, None),
    "bottom": (1.0, None),
    "lower": (1.0, None),
    "below": (1.0, None),
    "footer": (1.0, None),
    "footnote": (1.0, None),
    "left": (None, 0.0),
    "right": (None, 1.0),
    "middle": (0.5, None),
    "center": (0.5, 0.5),
    "centre": (0.5, 0.5),
    "logo": (0.0, 0.0),
    "sender": (0.0, 0.0),
    "subtotal": (0.65, 0.8),
    "total": (0.65, 0.8),
    "sum": (0.65, 0.8),
    "amount due": (0.65, 0.8),
    "balance due": (0.65, 0.8),
    "signature": (0.85, None),
    "signed": (0.85, None),
    "signatory": (0.85, None),
}
SPREAD = 0.16  # standard deviation of a place, in shares of the page
ELSEWHERE = 0.05  # value far from every place


def named_places(question: str) -> list[tuple[float | None, float | None]]:
    """Places of [`PLACES`] that a question names as whole words, in the order of that table."""
    words = " ".join(re.findall(r"[a-z]+", question.lower()))
    return [place for phrase, place in PLACES.items() if f" {phrase} " in f" {words} "]


def location_prior(question: str, grid: tuple[int, int]) -> np.ndarray:
    """Prior over the cells of a page from the place words of a question ("top left", "footer", "total", "signature").

    Each named place is a Gaussian ridge along the axis it fixes, or a blob if it fixes both. Words that fix one axis
    each are combined ("top" and "left" make the top left corner), several on one axis are alternatives ("top or
    bottom"). A heuristic to look at allocations without weights; a model compares the question with what cells show.

    Args:
        question (`str`): the question, in English.
        grid (`tuple[int, int]`): rows and columns of the page, in cells.

    Returns:
        `np.ndarray` of shape `(rows, cols)`, float32 in [0.05, 1] with maximum 1; 1 everywhere if no place is named.
    """
    rows, cols = grid
    y = (np.arange(rows) + 0.5)[:, None] / rows  # (rows, 1)
    x = (np.arange(cols) + 0.5)[None, :] / cols  # (1, cols)
    places = named_places(question)
    points = [place for place in places if None not in place]
    vertical = [_bump(y, row) for row, col in places if row is not None and col is None]
    horizontal = [_bump(x, col) for row, col in places if row is None and col is not None]

    alternatives = [_bump(y, row) * _bump(x, col) for row, col in points]
    if vertical or horizontal:
        everywhere = [np.ones((1, 1))]
        alternatives.append(np.max(vertical or everywhere, axis=0) * np.max(horizontal or everywhere, axis=0))
    if not alternatives:
        return np.ones(grid, dtype=np.float32)
    prior = np.maximum.reduce([np.broadcast_to(alternative, grid) for alternative in alternatives])
    return (ELSEWHERE + (1 - ELSEWHERE) * prior / prior.max()).astype(np.float32)


def _bump(position: np.ndarray, place: float | None) -> np.ndarray:
    return np.exp(-(((position - place) / SPREAD) ** 2) / 2)
