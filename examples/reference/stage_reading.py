"""Stages 1 and 2: the tower learns to read, print of all sizes and then pages as they will be answered about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

from .cache import Shard
from .features import Place, deepstack_of
from .loop import Metrics, to_device
from .pictures import MERGE, Cut, patches, random_cut
from .reading import NOTHING, Reader, cell_texts, patch_letters, reading_accuracy, reading_loss
from .tokenizer import CELL
from .warps import strong_warp


@dataclass(frozen=True)
class Crops:
    """Squares out of documents, a batch for each number.

    Args:
        sources: shards, and how often they are drawn from, as shares.
        size: squares of a batch.
        side: of a square, in pixels.
        zoom: least and greatest zoom of a batch; less than 1 counts as 1.
        choices: squares of which the one with the most letters is taken: empty paper teaches little.
        kept: cells of a square that the tower sees, those with letters first; all when None.
        seed: of the randomness.
    """

    sources: list[tuple[list[Shard], float]]
    size: int
    side: int
    zoom: Callable[[int], tuple[float, float]]
    choices: int = 1
    kept: int | None = None
    seed: int = 0

    def __call__(self, step: int) -> dict[str, Tensor]:
        dice = np.random.default_rng((self.seed, step))
        pictures, cells, letters = [], [], []
        for source in dice.choice(len(self.sources), self.size, p=[share for _, share in self.sources]):
            shards = self.sources[source][0]
            seen = round(self.side / max(1.0, dice.uniform(*self.zoom(step))))
            cuts = []
            for _ in range(self.choices):
                shard = shards[dice.integers(len(shards))]
                cuts.append(random_cut(shard, int(dice.integers(len(shard.pixels))), seen, dice))
            picture, text, spots = max(cuts, key=Cut.letters).draw(self.side)
            pictures.append(picture)
            cells.append(text)
            letters.append(spots)
        values, grids = patches(pictures)
        batch = {"values": values, "grids": grids, "cells": _joined(cells), "letters": _joined(letters)}
        if self.kept is None:
            return batch
        printed = np.stack([(text > NOTHING).any(1) for text in cells])  # (squares, cells)
        chosen = np.argsort(dice.random(printed.shape) - printed, axis=1)[:, : self.kept]
        chosen = torch.from_numpy(np.sort(chosen, 1) + np.arange(self.size)[:, None] * printed.shape[1]).flatten()
        seen = (chosen[:, None] * MERGE**2 + torch.arange(MERGE**2)).flatten()  # (patches,)
        batch |= {"values": values[seen], "cells": batch["cells"][chosen], "letters": batch["letters"][seen]}
        return {**batch, "seen": seen}


@dataclass(frozen=True)
class WarpedPages:
    """Pages as other typefaces and cameras would give them, a batch for each number.

    Args:
        places: documents, square and of one size.
        side: in pixels that they are seen at.
        size: pages of a batch.
        seed: of the randomness.
    """

    places: Sequence[Place]
    side: int
    size: int
    seed: int = 19

    def __call__(self, step: int) -> dict[str, Tensor]:
        dice = np.random.default_rng((self.seed, step))
        rows, pages, cells, letters = self.side // CELL, [], [], []
        for _ in range(self.size):
            shard, index = self.places[dice.integers(len(self.places))]
            page = shard.pixels[index]
            warp = strong_warp(len(page), dice)
            centers, codes, starts = shard.letters(index)
            centers = warp.moved(centers) * (self.side / len(page))
            pages.append(warp.draw(page, self.side))
            cells.append(cell_texts(centers, codes, starts, rows, rows))
            letters.append(patch_letters(centers, codes, rows, rows))
        values, grids = patches(pages)
        return {"values": values, "grids": grids, "cells": _joined(cells), "letters": _joined(letters)}


@dataclass(frozen=True)
class Alternating:
    """Batches of several kinds in turn, by the number of a step.

    Args:
        parts: from the number of a step to a batch.
        together: batches in a row of one kind: those of processes that wait for each other.
    """

    parts: tuple[Callable[[int], dict[str, Tensor]], ...]
    together: int = 1

    def __call__(self, step: int) -> dict[str, Tensor]:
        return self.parts[step // self.together % len(self.parts)](step)


def _joined(parts: list[NDArray]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts))


def read(tower: nn.Module, reader: Reader, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Logits of the cells `(cells, SLOTS, CLASSES)` and the patches `(patches, bins, CLASSES)` of a batch."""
    grids, places = batch["grids"], {}
    if "seen" in batch:
        seen, merge = batch["seen"], tower.spatial_merge_size
        taps = get_vision_interpolation_indices_and_weights(
            grids,
            num_grid_per_side=tower.num_grid_per_side,
            mode=tower.interpolation_mode,
            align_corners=tower.interpolation_align_corners,
            spatial_merge_size=merge,
        )
        places = {"interp_indices": taps[0][seen], "interp_weights": taps[1][seen]}
        places["position_ids"] = get_vision_position_ids(grids, merge)[seen]
        places["cu_seqlens"] = torch.arange(len(grids) + 1, device=grids.device) * (len(seen) // len(grids))
    with torch.autocast(batch["values"].device.type, dtype=torch.bfloat16):
        found = tower(batch["values"], grid_thw=grids, **places)
        return reader(found.pooler_output, deepstack_of(found), found.last_hidden_state)


def reading_step(tower: nn.Module, reader: Reader, batch: dict[str, Tensor]) -> tuple[Tensor, Metrics]:
    """Loss of a batch, and the share of its characters that are read."""
    cells, spots = read(tower, reader, batch)
    loss, spotting = reading_loss(cells, batch["cells"]), reading_loss(spots, batch["letters"])
    right, printed = reading_accuracy(cells, batch["cells"])
    spotted, letters = reading_accuracy(spots, batch["letters"])
    shares = {"read": right / max(printed, 1), "spotted": spotted / max(letters, 1)}
    return loss + spotting, {"reading": loss.item(), "spotting": spotting.item(), **shares}


def measure_reading(tower: nn.Module, reader: Reader, sets: dict[str, Any], batches: int = 4) -> Metrics:
    """Share of characters read, by the name of a set of crops."""
    found = {}
    for name, crops in sets.items():
        drawn = (to_device(crops(number), next(reader.parameters()).device) for number in range(batches))
        counts = [reading_accuracy(read(tower, reader, batch)[0], batch["cells"]) for batch in drawn]
        found[name] = sum(right for right, _ in counts) / max(sum(printed for _, printed in counts), 1)
    return found
