"""Allocation: divide each image's cells into exactly K rectangles, the leaves.

A division is written as a *head map*: for each cell the packed index of the top-left cell of its leaf, or -1 for a
cell that is dropped. Each policy is a function that returns a head map; `leaves_from_heads` reads the leaves off it.
All functions work on packed batches (see `quadtree`), have no loop over cells, leaves or images, and give an image the
same leaves whatever else is in the batch.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from .outputs import Allocation
from .quadtree import PackedGrid, QuadTree, build_quadtree, gather_children, packed_grid, scramble, split_gains


POLICIES = ("lod", "tiers", "uniform", "random", "topk")

# The order that quasi-random halvings follow: multiples of the golden ratio fall evenly into [0, 1).
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def _rank(image: Tensor, *keys: Tensor) -> Tensor:
    """Indices that sort by image, then by each key in turn, descending; equal elements keep their order."""
    order = torch.arange(len(image), device=image.device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], descending=True, stable=True)]
    return order[torch.argsort(image[order], stable=True)]


def _running_cost(image: Tensor, cost: Tensor) -> Tensor:
    """Inclusive running sum of `cost` that starts anew at each image; `image` is sorted, both of shape `(items,)`."""
    total = cost.cumsum(0)
    first = torch.ones_like(image, dtype=torch.bool)
    first[1:] = image[1:] != image[:-1]
    start = torch.where(first, total - cost, 0).cummax(0).values  # costs are never negative
    return total - start


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
    order = _rank(2 * image + ~forced, torch.cat(worths[::-1]))
    cost = torch.cat(costs[::-1])[order]
    spent = _running_cost(image[order], cost)
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


def grid_shape(rows: Tensor, cols: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """The largest grid of near-square blocks over `rows x cols` cells with at most `tokens` blocks.

    Args:
        rows, cols, tokens (`Tensor`): of one shape; `1 <= tokens`.

    Returns:
        `tuple[Tensor, Tensor]`: blocks along the rows and along the columns.
    """
    down = (tokens.double() * rows / cols).sqrt().floor().long().clamp(min=1)
    down = torch.minimum(down, torch.minimum(rows, tokens))
    across = torch.minimum(tokens // down, cols)
    return torch.minimum(tokens // across, rows), across


def block_heads(
    cells: PackedGrid, region: Tensor, top: Tensor, left: Tensor, extent: Tensor, blocks: Tensor
) -> Tensor:
    """Divide regions into grids of near-equal blocks.

    Args:
        cells ([`PackedGrid`]): the cells.
        region (`Tensor` of shape `(cells,)`): the region of each cell.
        top, left (`Tensor` of shape `(regions,)`): each region's first row and column.
        extent, blocks (`Tensor` of shape `(regions, 2)`): each region's rows and columns of cells, and of blocks.

    Returns:
        `Tensor` of shape `(cells,)`: head map.
    """

    def first_of_block(position: Tensor, axis: int) -> Tensor:
        size, count = extent[region, axis], blocks[region, axis]
        return -(-(position * count // size * size) // count)  # ceil(block * size / count)

    y = top[region] + first_of_block(cells.y - top[region], 0)
    x = left[region] + first_of_block(cells.x - left[region], 1)
    return cells.index(cells.image, y, x)


def halve_leaves(cells: PackedGrid, heads: Tensor, budgets: Tensor, importance: Tensor) -> Tensor:
    """Halve leaves along their longer side until each image has exactly its budget.

    Each round halves the most important leaves of more than one cell, each at most once, so that a leaf is quartered
    only after all of them have been halved.

    Args:
        cells ([`PackedGrid`]): the cells.
        heads (`Tensor` of shape `(cells,)`): head map with at most `budgets` leaves an image.
        budgets (`Tensor` of shape `(images,)`): leaves wanted.
        importance (`Tensor` of shape `(cells,)`): positive; a leaf's importance is the sum over its cells.

    Returns:
        `Tensor` of shape `(cells,)`: head map.
    """
    while True:
        boxes, cell_to_leaf = leaves_from_heads(cells, heads)
        image = cells.image[heads == torch.arange(len(heads), device=heads.device)]  # (leaves,)
        missing = budgets - torch.bincount(image, minlength=len(budgets))  # (images,)
        if not missing.any():
            return heads
        sizes = boxes[:, 2:] - boxes[:, :2]
        can_halve = sizes.amax(1) > 1
        weight = torch.zeros(len(boxes), dtype=importance.dtype, device=heads.device)
        weight = weight.index_add(0, cell_to_leaf, importance)  # (leaves,)
        order = _rank(image, can_halve, weight)
        place = torch.empty_like(order).scatter_(0, order, _running_cost(image[order], torch.ones_like(order)))
        halved = (can_halve & (place <= missing[image]))[cell_to_leaf]  # (cells,)
        box = boxes[cell_to_leaf]  # (cells, 4)
        rows, cols = sizes[cell_to_leaf].unbind(1)
        across = cols > rows  # cut into left and right, else into top and bottom
        middle_y, middle_x = box[:, 0] + (rows + 1) // 2, box[:, 1] + (cols + 1) // 2
        lower, right = ~across & (cells.y >= middle_y), across & (cells.x >= middle_x)
        moved = cells.index(
            cells.image, torch.where(lower, middle_y, box[:, 0]), torch.where(right, middle_x, box[:, 1])
        )
        heads = torch.where(halved & (lower | right), moved, heads)


def uniform_heads(cells: PackedGrid, budgets: Tensor) -> Tensor:
    """Equal leaves everywhere: the largest near-square grid of at most K blocks, then halvings spread evenly."""
    blocks = torch.stack(grid_shape(cells.rows, cells.cols, budgets), 1)  # (images, 2)
    zeros = torch.zeros_like(cells.rows)
    heads = block_heads(cells, cells.image, zeros, zeros, torch.stack([cells.rows, cells.cols], 1), blocks)
    # A leaf is as important as it is large; leaves of equal size follow a low-discrepancy order.
    index = torch.arange(len(heads), device=heads.device)
    jitter = (index - cells.offsets[cells.image]).double() * GOLDEN_RATIO % 1
    return halve_leaves(cells, heads, budgets, 1 + torch.where(heads == index, jitter / 2, 0))


def tier_heads(cells: PackedGrid, relevance: Tensor, budgets: Tensor, tiers: list[int], region_size: int) -> Tensor:
    """Regions of `region_size x region_size` cells that each get one of a few token counts, under a total budget.

    Each region starts at the lowest tier and the upgrades with the best return are bought until the budget is spent; a
    region of relevance `R` with `t` tokens is charged a distortion `R / t`, so an upgrade from `s` to `t` tokens
    returns `R / (s t)` a token. Buying stops at the first upgrade that does not fit; what is left is spent by halving
    leaves of the most relevant regions. If even the lowest tier, counted for whole regions, is too much, regions are
    doubled in size until it fits or one region is left.

    Args:
        cells ([`PackedGrid`]): the cells.
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell.
        budgets (`Tensor` of shape `(images,)`): tokens of each image.
        tiers (`list[int]`): token counts, ascending; laid out as the squarest grid of that many blocks (160 is 10 x
            16).
        region_size (`int`): side of a region in cells.

    Returns:
        `Tensor` of shape `(cells,)`: head map.
    """
    size = torch.full_like(cells.rows, region_size)
    longest = int(torch.maximum(cells.rows, cells.cols).max()) if len(cells.rows) else 0
    while region_size < longest:
        too_many = -(-cells.rows // size) * -(-cells.cols // size) * tiers[0] > budgets
        size = torch.where(too_many & (size < torch.maximum(cells.rows, cells.cols)), size * 2, size)
        region_size *= 2
    regions = packed_grid(-(-cells.rows // size), -(-cells.cols // size))
    side = size[regions.image]  # (regions,)
    top, left = regions.y * side, regions.x * side
    extent = torch.stack(
        [
            torch.minimum(side, cells.rows[regions.image] - top),
            torch.minimum(side, cells.cols[regions.image] - left),
        ],
        1,
    )  # (regions, 2)
    region = regions.index(cells.image, cells.y // size[cells.image], cells.x // size[cells.image])  # (cells,)

    short = torch.tensor([next(a for a in range(math.isqrt(t), 0, -1) if t % a == 0) for t in tiers])
    shapes = torch.stack([short, torch.tensor(tiers) // short], 1).to(side.device)  # (tiers, 2)
    wide = (extent[:, 1] >= extent[:, 0])[:, None, None]
    blocks = torch.minimum(torch.where(wide, shapes, shapes.flip(1)), extent[:, None])  # (regions, tiers, 2)
    # Where a clipped region gives a tier fewer tokens than a lower one has, the lower one's blocks stand in for it.
    tokens, best = blocks.prod(2).cummax(1)  # (regions, tiers)
    blocks = blocks.gather(1, best[..., None].expand(-1, -1, 2))

    mass = torch.zeros(len(side), dtype=torch.double, device=side.device).index_add(0, region, relevance.double())
    returns = mass[:, None] / (tokens[:, :-1] * tokens[:, 1:])  # (regions, tiers - 1), descending
    cost = tokens.diff(dim=1)
    image = regions.image[:, None].expand_as(cost).flatten()
    order = _rank(image, returns.flatten())
    base = torch.zeros_like(budgets).index_add(0, regions.image, tokens[:, 0])
    bought = _running_cost(image[order], cost.flatten()[order]) <= (budgets - base)[image[order]]
    bought = torch.empty_like(bought).scatter_(0, order, bought).view_as(cost)
    tier = bought.sum(1)  # (regions,)

    chosen = blocks[torch.arange(len(tier), device=tier.device), tier]  # (regions, 2)
    # A single region whose lowest tier exceeds the budget falls below the tiers.
    below = grid_shape(extent[:, 0], extent[:, 1], budgets[regions.image])
    chosen = torch.where((base > budgets)[regions.image][:, None], torch.stack(below, 1), chosen)
    heads = block_heads(cells, region, top, left, extent, chosen)
    return halve_leaves(cells, heads, budgets, relevance)


def random_gains(tree: QuadTree, seed: int) -> list[Tensor]:
    """Pseudo-random gains in [0, 1) that depend on `seed` and a node's place alone; shapes as in `split_gains`."""
    gains = []
    for level, nodes in enumerate(tree.levels[1:], start=1):
        state = nodes.y * 73856093 ^ nodes.x * 19349663 ^ (level * 83492791 + seed * 2654435761)
        gains.append(scramble(state).float() / 2**24)
    return gains


def topk_heads(cells: PackedGrid, relevance: Tensor, budgets: Tensor) -> Tensor:
    """Plain pruning: keep the K most relevant cells of each image, drop the rest (head -1)."""
    order = _rank(cells.image, relevance)
    kept = _running_cost(cells.image, torch.ones_like(order)) <= budgets[cells.image]
    kept = torch.empty_like(kept).scatter_(0, order, kept)
    return torch.where(kept, torch.arange(len(order), device=order.device), -1)


def leaves_from_heads(cells: PackedGrid, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Number the leaves of a head map in raster order.

    Returns:
        `tuple[Tensor, Tensor]`: boxes of shape `(leaves, 4)` as in [`Allocation`], and `cell_to_leaf` of shape
        `(cells,)`.
    """
    is_head = heads == torch.arange(len(heads), device=heads.device)
    number = is_head.cumsum(0) - 1
    cell_to_leaf = torch.where(heads < 0, -1, number[heads.clamp(min=0)])
    top_left = torch.stack([cells.y, cells.x], 1)[is_head]  # (leaves, 2)
    kept = cell_to_leaf >= 0
    ends = torch.stack([cells.y, cells.x], 1)[kept] + 1  # (kept cells, 2)
    index = cell_to_leaf[kept][:, None].expand_as(ends)
    bottom_right = torch.zeros_like(top_left).scatter_reduce(0, index, ends, "amax")
    return torch.cat([top_left, bottom_right], 1), cell_to_leaf


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
) -> Allocation:
    """Divide the cells of each image into exactly its budget of leaves.

    Args:
        features (`Tensor` of shape `(cells, ...)`): what `gains` measures the distortion on (policy `lod`).
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell, positive and finite.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
        budgets (`Tensor` of shape `(images,)`): leaves of each image.
        config ([`ArrCocConfig`]): `policy`, `max_level`, `tiers`, `region_size`, `position_scale`, `seed`.
        gains (`Callable`, *optional*): measures the distortion: `split_gains` on cell features, or a sketch of them,
            where leaves are means of features; `drawing_gains` on drawing losses where leaves are drawn.

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
        if config.policy == "tiers":
            heads = tier_heads(cells, relevance, budgets, list(config.tiers), config.region_size)
        elif config.policy == "uniform":
            heads = uniform_heads(cells, budgets)
        elif config.policy == "topk":
            heads = topk_heads(cells, relevance, budgets)
        else:
            raise ValueError(f"found policy {config.policy!r}; expected one of {POLICIES}")
    boxes, cell_to_leaf = leaves_from_heads(cells, heads)
    scale = position_scale(grids, budgets, config.position_scale)
    return Allocation(grids, budgets, cell_to_leaf, boxes, relevance, scale)
