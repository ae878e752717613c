"""Dense reading: every visual token says which characters stand in its cell, every patch which stand where.

A cell's text is that of its lines from top to bottom; a blank stands before the first letter of a word, and lines are
parted by a line feed. Letters belong to the cell in which their centre lies, so that a word may run through several.
"""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from .tokenizer import CELL


SLOTS = 20  # characters of a cell at most; the rest is not asked for
NOTHING, LINE_FEED, FIRST = 0, 1, 2  # classes; blank and the printed characters of ASCII from FIRST
CLASSES = FIRST + 95
_LINE_GAP = 4.0  # least distance in pixels from line to line
PATCH = 16
BINS = (2, 4)  # rows and columns of bins in a patch: letters are higher than they are wide


def cell_texts(centers: NDArray, codes: NDArray, starts: NDArray, rows: int, cols: int) -> NDArray:
    """Classes of the characters in every cell of a picture.

    Args:
        centers: `(letters, 2)` x and y in pixels; letters outside of the picture are left out.
        codes: `(letters,)` code points.
        starts: `(letters,)` whether a letter is the first of its word.
        rows, cols: of the picture, in cells.

    Returns:
        `(rows * cols, SLOTS)` int64, `NOTHING` after the last character.
    """
    x, y = np.floor(centers / CELL).astype(np.int64).T
    kept = (x >= 0) & (x < cols) & (y >= 0) & (y < rows) & (codes >= 32) & (codes < 127)
    cell, (across, down) = (y * cols + x)[kept], centers[kept].T
    codes, starts = codes[kept], starts[kept]

    order = np.lexsort((down, cell))
    cell, across, down, codes, starts = (values[order] for values in (cell, across, down, codes, starts))
    other_cell = np.diff(cell, prepend=-1) != 0
    line = np.cumsum(other_cell | (np.diff(down, prepend=0) > _LINE_GAP))
    order = np.lexsort((across, line))
    cell, codes, starts, line = (values[order] for values in (cell, codes, starts, line))
    other_cell = np.diff(cell, prepend=-1) != 0
    other_line = (np.diff(line, prepend=-1) != 0) & ~other_cell

    # Up to three characters a letter: line feed, blank, the letter itself.
    signs = np.stack([np.where(other_line, LINE_FEED, -1), np.where(starts, FIRST, -1), codes - 32 + FIRST], 1)
    written = (signs >= 0).ravel()
    signs, place = signs.ravel()[written], cell.repeat(3)[written]
    first = np.searchsorted(place, place)  # of the cell
    slot = np.arange(len(place)) - first
    target = np.full((rows * cols, SLOTS), NOTHING, np.int64)
    fits = slot < SLOTS
    target[place[fits], slot[fits]] = signs[fits]
    return target


def patch_letters(centers: NDArray, codes: NDArray, rows: int, cols: int) -> NDArray:
    """Classes of the letters whose centre lies in each bin of each patch, without order or blanks.

    Args:
        centers, codes, rows, cols: as of `cell_texts`.

    Returns:
        `(patches, bins)` int64 in the processor's order of patches, the four of a cell one after another.
    """
    x, y = centers.T
    kept = (x >= 0) & (x < cols * CELL) & (y >= 0) & (y < rows * CELL) & (codes > 32) & (codes < 127)
    x, y = x[kept], y[kept]
    merge = CELL // PATCH
    index = [
        (y // CELL, rows),
        (x // CELL, cols),
        (y % CELL // PATCH, merge),
        (x % CELL // PATCH, merge),
        (y % PATCH // (PATCH // BINS[0]), BINS[0]),
        (x % PATCH // (PATCH // BINS[1]), BINS[1]),
    ]
    target = np.full([size for _, size in index], NOTHING, np.int64)
    target[tuple(place.astype(np.int64) for place, _ in index)] = codes[kept] - 32 + FIRST
    return target.reshape(-1, BINS[0] * BINS[1])


class Reader(nn.Module):
    """Linear heads: on a visual token, in the tower's output and its DeepStack layers together, and on a patch.

    Args:
        tower: of the model.
    """

    def __init__(self, tower: nn.Module):
        super().__init__()
        layers = 1 + len(getattr(tower.config, "deepstack_visual_indexes", ()))
        self.cell_head = nn.Linear(layers * tower.config.out_hidden_size, SLOTS * CLASSES)
        self.patch_head = nn.Linear(tower.config.hidden_size, BINS[0] * BINS[1] * CLASSES)

    def forward(self, pooled: Tensor, deepstack: list[Tensor], patches: Tensor) -> tuple[Tensor, Tensor]:
        """Logits `(cells, SLOTS, CLASSES)` from features, each `(cells, dim)`, and `(patches, bins, CLASSES)`."""
        return self.texts(torch.cat([pooled, *deepstack], 1)), self.patch_head(patches).unflatten(1, (-1, CLASSES))

    def texts(self, cells: Tensor) -> Tensor:
        """Logits `(cells, SLOTS, CLASSES)` from features `(cells, layers * dim)`, the tower's output first."""
        return self.cell_head(cells).unflatten(1, (SLOTS, CLASSES))


def reading_loss(logits: Tensor, target: Tensor, nothing: float = 0.1) -> Tensor:
    """Cross-entropy `()` of `(cells, SLOTS, CLASSES)` logits; empty slots count `nothing`."""
    weight = torch.ones(CLASSES, device=logits.device)
    weight[NOTHING] = nothing
    return F.cross_entropy(logits.flatten(0, 1).float(), target.flatten(), weight=weight)


def reading_accuracy(logits: Tensor, target: Tensor) -> tuple[int, int]:
    """Printed characters that are right, and all."""
    printed = target > FIRST
    return int(((logits.argmax(-1) == target) & printed).sum()), int(printed.sum())
