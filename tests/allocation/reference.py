"""Slow, obvious references for the allocation and the positions: plain Python over one image at a time.

Nothing here is packed or vectorised. A node of a quadtree is `(level, y, x)`, a box is `(top, left, bottom, right)` in
cells, the last two exclusive.
"""

import heapq
import math
from collections.abc import Mapping
from typing import Any

import numpy as np


Node = tuple[int, int, int]
Box = tuple[int, int, int, int]


def height(rows: int, cols: int) -> int:
    """Level of the smallest node that covers the whole grid."""
    level = 0
    while 2**level < max(rows, cols):
        level += 1
    return level


def node_box(node: Node, rows: int, cols: int) -> Box:
    level, y, x = node
    side = 2**level
    return y * side, x * side, min(y * side + side, rows), min(x * side + side, cols)


def children(node: Node, rows: int, cols: int) -> list[Node]:
    """Children inside the grid: top-left, top-right, bottom-left, bottom-right."""
    level, y, x = node
    side = 2 ** (level - 1)
    places = [(2 * y, 2 * x), (2 * y, 2 * x + 1), (2 * y + 1, 2 * x), (2 * y + 1, 2 * x + 1)]
    return [(level - 1, v, u) for v, u in places if v * side < rows and u * side < cols]


def nodes(rows: int, cols: int) -> list[Node]:
    """All nodes of a grid's tree above the cells."""
    found = []
    for level in range(1, height(rows, cols) + 1):
        side = 2**level
        found += [(level, y, x) for y in range(-(-rows // side)) for x in range(-(-cols // side))]
    return found


def distortion(features: np.ndarray, weights: np.ndarray, box: Box) -> float:
    """`sum_c w_c |x_c - mean|^2` over the cells of a box, where the mean is weighted too, in float64.

    Args:
        features: of shape `(rows, cols, dim)`.
        weights: of shape `(rows, cols)`.
    """
    top, left, bottom, right = box
    w = weights[top:bottom, left:right].astype(np.float64).reshape(-1, 1)
    x = features[top:bottom, left:right].astype(np.float64).reshape(len(w), -1)
    mean = (w * x).sum(0) / w.sum()
    return float((w * (x - mean) ** 2).sum())


def split_gain(features: np.ndarray, weights: np.ndarray, node: Node) -> float:
    """Distortion that splitting a node removes."""
    rows, cols = weights.shape
    parts = [distortion(features, weights, node_box(child, rows, cols)) for child in children(node, rows, cols)]
    return distortion(features, weights, node_box(node, rows, cols)) - sum(parts)


def node_worths(rows: int, cols: int, gains: Mapping[Node, Any]) -> dict[Node, Any]:
    """Gain of each node for each leaf that its split adds, raised to the worth of its best descendant."""
    worths: dict[Node, Any] = {}
    for node in nodes(rows, cols):  # finer levels first
        kids = children(node, rows, cols)
        own = gains[node] / type(gains[node])(len(kids) - 1) if len(kids) > 1 else 0.0
        worths[node] = max(own, *(worths.get(kid, 0.0) for kid in kids))
    return worths


def lod_boxes(rows: int, cols: int, gains: Mapping[Node, Any], budget: int, max_level: int) -> list[Box]:
    """Split the node of highest worth until the budget is spent; the last one or two leaves by halving a node.

    Args:
        gains: gain of splitting each of `nodes(rows, cols)`; the arithmetic is done in the type of the gains.
    """
    worths = node_worths(rows, cols, gains)

    def entry(node: Node) -> tuple:
        level, y, x = node
        return level <= max_level, -worths[node], -level, y, x, node

    root = (height(rows, cols), 0, 0)
    leaves = {node_box(root, rows, cols)}
    queue = [entry(root)] if root[0] > 0 else []
    while len(leaves) < budget:
        node = heapq.heappop(queue)[-1]
        kids = children(node, rows, cols)
        leaves.remove(node_box(node, rows, cols))
        if len(leaves) + len(kids) <= budget:
            leaves |= {node_box(kid, rows, cols) for kid in kids}
            for kid in kids:
                if kid[0] > 0:
                    heapq.heappush(queue, entry(kid))
            continue
        top, left, bottom, right = node_box(node, rows, cols)
        middle_y, middle_x = top + 2 ** (node[0] - 1), left + 2 ** (node[0] - 1)
        leaves.add((middle_y, left, bottom, right))
        if len(leaves) + 1 == budget:
            leaves.add((top, left, middle_y, right))
        else:
            leaves |= {(top, left, middle_y, middle_x), (top, middle_x, middle_y, right)}
    return sorted(leaves)


def grid_shape(rows: int, cols: int, tokens: int) -> tuple[int, int]:
    """Near-square blocks: `sqrt(tokens * rows / cols)` down, as many across as the tokens allow, then down again."""
    down = min(max(math.isqrt(tokens * rows // cols), 1), rows, tokens)
    across = min(tokens // down, cols)
    return min(tokens // across, rows), across


def block_boxes(box: Box, down: int, across: int) -> list[Box]:
    """Cut a box into near-equal blocks: block `i` of `n` along a side of `s` cells begins at cell `ceil(i s / n)`."""
    top, left, bottom, right = box
    ys = [top + -(-i * (bottom - top) // down) for i in range(down + 1)]
    xs = [left + -(-i * (right - left) // across) for i in range(across + 1)]
    return [(ys[i], xs[j], ys[i + 1], xs[j + 1]) for i in range(down) for j in range(across)]


def halve_boxes(boxes: list[Box], budget: int, importance: np.ndarray) -> list[Box]:
    """In rounds, halve the most important boxes of more than one cell until there are enough.

    Args:
        importance: of each cell, of shape `(rows, cols)`; summed over a box in raster order.
    """
    boxes = sorted(boxes)
    while len(boxes) < budget:
        missing = budget - len(boxes)

        def weight(box: Box) -> float:
            top, left, bottom, right = box
            total = importance.dtype.type(0)
            for value in importance[top:bottom, left:right].flat:
                total += value
            return total

        large = [box for box in boxes if (box[2] - box[0]) * (box[3] - box[1]) > 1]
        chosen = sorted(large, key=lambda box: -weight(box))[:missing]  # stable: equal weights in raster order
        halves = []
        for top, left, bottom, right in chosen:
            if right - left > bottom - top:
                middle = left + (right - left + 1) // 2
                halves += [(top, left, bottom, middle), (top, middle, bottom, right)]
            else:
                middle = top + (bottom - top + 1) // 2
                halves += [(top, left, middle, right), (middle, left, bottom, right)]
        boxes = sorted([box for box in boxes if box not in chosen] + halves)
    return boxes


def uniform_boxes(rows: int, cols: int, budget: int) -> list[Box]:
    """Near-square blocks, the remaining tokens by halving the largest in a quasi-random order."""
    boxes = block_boxes((0, 0, rows, cols), *grid_shape(rows, cols, budget))
    importance = np.ones((rows, cols))
    for top, left, _, _ in boxes:
        importance[top, left] += (top * cols + left) * ((math.sqrt(5) - 1) / 2) % 1 / 2
    return halve_boxes(boxes, budget, importance)


def tier_boxes(
    rows: int, cols: int, relevance: np.ndarray, budget: int, tiers: list[int], region_size: int
) -> list[Box]:
    """Regions that each get one of a few token counts: buy the upgrade of best return until one does not fit.

    Args:
        relevance: of shape `(rows, cols)`.
    """
    side = region_size
    while -(-rows // side) * -(-cols // side) * tiers[0] > budget and side < max(rows, cols):
        side *= 2
    regions = [
        (y, x, min(y + side, rows), min(x + side, cols)) for y in range(0, rows, side) for x in range(0, cols, side)
    ]

    def blocks(region: Box, tier: int) -> tuple[int, int]:
        """The squarest blocks of a tier, clipped to the cells along a side; a lower tier's if more."""
        extent = region[2] - region[0], region[3] - region[1]
        shapes = []
        for tokens in tiers[: tier + 1]:
            short = max(a for a in range(1, math.isqrt(tokens) + 1) if tokens % a == 0)
            down, across = (short, tokens // short) if extent[1] >= extent[0] else (tokens // short, short)
            shapes.append((min(down, extent[0]), min(across, extent[1])))
        return max(reversed(shapes), key=math.prod)

    chosen = [0] * len(regions)
    spent = sum(math.prod(blocks(region, 0)) for region in regions)
    if spent > budget:
        (region,) = regions
        return halve_boxes(block_boxes(region, *grid_shape(rows, cols, budget)), budget, relevance)
    masses = [float(relevance[t:b, left:r].astype(np.float64).sum()) for t, left, b, r in regions]
    while True:
        offers = []
        for index, region in enumerate(regions):
            if chosen[index] + 1 < len(tiers):
                now = math.prod(blocks(region, chosen[index]))
                then = math.prod(blocks(region, chosen[index] + 1))
                offers.append((-masses[index] / (now * then), index, then - now))
        if not offers:
            break
        _, index, cost = min(offers)
        if spent + cost > budget:
            break
        spent += cost
        chosen[index] += 1
    boxes = [
        box for region, tier in zip(regions, chosen, strict=True) for box in block_boxes(region, *blocks(region, tier))
    ]
    return halve_boxes(boxes, budget, relevance)


def topk_boxes(relevance: np.ndarray, budget: int) -> list[Box]:
    """The most relevant cells, of equal ones the first."""
    rows, cols = relevance.shape
    cells = [(-float(relevance[y, x]), y, x) for y in range(rows) for x in range(cols)]
    return sorted((y, x, y + 1, x + 1) for _, y, x in sorted(cells)[:budget])


def vertical_pairs(
    relevance: np.ndarray, blocks: list[list[tuple[int, int]]], pair_worth: float
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Cells above each other in a block that prefer each other, if the two are worth more than one alone."""
    block_of = {cell: number for number, block in enumerate(blocks) for cell in block}

    def preferred(cell: tuple[int, int]) -> tuple[int, int] | None:
        y, x = cell
        near = [other for other in ((y - 1, x), (y + 1, x)) if block_of.get(other) == block_of[cell]]
        return max(near, key=lambda other: relevance[other], default=None)  # of equal ones the upper

    found = []
    for y, x in block_of:
        upper, lower = (y, x), (y + 1, x)
        if lower in block_of and preferred(upper) == lower and preferred(lower) == upper:
            share = np.float32(pair_worth) * (relevance[upper] + relevance[lower])
            if share >= max(relevance[upper], relevance[lower]):
                found.append((upper, lower))
    return found


def foveated_leaves(
    relevance: np.ndarray, budget: int, context_share: float, fovea_threshold: float, pair_worth: float | None = None
) -> list[list[tuple[int, int]]]:
    """Cells of each leaf: blocks give up their most relevant cells or pairs one by one, while there are tokens."""
    rows, cols = relevance.shape
    worthy = int((relevance >= np.float32(fovea_threshold) * relevance.max()).sum())
    context = max(1, math.floor(budget * context_share), budget - worthy)
    boxes = block_boxes((0, 0, rows, cols), *grid_shape(rows, cols, context))
    blocks = [[(y, x) for y in range(top, bottom) for x in range(left, right)] for top, left, bottom, right in boxes]
    # Offers of a token: its worth, the cell that it is named for, and the leaves that it makes.
    offers = {(y, x): (-float(relevance[y, x]), [[(y, x)]]) for y in range(rows) for x in range(cols)}
    for upper, lower in [] if pair_worth is None else vertical_pairs(relevance, blocks, pair_worth):
        total = relevance[upper] + relevance[lower]
        offers[upper] = (-float(np.float32(pair_worth) * total), [[upper, lower]])
        offers[lower] = (-float(np.float32(1 - pair_worth) * total), [[upper], [lower]])
    shown: list[list[tuple[int, int]]] = []
    for _, _, made in sorted((worth, cell, made) for cell, (worth, made) in offers.items()):
        taken = {cell for leaf in made for cell in leaf}
        rest = [[cell for cell in block if cell not in taken] for block in blocks]
        then = [leaf for leaf in shown if not taken & set(leaf)] + made
        if len(then) + sum(map(bool, rest)) > budget:
            break
        blocks, shown = rest, then
    return sorted([*filter(None, blocks), *shown])


def bounding_box(cells: list[tuple[int, int]]) -> Box:
    """The smallest box that holds all of these cells."""
    rows, columns = zip(*cells, strict=True)
    return min(rows), min(columns), max(rows) + 1, max(columns) + 1


def cell_to_leaf(boxes: list[Box], rows: int, cols: int) -> list[int]:
    """Leaf of each cell in raster order; -1 where no box covers it."""
    leaf = [[-1] * cols for _ in range(rows)]
    for index, (top, left, bottom, right) in enumerate(boxes):
        for y in range(top, bottom):
            for x in range(left, right):
                assert leaf[y][x] == -1, "boxes overlap"
                leaf[y][x] = index
    return [index for row in leaf for index in row]


def rope_positions(
    token_types: list[int], images: list[tuple[tuple[float, float], list[tuple[float, float]]]]
) -> tuple[list[tuple[float, float, float]], float]:
    """M-RoPE positions of one prompt without padding.

    Args:
        token_types: 0 for text, 1 for visual tokens.
        images: for each image the rows and columns of its grid, and the row and column of each of its visual tokens.

    Returns:
        Time, height and width of each token; and the next text position less the number of tokens.
    """
    positions: list[tuple[float, float, float]] = []
    now: float = 0
    remaining = iter(images)
    while len(positions) < len(token_types):
        if token_types[len(positions)] == 0:
            positions.append((now, now, now))
            now += 1
        else:
            extent, tokens = next(remaining)
            positions += [(now, now + y, now + x) for y, x in tokens]
            now += max(extent)
    return positions, now - len(token_types)
