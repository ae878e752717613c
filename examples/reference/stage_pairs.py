"""Part of stage 6: whole pages are read in pairs of cells above each other that share a token."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc.multiresolution import patches_to_cells
from arrcoc.outputs import Allocation

from .features import Place, deepstack_of, enlarged
from .loop import Metrics
from .model import Model
from .pictures import patches
from .reading import NOTHING, Reader, cell_texts, reading_accuracy, reading_loss
from .tokenizer import CELL
from .warps import random_warp


def pair_rows(rows: int, offset: int) -> int:
    """Rows of pairs, and of what is left unpaired."""
    return (rows + offset + 1) // 2


def paired_cells(count: int, rows: int, cols: int, offset: int) -> Allocation:
    """Leaves of two cells above each other.

    Args:
        count: pictures.
        rows, cols: of each, in cells.
        offset: 0, or 1 to leave the first row unpaired; the last one may be left, too.
    """
    y, x = torch.arange(rows).repeat_interleave(cols), torch.arange(cols).repeat(rows)  # (rows * cols,)
    leaf = (y + offset) // 2 * cols + x
    leaves = pair_rows(rows, offset) * cols
    group = torch.arange(leaves) // cols * 2 - offset
    left = torch.arange(leaves) % cols
    boxes = torch.stack([group.clamp(min=0), left, (group + 2).clamp(max=rows), left + 1], 1)  # (leaves, 4)
    numbers = torch.arange(count).repeat_interleave(rows * cols) * leaves
    return Allocation(
        grids=torch.tensor([[rows, cols]]).expand(count, 2),
        budgets=torch.full((count,), leaves),
        cell_to_leaf=numbers + leaf.repeat(count),
        boxes=boxes.repeat(count, 1),
        relevance=torch.ones(count * rows * cols),
        position_scale=torch.ones(count),
    )


def random_windows(letters: NDArray, rows: int, offset: int, dice: np.random.Generator) -> NDArray:
    """Where windows of the rows of pairs begin `(pair_rows,)`, in cells below a row's top: about one of the letters in
    it, or anywhere where there are none; -1 for a row that is not of pairs.

    Args:
        letters: `(letters,)` how far below the picture's top each one's middle is, in cells.
        rows: of the picture, in cells.
        offset: as of [`paired_cells`].
        dice: source of randomness.
    """
    begins = np.full(pair_rows(rows, offset), -1.0)
    for number in range(len(begins)):
        top = 2 * number - offset
        if top >= 0 and top + 2 <= rows:
            inside = letters[(letters >= top) & (letters < top + 2)] - top
            middle = dice.choice(inside) + dice.uniform(-0.2, 0.2) if len(inside) else dice.uniform(0.5, 1.5)
            begins[number] = np.clip(round((middle - 0.5) * CELL) / CELL, 0.0, 1.0)
    return begins


def through_windows(places: NDArray, begins: NDArray, offset: int) -> NDArray:
    """Where places `(places, 2)`, x and y in pixels, are in a picture whose rows of cells are the windows of rows of
    pairs; above it where no window shows them. Arguments as of and from [`random_windows`]."""
    down = places[:, 1] / CELL
    number = np.floor((down + offset) / 2).astype(np.int64)
    is_inside = (number >= 0) & (number < len(begins))
    number = np.where(is_inside, number, 0)
    begin = begins[number]
    below = down - np.maximum(2 * number - offset, 0) - np.maximum(begin, 0)
    is_inside &= (below >= 0) & (below < 1)
    return np.stack([places[:, 0], np.where(is_inside, number + below, -1) * CELL], 1)


@dataclass(frozen=True)
class PairedPages:
    """Batches of whole pages as pixels, and the characters in each pair of cells.

    Args:
        places: documents, square and of one size.
        side: in pixels that they are seen at.
        size: pages of a batch.
        windows: whether a window of each pair is seen, or both of its cells at half their height.
        warped: share of the pages that are warped.
        seed: of the randomness.
    """

    places: Sequence[Place]
    side: int
    size: int
    windows: bool = False
    warped: float = 0.5
    seed: int = 17

    def __call__(self, step: int) -> dict[str, Any]:
        dice = np.random.default_rng((self.seed, step))
        rows, offset = self.side // CELL, int(dice.integers(2))
        pages, texts, windows = [], [], []
        for _ in range(self.size):
            shard, index = self.places[dice.integers(len(self.places))]
            page, zoom = shard.pixels[index], self.side / shard.pixels.shape[1]
            centers, codes, starts = shard.letters(index)
            if dice.random() < self.warped:
                warp = random_warp(len(page), dice)
                centers = warp.moved(centers)
                pages.append(warp.draw(page, self.side))
            else:
                pages.append(enlarged(page, self.side))
            seen = centers * zoom
            if self.windows:
                begins = random_windows(seen[:, 1] / CELL, rows, offset, dice)
                seen = through_windows(seen, begins, offset)
                windows.append(begins.repeat(rows))
            else:
                seen = (seen + (0, offset * CELL)) / (1, 2)  # a pair is as high as a cell
            texts.append(cell_texts(seen, codes, starts, pair_rows(rows, offset), rows))
        shown = {"windows": torch.from_numpy(np.concatenate(windows)).float()} if windows else {}
        return shown | {
            "values": patches(pages, frames=2)[0],
            "offset": torch.tensor(offset),
            "pages": torch.tensor(len(pages)),
            "texts": torch.from_numpy(np.concatenate(texts)),
        }


def paired_step(model: Model, reader: Reader, batch: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
    """Loss of a batch of [`PairedPages`], and the share of its characters that are read."""
    vision, count = model.config.vision_config, int(batch["pages"])
    channels = vision.in_channels * vision.temporal_patch_size
    cells = patches_to_cells(batch["values"], channels, vision.patch_size, vision.spatial_merge_size)
    rows = round((len(cells) / count) ** 0.5)
    allocation = paired_cells(count, rows, rows, int(batch["offset"])).to(cells.device)
    if "windows" in batch:
        allocation = replace(allocation, windows=batch["windows"])
    with torch.autocast(cells.device.type, dtype=torch.bfloat16):
        found = model.model._encode_leaves(cells, allocation)
        layers = [found.pooler_output, *deepstack_of(found)]  # each with the leaves of one picture after another
        features = torch.cat([torch.cat(tuple(layer)) for layer in layers], 1)  # (leaves, layers * dim)
        printed = (batch["texts"] != NOTHING).any(1)
        texts = reader.texts(features[printed])
    loss = reading_loss(texts, batch["texts"][printed])
    right, characters = reading_accuracy(texts, batch["texts"][printed])
    return loss, {"reading": loss.item(), "read": right / max(characters, 1)}
