"""Layers of the learned parts: how they are initialised, in which precision they stay, and how nodes are mixed.

Values are packed: the nodes of all images one after another, as in `quadtree`. Only what mixes them needs pictures;
they are laid out on a canvas that is zero wherever an image has no node, so that what an image gives does not depend
on its neighbours in the batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .quadtree import PackedGrid


MLP_RATIO = 3
KERNEL = 5
# How fast what heads of axial attention see fades with each node before and after; they learn it from there.
SLOPES = ((1 / 4, 1.0), (1 / 16, 1.0), (1.0, 1 / 4), (1.0, 1 / 16))


class Initialized(nn.Module):
    """A module with weights of its own that knows how they start; the model calls `initialize`."""

    def initialize(self) -> None:
        raise NotImplementedError


class Linear(nn.Linear, Initialized):
    """A linear layer whose weights start scaled by their fan-in, its bias at zero."""

    def initialize(self) -> None:
        init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        if self.bias is not None:
            init.zeros_(self.bias)

    reset_parameters = initialize  # so does a layer outside of a model


class ZeroLinear(nn.Linear, Initialized):
    """A linear layer that starts at zero."""

    def initialize(self) -> None:
        init.zeros_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    reset_parameters = initialize


class Conv2d(nn.Conv2d, Initialized):
    """A convolution whose weights start scaled by their fan-in, its bias at zero."""

    def initialize(self) -> None:
        init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        init.zeros_(self.bias)


class Float32Module(nn.Module):
    """A module whose weights stay in float32 when the model around it is cast: small, and what it says is a choice."""

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32Module":
        def move(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            is_cast = moved.is_floating_point() and moved.dtype != torch.float32
            return tensor.to(moved.device, torch.float32) if is_cast else moved

        return super()._apply(move, recurse)


def to_canvas(values: Tensor, grid: PackedGrid) -> Tensor:
    """Lay packed values out on one picture an image.

    Args:
        values (`Tensor` of shape `(nodes, dim)`): packed values.
        grid ([`PackedGrid`]): their places.

    Returns:
        `Tensor` of shape `(images, rows, cols, dim)` of the largest image's size, zero outside the images.
    """
    images = len(grid.rows)
    rows, cols = int(grid.rows.max()), int(grid.cols.max())
    if len(values) == images * rows * cols:  # all images are of one size, and lie as they are to
        return values.view(images, rows, cols, -1)
    canvas = values.new_zeros(images * rows * cols, values.shape[1])
    place = (grid.image * rows + grid.y) * cols + grid.x  # (nodes,)
    return canvas.index_copy(0, place, values).view(images, rows, cols, -1)


def from_canvas(canvas: Tensor, grid: PackedGrid) -> Tensor:
    """Inverse of `to_canvas`: `(images, rows, cols, dim)` to `(nodes, dim)`."""
    if len(grid.image) == canvas.shape[:3].numel():
        return canvas.flatten(0, 2)
    return canvas[grid.image, grid.y, grid.x]


class ConvBlock(nn.Module):
    """Depthwise convolution, normalisation and MLP around a residual connection.

    Args:
        dim (`int`): width.
        kernel (`tuple[int, int]`, *optional*): rows and columns that a node sees.
    """

    def __init__(self, dim: int, kernel: tuple[int, int] = (KERNEL, KERNEL)):
        super().__init__()
        self.depthwise = Conv2d(dim, dim, kernel, padding=(kernel[0] // 2, kernel[1] // 2), groups=dim)
        self.norm = nn.LayerNorm(dim)
        self.expand = Linear(dim, MLP_RATIO * dim)
        self.contract = Linear(MLP_RATIO * dim, dim)

    def forward(self, values: Tensor, grid: PackedGrid) -> Tensor:
        """Args: values (`Tensor` of shape `(nodes, dim)`), grid ([`PackedGrid`]): their places."""
        canvas = to_canvas(values, grid).permute(0, 3, 1, 2)  # (images, dim, rows, cols)
        around = from_canvas(self.depthwise(canvas).permute(0, 2, 3, 1), grid)  # (nodes, dim)
        return values + self.contract(F.gelu(self.expand(self.norm(around))))

    def operations(self, nodes: int) -> int:
        """Multiplications and additions of a forward pass over `nodes` nodes, without normalisation."""
        weights = (self.depthwise, self.expand, self.contract)
        return 2 * nodes * sum(module.weight.numel() for module in weights)


class AxialAttention(Initialized):
    """Attention of each node to its row and to its column, around a residual connection; starts as the identity.

    A label says what stands beside or below it, however far away. Axial attention is that of Ho et al. ("Axial
    attention in multidimensional transformers", arXiv 1912.12180). Logits fall linearly with the distance, so that a
    grid may be larger than any before (ALiBi; Press et al., arXiv 2108.12409), here with slopes that are learned, one
    for each axis, head and direction.

    Args:
        dim (`int`): width, a multiple of the number of heads.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.along, self.across = Linear(dim, 3 * dim), Linear(dim, 3 * dim)
        self.slopes = nn.Parameter(torch.zeros(2, len(SLOPES), 2))  # of each axis, head, and before and after
        self.join = ZeroLinear(2 * dim, dim)

    def initialize(self) -> None:
        init.copy_(self.slopes, torch.tensor([SLOPES, SLOPES]).to(self.slopes))

    def forward(self, values: Tensor, grid: PackedGrid) -> Tensor:
        """Args: values (`Tensor` of shape `(nodes, dim)`), grid ([`PackedGrid`]): their places."""
        canvas = to_canvas(self.norm(values), grid)  # (images, rows, cols, dim)
        along = self._attend(self.along(canvas), grid.cols, self.slopes[0])
        across = self._attend(self.across(canvas).transpose(1, 2), grid.rows, self.slopes[1]).transpose(1, 2)
        return values + self.join(from_canvas(torch.cat([along, across], 3), grid))

    def _attend(self, projected: Tensor, counts: Tensor, slopes: Tensor) -> Tensor:
        """Attention inside of lines of nodes.

        Args:
            projected (`Tensor` of shape `(images, lines, length, 3 * dim)`): queries, keys and values.
            counts (`Tensor` of shape `(images,)`): nodes of an image's lines; the rest of them is padding.
            slopes (`Tensor` of shape `(heads, 2)`): of the nodes before, and of those after.
        """
        place = torch.arange(projected.shape[2], device=projected.device)
        ahead = place - place[:, None]  # (length, length), from the node that looks to the one that is seen
        before, after = slopes[:, :, None, None].unbind(1)
        bias = before * ahead.clamp(max=0) - after * ahead.clamp(min=0)  # (heads, length, length)
        outside = place >= counts[:, None]  # (images, length)
        bias = bias.masked_fill(outside[:, None, None, None], -torch.inf)  # (images, 1, heads, length, length)
        heads = projected.unflatten(3, (3, len(slopes), -1)).movedim((3, 4), (0, 3))  # (3, images, lines, heads, ...)
        query, key, value = heads.unbind(0)  # (images, lines, heads, length, dim / heads)
        found = F.scaled_dot_product_attention(query, key, value, bias)
        return found.transpose(2, 3).flatten(3)

    def operations(self, nodes: int) -> int:
        """Multiplications and additions of a forward pass over a square of `nodes` nodes, without normalisation."""
        weights = sum(module.weight.numel() for module in (self.along, self.across, self.join))
        return round(2 * nodes * (weights + 4 * nodes**0.5 * self.norm.weight.numel()))
