"""What evaluation measures, exactly: every row once, and every loss over what it divides by."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from transformers import Trainer
from transformers.trainer_utils import EvalLoopOutput

from .losses import IGNORED, count_items, evidence_coverage, exact_answers, rows_of_images
from .objectives import PER_IMAGE


_Base: Any = Trainer if TYPE_CHECKING else object

_SHARES = ("tokens_per_image", "evidence_coverage", "exact")


class EvaluationMixin(_Base):
    """Evaluation of [`ArrCocTrainerMixin`], on any number of processes and in batches of any size.

    A mean of means would give the tokens of a small last batch more weight than others, and accelerate fills the last
    batch of several processes with rows that were evaluated before. So sums and their numbers are kept apart, and
    repeated rows are left out of both.
    """

    _totals: dict[str, tuple[float, float]] = {}  # of an evaluation: a sum and what it is to be divided by

    def _own_rows(self, rows: int) -> int:
        """How many of the rows of this process's batch, from the first, do not repeat those of another."""
        state = self.accelerator.gradient_state
        if self.args.world_size == 1 or not state.end_of_dataloader or state.remainder < 1:
            return rows
        return min(max(state.remainder - self.args.process_index * rows, 0), rows)

    def _without_repetitions(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The model's inputs, with no labels in rows that repeat others."""
        rows = len(inputs["input_ids"])
        own = self._own_rows(rows)
        if own == rows or "labels" not in inputs:
            return inputs
        labels = inputs["labels"].clone()
        labels[own:] = IGNORED
        return {**inputs, "labels": labels}

    @torch.no_grad()
    def _measure(
        self,
        answer: Tensor,
        losses: Mapping[str, Tensor],
        output: Any,
        inputs: Mapping[str, Any],
        auxiliary: Mapping[str, Any],
        logits: Tensor | None,
        idle: bool,
    ) -> None:
        """Take in a batch.

        Args:
            answer (`Tensor`): the answer loss, a mean over this batch.
            losses (`Mapping`): the auxiliary losses, of shape `(images,)` those of `PER_IMAGE`.
            output ([`ArrCocModelOutputWithPast`]): of the base model.
            inputs (`Mapping`): of the model, with `labels` where there are any.
            auxiliary (`Mapping`): what the collator says besides.
            logits (`Tensor` of shape `(batch, length, vocabulary)`, *optional*): where the model returned them.
            idle (`bool`): whether the last row, with the last image, is an idle one.
        """
        labels = inputs.get("labels")
        if labels is not None:
            items = count_items(labels, self.args.answer_normalization)
            self._add("loss/answer", answer * items, items)
            if logits is not None:
                self._add("exact", *exact_answers(logits, labels))
        allocation = output.allocation
        if allocation is None:
            return
        placeholders = allocation.budgets if allocation.placeholders is None else allocation.placeholders
        images = len(allocation) - idle
        row = rows_of_images(inputs["input_ids"] == self.base.config.image_token_id, placeholders)[:images]
        counted = row < self._own_rows(len(inputs["input_ids"]) - idle)  # (images,)
        budgets, cells = allocation.budgets[:images], allocation.cells_per_image[:images]
        for name, loss in losses.items():
            if name not in PER_IMAGE:
                if counted.any():
                    self._add(f"loss/{name}", loss * counted.sum(), counted)
                continue
            if name in ("efficiency", "budget"):
                is_judged = allocation.tier_probabilities[:images].sum(1) > 0  # not given
            else:  # a native image is scored beside others alone
                is_judged = auxiliary.get(PER_IMAGE[name], counted).to(cells.device) & (budgets < cells)
            judged = counted & is_judged.to(counted.device)
            self._add(f"loss/{name}", loss[judged.to(loss.device)], judged)
        self._add("tokens_per_image", budgets[counted.to(budgets.device)], counted)
        if "evidence" in auxiliary:
            of_images = allocation.cell_to_leaf[: int(cells.sum())]
            covered = evidence_coverage(allocation.boxes, of_images, auxiliary["evidence"], cells)
            judged = counted & auxiliary["has_evidence"].to(counted.device)
            self._add("evidence_coverage", covered[judged.to(covered.device)], judged)

    def _add(self, name: str, values: Tensor, among: Tensor) -> None:
        total, number = self._totals.get(name, (0.0, 0.0))
        self._totals[name] = total + float(values.double().sum()), number + float(among.sum())

    def evaluation_loop(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> EvalLoopOutput:
        """As in transformers, with more metrics: `loss/...` by name, `tokens_per_image`, `evidence_coverage` (the
        share of evidence that is drawn in full detail) and `exact` (the share of samples that greedy decoding would
        answer with the very words of the data). `loss` is the weighted sum of the losses.

        Losses of whole batches are averaged over images, each with the loss of the batch that it was in.
        """
        self._totals = {}
        output = super().evaluation_loop(*args, metric_key_prefix=metric_key_prefix, **kwargs)
        losses = [f"loss/{name}" for name in sorted(self.schedules)]
        names = [*losses, *_SHARES]  # the same in all processes, whatever their rows are
        totals = torch.tensor([self._totals.get(name, (0.0, 0.0)) for name in names], dtype=torch.float64)
        if self.args.world_size > 1:
            totals = self._gathered(totals)  # (names, 2)
        found = {name: total / number for name, (total, number) in zip(names, totals.tolist(), strict=True) if number}
        output.metrics.update({f"{metric_key_prefix}_{name}": value for name, value in found.items()})
        if any(name in found for name in losses):
            weights = {f"loss/{name}": schedule(self.state.global_step) for name, schedule in self.schedules.items()}
            output.metrics[f"{metric_key_prefix}_loss"] = sum(
                weights[name] * found[name] for name in losses if name in found and weights[name] != 0
            )
        return output


__all__ = ["EvaluationMixin"]
