"""Pairs of cells above each other that share a token, and windows of them: a line of print often lies across two rows
of cells, and takes two tokens a letter where one would do."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .quadtree import PackedGrid


ALIKE = 1e-3  # share of the print for which a window is not moved by a cell


def print_of_rows(cells: Tensor) -> Tensor:
    """How much print each row of pixels of each cell has: the mean difference of neighbouring pixels along it.

    Lines of print are full of such differences; the gaps between them, and ruled lines, have none.

    Args:
        cells (`Tensor` of shape `(cells, channels, side, side)`): pictures of the cells.

    Returns:
        `Tensor` of shape `(cells, side)`, float32.
    """
    return cells.mean(1, dtype=torch.float32).diff(dim=-1).abs().mean(-1)


def row_windows(prints: Tensor, relevance: Tensor, cells: PackedGrid) -> tuple[Tensor, Tensor]:
    """Where windows as high as a cell are drawn of every two rows of cells, and what they show.

    All pairs of two rows of an image have one window: of the places where it can begin, pixel by pixel, the one with
    the most print in it, which counts with the relevance of its cell; of several alike the one that has the print of
    both rows in its middle.

    Args:
        prints (`Tensor` of shape `(cells, side)`): as from `print_of_rows`.
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell.
        cells ([`PackedGrid`]): the cells.

    Returns:
        `tuple[Tensor, Tensor]`: for the pair of each cell and the one below, how far below the upper one's top its
        window begins, in cells, in steps of a pixel, of shape `(cells,)`; and the share of the print of the upper and
        of the lower one that the window shows, 1 where there is none, of shape `(cells, 2)`. Of no meaning in the last
        row.
    """
    side, device = prints.shape[1], prints.device
    below = _below(cells)
    both = torch.stack([prints, prints[below]], 1)  # (cells, 2, side)
    weighted = (both * torch.stack([relevance, relevance[below]], 1)[:, :, None]).flatten(1)  # (cells, 2 * side)
    row = (cells.rows.cumsum(0) - cells.rows)[cells.image] + cells.y  # (cells,)
    weighted = weighted.new_zeros(int(cells.rows.sum()), 2 * side).index_add(0, row, weighted)  # (rows, 2 * side)

    total = weighted.sum(1, keepdim=True).clamp(min=torch.finfo(weighted.dtype).tiny)  # (rows, 1)
    sums = F.pad((weighted / total).cumsum(1), (1, 0))  # (rows, 2 * side + 1)
    inside = sums[:, side:] - sums[:, : side + 1]  # (rows, side + 1): share of the print in the window
    place = torch.arange(2 * side, device=device) + 0.5
    middle = (weighted * place).sum(1, keepdim=True) / total
    middle = torch.where(weighted.any(1, keepdim=True), middle, side)
    off = (torch.arange(side + 1, device=device) + side / 2 - middle).abs() / side  # (rows, side + 1)
    begins = (inside - ALIKE * off).argmax(1)[row]  # (cells,)

    sums = F.pad(both.flatten(1).cumsum(1), (1, 0))  # (cells, 2 * side + 1)
    ends = torch.stack([torch.zeros_like(begins), begins, torch.full_like(begins, side), begins + side], 1)
    top, begin, border, end = sums.gather(1, ends).unbind(1)  # (cells,) each
    shown = torch.stack([border - begin, end - border], 1)  # (cells, 2)
    there = torch.stack([border - top, sums[:, -1] - border], 1)
    return begins / side, torch.where(there > 0, shown / there, 1.0)


def pair_cells(
    cells: PackedGrid, relevance: Tensor, block: Tensor, pair_worth: float | None, kept: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pairs of cells above each other that may share a token, and what each token is worth.

    Of a pair with relevance `a` and `b` the first token is worth `w (a k + b l)`, where `k` and `l` are the shares of
    the two that it shows, and the second, with which each cell has its own, `(1 - w) (a + b)`: print that a window
    leaves out belongs to other lines. As `w > 1/2` returns diminish, and tokens in order of worth are the best choice
    for any budget. Each cell prefers the more worthy of the pairs with the cells above and below in its block. Two
    that prefer each other are a pair if that is worth more than the more relevant one alone.

    Args:
        cells ([`PackedGrid`]): the cells.
        relevance (`Tensor` of shape `(cells,)`): relevance of each cell.
        block (`Tensor` of shape `(cells,)`): first cell of each cell's block.
        pair_worth (`float`, *optional*): the share `w` of its worth that a cell keeps in a pair, in (0.5, 1). `None`:
            there are no pairs.
        kept (`Tensor` of shape `(cells, 2)`, *optional*): `k` and `l` of each cell and the one below, in [0, 1]. All 1
            if not given.

    Returns:
        `tuple[Tensor, Tensor]`: what a token is worth, and the cell that has the first token: the upper one for the
        lower one of a pair, for all others the cell itself; each of shape `(cells,)`.
    """
    own = torch.arange(len(relevance), device=relevance.device)
    if pair_worth is None:
        return relevance, own
    above, below = (own - cells.cols[cells.image]).clamp(min=0), _below(cells)
    has_above, has_below = (
        (other != own) & inside & (block[other] == block) for other, inside in ((above, cells.y > 0), (below, True))
    )
    total = relevance + relevance[below]
    shown = total if kept is None else relevance * kept[:, 0] + relevance[below] * kept[:, 1]
    value = pair_worth * shown  # of each cell with the one below
    prefers_below = has_below & ~(has_above & (value[above] >= value))  # (cells,)
    prefers_above = has_above & ~prefers_below
    upper = prefers_below & prefers_above[below]
    upper &= value >= torch.maximum(relevance, relevance[below])
    lower = prefers_above & upper[above]
    worth = torch.where(upper, value, relevance)
    worth = torch.where(lower, ((1 - pair_worth) * total)[above], worth)
    return worth, torch.where(lower, above, own)


def pair_windows(begins: Tensor, heads: Tensor, behind: Tensor, boxes: Tensor, cell_to_leaf: Tensor) -> Tensor:
    """Windows of the leaves that are pairs, where the coarse grid shows what a window leaves out.

    Args:
        begins (`Tensor` of shape `(cells,)`): as from `row_windows`.
        heads, behind (`Tensor` of shape `(cells,)`): as from `foveated_heads`.
        boxes (`Tensor` of shape `(leaves, 4)`), cell_to_leaf (`Tensor` of shape `(cells,)`): as of [`Allocation`].

    Returns:
        `Tensor` of shape `(leaves,)`: as of [`Allocation`].
    """
    own = torch.arange(len(heads), device=heads.device)
    upper = ((behind >= 0) & (heads == own)).nonzero()[:, 0]  # (pairs,)
    leaf = cell_to_leaf[upper]
    pair, grid_leaf = boxes[leaf], boxes[cell_to_leaf[behind[upper]]]  # (pairs, 4) each
    is_seen = (grid_leaf[:, :2] <= pair[:, :2]).all(1) & (grid_leaf[:, 2:] >= pair[:, 2:]).all(1)
    return begins.new_full((len(boxes),), -1.0).index_put((leaf[is_seen],), begins[upper[is_seen]])


def _below(cells: PackedGrid) -> Tensor:
    """The cell below each, or in the last row the cell itself, of shape `(cells,)`."""
    own = torch.arange(len(cells.image), device=cells.image.device)
    return torch.where(cells.y + 1 < cells.rows[cells.image], own + cells.cols[cells.image], own)
