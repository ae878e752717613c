"""The variable compressor: learns what one token keeps of the cells that it stands for, whatever their number.

It starts as the relevance-weighted mean of a leaf's cells, bit for bit, and never touches a leaf of one cell: the
host's own token at full detail.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Linear, ZeroLinear
from .outputs import Allocation
from .pooling import pool_leaves
from .quadtree import packed_grid


# Experts for leaves of 2, 4, 8, 16 and 32 cells, that is of a size of 1, 2, 3, 4 and 5 in log2.
EXPERTS = 5
# How far in log2 an expert's say reaches beyond its own size, as the standard deviation of a Gaussian.
REACH = 0.5
# Height and width of the leaf in log2, and where in it a cell lies.
PLACE_FEATURES = 4


def default_compressor_dim(dim: int) -> int:
    """Hidden width of the compressor for tokens of width `dim`: a sixteenth of it, in steps of 32."""
    return max(32, dim // 16 // 32 * 32)


def expert_shares(areas: Tensor) -> Tensor:
    """Say of each expert in a leaf, a continuous function of its size.

    A softmax over the squared distances of the leaf's log2 size from the experts', so that neighbours share what they
    learn, times a ramp that is 0 for one cell and 1 from two cells on. Above 32 cells the last expert prevails.

    Args:
        areas (`Tensor` of shape `(leaves,)`): cells of each leaf.

    Returns:
        `Tensor` of shape `(leaves, EXPERTS)`, float32; rows sum to 1, and to exactly 0 for a leaf of one cell.
    """
    size = areas.float().log2()[:, None]
    own = torch.arange(1, EXPERTS + 1, device=areas.device)
    return (-((size - own) ** 2) / (2 * REACH**2)).softmax(1) * size.clamp(0, 1)


def leaf_softmax_weights(scores: Tensor, weights: Tensor, cell_to_leaf: Tensor, leaves: int) -> Tensor:
    """Weights whose shares within each leaf are `softmax(scores + log(weights))`.

    With equal scores they are `weights`, bit for bit.

    Args:
        scores, weights (`Tensor` of shape `(cells,)`): any finite scores, positive weights.
        cell_to_leaf (`Tensor` of shape `(cells,)`): leaf of each cell.
        leaves (`int`): number of leaves.

    Returns:
        `Tensor` of shape `(cells,)`, float32.
    """
    scores = scores.float()
    with torch.no_grad():  # shares do not depend on it
        highest = scores.new_zeros(leaves).scatter_reduce(0, cell_to_leaf, scores, "amax", include_self=False)
    return weights.float() * (scores - highest[cell_to_leaf]).exp()


class VariableCompressor(nn.Module):
    """Draws each leaf as one token: an attentive mean of its cells, and a residual of experts mixed by its size.

    Each cell is described at a small width by what it holds and where in its leaf it lies. From the description come a
    score, which is added to the logarithm of the cell's relevance in a softmax over the leaf, and, pooled with the
    same weights, the input of the experts. Scores and residual start at zero.

    Where a leaf is a single token already, because the tower was run on leaves (stage `pixels`), there is nothing to
    attend to: build it with `attentive=False`, and tokens get the residual alone.

    Args:
        dim (`int`): width of the tokens.
        hidden_dim (`int`, *optional*): width of the descriptions; defaults to `default_compressor_dim(dim)`.
        attentive (`bool`, *optional*): whether it is given cells, or else leaves.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, attentive: bool = True):
        super().__init__()
        hidden_dim = default_compressor_dim(dim) if hidden_dim is None else hidden_dim
        self.norm = nn.LayerNorm(dim)
        self.describe = Linear(dim, hidden_dim)
        self.place = Linear(PLACE_FEATURES, hidden_dim, bias=False)
        self.score = ZeroLinear(hidden_dim, 1, bias=False) if attentive else None
        self.expand = Linear(hidden_dim, EXPERTS * hidden_dim)  # one hidden layer an expert, side by side
        self.residual = ZeroLinear(EXPERTS * hidden_dim, dim, bias=False)

    def forward(self, features: Tensor, allocation: Allocation) -> Tensor:
        """Compress the cells of a batch of images.

        Args:
            features (`Tensor` of shape `(cells, dim)`): cell features; `(leaves, dim)` if not `attentive`.
            allocation ([`Allocation`]): their leaves; its relevance weighs the cells.

        Returns:
            `Tensor` of shape `(leaves, dim)` with the dtype of `features`, leaves in the order of the allocation.
        """
        shares = expert_shares(allocation.sizes.prod(1))  # (leaves, experts)
        if self.score is None:
            summary = self._describe(features, _log_sizes(allocation), torch.zeros_like(allocation.centers))
            return features + self._residual(summary, shares).to(features.dtype)

        cell_to_leaf, weights, places = allocation.cell_to_leaf, allocation.relevance, _places(allocation)
        kept = cell_to_leaf >= 0
        if not kept.all():
            features, weights, places = features[kept], weights[kept], places[kept]
            cell_to_leaf = cell_to_leaf[kept]
        leaves = len(allocation.boxes)
        described = self._describe(features, _log_sizes(allocation)[cell_to_leaf], places)  # (cells, hidden)
        weights = leaf_softmax_weights(self.score(described)[:, 0], weights, cell_to_leaf, leaves)
        summary = pool_leaves(described, weights, cell_to_leaf, leaves)  # (leaves, hidden)
        mean = pool_leaves(features, weights, cell_to_leaf, leaves)  # (leaves, dim)
        return mean + self._residual(summary, shares).to(mean.dtype)

    def _describe(self, features: Tensor, log_sizes: Tensor, places: Tensor) -> Tensor:
        dtype = self.describe.weight.dtype
        place = self.place(torch.cat([log_sizes, places], 1).to(dtype))
        return F.gelu(self.describe(self.norm(features.to(dtype))) + place)

    def _residual(self, summary: Tensor, shares: Tensor) -> Tensor:
        hidden = F.gelu(self.expand(summary)).unflatten(1, (EXPERTS, -1))  # (leaves, experts, hidden)
        return self.residual((hidden * shares[:, :, None].to(hidden.dtype)).flatten(1))


def _log_sizes(allocation: Allocation) -> Tensor:
    """Log2 of the height and width of each leaf in cells, of shape `(leaves, 2)`."""
    return allocation.sizes.float().log2()


def _places(allocation: Allocation) -> Tensor:
    """Row and column of each cell from its leaf's centre, in heights and widths of the leaf: `(cells, 2)`."""
    cells = packed_grid(*allocation.grids.unbind(1))
    offset = torch.stack([cells.y, cells.x], 1) - allocation.centers[allocation.cell_to_leaf]
    return offset / allocation.sizes[allocation.cell_to_leaf]


__all__ = ["VariableCompressor"]
