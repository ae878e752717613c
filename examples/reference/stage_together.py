"""Stage 7: the language model alone again, of whole pages and under budgets in every step."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .loop import Metrics


Batch = dict[str, Any]


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
    losses: dict[str, Callable[[Batch], tuple[Tensor, Metrics]]], batch: Batch
) -> tuple[Tensor, Metrics]:
    """Sum of the losses of a batch of [`Together`], each kind of its own part; measures under the kinds' names."""
    total, metrics = torch.zeros(()), {}
    for kind, loss_of in losses.items():
        own = {name.removeprefix(f"{kind}."): value for name, value in batch.items() if name.startswith(f"{kind}.")}
        loss, found = loss_of(own)
        total = total.to(loss.device) + loss
        metrics |= {f"{kind}.{name}": value for name, value in found.items()}
    return total, metrics
