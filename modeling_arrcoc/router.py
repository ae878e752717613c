"""Learned budgets: how many visual tokens an image is worth, chosen from tiers by the question and the image.

How the answer's loss reaches a choice of tier. With `L_t` the loss where tier `t` is spent and `p_t` its probability,
`E[L] = L_1 + sum_t P(tier >= t) (L_t - L_{t-1})`. Training draws a tier `k` and sees its tokens. Each of them stands
for something coarser at tier `k - 1`; the slope of the loss along the way from there to what is seen estimates
`L_k - L_{k-1}`, and `P(tier >= k)` is given it as its gradient, divided by `p_k` so that a tier counts the same
however often it is drawn (Horvitz & Thompson's estimator).

Where on the way the slope is taken is drawn at random: on average it is the difference itself (integrated gradients;
Sundararajan, Taly & Yan, "Axiomatic attribution for deep networks", ICML 2017). Without such fading it is taken at
what inference sees, where an answer that is sure has no slope and does not defend the detail that made it sure.

Limits: the tokens keep the number and the places of tier `k` along the way, so that the worth of detail is measured
and not that of fewer tokens. An image whose lowest tier is drawn has nothing coarser and teaches nothing. Only what is
drawn is learned about: a router that has become certain stays so.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Float32Module, Linear, ZeroLinear
from .multiresolution import draw_leaves
from .outputs import Allocation
from .pooling import pool_leaves
from .quadtree import packed_grid
from .reconstruction import rebuild_pictures
from .scorers import image_mean


# An untrained router has this logit for the highest tier and 0 for all others.
START = 2.0
# A tier drawn against longer odds than this is not counted as rarer: rare draws would drown all others.
LEAST_PROBABILITY = 0.1


def image_statistics(relevance: Tensor, information: Tensor | None, grids: Tensor) -> Tensor:
    """What is measured of an image for the router.

    Args:
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell; its mean is small where it picks out few.
        information (`Tensor` of shape `(cells,)`, *optional*): information of each cell; 0 where it is unknown.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

    Returns:
        `Tensor` of shape `(images, 6)`: the logarithms of the number of cells and of the sum of their information,
        both to base 1,000, and mean and standard deviation of information and of relevance.
    """
    image, counts = packed_grid(*grids.unbind(1)).image, grids.prod(1)
    information = torch.zeros_like(relevance) if information is None else information.to(relevance)
    maps = torch.stack([information, relevance.detach()], 1).float()  # (cells, 2)
    means = image_mean(maps, image, len(grids))  # (images, 2)
    spreads = image_mean((maps - means[image]).square(), image, len(grids)).sqrt()
    sizes = torch.stack([counts.float(), means[:, 0] * counts], 1).log1p() / math.log(1000)
    return torch.cat([sizes, means, spreads], 1)


class BudgetRouter(Float32Module):
    """Scores tiers of visual tokens for each image and its question. Untrained, it prefers the highest tier.

    Args:
        dim (`int`): width.
        tiers (`list[int]`): token counts, ascending.
        embedding_dim (`int`): width of the question's embeddings.
        cell_dim (`int`, *optional*): width of the cell features; `None` if there are none.
    """

    def __init__(self, dim: int, tiers: list[int], embedding_dim: int, cell_dim: int | None):
        super().__init__()
        self.tiers = list(tiers)
        self.question_norm, self.asked = nn.LayerNorm(embedding_dim), Linear(embedding_dim, dim)
        self.measured = Linear(6, dim)
        self.cell_norm = None if cell_dim is None else nn.LayerNorm(cell_dim)
        self.seen = None if cell_dim is None else Linear(cell_dim, dim)
        self.hidden = Linear(dim, dim)
        self.score = ZeroLinear(dim, len(tiers))

    def forward(
        self,
        grids: Tensor,
        relevance: Tensor,
        information: Tensor | None = None,
        question: Tensor | None = None,
        question_mask: Tensor | None = None,
        features: Tensor | None = None,
        features_per_image: Tensor | None = None,
    ) -> Tensor:
        """Score the tiers. No gradient goes further than the router.

        Args:
            grids, relevance, information: as of `image_statistics`.
            question (`Tensor` of shape `(images, tokens, embedding_dim)`, *optional*): token embeddings of each
                image's question.
            question_mask (`Tensor` of shape `(images, tokens)`, *optional*): 0 on padding; a question may have no
                token.
            features (`Tensor` of shape `(nodes, cell_dim)`, *optional*): features of the cells, or of a coarser grid.
            features_per_image (`Tensor` of shape `(images,)`, *optional*): how many of these are of each image.

        Returns:
            `Tensor` of shape `(images, tiers)`: logits, float32.
        """
        images, device = len(grids), relevance.device
        with torch.autocast(device.type, enabled=False):
            hidden = self.measured(image_statistics(relevance, information, grids))  # (images, dim)
            if question is not None:
                mask = torch.ones_like(question[..., :1]) if question_mask is None else question_mask[..., None]
                mask = mask.to(device, torch.float32)  # (images, tokens, 1)
                asked = (self.question_norm(question.float()) * mask).sum(1) / mask.sum(1).clamp(min=1)
                hidden = hidden + self.asked(asked)
            if self.seen is not None and features is not None and features_per_image is not None:
                image = torch.repeat_interleave(torch.arange(images, device=device), features_per_image)
                seen = image_mean(features.detach().float(), image, images)  # (images, cell_dim)
                hidden = hidden + self.seen(self.cell_norm(seen))  # type: ignore[misc]
            scores = self.score(F.gelu(self.hidden(F.gelu(hidden))))  # (images, tiers)
            start = torch.zeros_like(scores[0])
            start[-1] = START
            return scores + start


def learned_budgets(is_learned: Tensor | None, budgets: Tensor, router: BudgetRouter | None) -> Tensor | None:
    """The images whose budget a model with this `router` is to choose, of shape `(images,)`; `None` if there are none.

    Raises:
        ValueError: if there are some and no router, or not one entry an image.
    """
    if is_learned is None or not is_learned.any():
        return None
    if is_learned.shape != budgets.shape:
        raise ValueError(
            f"found `image_budget_is_learned` of shape {tuple(is_learned.shape)} for {len(budgets)} images; expected "
            "one entry an image"
        )
    if router is None:
        raise ValueError(
            "the processor leaves the budget to the model (`token_budget='learned'`), but this model's "
            "`arrcoc_config.budget` is 'given' and it has no router. Give the processor a budget, or wrap the stock "
            "checkpoint with `budget='learned'` and train it"
        )
    return is_learned.to(budgets.device).bool()


@dataclass(frozen=True)
class BudgetChoice:
    """How many tokens are spent on each image.

    Attributes:
        budgets (`Tensor` of shape `(images,)`): tokens to be spent.
        placeholders, expected_tokens, tier_probabilities (`Tensor`, *optional*): see [`Allocation`].
        lower (`Tensor` of shape `(images,)`, *optional*): in training, the next lower tier of each image; its budget
            where there is none.
        share (`Tensor` of shape `(images,)`, *optional*): in training, how much is shown of the detail beyond the
            lower tier; 1 unless it is faded, with the gradient that teaches the router.
    """

    budgets: Tensor
    placeholders: Tensor | None = None
    expected_tokens: Tensor | None = None
    tier_probabilities: Tensor | None = None
    lower: Tensor | None = None
    share: Tensor | None = None

    def report(self, allocation: Allocation) -> Allocation:
        """The allocation with what is known of the choice behind its budgets."""
        return replace(
            allocation,
            placeholders=self.placeholders,
            expected_tokens=self.expected_tokens,
            tier_probabilities=self.tier_probabilities,
        )


def choose_budgets(
    logits: Tensor,
    tiers: list[int],
    placeholders: Tensor,
    is_learned: Tensor,
    explore: bool = False,
    fade: float = 0.0,
) -> BudgetChoice:
    """Choose a tier for each image, clipped to its placeholders.

    Args:
        logits (`Tensor` of shape `(images, tiers)`): scores of the tiers.
        tiers (`list[int]`): token counts, ascending.
        placeholders (`Tensor` of shape `(images,)`): the most that may be spent on each image.
        is_learned (`Tensor` of shape `(images,)`): false where exactly the placeholders are to be spent.
        explore (`bool`, *optional*): draw tiers from their probabilities, with a gradient, instead of taking the best.
        fade (`float`, *optional*): where tiers are drawn, the most that detail fades, in [0, 1]; how far is drawn too.
    """
    counts = torch.minimum(placeholders.new_tensor(tiers), placeholders[:, None])  # (images, tiers)
    probabilities = logits.softmax(1)
    scores = logits.detach()
    if explore:  # the maximum of logits with Gumbel noise is a draw from their probabilities
        scores = scores - torch.empty_like(scores).exponential_().log()
    chosen = counts.gather(1, scores.argmax(1, keepdim=True))[:, 0]
    budgets = torch.where(is_learned, chosen, placeholders)
    choice = BudgetChoice(
        budgets=budgets,
        placeholders=placeholders,
        expected_tokens=torch.where(is_learned, (probabilities * counts).sum(1), placeholders.float()),
        tier_probabilities=torch.where(is_learned[:, None], probabilities, 0.0),
    )
    if not explore:
        return choice
    at_least = torch.where(counts >= budgets[:, None], probabilities, 0.0).sum(1)  # (images,)
    drawn = torch.where(counts == budgets[:, None], probabilities, 0.0).sum(1).detach().clamp(min=LEAST_PROBABILITY)
    lower = torch.where(counts < budgets[:, None], counts, 0).amax(1)
    has_lower = is_learned & (lower > 0)
    shown = 1 - torch.rand_like(at_least) * fade
    share = torch.where(has_lower, shown + (at_least - at_least.detach()) / drawn, 1.0)
    return replace(choice, lower=torch.where(has_lower, lower, budgets), share=share)


@dataclass(frozen=True)
class TierFade:
    """What cells look like between a tier and the one below it.

    Attributes:
        lower ([`Allocation`]): the leaves of the lower tier.
        share (`Tensor` of shape `(cells,)`): how much is shown of the detail beyond it; 1 shows the cells as they are,
            bit for bit.
    """

    lower: Allocation
    share: Tensor

    def pictures(self, cells: Tensor) -> Tensor:
        """Pictures of the cells; of the shape of `cells`, `(cells, channels, side, side)`."""
        return self._mix(cells, rebuild_pictures(draw_leaves(cells.float(), self.lower), self.lower))

    def features(self, features: Tensor, weights: Tensor) -> Tensor:
        """Features of the cells; of the shape of `features`, `(cells, dim)`. `weights` as of `pool_leaves`."""
        leaves = pool_leaves(features.float(), weights, self.lower.cell_to_leaf, len(self.lower.boxes))
        return self._mix(features, leaves[self.lower.cell_to_leaf])

    def _mix(self, values: Tensor, coarse: Tensor) -> Tensor:
        shape = (-1, *[1] * (values.ndim - 1))
        coarse = coarse * (self.lower.cell_to_leaf >= 0).view(shape)  # a dropped cell fades to zero
        return (values.float() - (1 - self.share).view(shape) * (values.float() - coarse)).to(values.dtype)


__all__ = ["BudgetChoice", "BudgetRouter", "TierFade", "choose_budgets", "learned_budgets"]
