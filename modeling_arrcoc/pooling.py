"""Draw each leaf as one token: the relevance-weighted mean of its cells."""

import torch
from torch import Tensor


def pool_leaves(features: Tensor, weights: Tensor, cell_to_leaf: Tensor, leaves: int) -> Tensor:
    """Weighted mean of the cells of each leaf.

    Sums are taken in float32 whatever the precision of `features`. A leaf of one cell is that cell, bit for bit.

    Args:
        features (`Tensor` of shape `(cells, dim)`): cell features.
        weights (`Tensor` of shape `(cells,)`): positive weights.
        cell_to_leaf (`Tensor` of shape `(cells,)`): leaf of each cell, -1 for a cell that was dropped.
        leaves (`int`): number of leaves.

    Returns:
        `Tensor` of shape `(leaves, dim)` with the dtype of `features`.
    """
    kept = cell_to_leaf >= 0
    if not kept.all():
        features, weights, cell_to_leaf = features[kept], weights[kept], cell_to_leaf[kept]
    weights = weights.float()
    mass = weights.new_zeros(leaves).index_add(0, cell_to_leaf, weights)  # (leaves,)
    share = weights / mass[cell_to_leaf]  # (cells,); exactly 1 for the only cell of a leaf
    pooled = torch.zeros(leaves, features.shape[1], dtype=torch.float32, device=features.device)
    return pooled.index_add(0, cell_to_leaf, features.float() * share[:, None]).to(features.dtype)
