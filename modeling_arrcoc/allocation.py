"""Allocation: divide each image's cells into exactly K leaves, one visual token each.

A division is written as a *head map*: for each cell the packed index of the first cell of its leaf in raster order, or
-1 for a cell that is dropped. Each policy is a function that returns a head map, here those that split a quadtree, the
others in `blocks`; `leaves_from_heads` reads the leaves off it. All functions work on packed batches (see `quadtree`),
have no loop over cells, leaves or images, and give an image the same leaves whatever else is in the batch.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .blocks import foveated_heads, leaves_from_heads, tier_heads, topk_heads, uniform_heads
from .outputs import Allocation
from .pairs import pair_windows, row_windows
from .quadtree import (
    QuadTree,
    build_quadtree,
    gather_children,
    packed_grid,
    rank,
    running_cost,
    scramble,
    split_gains,
)


POLICIES = ("lod", "foveated", "tiers", "uniform", "random", "topk")


def node_worths(tree: QuadTree, gains: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """What splitting each node is worth, never less than what splitting one of its descendants is; differentiable.

    Args:
        tree ([`QuadTree`]): quadtrees of the grids.
        gains (`list[Tensor]`): gain of splitting each node of levels 1, 2, ..., each of shape `(nodes_l,)`.

    Returns:
        `tuple[list[Tensor], list[Tensor]]`: for levels 1, 2, ... the worths, and the costs: the leaves that a split
        adds; each of shape `(nodes_l,)`.
    """
    worths: list[Tensor] = []
    costs: list[Tensor] = []
    if not gains:  # every grid is a single cell
        return worths, costs
    worth = gains[0].new_zeros(len(tree.cells.image))
    for level, children in enumerate(tree.children):
        cost = (children < len(tree.levels[level].image)).sum(1) - 1  # (nodes,)
        best_child = gather_children(worth, children, 0.0).amax(1)
        worth = torch.maximum(torch.where(cost > 0, gains[level] / cost.clamp(min=1), 0.0), best_child)
        worths.append(worth)
        costs.append(cost)
    return worths, costs


def lod_splits(
    tree: QuadTree, worths: list[Tensor], costs: list[Tensor], budgets: Tensor, max_level: int
) -> tuple[list[Tensor], list[Tensor]]:
    """Which nodes are split: the most worthy ones that the budget pays for, those above `max_level` before all others.

    Args:
        tree, budgets, max_level: as of `lod_heads`.
        worths, costs (`list[Tensor]`): as from `node_worths`.

    Returns:
        `tuple[list[Tensor], list[Tensor]]`: for levels 1, 2, ... whether a node is split, and the leaves that are left
        for an image's first node that is not (0 to 2; 0 for all other nodes); each of shape `(nodes_l,)`.
    """
    # Coarse levels first, so that a parent precedes a child of equal worth.
    nodes = tree.levels[1:]
    image = torch.cat([level.image for level in reversed(nodes)])
    forced = torch.cat([torch.full_like(nodes[i].image, i + 1 > max_level) for i in reversed(range(len(nodes)))])
    order = rank(2 * image + ~forced, torch.cat(worths[::-1]))
    cost = torch.cat(costs[::-1])[order]
    spent = running_cost(image[order], cost)
    allowance = budgets[image[order]] - 1
    left = (allowance - spent + cost) * (spent > allowance)  # at the first node refused: tokens left, 0 to 2
    split = torch.empty_like(spent, dtype=torch.bool).scatter_(0, order, spent <= allowance)
    left = torch.empty_like(spent).scatter_(0, order, left.clamp(min=0))
    sizes = [len(level.image) for level in reversed(nodes)]
    return list(split.split(sizes)[::-1]), list(left.split(sizes)[::-1])


def lod_heads(tree: QuadTree, gains: list[Tensor], budgets: Tensor, max_level: int) -> Tensor:
    """Best K leaves of each quadtree, as a top-k over nodes.

    A split is worth its gain for each leaf that it adds. Raising a node's worth to that of its best descendant makes
    worth fall from the root to the leaves, so that a node's ancestors precede it in sorted order and an allocation is
    a prefix of that order: a nested family of trees, as optimal pruning has (Chou, Lookabaugh & Gray, "Optimal pruning
    with applications to tree-structured source coding and modeling", IEEE Trans. Inf. Theory 35(2), 1989). It is the
    optimal family where gains fall monotonically; elsewhere its distortion was found 0 to 10 % above the optimum.
    Nodes above `max_level` are split before all others. Where a prefix ends one or two leaves short of K, the node
    that comes next is cut into halves, top and bottom, and then the top half into quarters.

    Args:
        tree ([`QuadTree`]): quadtrees of the grids.
        gains (`list[Tensor]`): gain of splitting each node of levels 1, 2, ..., each of shape `(nodes_l,)`.
        budgets (`Tensor` of shape `(images,)`): leaves K of each image, between 1 and its number of cells.
        max_level (`int`): coarsest level of a leaf, as long as K allows.

    Returns:
        `Tensor` of shape `(cells,)`: head map.
    """
    cells = tree.cells
    if not gains:  # every grid is a single cell
        return torch.arange(len(cells.image), device=cells.image.device)
    splits, lefts = lod_splits(tree, *node_worths(tree, gains), budgets, max_level)
    corners = [torch.arange(len(cells.image), device=cells.image.device)]  # top-left cell of each node
    for children in tree.children:
        corners.append(corners[-1].index_select(0, children[:, 0]))
    heads = corners[-1]  # (images,)
    for level in reversed(range(len(splits))):
        node, parent = tree.levels[level], tree.parents[level]
        # Whether the parent is split, and else whether into halves (1) or into halves and a half into quarters (2).
        cut = torch.where(splits[level], 3, lefts[level]).index_select(0, parent)  # (nodes_level,)
        is_right_half = (node.x & 1) * (cut < 2 + (node.y & 1))  # its leaf begins with its left neighbour
        heads = torch.where(cut > 0, corners[level] - (is_right_half << level), heads.index_select(0, parent))
    return heads


def random_gains(tree: QuadTree, seed: int) -> list[Tensor]:
    """Pseudo-random gains in [0, 1) that depend on `seed` and a node's place alone; shapes as in `split_gains`."""
    gains = []
    for level, nodes in enumerate(tree.levels[1:], start=1):
        state = nodes.y * 73856093 ^ nodes.x * 19349663 ^ (level * 83492791 + seed * 2654435761)
        gains.append(scramble(state).float() / 2**24)
    return gains


def position_scale(grids: Tensor, budgets: Tensor, kind: str) -> Tensor:
    """What positions are divided by, of shape `(images,)`: 1 if `"native"`, a leaf's mean side if `"matched"`."""
    if kind == "matched":
        return (grids.prod(1) / budgets).sqrt()
    return torch.ones(len(grids), device=grids.device)


def uniform_allocation(grids: Tensor, budgets: Tensor, position_scale_kind: str = "native") -> Allocation:
    """Equal leaves everywhere, as by the policy `uniform`; arguments as in `allocate` and `position_scale`."""
    cells = packed_grid(*grids.unbind(1))
    boxes, cell_to_leaf = leaves_from_heads(cells, uniform_heads(cells, budgets))
    ones = torch.ones(len(cell_to_leaf), device=grids.device)
    return Allocation(grids, budgets, cell_to_leaf, boxes, ones, position_scale(grids, budgets, position_scale_kind))


@torch.no_grad()
def allocate(
    features: Tensor,
    relevance: Tensor,
    grids: Tensor,
    budgets: Tensor,
    config: PreTrainedConfig,
    gains: Callable[[QuadTree, Tensor, Tensor], list[Tensor]] = split_gains,
    prints: Tensor | None = None,
) -> Allocation:
    """Divide the cells of each image into exactly its budget of leaves.

    Args:
        features (`Tensor` of shape `(cells, ...)`): what `gains` measures the distortion on (policy `lod`).
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell, positive and finite.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
        budgets (`Tensor` of shape `(images,)`): leaves of each image.
        config ([`ArrCocConfig`]): `policy`, `max_level`, `context_share`, `fovea_threshold`, `pair_worth`,
            `pair_drawing`, `tiers`, `region_size`, `position_scale`, `seed`.
        gains (`Callable`, *optional*): measures the distortion: `split_gains` on cell features, or a sketch of them,
            where leaves are means of features; `drawing_gains` on drawing losses where leaves are drawn.
        prints (`Tensor` of shape `(cells, side)`, *optional*): as from `print_of_rows`. Without it pairs have no
            windows.

    Returns:
        [`Allocation`] without maps. For `uniform` and `random` its relevance is 1 everywhere.

    Raises:
        ValueError: if shapes disagree, a budget lies outside 1 to the number of cells, or relevance is not positive.
    """
    counts, budgets = grids.prod(1), budgets.to(grids)
    if len(budgets) != len(grids):
        raise ValueError(f"found {len(budgets)} token budgets for {len(grids)} images; expected one an image")
    expected = int(counts.sum())
    if len(features) != expected or len(relevance) != expected:
        raise ValueError(
            f"found features of {len(features)} cells and relevance of {len(relevance)}, but the grids "
            f"{grids.tolist()} have {expected} cells"
        )
    if ((budgets < 1) | (budgets > counts)).any():
        raise ValueError(
            f"found token budgets {budgets.tolist()}; expected between 1 and the native counts {counts.tolist()}"
        )
    relevance = relevance.float()
    if expected and not 0 < relevance.min() <= relevance.max() < math.inf:  # NaN fails every comparison
        raise ValueError("relevance must be positive and finite in every cell")

    windows = None
    if config.policy in ("uniform", "random"):
        relevance = torch.ones_like(relevance)
    if config.policy in ("lod", "random"):
        tree = build_quadtree(grids)
        cells = tree.cells
        if config.policy == "lod":
            node_gains = gains(tree, features.float(), relevance)
        else:
            node_gains = random_gains(tree, config.seed)
        heads = lod_heads(tree, node_gains, budgets, config.max_level)
    else:
        cells = packed_grid(*grids.unbind(1))
        if config.policy == "foveated":
            if prints is not None and config.pair_worth is not None and config.pair_drawing == "window":
                windows = row_windows(prints, relevance, cells)
            heads, behind = foveated_heads(
                cells,
                relevance,
                budgets,
                config.context_share,
                config.fovea_threshold,
                config.pair_worth,
                kept=windows and windows[1],
            )
        elif config.policy == "tiers":
            heads = tier_heads(cells, relevance, budgets, list(config.tiers), config.region_size)
        elif config.policy == "uniform":
            heads = uniform_heads(cells, budgets)
        elif config.policy == "topk":
            heads = topk_heads(cells, relevance, budgets)
        else:
            raise ValueError(f"found policy {config.policy!r}; expected one of {POLICIES}")
    boxes, cell_to_leaf = leaves_from_heads(cells, heads)
    scale = position_scale(grids, budgets, config.position_scale)
    allocation = Allocation(grids, budgets, cell_to_leaf, boxes, relevance, scale)
    if windows is None:
        return allocation
    return replace(allocation, windows=pair_windows(windows[0], heads, behind, boxes, cell_to_leaf))
