"""Pages as other faces, printers and cameras would give them: narrower, flatter, slanted, bolder, lighter."""

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from .answering import Turn


# Of pages that stay whole, because questions are asked about them, and of pages that are read alone.
LEAST_SCALE, MOST_SLANT, MOST_WEIGHT = 0.68, 0.25, 0.6
STRONG_SCALES, STRONG_SLANT, STRONG_WEIGHT = (0.68, 1.3), 0.3, 0.8


@dataclass(frozen=True)
class Warp:
    """A change of a page.

    Args:
        matrix: `(2, 3)` from a place `(x, y, 1)` in pixels of the document to where it is then.
        weight: how much darker (above 0) or lighter pixels become where darker or lighter ones are beside them, in
            [-1, 1]; strokes of dark print grow or shrink by as much.
    """

    matrix: NDArray
    weight: float = 0.0

    def moved(self, places: NDArray) -> NDArray:
        """Where places `(..., 2)` are then; unknown ones, which are NaN, stay so."""
        return places @ self.matrix[:, :2].T + self.matrix[:, 2]

    def turn(self, turn: Turn) -> Turn:
        """A question with its letters where they are then; its boxes are not moved."""
        letters = {name: getattr(turn, name) for name in ("letters", "before", "spoken")}
        return replace(turn, **{name: self.moved(places) for name, places in letters.items() if places is not None})

    def draw(self, page: NDArray, side: int) -> NDArray:
        """The page `(size, size, 3)` uint8 then, as a picture of `side` pixels; what is beyond its edges is of the
        colour of its corner."""
        back = np.linalg.inv(np.vstack([self.matrix, (0, 0, 1)]))[:2]
        back[:, :2] *= len(page) / side
        picture = Image.fromarray(page).transform(
            (side, side),
            Image.Transform.AFFINE,
            back.ravel().tolist(),
            Image.Resampling.BICUBIC,
            fillcolor=tuple(page[0, 0].tolist()),
        )
        if self.weight:
            darkest_or_lightest = ImageFilter.MinFilter(3) if self.weight > 0 else ImageFilter.MaxFilter(3)
            picture = Image.blend(picture, picture.filter(darkest_or_lightest), abs(self.weight))
        return np.asarray(picture)


def random_warp(size: int, dice: np.random.Generator) -> Warp:
    """A change of pages of `size` pixels, all of which is still seen."""
    slant = dice.uniform(-MOST_SLANT, MOST_SLANT) if dice.random() < 0.5 else 0.0
    across, down = (dice.uniform(LEAST_SCALE, 1.0) if dice.random() < 0.6 else 1.0 for _ in range(2))
    linear = np.array([[min(across, 1 - abs(slant)), slant], [0.0, down]])
    weight = dice.uniform(-MOST_WEIGHT, MOST_WEIGHT) if dice.random() < 0.4 else 0.0
    return _about_the_middle(linear, size, weight)


def strong_warp(size: int, dice: np.random.Generator) -> Warp:
    """A stronger change of pages of `size` pixels, some enlarged; any part of what is too large then is seen."""
    slant = dice.uniform(-STRONG_SLANT, STRONG_SLANT) if dice.random() < 0.6 else 0.0
    across, down = (dice.uniform(*STRONG_SCALES) if dice.random() < 0.7 else 1.0 for _ in range(2))
    beyond = np.maximum([across + abs(slant) - 1, down - 1], 0)
    moved = dice.uniform(-size / 2, size / 2, 2) * beyond
    weight = dice.uniform(-STRONG_WEIGHT, STRONG_WEIGHT) if dice.random() < 0.5 else 0.0
    return _about_the_middle(np.array([[across, slant], [0.0, down]]), size, weight, moved)


def _about_the_middle(linear: NDArray, size: int, weight: float, moved: NDArray | float = 0.0) -> Warp:
    """A linear change `(2, 2)` that leaves the middle of a page where it is, and then moves all `(2,)`."""
    shift = size / 2 - linear @ (size / 2, size / 2) + moved
    return Warp(np.column_stack([linear, shift]), weight)
