"""Quadtrees over a packed batch of token grids: index structure and rate-distortion gains.

A node of level `l` covers `2**l x 2**l` cells, clipped at the right and bottom border of its grid; the single node of
the top level covers the whole grid. All images of a batch are packed, so one tensor operation serves grids of any
sizes and a grid's nodes never depend on its neighbours in the batch.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


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
    image = torch.repeat_interleave(torch.arange(len(rows), device=rows.device), counts)  # (nodes,)
    within = torch.arange(len(image), device=rows.device) - offsets[image]
    width = cols[image]
    y = within // width
    return PackedGrid(rows, cols, offsets, image, y, within - y * width)


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
        corner = torch.arange(4, device=grids.device)
        image = coarser.image[:, None]  # (nodes, 1)
        y, x = 2 * coarser.y[:, None] + corner // 2, 2 * coarser.x[:, None] + corner % 2  # (nodes, 4)
        inside = (y < finer.rows[image]) & (x < finer.cols[image])
        children.append(torch.where(inside, finer.index(image, y, x), len(finer.image)))
        parents.append(coarser.index(finer.image, finer.y >> 1, finer.x >> 1))
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
    return torch.cat([values, padding])[children]


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
        inside = torch.where(children < len(means), children, children[:, :1])
        share = child_mass / mass[:, None]  # (nodes, 4)
        anchor = means[inside[:, 0]]  # (nodes, dim)
        shift, spread = torch.zeros_like(anchor), torch.zeros_like(mass)
        for child in range(1, 4):
            delta = means[inside[:, child]].sub_(anchor)  # (nodes, dim)
            spread += child_mass[:, child] * torch.linalg.vector_norm(delta, dim=1).square()
            shift.addcmul_(delta, share[:, child, None])
        gains.append((spread - mass * torch.linalg.vector_norm(shift, dim=1).square()).clamp(min=0))
        means = anchor.add_(shift)
    return gains
