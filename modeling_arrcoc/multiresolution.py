"""Run a vision tower on leaves: each leaf is drawn as one cell of pixels, whatever its size, and keeps its place.

A leaf of `h x w` cells is shrunk by a box filter to the pixels of a single cell, so that the tower sees it as one
merged token whose patches lie `h` and `w` native patches apart. Of a pair of cells a window may be cut out instead.
Everything here is a pure function; the hosts hand the results to their stock towers as precomputed inputs.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .outputs import Allocation
from .quadtree import QuadTree, build_quadtree, gather_children


def patches_to_cells(patches: Tensor, channels: int, patch_size: int, merge_size: int) -> Tensor:
    """Pictures of the cells from the flattened patches of the image processor.

    Args:
        patches (`Tensor` of shape `(cells * merge_size**2, channels * patch_size**2)`): the cells' patches.
        channels (`int`): channels of a patch, times its frames.
        patch_size, merge_size (`int`): side of a patch in pixels, and of a cell in patches.

    Returns:
        `Tensor` of shape `(cells, channels, side, side)` with `side = merge_size * patch_size` pixels.
    """
    tiles = patches.view(-1, merge_size, merge_size, channels, patch_size, patch_size)
    # Two copies of whole lines of pixels: on a CPU several times as fast as one that permutes.
    rows = [torch.cat(row.unbind(1), -1) for row in tiles.unbind(1)]  # (cells, channels, patch_size, side) each
    return torch.cat(rows, -2)


def cells_to_patches(cells: Tensor, merge_size: int) -> Tensor:
    """Inverse of `patches_to_cells`: `(cells, channels, side, side)` to `(cells * merge_size**2, patch_dim)`."""
    count, channels, side, _ = cells.shape
    patch_size = side // merge_size
    tiles = cells.view(count, channels, merge_size, patch_size, merge_size, patch_size)
    return tiles.permute(0, 2, 4, 1, 3, 5).reshape(count * merge_size**2, channels * patch_size**2)


def first_cells(allocation: Allocation) -> tuple[Tensor, Tensor]:
    """Packed index of the top-left cell of each leaf's box, and the columns of its image; of shape `(leaves,)`."""
    image = torch.repeat_interleave(torch.arange(len(allocation), device=allocation.boxes.device), allocation.budgets)
    columns = allocation.grids[image, 1]
    first = (allocation.cells_per_image.cumsum(0) - allocation.cells_per_image)[image]
    return first + allocation.boxes[:, 0] * columns + allocation.boxes[:, 1], columns


def draw_leaves(cells: Tensor, allocation: Allocation) -> Tensor:
    """Shrink each leaf to the pixels of one cell: a pixel of a leaf of `h x w` cells is the mean of `h x w` pixels.

    Leaves with a window are cut out instead.

    Args:
        cells (`Tensor` of shape `(cells, channels, side, side)`): pictures of the cells.
        allocation ([`Allocation`]): their leaves.

    Returns:
        `Tensor` of shape `(leaves, channels, side, side)`.
    """
    _, channels, side, _ = cells.shape
    first_cell, columns = first_cells(allocation)  # (leaves,)
    drawn = cells.new_empty(len(first_cell), channels, side, side)
    is_whole = torch.ones_like(first_cell, dtype=torch.bool)
    if allocation.windows is not None:
        is_whole = allocation.windows < 0
        leaves = (~is_whole).nonzero()[:, 0]  # (pairs,)
        upper = first_cell[leaves]
        picture = torch.cat([cells[upper], cells[upper + columns[leaves]]], 2)  # (pairs, channels, 2 * side, side)
        begins = (allocation.windows[leaves] * side).round().long()
        rows = begins[:, None] + torch.arange(side, device=cells.device)  # (pairs, side)
        drawn[leaves] = picture.gather(2, rows[:, None, :, None].expand(-1, channels, -1, side))
    for height, width in torch.unique(allocation.sizes[is_whole], dim=0).tolist():  # few: all leaves of a size at once
        is_size = (allocation.sizes == allocation.sizes.new_tensor([height, width])).all(1)
        leaves = (is_whole & is_size).nonzero()[:, 0]  # (n,)
        down = torch.arange(height, device=cells.device)[:, None] * columns[leaves, None, None]  # (n, height, 1)
        index = first_cell[leaves, None, None] + down + torch.arange(width, device=cells.device)  # (n, height, width)
        if height == width == 1:
            drawn[leaves] = cells[index[:, 0, 0]]
            continue
        picture = cells[index].permute(0, 3, 1, 4, 2, 5)  # (n, channels, height, side, width, side)
        picture = picture.reshape(len(leaves), channels, height * side, width * side)
        drawn[leaves] = F.avg_pool2d(picture, (height, width))
    return drawn


def join_children(children: Tensor, pictures: Tensor) -> Tensor:
    """Put the pictures of each node's four children together into one of the node.

    Args:
        children (`Tensor` of shape `(nodes, 4)`): as in [`QuadTree`]. Outside the grid on the right, a child looks
            like its left neighbour; outside below, like the one above it.
        pictures (`Tensor` of shape `(nodes of the finer level, ..., side, side)`).

    Returns:
        `Tensor` of shape `(nodes, ..., 2 * side, 2 * side)`.
    """
    top_left, top_right, bottom_left, bottom_right = children.unbind(1)
    right, below = top_right == len(pictures), bottom_left == len(pictures)
    top_right = torch.where(right, top_left, top_right)
    bottom_right = torch.where(right, bottom_left, bottom_right)
    bottom_left = torch.where(below, top_left, bottom_left)
    bottom_right = torch.where(below, top_right, bottom_right)
    top = torch.cat([pictures[top_left], pictures[top_right]], -1)  # (nodes, ..., side, 2 * side)
    bottom = torch.cat([pictures[bottom_left], pictures[bottom_right]], -1)
    return torch.cat([top, bottom], -2)


@torch.no_grad()
def drawing_losses(cells: Tensor, grids: Tensor) -> Tensor:
    """What leaves drawn as in `draw_leaves` lose, level by level: a property of the pixels, whatever is asked.

    A node loses the differences between the pixels of its children's drawings and its own, the means of 2 x 2 of them.
    They are measured on the mean of the channels, as mean squares over a child. At the border, where a node has fewer
    than four children, a missing child is taken to look like its neighbour.

    Args:
        cells (`Tensor` of shape `(cells, channels, side, side)`): pictures of the cells; `side` is even.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

    Returns:
        `Tensor` of shape `(cells, levels)`, float32: in column `l` what is lost where a cell is drawn at level `l + 1`
        instead of `l`, as a mean over the node of level `l` that it belongs to.
    """
    tree = build_quadtree(grids)
    channels, side = cells.shape[1:3]
    drawings, scale = cells.sum(1, dtype=torch.float32), channels * side  # (nodes, side, side), sums of pixels
    node = torch.arange(len(cells), device=cells.device)  # of each cell
    losses = [drawings.new_empty(len(cells), 0)]
    for children, parents in zip(tree.children, tree.parents, strict=True):
        # With x_ij the pixels of a 2 x 2 block, m their mean and y_j = x_0j + x_1j, the sum of (x_ij - m)^2 is
        # ((x_00 - x_10)^2 + (x_01 - x_11)^2) / 2 + (y_0 - y_1)^2 / 4: exactly zero where pixels are equal.
        upper, lower = drawings[:, ::2], drawings[:, 1::2]  # (nodes, side / 2, side)
        rows = upper + lower
        left, right = rows[..., ::2], rows[..., 1::2]  # (nodes, side / 2, side / 2)
        down, across = (
            torch.linalg.vector_norm(difference.flatten(1), dim=1).square()
            for difference in (upper - lower, left - right)
        )  # (nodes,)
        loss = (down / 2 + across / 4) / scale**2
        losses.append(loss.index_select(0, node)[:, None])
        node = parents.index_select(0, node)
        drawings, scale = join_children(children, left + right), 4 * scale
    return torch.cat(losses, 1)


def drawing_gains(tree: QuadTree, losses: Tensor, weights: Tensor) -> list[Tensor]:
    """Weighted distortion that splitting each node removes when leaves are drawn as in `draw_leaves`.

    Args:
        tree ([`QuadTree`]): quadtrees of the grids.
        losses (`Tensor` of shape `(cells, levels)`): as from `drawing_losses`.
        weights (`Tensor` of shape `(cells,)`): positive relevance of each cell.

    Returns:
        `list[Tensor]`: for levels 1, 2, ... the gains of shape `(nodes_l,)`.
    """
    weighted = losses * weights[:, None]  # (nodes, levels from the node's on)
    gains = []
    for children in tree.children:
        first, second, third, fourth = gather_children(weighted, children, 0.0).unbind(1)
        weighted = first + second + third + fourth  # in this order, whatever the number of levels
        gains.append(weighted[:, 0])
        weighted = weighted[:, 1:]
    return gains


def patch_positions(allocation: Allocation, merge_size: int) -> Tensor:
    """Rows and columns of the centres of the leaves' patches, in native patches divided by the position scale.

    Returns:
        `Tensor` of shape `(leaves * merge_size**2, 2)`, float32; at full detail the integers of the stock tower.
    """
    step = torch.arange(merge_size, device=allocation.boxes.device) + 0.5
    steps = torch.stack(torch.meshgrid(step, step, indexing="ij"), -1).view(1, -1, 2)  # (1, merge_size**2, 2)
    corners, ends = allocation.drawn[:, None].split(2, 2)  # (leaves, 1, 2) each
    centers = corners * merge_size + steps * (ends - corners)  # (leaves, merge_size**2, 2)
    return (centers / allocation.leaf_scale[:, None, None] - 0.5).flatten(0, 1)


def bilinear_taps(positions: Tensor, sizes: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Where and how strongly to read a square table that is stretched over each image, corner to corner.

    Args:
        positions (`Tensor` of shape `(patches, 2)`): rows and columns, may be fractional.
        sizes (`Tensor` of shape `(patches, 2)`): rows and columns of the patch's image.
        side (`int`): rows and columns of the table.

    Returns:
        `tuple[Tensor, Tensor]`: indices into the flattened table and weights that sum to one, both of shape
        `(patches, 4)`.
    """
    place = (positions * (side - 1) / (sizes - 1).clamp(min=1)).clamp(0, side - 1)
    low = place.floor()
    high_weight = place - low  # (patches, 2)
    low = low.long()
    taps = torch.stack([low, (low + 1).clamp(max=side - 1)], -1)  # (patches, 2, 2): axis, low or high
    weights = torch.stack([1 - high_weight, high_weight], -1)
    indices = taps[:, 0, :, None] * side + taps[:, 1, None, :]
    return indices.flatten(1), (weights[:, 0, :, None] * weights[:, 1, None, :]).flatten(1)


def window_order(allocation: Allocation, window: int, merge_size: int) -> tuple[Tensor, Tensor]:
    """Sort leaves into attention windows by the place of their centres.

    Args:
        allocation ([`Allocation`]): the leaves.
        window (`int`): side of a window in cells, of the scaled grid.
        merge_size (`int`): patches along a side of a leaf.

    Returns:
        `tuple[Tensor, Tensor]`: the leaves of shape `(leaves,)` in the order of their windows, and the ends of the
        windows in patches, int32 of shape `(windows + 1,)`, starting with 0.
    """
    scale = allocation.leaf_scale[:, None]
    place = (((allocation.centers + 0.5) / scale - 0.5) / window).floor().long()  # (leaves, 2)
    image = torch.repeat_interleave(torch.arange(len(allocation), device=place.device), allocation.budgets)
    keys = torch.cat([image[:, None], place], 1)  # (leaves, 3)
    number = torch.unique(keys, dim=0, return_inverse=True)[1]  # windows in raster order, image by image
    order = torch.argsort(number, stable=True)
    ends = torch.bincount(number).cumsum(0, dtype=torch.int32) * merge_size**2
    return order, torch.cat([ends.new_zeros(1), ends])


def sequence_ends(allocation: Allocation, merge_size: int) -> Tensor:
    """Ends of the images' patches in the packed sequence, int32 of shape `(images + 1,)`, starting with 0."""
    ends = (allocation.budgets * merge_size**2).cumsum(0, dtype=torch.int32)
    return torch.cat([ends.new_zeros(1), ends])
