"""Semantic depth: how many of the DeepStack layers each leaf keeps.

Qwen3-VL hands the language model, besides each visual token, what several layers of its tower made of it. A leaf of
depth `d` keeps the deepest `d` of these; its rows of the shallower layers are zero. Depth adds and saves no tokens.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Float32Module, Linear, ZeroLinear
from .outputs import Allocation, ArrCocImageFeatures


SEMANTIC_DEPTHS = ("all", "relevance", "learned")


def leaf_relevance(allocation: Allocation) -> Tensor:
    """Mean relevance of the cells of each leaf, of shape `(leaves,)`."""
    kept = allocation.cell_to_leaf >= 0
    leaf = allocation.cell_to_leaf[kept]
    total = torch.zeros(len(allocation.boxes), device=leaf.device).index_add(0, leaf, allocation.relevance[kept])
    return total / torch.bincount(leaf, minlength=len(total))


def relevance_gates(allocation: Allocation, layers: int) -> Tensor:
    """Depth by rank: the most relevant `1 / L` of an image's leaves keep all `L` layers, the next ones one less, ...

    Args:
        allocation ([`Allocation`]): the leaves; of equally relevant ones the first in raster order keep more.
        layers (`int`): DeepStack layers, `L`.

    Returns:
        `Tensor` of shape `(leaves, layers)`: 1 for what is kept, 0 for the rest; the deepest layer comes last and is
        always kept.
    """
    budgets, device = allocation.budgets, allocation.boxes.device
    image = torch.repeat_interleave(torch.arange(len(budgets), device=device), budgets)  # (leaves,)
    order = torch.argsort(leaf_relevance(allocation), descending=True, stable=True)
    order = order[torch.argsort(image[order], stable=True)]  # by image, then from the most relevant down
    rank = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=device))
    rank = rank - (budgets.cumsum(0) - budgets)[image]
    depth = layers - rank * layers // budgets[image]  # (leaves,), from 1 to L
    return (depth[:, None] >= torch.arange(layers, 0, -1, device=device)).float()


class DepthScorer(Float32Module):
    """Scores whether a leaf needs each of the layers before the deepest. Untrained, it keeps all.

    Args:
        dim (`int`): width.
        token_dim (`int`): width of the visual tokens.
        layers (`int`): DeepStack layers.
    """

    def __init__(self, dim: int, token_dim: int, layers: int):
        super().__init__()
        self.norm, self.embed = nn.LayerNorm(token_dim), Linear(token_dim, dim)
        self.measured = Linear(2, dim)
        self.score = ZeroLinear(dim, layers - 1)

    def forward(self, tokens: Tensor, allocation: Allocation) -> Tensor:
        """Gates of the layers.

        A layer is kept if the next deeper one is and its own score is not negative. The gates are these decisions,
        with the gradient of the product of the scores' sigmoids (straight-through; Bengio, Léonard & Courville, 2013);
        it ends here and reaches neither the tower nor relevance.

        Args:
            tokens (`Tensor` of shape `(leaves, token_dim)`): visual tokens.
            allocation ([`Allocation`]): the leaves.

        Returns:
            `Tensor` of shape `(leaves, layers)`: as of `relevance_gates`, float32.
        """
        with torch.autocast(tokens.device.type, enabled=False):
            measured = torch.stack([leaf_relevance(allocation).detach(), allocation.levels], 1)  # (leaves, 2)
            hidden = self.embed(self.norm(tokens.detach().float())) + self.measured(measured)
            scores = self.score(F.gelu(hidden))  # (leaves, layers - 1); the one before the deepest comes first
        decided = (scores >= 0).float().cumprod(1)
        likely = scores.sigmoid().cumprod(1)
        gates = decided + (likely - likely.detach())
        return torch.cat([gates.flip(1), torch.ones_like(gates[:, :1])], 1)


def keep_layers(
    images: ArrCocImageFeatures, allocation: Allocation, scorer: DepthScorer | None = None, strength: float = 1.0
) -> ArrCocImageFeatures:
    """Zero the rows of the DeepStack layers that leaves do not keep; an image at native budget keeps all.

    Args:
        images ([`ArrCocImageFeatures`]): encoded images with their DeepStack features.
        allocation ([`Allocation`]): their leaves.
        scorer ([`DepthScorer`], *optional*): decides on what is kept; without one, relevance does.
        strength (`float`, *optional*): how much of a row that is not kept is taken away, in [0, 1].

    Returns:
        [`ArrCocImageFeatures`], whose allocation has `depths`.
    """
    if scorer is not None:
        gates = scorer(torch.cat(tuple(images.pooler_output)), allocation)  # (leaves, layers)
    else:
        gates = relevance_gates(allocation, len(images.deepstack_features or []))
    is_native = allocation.budgets == allocation.cells_per_image  # (images,)
    gates = torch.where(torch.repeat_interleave(is_native, allocation.budgets)[:, None], 1.0, gates)
    shown = (1 - strength * (1 - gates)).split(allocation.budgets.tolist())  # images of (leaves, layers)
    return replace(
        images,
        deepstack_features=[
            [rows * gate[:, layer, None].to(rows) for rows, gate in zip(features, shown, strict=True)]
            for layer, features in enumerate(images.deepstack_features or [])
        ],
        allocation=replace(allocation, depths=gates.sum(1)),
    )


__all__ = ["DepthScorer", "keep_layers", "relevance_gates"]
