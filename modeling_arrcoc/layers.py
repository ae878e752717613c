"""Layers of the learned parts: how they are initialised, in which precision they stay, and local mixing of nodes.

Values are packed: the nodes of all images one after another, as in `quadtree`. Only convolutions need pictures; they
are laid out on a canvas that is zero wherever an image has no node, so that what an image gives does not depend on its
neighbours in the batch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .quadtree import PackedGrid


MLP_RATIO = 3
KERNEL = 5


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
