"""Quadtrees over a packed batch of token grids: index structure, rate-distortion gains and what they are measured on.

A node of level `l` covers `2**l x 2**l` cells, clipped at the right and bottom border of its grid; the single node of
the top level covers the whole grid. All images of a batch are packed, so one tensor operation serves grids of any
sizes and a grid's nodes never depend on its neighbours in the batch.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


# Width of the sketch that the distortion of cell features is measured on. On 48 x 50 cells, leaves chosen by it have
# 0 to 1.2 % more distortion on average than leaves chosen by all of 2,048 channels (`benchmarks/allocation.py`); a
# width of 32 about doubles that, and 128 takes twice as long on large batches.
SKETCH_WIDTH = 64


@dataclass(frozen=True)
class PackedGrid:
    """One level of the packed quadtrees; level 0 holds the cells.

    Attributes:
        rows, cols (`Tensor` of shape `(images,)`): nodes along each side.
        offsets (`Tensor` of shape `(images,)`): index of each image's first node.
        image (`Tensor` of shape `(nodes,)`): the image a node belongs to.
        y, x (`Tensor` of shape `(nodes,)`): coordinates of a node in units of its own level.
    """

    rows: Tensor
    cols: Tensor
    offsets: Tensor
    image: Tensor
    y: Tensor
    x: Tensor

    def index(self, image: Tensor, y: Tensor, x: Tensor) -> Tensor:
        """Packed index of the nodes at `(y, x)` of `image`; shapes broadcast."""
        return self.offsets[image] + y * self.cols[image] + x


def packed_grid(rows: Tensor, cols: Tensor) -> PackedGrid:
    """Lay out grids of `rows x cols` nodes (each of shape `(images,)`) one after another, in raster order."""
    counts = rows * cols  # (images,)
    ends = counts.cumsum(0)
    offsets = ends - counts
    image = torch.repeat_interleave(counts)  # (nodes,)
    within = torch.arange(len(image), device=rows.device) - offsets.index_select(0, image)
    width = cols.index_select(0, image)
    y = within // width
    return PackedGrid(rows, cols, offsets, image, y, within - y * width)


def rank(image: Tensor, *keys: Tensor) -> Tensor:
    """Indices that sort by image, then by each key in turn, descending; equal elements keep their order."""
    order = torch.arange(len(image), device=image.device)
    for key in reversed(keys):
        order = order[torch.argsort(key[order], descending=True, stable=True)]
    return order[torch.argsort(image[order], stable=True)]


def running_cost(image: Tensor, cost: Tensor) -> Tensor:
    """Inclusive running sum of `cost` that starts anew at each image; `image` is sorted, both of shape `(items,)`."""
    total = cost.cumsum(0)
    first = torch.ones_like(image, dtype=torch.bool)
    first[1:] = image[1:] != image[:-1]
    start = torch.where(first, total - cost, 0).cummax(0).values  # costs are never negative
    return total - start


@dataclass(frozen=True)
class QuadTree:
    """Quadtrees of a batch of grids.

    Attributes:
        levels (`list[PackedGrid]`): the nodes of each level, finest first; `levels[0]` are the cells.
        children (`list[Tensor]`): `children[l - 1]` of shape `(nodes_l, 4)` holds, for the nodes of level `l`, the
            indices of their children in level `l - 1` as top-left, top-right, bottom-left, bottom-right. A child
            outside the grid is given the index `nodes_{l-1}`, one past the last node.
        parents (`list[Tensor]`): `parents[l]` of shape `(nodes_l,)` holds their parents' indices in level `l + 1`.
    """

    levels: list[PackedGrid]
    children: list[Tensor]
    parents: list[Tensor]

    @property
    def cells(self) -> PackedGrid:
        return self.levels[0]


def build_quadtree(grids: Tensor) -> QuadTree:
    """Build the quadtrees of a batch of grids.

    Args:
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each grid, in cells.

    Returns:
        [`QuadTree`] whose top level has one node an image.
    """
    rows, cols = grids.unbind(1)
    height = int(grids.max() - 1).bit_length() if len(grids) else 0
    levels, children, parents = [packed_grid(rows, cols)], [], []
    for _ in range(height):
        finer = levels[-1]
        coarser = packed_grid((finer.rows + 1) // 2, (finer.cols + 1) // 2)
        parent, count = coarser.index(finer.image, finer.y >> 1, finer.x >> 1), len(finer.image)
        place = 4 * parent + 2 * (finer.y & 1) + (finer.x & 1)  # of each finer node among all children
        child = torch.full((4 * len(coarser.image),), count, device=grids.device)
        child[place] = torch.arange(count, device=grids.device)
        children.append(child.view(-1, 4))
        parents.append(parent)
        levels.append(coarser)
    return QuadTree(levels, children, parents)


def gather_children(values: Tensor, children: Tensor, fill: float) -> Tensor:
    """Values of the four children of each node, `fill` where a child lies outside the grid.

    Args:
        values (`Tensor` of shape `(nodes, ...)`): one value for each node of the finer level.
        children (`Tensor` of shape `(parents, 4)`): see [`QuadTree`].

    Returns:
        `Tensor` of shape `(parents, 4, ...)`.
    """
    padding = values.new_full((1, *values.shape[1:]), fill)
    gathered = torch.cat([values, padding]).index_select(0, children.flatten())
    return gathered.view(*children.shape, *values.shape[1:])


def scramble(integers: Tensor) -> Tensor:
    """Pseudo-random integers of 24 bits that depend on `integers` alone, on any device."""
    for multiplier in (0x45D9F3B, 0x119DE1F3):
        integers = ((integers ^ (integers >> 16)) * multiplier) & 0xFFFFFFFF
    return (integers ^ (integers >> 16)) & 0xFFFFFF


@torch.no_grad()
def sketch_features(features: Tensor, width: int = SKETCH_WIDTH) -> Tensor:
    """Narrow cell features whose squared distances estimate those of `features`: a count sketch.

    Channel `i` is added to channel `i % width` of the sketch with a pseudo-random sign, the same for every cell. The
    squared distance of two sketches is right on average, with a relative standard deviation of about
    `sqrt(2 / width)` (Charikar, Chen & Farach-Colton, "Finding frequent items in data streams", ICALP 2002;
    Weinberger et al., "Feature hashing for large scale multitask learning", ICML 2009). Channels far larger than all
    others keep their share.

    Args:
        features (`Tensor` of shape `(cells, dim)`): cell features, any scale.
        width (`int`): channels of the sketch.

    Returns:
        `Tensor` of shape `(cells, width)`, float32; the features themselves if they are no wider than that. Equal
        cells have equal sketches, and a cell's sketch does not depend on the others.
    """
    dim = features.shape[1]
    if dim <= width:
        return features.float()
    if dim % width:
        features = F.pad(features, (0, -dim % width))
    signs = 1 - 2 * (scramble(torch.arange(features.shape[1], device=features.device)) & 1)
    # A convolution of each channel of the sketch by itself reads the features once and adds in float32. A product of
    # matrices does neither in float32, and its rounding may depend on the number of cells.
    kernel = signs.to(features.dtype).view(1, 1, -1, width).permute(3, 0, 1, 2)  # (width, 1, 1, dim / width)
    terms = features.unflatten(1, (1, -1, width)).permute(0, 3, 1, 2)  # (cells, width, 1, dim / width), channels last
    return F.conv2d(terms, kernel, groups=width).flatten(1).float()


def split_gains(tree: QuadTree, features: Tensor, weights: Tensor) -> list[Tensor]:
    """Weighted distortion that splitting each node removes.

    With leaves drawn as the weighted mean of their cells, a node's distortion is `D(n) = sum_c w_c |x_c - m_n|^2` and
    the gain of a split, `D(n) - sum_k D(k)` over its children, is the weighted variance of the children's means,
    `sum_k W_k |m_k - m_n|^2`. That form is used here: it is never negative, and exactly zero where the cells are
    equal.

    Args:
        tree ([`QuadTree`]): the quadtrees of the grids.
        features (`Tensor` of shape `(cells, dim)`): cell features, any scale.
        weights (`Tensor` of shape `(cells,)`): positive relevance of each cell.

    Returns:
        `list[Tensor]`: for levels 1, 2, ... the gains of shape `(nodes_l,)`.
    """
    means, mass = features, weights
    gains = []
    for children in tree.children:
        child_mass = gather_children(mass, children, 0.0)  # (nodes, 4)
        mass = child_mass.sum(1)  # (nodes,)
        # Means are taken relative to the top-left child, which always lies inside: equal children differ by exactly 0.
        # A child outside has no mass; the top-left one stands in for it.
        inside = torch.where(children < len(means), children, children[:, :1]).t()  # (4, nodes)
        share = (child_mass / mass[:, None]).t()[..., None]  # (4, nodes, 1)
        anchor = means.index_select(0, inside[0])  # (nodes, dim)
        delta = means.index_select(0, inside[1:].flatten()).view(3, *anchor.shape).sub_(anchor)  # (3, nodes, dim)
        spread = (torch.linalg.vector_norm(delta, dim=2).square() * child_mass[:, 1:].t()).sum(0)  # (nodes,)
        shift = (delta[0] * share[1]).addcmul_(delta[1], share[2]).addcmul_(delta[2], share[3])  # (nodes, dim)
        gains.append((spread - mass * torch.linalg.vector_norm(shift, dim=1).square()).clamp(min=0))
        means = anchor.add_(shift)
    return gains
