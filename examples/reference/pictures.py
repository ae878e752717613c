"""Pictures out of the cache: cropped, zoomed, cut into patches."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .cache import Shard
from .reading import cell_texts, patch_letters
from .tokenizer import CELL


PATCH, MERGE = 16, 2
BLIND = ("noise", "white", "black")


def blind_picture(name: str, side: int, dice: np.random.Generator) -> NDArray:
    """A picture `(side, side, 3)` uint8 without anything to read, one of `BLIND`."""
    if name == "noise":
        return dice.integers(0, 256, (side, side, 3), np.uint8)
    return np.full((side, side, 3), {"white": 255, "black": 0}[name], np.uint8)


@dataclass(frozen=True)
class Cut:
    """A square of a document.

    Args:
        shard: of the document.
        index: of the document in its shard.
        left, top: corner in pixels of the document; the square may reach beyond its edges by a few.
        side: in pixels of the document.
    """

    shard: Shard
    index: int
    left: int
    top: int
    side: int

    def letters(self) -> int:
        """How many letters it shows."""
        centers = self.shard.letters(self.index)[0] - np.array([self.left, self.top], np.float32)
        return int(((centers >= 0) & (centers < self.side)).all(1).sum())

    def draw(self, side: int) -> tuple[NDArray, NDArray, NDArray]:
        """Draw it.

        Args:
            side: in pixels of the picture.

        Returns:
            Picture `(side, side, 3)` uint8, and the classes of its cells `(cells, SLOTS)` and patches
            `(patches, bins)`.
        """
        page = self.shard.pixels[self.index]
        height, width = page.shape[:2]
        bottom, right = self.top + self.side, self.left + self.side
        picture = page[max(self.top, 0) : bottom, max(self.left, 0) : right]
        if picture.shape[:2] != (self.side, self.side):
            whole = np.empty((self.side, self.side, 3), np.uint8)
            whole[:] = page[0, 0]
            top, left = max(-self.top, 0), max(-self.left, 0)
            whole[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
            picture = whole
        if self.side != side:
            picture = np.asarray(Image.fromarray(picture).resize((side, side), Image.Resampling.BICUBIC))
        centers, codes, starts = self.shard.letters(self.index)
        centers = (centers - np.array([self.left, self.top], np.float32)) * (side / self.side)
        cells = side // CELL
        return picture, cell_texts(centers, codes, starts, cells, cells), patch_letters(centers, codes, cells, cells)


def random_cut(shard: Shard, index: int, side: int, dice: np.random.Generator) -> Cut:
    """A square of a document at a random place; a whole document is moved by up to half a cell."""
    height, width = shard.pixels.shape[1:3]
    side = min(side, height, width)
    slack = CELL // 2 if side == min(height, width) else 0
    left = int(dice.integers(-slack, width - side + slack + 1))
    top = int(dice.integers(-slack, height - side + slack + 1))
    return Cut(shard, index, left, top, side)


def patches(pictures: Sequence[NDArray], frames: int = 1) -> tuple[Tensor, Tensor]:
    """Patches of pictures in the processor's order, the four of a cell one after another.

    Args:
        pictures: each `(height, width, 3)` uint8, of sides that are multiples of a cell.
        frames: 2 as the processor gives them, or 1 for the trained tower, which adds the other itself.

    Returns:
        Values in [-1, 1] `(patches, 3 * frames * PATCH**2)` and grids `(pictures, 3)` in patches.
    """
    packed, grids = [], []
    for picture in pictures:
        rows, cols = picture.shape[0] // CELL, picture.shape[1] // CELL
        cut = picture.reshape(rows, MERGE, PATCH, cols, MERGE, PATCH, 3).transpose(0, 3, 1, 4, 6, 2, 5)
        packed.append(cut.reshape(-1, 3, 1, PATCH**2))  # (patches, channels, frame, pixels)
        grids.append((1, rows * MERGE, cols * MERGE))
    values = torch.from_numpy(np.concatenate(packed)).float().div_(127.5).sub_(1)
    return values.expand(-1, -1, frames, -1).flatten(1), torch.tensor(grids)
