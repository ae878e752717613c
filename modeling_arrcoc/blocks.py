"""Divisions of a grid that need no quadtree: equal blocks, tiers of blocks, and the most relevant cells by themselves.

Each function returns a *head map*: for each cell the packed index of the first cell of its leaf in raster order, or -1
for a cell that is dropped.
"""

import math

import torch
from torch import Tensor

from .pairs import pair_cells
from .quadtree import PackedGrid, packed_grid, rank, running_cost


# The order that quasi-random halvings follow: multiples of the golden ratio fall evenly into [0, 1).
GOLDEN_RATIO = (math.sqrt(5) - 1) / 2


def leaves_from_heads(cells: PackedGrid, heads: Tensor) -> tuple[Tensor, Tensor]:
    """Number the leaves of a head map in raster order.

    Returns:
        `tuple[Tensor, Tensor]`: boxes of shape `(leaves, 4)` as in [`Allocation`], and `cell_to_leaf` of shape
        `(cells,)`.
    """
    is_head = heads == torch.arange(len(heads), device=heads.device)
    number = is_head.cumsum(0) - 1
    cell_to_leaf = torch.where(heads < 0, -1, number[heads.clamp(min=0)])
    places = torch.stack([cells.y, cells.x], 1)  # (cells, 2)
    first = places[is_head]  # (leaves, 2)
    kept = cell_to_leaf >= 0
    index = cell_to_leaf[kept][:, None].expand(-1, 2)
    top_left = first.scatter_reduce(0, index, places[kept], "amin")
    bottom_right = first.scatter_reduce(0, index, places[kept], "amax") + 1
    return torch.cat([top_left, bottom_right], 1), cell_to_leaf


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
        order = rank(image, can_halve, weight)
        place = torch.empty_like(order).scatter_(0, order, running_cost(image[order], torch.ones_like(order)))
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


def grid_heads(cells: PackedGrid, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """Divide each image into the largest near-square grid of at most `tokens` near-equal blocks.

    Returns:
        `tuple[Tensor, Tensor]`: head map of shape `(cells,)`, and the number of blocks of shape `(images,)`.
    """
    blocks = torch.stack(grid_shape(cells.rows, cells.cols, tokens), 1)  # (images, 2)
    zeros = torch.zeros_like(cells.rows)
    extent = torch.stack([cells.rows, cells.cols], 1)
    return block_heads(cells, cells.image, zeros, zeros, extent, blocks), blocks.prod(1)


def uniform_heads(cells: PackedGrid, budgets: Tensor) -> Tensor:
    """Equal leaves everywhere: the largest near-square grid of at most K blocks, then halvings spread evenly."""
    heads, _ = grid_heads(cells, budgets)
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
    order = rank(image, returns.flatten())
    base = torch.zeros_like(budgets).index_add(0, regions.image, tokens[:, 0])
    bought = running_cost(image[order], cost.flatten()[order]) <= (budgets - base)[image[order]]
    bought = torch.empty_like(bought).scatter_(0, order, bought).view_as(cost)
    tier = bought.sum(1)  # (regions,)

    chosen = blocks[torch.arange(len(tier), device=tier.device), tier]  # (regions, 2)
    # A single region whose lowest tier exceeds the budget falls below the tiers.
    below = grid_shape(extent[:, 0], extent[:, 1], budgets[regions.image])
    chosen = torch.where((base > budgets)[regions.image][:, None], torch.stack(below, 1), chosen)
    heads = block_heads(cells, region, top, left, extent, chosen)
    return halve_leaves(cells, heads, budgets, relevance)


def topk_heads(cells: PackedGrid, relevance: Tensor, budgets: Tensor) -> Tensor:
    """Plain pruning: keep the K most relevant cells of each image, drop the rest (head -1)."""
    order = rank(cells.image, relevance)
    kept = running_cost(cells.image, torch.ones_like(order)) <= budgets[cells.image]
    kept = torch.empty_like(kept).scatter_(0, order, kept)
    return torch.where(kept, torch.arange(len(order), device=order.device), -1)


def foveated_heads(
    cells: PackedGrid,
    relevance: Tensor,
    budgets: Tensor,
    context_share: float,
    fovea_threshold: float = 0.0,
    pair_worth: float | None = None,
    kept: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """A coarse grid of the whole image for context, and the most relevant cells as tokens of their own.

    A share of the budget buys a grid of equal blocks; the rest buys single cells in order of relevance, or pairs of
    them. A block keeps its token for the cells that are left in it. The last cells of a block cost nothing: they take
    the block's token. So the count is exact, and where the quadtree pays for a cell's whole neighbourhood, here a cell
    costs one token. Tokens for which there is no cell of enough relevance make the grid finer instead, as far as its
    shape allows.

    Args:
        cells ([`PackedGrid`]): the cells.
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell.
        budgets (`Tensor` of shape `(images,)`): tokens of each image.
        context_share (`float`): least share of the budget for the blocks, in [0, 1]; there is always one.
        fovea_threshold (`float`): a cell is of enough relevance if it has this share of the highest in its image.
        pair_worth (`float`, *optional*), kept (`Tensor`, *optional*): as of `pair_cells`.

    Returns:
        `tuple[Tensor, Tensor]`: the head map; and for the cells of pairs that share a token the head of what is left
        of their block, -1 if nothing is, and for all other cells. Both of shape `(cells,)`.
    """
    own = torch.arange(len(relevance), device=relevance.device)
    highest = torch.zeros_like(budgets, dtype=relevance.dtype).scatter_reduce(0, cells.image, relevance, "amax")
    enough = (relevance >= fovea_threshold * highest[cells.image]).long()  # (cells,)
    fovea = torch.zeros_like(budgets).index_add(0, cells.image, enough)  # (images,)
    context = (budgets.double() * context_share).floor().long()
    context = torch.maximum(context, budgets - fovea).clamp(min=1)
    block, blocks = grid_heads(cells, context)  # (cells,), (images,)

    worth, first = pair_cells(cells, relevance, block, pair_worth, kept)
    order = rank(cells.image, worth)
    place = torch.empty_like(order).scatter_(0, order, own)  # (cells,)
    uncovers = torch.where(first == own, place, -1)  # a lower cell's own token takes nothing out of the block
    last = torch.zeros_like(own).scatter_reduce(0, block, uncovers, "amax")  # of each block, at its first cell
    cost = (uncovers != last[block]).long()
    spent = running_cost(cells.image[order], cost[order])
    shown = spent <= (budgets - blocks)[cells.image[order]]
    shown = torch.empty_like(shown).scatter_(0, order, shown)  # (cells,)

    left = torch.where(shown[first], len(own), own)
    first_left = torch.full_like(own, len(own)).scatter_reduce(0, block, left, "amin")  # at a block's first cell
    second = ~shown & shown[first]  # a lower cell that has no token of its own
    is_paired = second.clone()
    is_paired[first[second]] = True
    is_paired &= first_left[block] < len(own)
    heads = torch.where(shown, own, torch.where(second, first, first_left[block]))
    return heads, torch.where(is_paired, first_left[block], -1)
