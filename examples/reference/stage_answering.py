"""Stage 2: tower and language model learn to answer, at several resolutions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from arrcoc import ArrCocQwen3VLForConditionalGeneration

from .answering import IGNORED, PrintedWord, Turn, Writer, asked_turns, exact_answers, printed_words, reading_turns
from .cache import Shard
from .loop import Metrics, to_device
from .pictures import Cut, patches, random_cut
from .reading import NOTHING, Reader, cell_texts, reading_loss
from .tokenizer import CELL


MARGIN = 8  # pixels from the centre of a letter to the edge of a square, at least
Place = tuple[Shard, int]  # a document: its shard, and its number there


def places(shards: Sequence[Shard], kinds: frozenset[str] | None = None) -> list[Place]:
    """All documents of some kinds."""
    return [
        (shard, index) for shard in shards for index, kind in enumerate(shard.kinds) if kinds is None or kind in kinds
    ]


def page(place: Place, side: int) -> NDArray:
    """A document as a square of `side` pixels `(side, side, 3)` uint8, resized as the processor would."""
    shard, index = place
    pixels = shard.pixels[index]
    if pixels.shape[:2] == (side, side):
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((side, side), Image.Resampling.BICUBIC))


@dataclass(frozen=True)
class Part:
    """A share of the documents of a stage.

    Args:
        places: documents to draw from.
        sides: sides in pixels that they are seen at, and the share of each; the first is their own.
        size: pictures of a batch at each side.
        share: of the batches, relative to the other parts.
        cut: whether squares are cut out instead, to be read only: with few words, finding one is learned soonest.
    """

    places: list[Place]
    sides: tuple[tuple[int, float], ...]
    size: int
    share: float
    cut: bool = False


def words_inside(cut: Cut) -> list[PrintedWord]:
    """Words of a document that lie wholly inside of a square."""
    right, bottom = cut.left + cut.side, cut.top + cut.side
    return [
        word
        for word in printed_words(cut.shard, cut.index)
        if cut.left + MARGIN <= word.left
        and word.right < right - MARGIN
        and cut.top + MARGIN <= word.y < bottom - MARGIN
    ]


def _draw(dice: np.random.Generator, shares: Sequence[float]) -> int:
    return int(dice.choice(len(shares), p=np.array(shares) / sum(shares)))


@dataclass(frozen=True)
class Chats:
    """Batches of documents of one size with several questions each.

    Args:
        writer: of chats.
        parts: of a step, so that what is easy may come first.
        turns: of a chat.
        reading: share of the turns that read on from a word; more where the document has too few questions.
        seed: of the randomness.
    """

    writer: Writer
    parts: Callable[[int], Sequence[Part]]
    turns: int = 6
    reading: float = 0.5
    seed: int = 1

    def __call__(self, step: int) -> dict[str, Tensor]:
        dice = np.random.default_rng((self.seed, step))
        parts = self.parts(step)
        part = parts[_draw(dice, [part.share for part in parts])]
        side = part.sides[_draw(dice, [share for _, share in part.sides])][0]
        pages, chats, cells = [], [], []
        while len(pages) < part.size:
            place = part.places[dice.integers(len(part.places))]
            if part.cut:
                square = max((random_cut(*place, side, dice) for _ in range(4)), key=Cut.letters)
                turns = reading_turns(words_inside(square), self.turns, dice, longest=99)
                picture, texts, _ = square.draw(side)
            else:
                turns = self.choose(place, dice)
                picture, texts = page(place, side), self.texts(place, side)
            if turns:
                pages.append(picture)
                chats.append(turns)
                cells.append(texts)
        values, grids = patches(pages)
        inputs = self.writer.batch(chats, [(side // CELL) ** 2] * len(pages))
        return {**inputs, "values": values, "grids": grids, "cells": torch.from_numpy(np.concatenate(cells))}

    def choose(self, place: Place, dice: np.random.Generator) -> list[Turn]:
        """Questions about a document."""
        asked = asked_turns(*place)
        dice.shuffle(asked)  # type: ignore[arg-type]
        read = round(self.turns * self.reading)
        asked = asked[: self.turns - read]
        turns = asked + reading_turns(printed_words(*place), self.turns - len(asked), dice)
        dice.shuffle(turns)  # type: ignore[arg-type]
        return turns

    @staticmethod
    def texts(place: Place, side: int) -> NDArray:
        """What is to be read in the cells of a document; nothing is asked for where it was made smaller."""
        shard, index = place
        count = side // CELL
        if side < shard.pixels.shape[1]:
            centers, codes, starts = (values[:0] for values in shard.letters(index))
        else:
            centers, codes, starts = shard.letters(index)
        return cell_texts(centers, codes, starts, count, count)


def answer_logits(model: ArrCocQwen3VLForConditionalGeneration, hidden: Tensor, labels: Tensor) -> Tensor:
    """Logits `(labels, vocabulary)` of the tokens that are asked for, from states `(chats, length, dim)`."""
    return model.lm_head(hidden[:, :-1][labels[:, 1:] != IGNORED])


def exact_of(logits: Tensor, labels: Tensor) -> list[list[bool]]:
    """Of each chat, whether each answer is right; arguments as of `answer_logits`."""
    predicted = torch.full_like(labels, -1)
    predicted[:, :-1][labels[:, 1:] != IGNORED] = logits.argmax(-1)
    return exact_answers(predicted, labels)


def answer(model: ArrCocQwen3VLForConditionalGeneration, batch: dict[str, Any]) -> tuple[Tensor, Any]:
    """Logits of a batch's answers `(labels, vocabulary)`, and its encoded pictures."""
    base = model.model
    with torch.autocast(batch["values"].device.type, dtype=torch.bfloat16):
        seen = base.get_image_features(batch["values"], batch["grids"], return_dict=True)
        hidden = base(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            mm_token_type_ids=batch["mm_token_type_ids"],
            image_grid_thw=batch["grids"],
            mm_encoder_outputs={"image": seen},
            use_cache=False,
        ).last_hidden_state
        return answer_logits(model, hidden, batch["labels"]).float(), seen


def answering_step(
    model: ArrCocQwen3VLForConditionalGeneration, reader: Reader, reading: float, batch: dict[str, Any]
) -> tuple[Tensor, Metrics]:
    """Loss of a batch's answers, and of what its visual tokens read, weighted with `reading`."""
    logits, seen = answer(model, batch)
    labels = batch["labels"]
    loss = F.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != IGNORED])
    right = [good for chat in exact_of(logits, labels) for good in chat]
    metrics = {"answer": loss.item(), "exact": sum(right) / len(right)}
    if reading and bool((batch["cells"] != NOTHING).any()):
        deepstack = [torch.cat(tuple(layer)) for layer in seen.deepstack_features]
        with torch.autocast(logits.device.type, dtype=torch.bfloat16):
            cells, _ = reader(torch.cat(tuple(seen.pooler_output)), deepstack, seen.last_hidden_state)
        loss = loss + reading * reading_loss(cells, batch["cells"])
    return loss, metrics


@dataclass(frozen=True)
class Exam:
    """Documents with one question each, at given sides.

    Args:
        writer: of chats.
        places: documents.
        sides: in pixels.
        kinds: of questions.
        size: documents of a batch.
    """

    writer: Writer
    places: list[Place]
    sides: tuple[int, ...]
    kinds: frozenset[str] | None = None
    size: int = 32

    def asked(self) -> list[tuple[Place, Turn]]:
        """A question of each document that has one; always the same."""
        found = []
        for number, place in enumerate(self.places):
            if turns := asked_turns(*place, self.kinds):
                found.append((place, turns[number % len(turns)]))
        return found

    def __call__(self, model: ArrCocQwen3VLForConditionalGeneration) -> Metrics:
        """Share of exact answers at each side, and at the first one by kind of question."""
        scores: dict[str, list[bool]] = {}
        asked = self.asked()
        for side in self.sides:
            for begin in range(0, len(asked), self.size):
                part = asked[begin : begin + self.size]
                values, grids = patches([page(place, side) for place, _ in part])
                inputs = self.writer.batch([[turn] for _, turn in part], [(side // CELL) ** 2] * len(part))
                batch = to_device({**inputs, "values": values, "grids": grids}, model.device)
                logits, _ = answer(model, batch)
                for (_, turn), (right,) in zip(part, exact_of(logits, batch["labels"]), strict=True):
                    scores.setdefault(f"exact@{side}", []).append(right)
                    if side == self.sides[0]:
                        scores.setdefault(turn.kind, []).append(right)
        return {name: sum(values) / len(values) for name, values in sorted(scores.items())}
