"""Adapters of the visual tokens to their level of detail, so that the language model reads coarse ones as its own.

One adapter serves all levels: what it adds to a token is conditioned on the token's level, a continuous number, and is
zero for a token of full detail, which is the host's own. Untrained, it is zero for all.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .layers import Initialized, Linear, ZeroLinear


# Levels that are told apart; leaves of more than 32 x 32 cells count as 32 x 32.
LEVELS = 5
HEADS = 8
PROTOTYPES = 256
DEFAULT_BLOCKS = 3


def default_adapter_dim(dim: int) -> int:
    """Hidden width of an adapter for tokens of width `dim`: a fifth of it, in steps of 64.

    Three blocks then have 5 M parameters at width 2048 (hosts of 2B), 21 M at 4096 (8B) and 32 M at 5120 (32B).
    """
    return max(64, round(dim / 5 / 64) * 64)


def level_ramps(levels: Tensor) -> Tensor:
    """Continuous levels as the coordinates of a piecewise linear function.

    Ramp `l` rises from 0 at level `l` to 1 at level `l + 1` and stays there. A weighted sum of the ramps is zero at
    level 0 and interpolates linearly between whole levels; each weight is what the next level adds, so that a level
    which training has never seen is treated as the coarsest that it has.

    Args:
        levels (`Tensor` of shape `(tokens,)`): level of each token, not negative.

    Returns:
        `Tensor` of shape `(tokens, LEVELS)` in [0, 1].
    """
    return (levels[:, None] - torch.arange(LEVELS, device=levels.device)).clamp(0, 1)


class LevelBlock(nn.Module):
    """Adds to each token a transform of itself, scaled and shifted channel by channel as its level asks.

    `x + scale(level) * transform(norm(x) + embedding(level)) + shift(level)`, where scale and shift start at zero
    (feature-wise linear modulation; Perez et al., "FiLM: visual reasoning with a general conditioning layer", 2018).

    Args:
        dim (`int`): width of the tokens.
        transform (`nn.Module`): from width `dim` to itself, shared by all levels.
    """

    def __init__(self, dim: int, transform: nn.Module):
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.level = Linear(LEVELS, dim, bias=False)
        self.transform = transform
        self.film = ZeroLinear(LEVELS, 2 * dim, bias=False)

    def forward(self, tokens: Tensor, ramps: Tensor) -> Tensor:
        """Args: tokens (`Tensor` of shape `(tokens, dim)`), ramps (`Tensor` of shape `(tokens, LEVELS)`)."""
        dtype = self.level.weight.dtype
        ramps = ramps.to(dtype)
        scale, shift = self.film(ramps).chunk(2, dim=1)  # (tokens, dim) each
        changed = self.transform(self.norm(tokens.to(dtype)) + self.level(ramps))
        return tokens + (scale * changed + shift).to(tokens.dtype)


class LevelAdapter(nn.Module):
    """A stack of blocks that are conditioned on the level of each token; identity until it is trained, and at level 0.

    Args:
        dim (`int`): width of the tokens.
        transforms (`list[nn.Module]`): one a block, each from width `dim` to itself.
    """

    def __init__(self, dim: int, transforms: list[nn.Module]):
        super().__init__()
        self.blocks = nn.ModuleList(LevelBlock(dim, transform) for transform in transforms)

    def forward(self, tokens: Tensor, levels: Tensor) -> Tensor:
        """Adapt tokens to the host.

        Args:
            tokens (`Tensor` of shape `(tokens, dim)`): visual tokens.
            levels (`Tensor` of shape `(tokens,)`): level of each, as in [`Allocation`].

        Returns:
            `Tensor` of the shape and dtype of `tokens`.
        """
        ramps = level_ramps(levels)
        for block in self.blocks:
            tokens = block(tokens, ramps)
        return tokens


class QualityAdapter(LevelAdapter):
    """Adapter whose blocks are bottleneck perceptrons: linear, GELU, linear.

    Args:
        dim (`int`): width of the tokens.
        hidden_dim (`int`, *optional*): width of the bottleneck; defaults to `default_adapter_dim(dim)`.
        num_blocks (`int`, *optional*): number of blocks.
    """

    def __init__(self, dim: int, hidden_dim: int | None = None, num_blocks: int = DEFAULT_BLOCKS):
        hidden_dim = default_adapter_dim(dim) if hidden_dim is None else hidden_dim
        transforms: list[nn.Module] = [
            nn.Sequential(Linear(dim, hidden_dim), nn.GELU(), Linear(hidden_dim, dim)) for _ in range(num_blocks)
        ]
        super().__init__(dim, transforms)


class PrototypeAttention(Initialized):
    """What tokens find among learned prototypes, by attention.

    Args:
        dim (`int`): width of the tokens.
        hidden_dim (`int`): width of the prototypes, a multiple of the number of heads.
        prototypes (`int`): their number.
    """

    def __init__(self, dim: int, hidden_dim: int, prototypes: int = PROTOTYPES):
        super().__init__()
        if hidden_dim % HEADS:
            raise ValueError(f"found prototypes of width {hidden_dim}; expected a multiple of {HEADS}")
        self.query = Linear(dim, hidden_dim)
        self.keys = nn.Parameter(torch.empty(prototypes, hidden_dim))
        self.values = nn.Parameter(torch.empty(prototypes, hidden_dim))
        self.found = Linear(hidden_dim, dim)
        self.initialize()

    def initialize(self) -> None:
        init.normal_(self.keys)
        init.normal_(self.values)

    def forward(self, tokens: Tensor) -> Tensor:
        """From width `dim` to itself: `(tokens, dim)`."""

        def heads(values: Tensor) -> Tensor:
            return values.unflatten(1, (HEADS, -1)).transpose(0, 1)  # (heads, n, hidden / heads)

        query = heads(self.query(tokens))
        attended = F.scaled_dot_product_attention(
            query[None], heads(self.keys.to(query.dtype))[None], heads(self.values.to(query.dtype))[None]
        )
        return self.found(attended[0].transpose(0, 1).flatten(1))


class PrototypeAdapter(LevelAdapter):
    """Adapter whose blocks attend to learned prototypes: tokens of the host that coarse ones may take after.

    Args:
        dim (`int`): width of the tokens.
        hidden_dim (`int`, *optional*): width of the prototypes; defaults to `default_adapter_dim(dim)`.
        num_blocks (`int`, *optional*): number of blocks.
        prototypes (`int`, *optional*): prototypes of each block.
    """

    def __init__(
        self,
        dim: int,
        hidden_dim: int | None = None,
        num_blocks: int = DEFAULT_BLOCKS,
        prototypes: int = PROTOTYPES,
    ):
        hidden_dim = default_adapter_dim(dim) if hidden_dim is None else hidden_dim
        super().__init__(dim, [PrototypeAttention(dim, hidden_dim, prototypes) for _ in range(num_blocks)])


__all__ = ["PrototypeAdapter", "QualityAdapter"]
