"""What the losses make of a forward pass: the tensors that each needs, and how it is scaled."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..distribution import distribution_loss, level_losses, nearest_levels
from ..host_statistics import HostStatistics
from ..outputs import Allocation, ArrCocModelOutputWithPast
from ..reconstruction import reconstruction_loss
from .losses import (
    alignment_loss,
    balance_loss,
    budget_loss,
    coherence_loss,
    cosine_collapse_loss,
    efficiency_loss,
    info_nce_loss,
    mean_per_image,
    tier_diversity_loss,
)


logger = logging.getLogger(__name__)

# Losses that are means over images, by the key of a batch that says which images they are of.
PER_IMAGE = {
    "efficiency": "images",
    "budget": "images",
    "alignment": "has_evidence",
    "teacher": "has_teacher",
    "coherence": "images",
}
COUNTED = ("images", "has_evidence", "has_teacher")


@dataclass
class ForwardRecord:
    """A forward pass of training or evaluation, for monitors.

    Attributes:
        allocation ([`Allocation`], *optional*): where the visual tokens went.
        visual_tokens (`list[Tensor]`, *optional*): of each image, of shape `(tokens, dim)`, without gradient.
        loss (`float`): the weighted sum of all losses, as it was differentiated.
        tasks (`list[str]`): kinds of the questions, where the collator says them.
    """

    allocation: Allocation | None
    visual_tokens: list[Tensor] | None
    loss: float
    tasks: list[str]


def count_images(batches: list[Mapping[str, Any]]) -> Tensor:
    """How many images there are in some batches: all, those with evidence and those with a teacher; int64 `(3,)`."""
    counts = torch.zeros(3, dtype=torch.long)
    for batch in batches:
        grids = batch.get("image_grid_thw")
        counts[0] += 0 if grids is None else len(grids)
        for place, name in enumerate(COUNTED[1:], 1):
            counts[place] += int(batch[name].sum()) if name in batch else 0
    return counts


# Losses that only a model with a learned part can have: the option of the block and its value.
NEEDS = {
    "efficiency": ("budget", "learned"),
    "budget": ("budget", "learned"),
    "tier_diversity": ("budget", "learned"),
    "balance": ("relevance", "learned"),
    "alignment": ("relevance", "learned"),
    "teacher": ("relevance", "learned"),
    "coherence": ("semantic_depth", "learned"),
}


class Objectives:
    """The auxiliary losses of a model, as its training arguments ask.

    Args:
        arguments ([`ArrCocArgumentsMixin`]): weights and options.
        base ([`ArrCocModelMixin`]): the host's base model.
        device (`torch.device`): of training.

    Raises:
        FileNotFoundError: if host statistics are needed and missing.
        ValueError: if these are of another host, or the model does not learn what a loss is about.
    """

    def __init__(self, arguments: Any, base: Any, device: torch.device):
        self.arguments, self.base = arguments, base
        self.names = [name for name in arguments.schedules() if name != "answer"]
        block = base.config.arrcoc_config
        for name in self.names:
            option, value = NEEDS.get(name, ("model_type", block.model_type))
            if getattr(block, option) != value:
                raise ValueError(
                    f"the loss {name!r} needs a model with `{option}={value!r}`; it is {getattr(block, option)!r}"
                )
        learns = block.relevance == "learned" and any(p.requires_grad for p in base.arrcoc.relevance.parameters())
        if learns and not block.answers_reach_relevance and not {"alignment", "teacher"} & set(self.names):
            logger.warning(
                "relevance learns nothing: answers do not reach it with policy=%r and relaxation=%r, and neither of "
                "the losses 'alignment' and 'teacher' is among those of this training (%s)",
                block.policy,
                block.relaxation,
                ", ".join(["answer", *self.names]),
            )
        self.needs_native_tokens = "reconstruction" in self.names or (
            "contrastive" in self.names and arguments.contrastive == "info_nce"
        )
        self.statistics: Any = None  # of the host, where the loss `distribution` is asked for
        if "distribution" in self.names:
            if arguments.host_statistics is None:
                raise ValueError("the loss 'distribution' needs `host_statistics`; `arrcoc preflight` measures them")
            measured = HostStatistics.from_pretrained(arguments.host_statistics, base)
            self.statistics = measured.layers["tokens"].to(device)

    def compute(
        self,
        output: ArrCocModelOutputWithPast,
        inputs: Mapping[str, Any],
        auxiliary: Mapping[str, Any],
        step: int,
        idle: bool,
    ) -> dict[str, Tensor]:
        """The losses that this batch has a say in.

        Args:
            output: of the base model.
            inputs (`Mapping`): of the model.
            auxiliary (`Mapping`): `evidence`, `has_evidence`, `teacher`, `has_teacher` of the batch's own images.
            step (`int`): optimizer step.
            idle (`bool`): whether the last image is an idle one: losses of whole batches are then left out.

        Returns:
            `dict[str, Tensor]`: by name; of shape `(images,)` those of `PER_IMAGE`, numbers the others.
        """
        allocation = output.allocation
        if allocation is None:
            return {}
        images = len(allocation) - idle
        losses = {}
        for name in self.names:
            if idle and name not in PER_IMAGE:
                continue
            loss = getattr(self, f"_{name}")(output, inputs, auxiliary, step)
            if loss is not None:
                losses[name] = loss[:images] if name in PER_IMAGE else loss
        return losses

    def _efficiency(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        allocation = output.allocation
        if allocation.expected_tokens is None:  # the budgets of this batch were given
            return None
        return efficiency_loss(allocation.expected_tokens, allocation.placeholders, self.arguments.efficiency_target)

    def _budget(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        probabilities, suggested = output.allocation.tier_probabilities, auxiliary.get("suggested_budgets")
        if probabilities is None or suggested is None:
            return None
        tiers = torch.tensor(self.base.config.arrcoc_config.tiers, device=probabilities.device)
        chosen = probabilities.sum(1) > 0  # not given
        suggested = torch.cat([suggested, suggested.new_zeros(len(chosen) - len(suggested))])  # of an idle image
        return budget_loss(probabilities, tiers, suggested) * chosen

    def _aligned(self, output: Any, auxiliary: Any, target: str, kind: str) -> Tensor | None:
        if target not in auxiliary:
            return None
        allocation, name = output.allocation, self.arguments.alignment_map
        maps = {"relevance": allocation.relevance, **allocation.maps}
        if not allocation.maps:  # all images are native, and nothing was scored
            return None
        if name not in maps:
            raise ValueError(f"the model has no map {name!r} to align; there are {sorted(maps)}")
        cells = auxiliary[target]
        missing = len(maps[name]) - len(cells)  # of an idle image
        cells = torch.cat([cells, cells.new_zeros(missing)])
        return alignment_loss(kind, maps[name], cells, allocation.cells_per_image)

    def _alignment(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        return self._aligned(output, auxiliary, "evidence", self.arguments.alignment)

    def _teacher(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        return self._aligned(output, auxiliary, "teacher", "kl")

    def _distribution(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor:
        tokens, levels, name = output.image_hidden_states, output.allocation.levels, self.arguments.distribution
        if step >= self.arguments.distribution_apart_steps:
            return distribution_loss(name, tokens, levels, self.statistics)
        coarsest = int(nearest_levels(levels).max()) + 1
        apart = level_losses(name, tokens, levels, self.statistics)
        return apart.get(step % coarsest, tokens.float().sum() * 0)

    def _tier_diversity(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        probabilities = output.allocation.tier_probabilities
        if probabilities is None:
            return None
        chosen = probabilities.sum(1) > 0  # not given
        return tier_diversity_loss(probabilities[chosen], self.arguments.tier_hedging) if chosen.any() else None

    def _balance(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        return balance_loss(output.allocation.balance) if output.allocation.balance else None

    def _coherence(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor | None:
        allocation = output.allocation
        if allocation.depths is None:
            return None
        layers = len(self.base.config.vision_config.deepstack_visual_indexes)
        return coherence_loss(allocation.depths / layers, allocation.budgets, allocation.cells_per_image)

    def _reconstruction(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor:
        cells = torch.cat(self._native_tokens(inputs))  # (cells, dim)
        return reconstruction_loss(cells, output.image_hidden_states, output.allocation)

    def _contrastive(self, output: Any, inputs: Any, auxiliary: Any, step: int) -> Tensor:
        means = mean_per_image(output.image_hidden_states, output.allocation.budgets)  # (images, dim)
        seen = mean_per_image(inputs["pixel_values"].float(), inputs["image_grid_thw"].prod(1))  # (images, patch_dim)
        same = torch.cdist(seen, seen) <= 1e-6
        if self.arguments.contrastive == "cosine":
            return cosine_collapse_loss(means, same)
        return info_nce_loss(means, torch.stack([tokens.mean(0) for tokens in self._native_tokens(inputs)]), same)

    @torch.no_grad()
    def _native_tokens(self, inputs: Any) -> list[Tensor]:
        """The host's own tokens of each image, one a cell, of shape `(cells, dim)`."""
        encoded = self.base.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
        return list(encoded.pooler_output)


__all__ = ["ForwardRecord", "Objectives"]
