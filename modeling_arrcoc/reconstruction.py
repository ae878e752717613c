"""Reconstruction: how much of each cell can be told from the token that stands for it.

The weightless prediction of a cell is its leaf itself: its token's features, or its drawing blown up. What that misses
is what compression has averaged away. As a loss, with a small decoder, it asks tokens to keep what their cells held.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import Linear, ZeroLinear
from .outputs import Allocation
from .quadtree import packed_grid


def rebuild_features(tokens: Tensor, allocation: Allocation) -> Tensor:
    """Each cell as its leaf's token, without weights.

    Args:
        tokens (`Tensor` of shape `(leaves, dim)`): one token a leaf.
        allocation ([`Allocation`]): the leaves.

    Returns:
        `Tensor` of shape `(cells, dim)`; zero for a cell that was dropped.
    """
    leaf = allocation.cell_to_leaf
    return torch.where(leaf[:, None] < 0, tokens.new_zeros(()), tokens[leaf.clamp(min=0)])


def rebuild_pictures(drawings: Tensor, allocation: Allocation) -> Tensor:
    """Each cell as its part of its leaf's drawing, blown up to its own size; the inverse of drawing, but for detail.

    What lies beyond a window looks like the window's edge.

    Args:
        drawings (`Tensor` of shape `(leaves, channels, side, side)`): as from `draw_leaves`.
        allocation ([`Allocation`]): the leaves.

    Returns:
        `Tensor` of shape `(cells, channels, side, side)`; zero for a cell that was dropped.
    """
    leaf, grid = allocation.cell_to_leaf.clamp(min=0), packed_grid(*allocation.grids.unbind(1))
    side, place = drawings.shape[-1], torch.arange(drawings.shape[-1], device=drawings.device)
    top, left, bottom, right = allocation.drawn[leaf, :, None].unbind(1)  # (cells, 1) each
    rows = ((grid.y[:, None] - top) * side + place) // (bottom - top)  # (cells, side): pixel of the drawing
    columns = ((grid.x[:, None] - left) * side + place) // (right - left)
    rows, columns = (pixel.long().clamp(0, side - 1) for pixel in (rows, columns))
    kept = allocation.cell_to_leaf >= 0
    picture = drawings[leaf[:, None, None], :, rows[:, :, None], columns[:, None]]  # (cells, side, side, channels)
    return picture.permute(0, 3, 1, 2) * kept[:, None, None, None]


def reconstructability(cells: Tensor, rebuilt: Tensor, grids: Tensor) -> Tensor:
    """How well each cell was rebuilt, as a map: `scale / (scale + error)`.

    The error is the mean squared difference of a cell, the scale that of the image's cells from their mean: what a
    single token for the whole image would miss. 1 is rebuilt exactly, 1/2 as badly as that.

    Args:
        cells (`Tensor` of shape `(cells, ...)`): features or pictures of the cells.
        rebuilt (`Tensor` of the same shape): as from `rebuild_features` or `rebuild_pictures`.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

    Returns:
        `Tensor` of shape `(cells,)` in (0, 1], float32.

    Raises:
        ValueError: if the shapes disagree.
    """
    if cells.shape != rebuilt.shape or len(cells) != int(grids.prod(1).sum()):
        raise ValueError(
            f"found cells of shape {tuple(cells.shape)} rebuilt as {tuple(rebuilt.shape)} for grids {grids.tolist()}; "
            "expected one shape with a row for each cell"
        )
    image = packed_grid(*grids.unbind(1)).image  # (cells,)
    values = cells.float().flatten(1)
    error = (values - rebuilt.float().flatten(1)).square().mean(1)  # (cells,)
    scale = _deviations(values, image, len(grids)).mean(1)
    scale = torch.zeros(len(grids), device=scale.device).index_add(0, image, scale)
    scale = (scale / grids.prod(1))[image].clamp(min=torch.finfo(torch.float32).tiny)  # a blank image has no scale
    return scale / (scale + error)


def _deviations(values: Tensor, image: Tensor, images: int) -> Tensor:
    """Squared differences of cells from the mean of their image, of the shape of `values`, `(cells, dim)`."""
    total = values.new_zeros(images, values.shape[1]).index_add(0, image, values)
    mean = total / torch.bincount(image, minlength=images)[:, None]
    return (values - mean[image]).square()


class CellDecoder(nn.Module):
    """Predicts what a token's cells held, from the token, a cell's place in its leaf and the size of the leaf.

    A perceptron with one hidden layer whose output starts at zero. Where tokens and cells are of one width it is added
    to the token, so that an untrained decoder is the weightless prediction.

    Args:
        token_dim (`int`): width of the tokens.
        cell_dim (`int`): width of what is predicted of a cell.
        hidden_dim (`int`): hidden width.
    """

    def __init__(self, token_dim: int, cell_dim: int, hidden_dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(token_dim)
        self.token = Linear(token_dim, hidden_dim)
        self.place = Linear(4, hidden_dim, bias=False)
        self.out = ZeroLinear(hidden_dim, cell_dim)
        self.is_residual = token_dim == cell_dim

    def forward(self, tokens: Tensor, allocation: Allocation) -> Tensor:
        """Predict cells: `(leaves, token_dim)` to `(cells, cell_dim)`; that of a dropped cell is of no use."""
        leaf = allocation.cell_to_leaf.clamp(min=0)
        grid = packed_grid(*allocation.grids.unbind(1))
        corners, ends = allocation.drawn[leaf].split(2, 1)  # (cells, 2) each
        sizes = ends - corners
        # In (-1/2, 1/2), but for what lies beyond a window.
        offset = (torch.stack([grid.y, grid.x], 1) - corners + 0.5) / sizes - 0.5  # (cells, 2)
        place = torch.cat([offset, sizes.float().log2()], 1).to(tokens.dtype)  # (cells, 4)
        hidden = self.token(self.norm(tokens))[leaf] + self.place(place)  # (cells, hidden_dim)
        predicted = self.out(F.gelu(hidden))
        return predicted + tokens[leaf] if self.is_residual else predicted


def reconstruction_loss(
    cells: Tensor, tokens: Tensor, allocation: Allocation, decoder: CellDecoder | None = None
) -> Tensor:
    """Share of what the cells of an image differ in that their tokens do not tell; differentiable in the tokens.

    The squared error of the prediction over the cells of a batch, divided by that of predicting each image's mean: 0
    is rebuilt exactly, 1 as badly as by one token for the whole image. Cells that were dropped are not asked for.

    Args:
        cells (`Tensor` of shape `(cells, cell_dim)`): what is to be predicted, such as the tower's features of the
            cells, or small pictures of them; a target that gets no gradient.
        tokens (`Tensor` of shape `(leaves, token_dim)`): the tokens.
        allocation ([`Allocation`]): their leaves.
        decoder ([`CellDecoder`], *optional*): predicts the cells; without it a cell is predicted as its leaf's token.

    Returns:
        `Tensor`: a number, float32.

    Raises:
        ValueError: if the shapes disagree.
    """
    if len(cells) != len(allocation.cell_to_leaf) or len(tokens) != len(allocation.boxes):
        raise ValueError(
            f"found {len(cells)} cells and {len(tokens)} tokens for an allocation of "
            f"{len(allocation.cell_to_leaf)} cells and {len(allocation.boxes)} leaves"
        )
    if decoder is None and cells.shape != (len(cells), tokens.shape[1]):
        raise ValueError(
            f"found cells of shape {tuple(cells.shape)} and tokens of width {tokens.shape[1]}; without a decoder a "
            "cell has the width of a token"
        )
    predicted = rebuild_features(tokens, allocation) if decoder is None else decoder(tokens, allocation)
    target = cells.detach().float()
    kept = allocation.cell_to_leaf >= 0
    image = packed_grid(*allocation.grids.unbind(1)).image
    scale = _deviations(target, image, len(allocation))[kept].mean()
    error = (predicted.float() - target)[kept].square().mean()
    return error / scale.clamp(min=torch.finfo(torch.float32).tiny)


__all__ = ["CellDecoder", "reconstructability", "reconstruction_loss"]
