"""Stage 3: ARR-COC learns where to look from evidence, and the whole model to answer with fewer tokens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from arrcoc import ArrCocQwen3VLForConditionalGeneration
from arrcoc.processing.information import information_map
from arrcoc.training.data.evidence import evidence_cells
from arrcoc.training.losses import alignment_loss, evidence_coverage

from .answering import IGNORED, Turn, Writer, asked_turns
from .loop import Metrics, to_device
from .pictures import patches
from .reading import CLASSES, SLOTS, cell_texts, reading_accuracy, reading_loss
from .stage_answering import Place, answer_logits, exact_of, page
from .tokenizer import CELL


GRAY = np.array((0.299, 0.587, 0.114), np.float32) / 255


@dataclass(frozen=True)
class Questions:
    """Batches of documents of one size, with one question each or several, and where the answers stand.

    Args:
        writer: of chats.
        places: documents.
        side: in pixels that they are seen at.
        size: documents of a batch.
        shares: budgets to draw from, as shares of the native tokens.
        turns: questions about each document, at most.
        seed: of the randomness.
    """

    writer: Writer
    places: Sequence[Place]
    side: int
    size: int
    shares: tuple[float, ...] = (1.0,)
    turns: int = 1
    seed: int = 2

    def __call__(self, step: int) -> dict[str, Any]:
        dice = np.random.default_rng((self.seed, step))
        asked: list[tuple[Place, list[Turn]]] = []
        while len(asked) < self.size:
            place = self.places[dice.integers(len(self.places))]
            if turns := asked_turns(*place):
                chosen = dice.permutation(len(turns))[: self.turns]
                asked.append((place, [turns[index] for index in chosen]))
        return self.collate(asked, float(dice.choice(self.shares)))

    def collate(self, asked: Sequence[tuple[Place, list[Turn]]], share: float, side: int | None = None) -> dict:
        """Inputs of documents and their questions.

        Args:
            asked: documents, each with its questions.
            share: of the native tokens, for all.
            side: in pixels, instead of the usual one.

        Returns:
            Model inputs for the first question of each document, and `evidence (cells of all questions,)`, `known
            (questions,)` whether there is evidence, `document (questions,)`, and `texts (cells, SLOTS)`.
        """
        side = side or self.side
        rows = side // CELL
        budget = max(1, round(share * rows**2))
        pages = [page(place, side) for place, _ in asked]
        values, grids = patches(pages, frames=2)
        information = np.concatenate([information_map(picture @ GRAY, CELL) for picture in pages])
        inputs = self.writer.batch([turns[:1] for _, turns in asked], [budget] * len(asked))
        questions = [turn.question for _, turns in asked for turn in turns]
        query_ids, query_mask = self._queries(questions)
        evidence = [
            evidence_cells(turn.evidence, shard.pixels.shape[2:0:-1], (rows, rows))
            for (shard, _), turns in asked
            for turn in turns
        ]
        texts = []
        for (shard, index), _ in asked:
            centers, codes, starts = shard.letters(index)
            texts.append(cell_texts(centers * (side / shard.pixels.shape[2]), codes, starts, rows, rows))
        return {
            **inputs,
            "pixel_values": values,
            "image_grid_thw": grids,
            "image_token_budgets": torch.full((len(asked),), budget),
            "image_query_ids": query_ids,
            "image_query_mask": query_mask,
            "image_information": torch.from_numpy(information),
            "evidence": torch.cat(evidence),
            "known": torch.tensor([bool(turn.evidence) for _, turns in asked for turn in turns]),
            "document": torch.arange(len(asked)).repeat_interleave(torch.tensor([len(turns) for _, turns in asked])),
            "texts": torch.from_numpy(np.concatenate(texts)),
        }

    def _queries(self, questions: list[str]) -> tuple[Tensor, Tensor]:
        """Token ids and mask `(questions, length)`, padded on the right as the processor does."""
        encoded = [self.writer.encode(question) for question in questions]
        length = max(map(len, encoded))
        pad = self.writer.tokenizer.pad_token_id
        ids = torch.tensor([row + [pad] * (length - len(row)) for row in encoded])
        mask = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in encoded])
        return ids, mask


class ScoutReader(nn.Module):
    """A linear head that reads off the scout's cells; what it learns is what makes a scout find a key.

    Args:
        dim: width of the scout.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.head = nn.Linear(dim, SLOTS * CLASSES)

    def forward(self, cells: Tensor) -> Tensor:
        """Logits `(cells, SLOTS, CLASSES)` from features `(cells, dim)`."""
        return self.head(cells).unflatten(1, (SLOTS, CLASSES))


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


def looking_step(
    model: ArrCocQwen3VLForConditionalGeneration, reader: ScoutReader, batch: dict[str, Any]
) -> tuple[Tensor, Metrics]:
    """Loss of a batch for the ARR-COC block alone: evidence, and reading with the scout."""
    base = model.model
    grids = batch["image_grid_thw"][:, 1:] // 2
    with torch.autocast(batch["pixel_values"].device.type, dtype=torch.bfloat16):
        scouted = base.arrcoc.scout(batch["pixel_values"], grids)  # (cells, dim)
        texts = reader(scouted)
    reading = reading_loss(texts, batch["texts"])
    right, printed = reading_accuracy(texts, batch["texts"])
    metrics = {"scout_reading": reading.item(), "scout_read": right / max(printed, 1)}
    if not bool(batch["known"].any()):
        return reading, metrics
    document = batch["document"]
    cells = scouted.float().view(len(grids), -1, scouted.shape[1])[document].flatten(0, 1)  # (cells of questions, dim)
    information = batch["image_information"].view(len(grids), -1)[document].flatten()
    question = base.get_input_embeddings()(batch["image_query_ids"]).detach()
    known_maps = {"information": information}
    _, maps, _ = base.arrcoc.relevance(cells, grids[document], question, batch["image_query_mask"], known_maps)
    loss, recall = alignment(maps["query"], batch["evidence"], batch["known"])
    return loss + reading, {**metrics, "evidence": loss.item(), "recall": recall.item()}


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
                asked.append((place, [turns[number % len(turns)]]))
        block, found = model.config.arrcoc_config, {}
        for share in self.shares:
            for policy in self.policies if share < 1 else self.policies[:1]:
                found |= self._measure(model, block, asked, policy, share)
        block.policy = "lod"
        return found

    def _measure(self, model: Any, block: Any, asked: list, policy: str, share: float) -> Metrics:
        right, covered = [], []
        block.policy = "lod" if policy == "resize" else policy
        side = CELL * max(1, round(self.questions.side / CELL * share**0.5)) if policy == "resize" else None
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
