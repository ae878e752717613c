"""Stage 6: all but the embeddings learns at once, from pages as pixels, under budgets, and from print of all kinds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .answering import Writer, asked_turns, mixed_turns, printed_words
from .features import Place, deepstack_of, enlarged
from .loop import Metrics
from .model import Model
from .pictures import patches
from .reading import NOTHING, Reader, cell_texts, reading_accuracy, reading_loss
from .stage_listening import MULTIPLE, guidance_targets, listening_step, looked_at
from .tokenizer import CELL
from .warps import random_warp


Batch = dict[str, Any]
EMPTY_CELLS = 0.2  # share of the cells without print that are read: paper teaches little


@dataclass(frozen=True)
class Together:
    """Batches of several kinds as one, their entries under the names of their kinds.

    Args:
        parts: of each kind, from the number of a step to its batch.
    """

    parts: dict[str, Callable[[int], Batch]]

    def __call__(self, step: int) -> Batch:
        return {f"{kind}.{name}": value for kind, part in self.parts.items() for name, value in part(step).items()}


def together_step(
    losses: dict[str, tuple[float, Callable[[Batch], tuple[Tensor, Metrics]]]], batch: Batch
) -> tuple[Tensor, Metrics]:
    """Loss of a batch of [`Together`].

    Args:
        losses: of each kind its weight, and what makes loss and measures of its part.
        batch: of these kinds.

    Returns:
        The weighted sum, and the measures under the kinds' names.
    """
    total, metrics = torch.zeros(()), {}
    for kind, (weight, loss_of) in losses.items():
        own = {name.removeprefix(f"{kind}."): value for name, value in batch.items() if name.startswith(f"{kind}.")}
        loss, found = loss_of(own)
        total = total.to(loss.device) + weight * loss
        metrics |= {f"{kind}.{name}": value for name, value in found.items()}
    return total, metrics


@dataclass(frozen=True)
class Sights:
    """Batches of whole pages as pixels, with questions about them.

    Args:
        writer: of chats.
        places: documents, square and of one size.
        side: in pixels that they are seen at.
        size: pages of a batch.
        turns: of a chat, at most.
        reading: share of the turns that read on from a word.
        warped: share of the pages that are warped.
        seed: of the randomness.
    """

    writer: Writer
    places: Sequence[Place]
    side: int
    size: int
    turns: int = 6
    reading: float = 0.25
    warped: float = 0.5
    seed: int = 11

    def __call__(self, step: int) -> Batch:
        dice = np.random.default_rng((self.seed, step))
        rows = self.side // CELL
        pages, cells, chats, looks = [], [], [], []
        while len(chats) < self.size:
            shard, index = self.places[dice.integers(len(self.places))]
            asked, words = asked_turns(shard, index), printed_words(shard, index)
            if not (turns := mixed_turns(asked, words, self.turns, self.reading, dice)):
                continue
            page, zoom = shard.pixels[index], self.side / shard.pixels.shape[1]
            centers, codes, starts = shard.letters(index)
            if dice.random() < self.warped:
                warp = random_warp(len(page), dice)
                turns, centers = [warp.turn(turn) for turn in turns], warp.moved(centers)
                pages.append(warp.draw(page, self.side))
            else:
                pages.append(enlarged(page, self.side))
            chats.append(turns)
            looks.append([looked_at(turn, zoom, 0, 0, rows) for turn in turns])
            cells.append(cell_texts(centers * zoom, codes, starts, rows, rows))
        inputs = self.writer.batch(chats, [rows**2] * len(chats), multiple=MULTIPLE)
        before, following = guidance_targets(self.writer, inputs, chats, looks)
        values, grids = patches(pages)
        return {
            **inputs,
            "before": before,
            "following": following,
            "values": values,
            "grids": grids,
            "cells": torch.from_numpy(np.concatenate(cells)),
        }


def page_step(model: Model, reader: Reader, guidance: float, batch: Batch) -> tuple[Tensor, Metrics]:
    """Loss of a batch of [`Sights`]: of its answers, and weighted with `guidance` of where heads look for them and of
    the characters in its cells."""
    tower = model.model.visual
    with torch.autocast(batch["values"].device.type, dtype=torch.bfloat16):
        found = tower(batch["values"], grid_thw=batch["grids"])
        features = torch.stack([found.pooler_output, *deepstack_of(found)], 1)  # (cells, 1 + layers, dim)
        printed = (batch["cells"] != NOTHING).any(1)
        read = printed | (torch.rand(printed.shape, device=printed.device) < EMPTY_CELLS)
        texts = reader.texts(features[read].flatten(1))
    loss, metrics = listening_step(model, guidance, {**batch, "features": features})
    reading = reading_loss(texts, batch["cells"][read])
    right, characters = reading_accuracy(texts, batch["cells"][read])
    return loss + guidance * reading, {**metrics, "reading": reading.item(), "read": right / max(characters, 1)}
