"""Stages 4 and 7: relevance learns from evidence where to look, on glances that a still tower has taken."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from arrcoc.training.data.evidence import evidence_cells
from arrcoc.training.losses import alignment_loss

from .answering import Turn, Writer, asked_turns, led
from .features import Place, Seen
from .loop import Metrics, to_device
from .model import Model


ENOUGH = 1 / 3  # of a cell: where so much of it is evidence it is wanted wholly, for letters are cut at its edge
NAMED = 0.5  # of the words that a question names, where its answer counts 1: they say which answer it is


def query_tokens(writer: Writer, questions: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and mask `(questions, length)`, padded on the right as the processor does."""
    encoded = [writer.encode(question) for question in questions]
    length = max(map(len, encoded))
    pad = writer.tokenizer.pad_token_id
    ids = torch.tensor([row + [pad] * (length - len(row)) for row in encoded])
    return ids, torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in encoded])


def wanted_cells(turn: Turn, size: tuple[int, int], grid: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Evidence of a question, and what relevance is taught: evidence and, with less weight, the words it names.

    Args:
        turn: the question.
        size: width and height of the document in pixels.
        grid: rows and columns of cells.

    Returns:
        Two tensors `(cells,)` in [0, 1]: evidence as a share of each cell, and how much each is wanted.
    """
    evidence, named = (evidence_cells(boxes, size, grid) for boxes in (turn.evidence, turn.named))
    answer, key = ((share / ENOUGH).clamp(max=1) for share in (evidence, named))
    return evidence, torch.maximum(answer, NAMED * key)


def alignment(query: Tensor, wanted: Tensor, evidence: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """Loss of the map of what is asked for, and recall: evidence in as many best cells as hold any.

    Args:
        query: `(cells,)` in [0, 1], of questions about pictures of one size.
        wanted, evidence: `(cells,)` in [0, 1], as from `wanted_cells`.
        known: `(questions,)` whether there is evidence; at least one.
    """
    counts = torch.full((int(known.sum()),), len(query) // len(known))
    query, wanted, evidence = (values.view(len(known), -1)[known] for values in (query, wanted, evidence))
    loss = alignment_loss("bce", query.flatten(), wanted.flatten(), counts).mean()
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
        size: documents of a batch.
        turns: questions about each document, at most.
        seed: of the randomness.
    """

    writer: Writer
    glance: Seen
    information: Seen
    size: int
    turns: int = 4
    seed: int = 2

    def __call__(self, step: int) -> dict[str, Any]:
        dice = np.random.default_rng((self.seed, step))
        asked: list[tuple[Place, list[Turn]]] = []
        while len(asked) < self.size:
            place = self.glance.places[dice.integers(len(self.glance.places))]
            if turns := [turn for turn in asked_turns(*place) if turn.evidence]:
                chosen = dice.permutation(len(turns))[: self.turns]
                asked.append((place, [led(turns[number], dice) for number in chosen]))
        return self.collate(asked)

    def collate(self, asked: Sequence[tuple[Place, list[Turn]]]) -> dict[str, Any]:
        """Features of documents, and the questions about each with their evidence.

        Returns:
            `features (documents, leaves, dim)`, `information (documents, cells)`, and of the questions `query_ids`,
            `query_mask (questions, length)`, `evidence` and `wanted (cells of all questions,)` and
            `document (questions,)`.
        """
        rows = self.glance.rows
        ids, mask = query_tokens(self.writer, [turn.question for _, turns in asked for turn in turns])
        evidence, wanted = zip(
            *(
                wanted_cells(turn, shard.pixels.shape[2:0:-1], (rows, rows))
                for (shard, _), turns in asked
                for turn in turns
            ),
            strict=True,
        )
        return {
            "features": torch.from_numpy(np.stack([self.glance.page(*place) for place, _ in asked])),
            "information": torch.from_numpy(np.stack([self.information.page(*place) for place, _ in asked])),
            "query_ids": ids,
            "query_mask": mask,
            "evidence": torch.cat(evidence),
            "wanted": torch.cat(wanted),
            "document": torch.arange(len(asked)).repeat_interleave(torch.tensor([len(turns) for _, turns in asked])),
        }


def looking_step(model: Model, batch: dict[str, Any]) -> tuple[Tensor, Metrics]:
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
    everyone = torch.ones_like(document, dtype=torch.bool)
    loss, recall = alignment(maps["query"], batch["wanted"], batch["evidence"], everyone)
    return loss, {"evidence": loss.item(), "recall": recall.item()}


def measure_looking(model: Model, glances: Glances, batches: int = 8) -> Metrics:
    """Recall of evidence by the map of what is asked for."""
    found = [looking_step(model, to_device(glances(number), model.device))[1] for number in range(batches)]
    return {name: sum(metrics[name] for metrics in found) / len(found) for name in found[0]}
