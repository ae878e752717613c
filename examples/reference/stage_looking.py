"""Stage 3: ARR-COC learns where to look from evidence, and the whole model to answer with fewer tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from arrcoc import ArrCocQwen3VLForConditionalGeneration
from arrcoc.training.data.evidence import evidence_cells
from arrcoc.training.losses import alignment_loss, evidence_coverage

from .answering import IGNORED, Turn, Writer, asked_turns, exact_of
from .features import Place, Seen, information_view
from .loop import Metrics, to_device
from .pictures import patches
from .stage_answering import answer_logits, page
from .tokenizer import CELL


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
        seed: of the randomness.
    """

    writer: Writer
    places: Sequence[Place]
    side: int
    size: int
    shares: tuple[float, ...] = (1.0,)
    resized: float = 0.0
    seed: int = 3

    def __call__(self, step: int) -> dict[str, Any]:
        dice = np.random.default_rng((self.seed, step))
        asked: list[tuple[Place, Turn]] = []
        while len(asked) < self.size:
            place = self.places[dice.integers(len(self.places))]
            if turns := asked_turns(*place):
                asked.append((place, turns[dice.integers(len(turns))]))
        share = float(dice.choice(self.shares))
        if dice.random() < self.resized:
            return self.collate(asked, 1.0, self.resized_side(share))
        return self.collate(asked, share)

    def resized_side(self, share: float) -> int:
        """Side in pixels of pages that are made so small that they take a share of the tokens."""
        return CELL * max(1, round(self.side / CELL * share**0.5))

    def collate(self, asked: Sequence[tuple[Place, Turn]], share: float, side: int | None = None) -> dict:
        """Inputs of documents and their questions.

        Args:
            asked: documents, each with a question.
            share: of the native tokens, for all.
            side: in pixels, instead of the usual one.

        Returns:
            Model inputs with `labels`, and `evidence (cells,)` and `known (documents,)` whether there is any.
        """
        side = side or self.side
        rows = side // CELL
        budget = max(1, round(share * rows**2))
        pages = [page(place, side) for place, _ in asked]
        values, grids = patches(pages, frames=2)
        query_ids, query_mask = query_tokens(self.writer, [turn.question for _, turn in asked])
        evidence = [
            evidence_cells(turn.evidence, shard.pixels.shape[2:0:-1], (rows, rows)) for (shard, _), turn in asked
        ]
        return {
            **self.writer.batch([[turn] for _, turn in asked], [budget] * len(asked)),
            "pixel_values": values,
            "image_grid_thw": grids,
            "image_token_budgets": torch.full((len(asked),), budget),
            "image_query_ids": query_ids,
            "image_query_mask": query_mask,
            "image_information": torch.from_numpy(information_view(pages).ravel()),
            "evidence": torch.cat(evidence),
            "known": torch.tensor([bool(turn.evidence) for _, turn in asked]),
        }


def alignment(query: Tensor, evidence: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the map of what is asked for, and recall: evidence in as many best cells as hold any.

    Args:
        query: `(cells,)` in [0, 1], of questions about pictures of one size.
        evidence: `(cells,)` in [0, 1].
        known: `(questions,)` whether there is evidence; at least one.
    """
    counts = torch.full((int(known.sum()),), len(query) // len(known))
    query, evidence = (values.view(len(known), -1)[known] for values in (query, evidence))
    loss = alignment_loss("bce", query.flatten(), evidence.flatten(), counts).mean()
    best = query.argsort(1, descending=True)
    held = torch.arange(query.shape[1], device=query.device) < (evidence > 0.05).sum(1, keepdim=True)
    recall = (evidence.gather(1, best) * held).sum(1) / evidence.sum(1).clamp(min=1e-6)
    return loss, recall.mean()


@dataclass(frozen=True)
class Glances:
    """Batches of questions whose evidence is known, about pages as features of a glance.

    Args:
        writer: of chats.
        glance: what the tower sees of small pages; its documents are those that are asked about.
        information: what the processor measures of them.
        level: of the glance.
        size: documents of a batch.
        turns: questions about each document, at most.
        seed: of the randomness.
    """

    writer: Writer
    glance: Seen
    information: Seen
    level: int
    size: int
    turns: int = 4
    seed: int = 2

    def __call__(self, step: int) -> dict[str, Any]:
        dice = np.random.default_rng((self.seed, step))
        asked: list[tuple[Place, list[Turn]]] = []
        while len(asked) < self.size:
            place = self.glance.places[dice.integers(len(self.glance.places))]
            if turns := [turn for turn in asked_turns(*place) if turn.evidence]:
                asked.append((place, [turns[number] for number in dice.permutation(len(turns))[: self.turns]]))
        return self.collate(asked)

    def collate(self, asked: Sequence[tuple[Place, list[Turn]]]) -> dict[str, Any]:
        """Features of documents, and the questions about each with their evidence.

        Returns:
            `features (documents, leaves, dim)`, `information (documents, cells)`, and of the questions `query_ids`,
            `query_mask (questions, length)`, `evidence (cells of all questions,)` and `document (questions,)`.
        """
        rows = self.glance.rows
        ids, mask = query_tokens(self.writer, [turn.question for _, turns in asked for turn in turns])
        evidence = [
            evidence_cells(turn.evidence, shard.pixels.shape[2:0:-1], (rows, rows))
            for (shard, _), turns in asked
            for turn in turns
        ]
        return {
            "features": torch.from_numpy(np.stack([self.glance.page(*place) for place, _ in asked])),
            "information": torch.from_numpy(np.stack([self.information.page(*place) for place, _ in asked])),
            "query_ids": ids,
            "query_mask": mask,
            "evidence": torch.cat(evidence),
            "document": torch.arange(len(asked)).repeat_interleave(torch.tensor([len(turns) for _, turns in asked])),
        }


def looking_step(model: ArrCocQwen3VLForConditionalGeneration, batch: dict[str, Any]) -> tuple[Tensor, Metrics]:
    """Loss of a batch for the relevance alone: where the evidence is."""
    base, document = model.model, batch["document"]
    level = model.config.arrcoc_config.glance_level
    rows = int(batch["information"].shape[1] ** 0.5)
    features = batch["features"].float().unflatten(1, (rows >> level, rows >> level))  # (documents, y, x, dim)
    cells = features.repeat_interleave(2**level, 1).repeat_interleave(2**level, 2).flatten(1, 2)
    grids = torch.full((len(document), 2), rows, device=cells.device)
    question = base.get_input_embeddings()(batch["query_ids"]).detach()
    known = {"information": batch["information"][document].flatten()}
    _, maps, _ = base.arrcoc.relevance(cells[document].flatten(0, 1), grids, question, batch["query_mask"], known)
    loss, recall = alignment(maps["query"], batch["evidence"], torch.ones_like(document, dtype=torch.bool))
    return loss, {"evidence": loss.item(), "recall": recall.item()}


def measure_looking(model: ArrCocQwen3VLForConditionalGeneration, glances: Glances, batches: int = 8) -> Metrics:
    """Recall of evidence by the map of what is asked for."""
    found = [looking_step(model, to_device(glances(number), model.device))[1] for number in range(batches)]
    return {name: sum(metrics[name] for metrics in found) / len(found) for name in found[0]}


def query_tokens(writer: Writer, questions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask `(questions, length)`, padded on the right as the processor does."""
    encoded = [writer.encode(question) for question in questions]
    length = max(map(len, encoded))
    pad = writer.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in encoded])
    return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in encoded])


def answer_at_budget(model: ArrCocQwen3VLForConditionalGeneration, batch: dict[str, Any]) -> tuple[Tensor, Any]:
    """Logits of a batch's answers `(labels, vocabulary)`, and the allocation."""
    names = [name for name in batch if name.startswith(("image_", "pixel_", "input_", "attention_", "mm_"))]
    with torch.autocast(batch["pixel_values"].device.type, dtype=torch.bfloat16):
        outputs = model.model(**{name: batch[name] for name in names}, use_cache=False)
        return answer_logits(model, outputs.last_hidden_state, batch["labels"]).float(), outputs.allocation


def budget_step(
    model: ArrCocQwen3VLForConditionalGeneration, evidence_weight: float, batch: dict[str, Any]
) -> tuple[Tensor, Metrics]:
    """Loss of a batch for the whole model: answers at the batch's budget, and evidence where relevance chose."""
    logits, allocation = answer_at_budget(model, batch)
    labels = batch["labels"]
    loss = F.cross_entropy(logits, labels[:, 1:][labels[:, 1:] != IGNORED])
    right = [good for chat in exact_of(logits, labels) for good in chat]
    metrics = {"answer": loss.item(), "exact": sum(right) / len(right)}
    if "query" in allocation.maps and bool(batch["known"].any()):
        found, recall = alignment(allocation.maps["query"], batch["evidence"], batch["known"])
        loss = loss + evidence_weight * found
        metrics |= {"evidence": found.item(), "recall": recall.item()}
    return loss, metrics


@dataclass(frozen=True)
class BudgetExam:
    """One question of each document, at several budgets and ways of choosing.

    Args:
        questions: how they are put into batches.
        shares: budgets as shares of the native tokens.
        policies: of the ARR-COC block, and "resize": the picture made smaller instead.
    """

    questions: Questions
    shares: tuple[float, ...] = (1.0, 0.25, 0.1, 0.05)
    policies: tuple[str, ...] = ("lod", "resize", "random", "uniform")

    def __call__(self, model: ArrCocQwen3VLForConditionalGeneration) -> Metrics:
        """Share of exact answers by policy and budget, and of evidence in full detail."""
        asked = []
        for number, place in enumerate(self.questions.places):
            if turns := asked_turns(*place):
                asked.append((place, turns[number % len(turns)]))
        block, found = model.config.arrcoc_config, {}
        for share in self.shares:
            for policy in self.policies if share < 1 else self.policies[:1]:
                found |= self._measure(model, block, asked, policy, share)
        block.policy = "lod"
        return found

    def _measure(self, model: Any, block: Any, asked: list, policy: str, share: float) -> Metrics:
        right, covered = [], []
        block.policy = "lod" if policy == "resize" else policy
        side = self.questions.resized_side(share) if policy == "resize" else None
        for begin in range(0, len(asked), 32):
            batch = self.questions.collate(asked[begin : begin + 32], 1.0 if side else share, side)
            logits, allocation = answer_at_budget(model, to_device(batch, model.device))
            right += [good for (good,) in exact_of(logits, batch["labels"].to(logits.device))]
            if not side and share < 1:
                counts = allocation.cells_per_image
                coverage = evidence_coverage(allocation.boxes, allocation.cell_to_leaf, batch["evidence"], counts)
                covered += coverage.cpu()[batch["known"]].tolist()
        metrics = {f"{policy}@{share}": sum(right) / len(right)}
        if covered:
            metrics[f"{policy}@{share} coverage"] = sum(covered) / len(covered)
        return metrics
