"""Stage 5: tower and language model learn to answer with fewer tokens; and what the model can do is measured."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from arrcoc.evaluation.policies import block_policy
from arrcoc.training.losses import evidence_coverage

from .answering import Turn, Writer, answer_logits, answer_loss, asked_turns, exact_of, led
from .features import Place, enlarged, information_view
from .loop import Metrics, to_device
from .model import Model
from .pictures import BLIND, blind_picture, patches
from .stage_looking import alignment, query_tokens, wanted_cells
from .tokenizer import CELL


UNREADABLE = "unreadable"
CODE = re.compile(r"(?=.*[A-Z])(?=.*[0-9])[A-Z0-9./-]{5,}")  # capitals and digits, which nothing but sight tells apart


def without_answer(turn: Turn) -> Turn:
    """A question, and what is said of it where there is nothing to read."""
    answer = "no" if turn.kind == "exists" else UNREADABLE
    return replace(turn, answer=answer, evidence=(), named=(), letters=None)


@dataclass(frozen=True)
class Questions:
    """Batches of documents of one size, with one question each, and where the answers stand.

    Args:
        writer: of chats.
        places: documents.
        side: in pixels that they are seen at.
        size: documents of a batch.
        shares: budgets to draw from, as shares of the native tokens.
        resized: share of the batches whose pages are made smaller instead.
        blind: share of the documents that are taken away: a picture without anything to read has no answer.
        long: share of the documents that are asked for the longest of their answers, which needs the most tokens.
        codes: share of them that are asked for one in capitals and digits, if they have any.
        together: batches in a row of one budget: those of processes that wait for each other.
        seed: of the randomness.
    """

    writer: Writer
    places: Sequence[Place]
    side: int
    size: int
    shares: tuple[float, ...] = (1.0,)
    resized: float = 0.0
    blind: float = 0.0
    long: float = 0.0
    codes: float = 0.0
    together: int = 1
    seed: int = 3

    def __call__(self, step: int) -> dict[str, Any]:
        dice = np.random.default_rng((self.seed, step))
        asked: list[tuple[Place, Turn]] = []
        while len(asked) < self.size:
            place = self.places[dice.integers(len(self.places))]
            if turns := asked_turns(*place):
                asked.append((place, led(self._chosen(turns, dice), dice)))
        common = np.random.default_rng((self.seed, self.together, step // self.together))
        share = float(common.choice(self.shares))
        side = self.resized_side(share) if common.random() < self.resized else self.side
        taken = np.flatnonzero(dice.random(self.size) < self.blind).tolist()
        blind = {number: blind_picture(str(dice.choice(BLIND)), side, dice) for number in taken}
        asked = [
            (place, without_answer(turn) if number in blind else turn) for number, (place, turn) in enumerate(asked)
        ]
        return self.collate(asked, share if side == self.side else 1.0, side, blind)

    def _chosen(self, turns: Sequence[Turn], dice: np.random.Generator) -> Turn:
        """The question of a document, of those that it has."""
        chance = dice.random()
        if chance < self.long:
            return max(turns, key=lambda turn: len(turn.answer))
        codes = [turn for turn in turns if CODE.fullmatch(turn.answer)] if chance < self.long + self.codes else []
        among = codes or turns
        return among[dice.integers(len(among))]

    def resized_side(self, share: float) -> int:
        """Side in pixels of pages that are made so small that they take a share of the tokens."""
        return CELL * max(1, round(self.side / CELL * share**0.5))

    def collate(
        self,
        asked: Sequence[tuple[Place, Turn]],
        share: float,
        side: int | None = None,
        instead: Mapping[int, NDArray] | None = None,
    ) -> dict:
        """Inputs of documents and their questions.

        Args:
            asked: documents, each with a question.
            share: of the native tokens, for all.
            side: in pixels, instead of the usual one.
            instead: pictures `(side, side, 3)` uint8 that are shown in place of documents, by their numbers.

        Returns:
            Model inputs with `labels`, and `evidence` and `wanted (cells,)`, and `known (documents,)` whether there is
            any.
        """
        side = side or self.side
        rows = side // CELL
        budget = max(1, round(share * rows**2))
        instead = instead or {}
        pages = [
            instead[number] if number in instead else enlarged(shard.pixels[index], side)
            for number, ((shard, index), _) in enumerate(asked)
        ]
        values, grids = patches(pages, frames=2)
        query_ids, query_mask = query_tokens(self.writer, [turn.question for _, turn in asked])
        evidence, wanted = zip(
            *(wanted_cells(turn, shard.pixels.shape[2:0:-1], (rows, rows)) for (shard, _), turn in asked), strict=True
        )
        return {
            **self.writer.batch([[turn] for _, turn in asked], [budget] * len(asked)),
            "pixel_values": values,
            "image_grid_thw": grids,
            "image_token_budgets": torch.full((len(asked),), budget),
            "image_query_ids": query_ids,
            "image_query_mask": query_mask,
            "image_information": torch.from_numpy(information_view(pages).ravel()),
            "evidence": torch.cat(evidence),
            "wanted": torch.cat(wanted),
            "known": torch.tensor([bool(turn.evidence) for _, turn in asked]),
        }


def answer_at_budget(model: Model, batch: dict[str, Any]) -> tuple[Tensor, Any]:
    """Logits of a batch's answers `(labels, vocabulary)`, and the allocation."""
    names = [name for name in batch if name.startswith(("image_", "pixel_", "input_", "attention_", "mm_"))]
    with torch.autocast(batch["pixel_values"].device.type, dtype=torch.bfloat16):
        outputs = model.model(**{name: batch[name] for name in names}, use_cache=False)
    return answer_logits(model, outputs.last_hidden_state, batch["labels"]), outputs.allocation


def budget_step(model: Model, batch: dict[str, Any], looking: float = 0.0) -> tuple[Tensor, Metrics]:
    """Loss of a batch's answers at its budget, and how well relevance finds the evidence; its loss counts `looking`
    where relevance learns besides."""
    logits, allocation = answer_at_budget(model, batch)
    loss, metrics = answer_loss(logits, batch["labels"])
    if "query" in allocation.maps and bool(batch["known"].any()):
        found, recall = alignment(allocation.maps["query"], batch["wanted"], batch["evidence"], batch["known"])
        loss = loss + looking * found
        metrics |= {"evidence": found.item(), "recall": recall.item()}
    return loss, metrics


@dataclass(frozen=True)
class Exam:
    """One question of each document, at several budgets and ways of choosing.

    Args:
        questions: how they are put into batches.
        shares: budgets as shares of the native tokens.
        policies: "arrcoc": the block's own, "arrcoc-random" and so on: another of the block, "resize": the picture
            made smaller instead; at native budget the first.
    """

    questions: Questions
    shares: tuple[float, ...] = (1.0, 0.25, 0.1, 0.05)
    policies: tuple[str, ...] = ("arrcoc", "resize", "arrcoc-random", "arrcoc-uniform")

    def __call__(self, model: Model) -> Metrics:
        """Share of exact answers and of evidence in full detail by policy and budget, at native budget by kind too."""
        asked = []
        for number, place in enumerate(self.questions.places):
            if turns := asked_turns(*place):
                asked.append((place, turns[number % len(turns)]))
        found: Metrics = {}
        for share in self.shares:
            for policy in self.policies if share < 1 else self.policies[:1]:
                with block_policy(model, policy):
                    found |= self._measure(model, asked, policy, share)
        return found

    def _measure(self, model: Any, asked: list, policy: str, share: float) -> Metrics:
        scores: dict[str, list[float]] = {}
        name = f"{policy}@{share}"
        side = self.questions.resized_side(share) if policy == "resize" else None
        for begin in range(0, len(asked), self.questions.size):
            part = asked[begin : begin + self.questions.size]
            batch = to_device(self.questions.collate(part, 1.0 if side else share, side), model.device)
            logits, allocation = answer_at_budget(model, batch)
            for (_, turn), (right,) in zip(part, exact_of(logits, batch["labels"]), strict=True):
                for key in (name, turn.kind) if share == 1 else (name,):
                    scores.setdefault(key, []).append(right)
            if not side and share < 1:
                counts = allocation.cells_per_image
                coverage = evidence_coverage(allocation.boxes, allocation.cell_to_leaf, batch["evidence"], counts)
                scores.setdefault(f"{name} coverage", []).extend(coverage[batch["known"]].tolist())
        return {key: sum(values) / len(values) for key, values in scores.items() if values}
