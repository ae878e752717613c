"""The scout: a light local encoder that looks at every cell in full resolution before the vision tower runs."""

from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .layers import ConvBlock, Float32Module, Linear
from .quadtree import packed_grid


class Scout(Float32Module):
    """Light local encoder over full-resolution patches.

    Patches of the first frame are embedded linearly, mixed with their surroundings by `depth` convolution blocks and
    merged to cells. With `depth` blocks of 5 x 5 patches, a cell sees `2 * depth` patches to each side.

    Weights and normalisation are in float32; matrix products and convolutions, where nearly all of the time goes, are
    in the precision of the patches. What is read off the features is scored in float32.

    Args:
        dim (`int`): width.
        depth (`int`): number of blocks.
        channels, frames, patch_size, merge_size (`int`): of the host's patches.
    """

    def __init__(self, dim: int, depth: int, channels: int, frames: int, patch_size: int, merge_size: int):
        super().__init__()
        self.channels, self.frames, self.merge_size = channels, frames, merge_size
        self.embed = Linear(channels * patch_size**2, dim)
        self.blocks = nn.ModuleList(ConvBlock(dim) for _ in range(depth))
        self.merge_norm = nn.LayerNorm(merge_size**2 * dim)
        self.merge_expand = Linear(merge_size**2 * dim, 2 * dim)
        self.merge_contract = Linear(2 * dim, dim)

    def forward(self, patches: Tensor, grids: Tensor) -> Tensor:
        """Encode the cells of a batch of images.

        Args:
            patches (`Tensor` of shape `(patches, channels * frames * patch_size**2)`): as from the image processor,
                the patches of a cell one after another, in the precision to compute in.
            grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

        Returns:
            `Tensor` of shape `(cells, dim)`, float32.
        """
        is_low = patches.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(patches.device.type, patches.dtype) if is_low else nullcontext():
            return self._encode(patches, grids).float()

    def _encode(self, patches: Tensor, grids: Tensor) -> Tensor:
        merge = self.merge_size
        cells, fine = packed_grid(*grids.unbind(1)), packed_grid(*(grids * merge).unbind(1))
        step = torch.arange(merge, device=grids.device)
        y = cells.y[:, None, None] * merge + step[:, None]  # (cells, merge, 1)
        x = cells.x[:, None, None] * merge + step  # (cells, 1, merge)
        raster = fine.index(cells.image[:, None, None], y, x).flatten()  # (patches,)

        first_frame = patches.view(len(patches), self.channels, self.frames, -1)[:, :, 0].flatten(1)
        embedded = self.embed(first_frame).float()  # (patches, dim), cell by cell; float32 under autocast too
        values = torch.zeros_like(embedded).index_copy(0, raster, embedded)  # row by row
        for block in self.blocks:
            values = block(values, fine)
        merged = self.merge_norm(values[raster].view(len(cells.image), -1))  # (cells, merge_size**2 * dim)
        return self.merge_contract(F.gelu(self.merge_expand(merged)))

    def operations(self, cells: int) -> int:
        """Multiplications and additions of a forward pass over `cells` cells, without normalisation."""
        patches = cells * self.merge_size**2
        merge = self.merge_expand.weight.numel() + self.merge_contract.weight.numel()
        blocks: list[Any] = list(self.blocks)
        embed = 2 * patches * self.embed.weight.numel()
        return embed + sum(block.operations(patches) for block in blocks) + 2 * cells * merge


__all__ = ["Scout"]
