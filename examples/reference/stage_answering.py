"""Answers of the whole model about pictures: how they are computed, and how many are right."""

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc import ArrCocQwen3VLForConditionalGeneration

from .answering import IGNORED, Turn, Writer, asked_turns, exact_of
from .cache import Shard
from .features import Place, enlarged
from .loop import Metrics, to_device
from .pictures import patches
from .tokenizer import CELL


def places(shards: list[Shard], kinds: frozenset[str] | None = None) -> list[Place]:
    """All documents of some kinds."""
    return [
        (shard, index) for shard in shards for index, kind in enumerate(shard.kinds) if kinds is None or kind in kinds
    ]


def page(place: Place, side: int) -> NDArray:
    """A document as a square of `side` pixels `(side, side, 3)` uint8."""
    shard, index = place
    return enlarged(shard.pixels[index], side)


def answer_logits(model: ArrCocQwen3VLForConditionalGeneration, hidden: Tensor, labels: Tensor) -> Tensor:
    """Logits `(labels, vocabulary)` of the tokens that are asked for, from states `(chats, length, dim)`."""
    return model.lm_head(hidden[:, :-1][labels[:, 1:] != IGNORED])


def answer(model: ArrCocQwen3VLForConditionalGeneration, batch: dict[str, Any]) -> Tensor:
    """Logits of a batch's answers `(labels, vocabulary)`."""
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
        return answer_logits(model, hidden, batch["labels"]).float()


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
                logits = answer(model, batch)
                for (_, turn), (right,) in zip(part, exact_of(logits, batch["labels"]), strict=True):
                    scores.setdefault(f"exact@{side}", []).append(right)
                    if side == self.sides[0]:
                        scores.setdefault(turn.kind, []).append(right)
        return {name: sum(values) / len(values) for name, values in sorted(scores.items())}
