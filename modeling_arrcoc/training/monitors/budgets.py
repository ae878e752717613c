"""A monitor of the budgets that a model chooses."""

from typing import Any

import torch
from torch import Tensor

from .base import Monitor


class BudgetMonitor(Monitor):
    """Histogram of the tokens an image takes: collapsed to the lowest tier, or hedging around one value everywhere.

    Logged are the tokens that were spent. Judged is what a model that chooses budgets by itself expects to spend: in
    training it draws them at random, which hides that it gives all images the same.

    Args:
        action, every: as of [`Monitor`].
        most_lowest (`float`): share of images at the lowest tier above which the choice has collapsed.
        least_spread (`float`): standard deviation of the tokens, as a share of their mean, below which the model
            hedges and gives all images the same.
        least_images (`int`): images that must have been seen since the last look to judge.
        patience (`int`): optimizer steps before anything is judged; an untrained router treats all images alike.
    """

    name = "budgets"

    def __init__(
        self,
        action: str = "warn",
        every: int = 100,
        most_lowest: float = 0.95,
        least_spread: float = 0.1,
        least_images: int = 32,
        patience: int = 1000,
    ):
        super().__init__(action, every)
        self.most_lowest, self.least_spread = most_lowest, least_spread
        self.least_images, self.patience = least_images, patience
        self.tiers: list[int] = []
        self.tokens: dict[str, list[Tensor]] = {"all": [], "chosen": []}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        super().on_train_begin(args, state, control, **kwargs)
        self.tiers = self.trainer.base.config.arrcoc_config.tiers

    def observe(self) -> None:
        allocation = self.trainer.last_forward.allocation
        if allocation is not None:
            tokens = allocation.budgets.detach().cpu()
            self.tokens["all"].append(tokens)
            if allocation.tier_probabilities is not None:
                is_chosen = (allocation.tier_probabilities > 0).any(1)
                self.tokens["chosen"].append(allocation.expected_tokens.detach()[is_chosen].cpu())

    def look(self) -> None:
        counts = torch.stack([self._counts(self.tokens[kind]) for kind in ("all", "chosen")])
        self.tokens = {"all": [], "chosen": []}
        if self.trainer.args.world_size > 1:
            counts = self.trainer.accelerator.reduce(counts.to(self.trainer.args.device), "sum")
        images, mean, deviation, shares = self._summary(counts[0])
        if not images:
            return
        self.log({"tokens_mean": mean, "tokens_std": deviation} | {f"share_{t}": share for t, share in shares.items()})
        images, mean, deviation, shares = self._summary(counts[1])
        if images < self.least_images or self.trainer.state.global_step < self.patience:
            return
        lowest = self.tiers[0]
        problem = None
        if shares[lowest] > self.most_lowest:
            problem = f"{shares[lowest]:.0%} of the images get about {lowest} tokens, above {self.most_lowest:.0%}"
        elif deviation < self.least_spread * mean:
            problem = f"all images get about {mean:.0f} tokens: their spread is {deviation / mean:.2f} of it"
        self.judge(problem)

    def _counts(self, seen: list[Tensor]) -> Tensor:
        """Images by their nearest tier, then the sums of their tokens and of the squares of these."""
        tokens = torch.cat([torch.zeros(0), *seen])  # (images,)
        ratios = tokens[:, None].log() - torch.tensor(self.tiers).log()  # (images, tiers)
        images = torch.bincount(ratios.abs().argmin(1), minlength=len(self.tiers))
        return torch.cat([images.float(), tokens.sum()[None], tokens.square().sum()[None]])

    def _summary(self, counts: Tensor) -> tuple[float, float, float, dict[int, float]]:
        """Number of images, mean and standard deviation of their tokens, and the share of each tier."""
        *tiers, total, squares = counts.tolist()
        images = sum(tiers)
        mean = total / max(images, 1)
        deviation = max(squares / max(images, 1) - mean**2, 0) ** 0.5
        shares = {tier: count / max(images, 1) for tier, count in zip(self.tiers, tiers, strict=True)}
        return images, mean, deviation, shares
