"""Relevance that is learned: three ways of knowing a cell, and the opposite tendencies that balance them.

*Propositional*: what carries information whoever asks; measured on the pixels by the processor, without weights.
*Perspectival*: what stands out, whatever the question. *Participatory*: what this question needs. All in float32.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import initialization as init

from .layers import AxialAttention, ConvBlock, Float32Module, Initialized, Linear, ZeroLinear, from_canvas, to_canvas
from .quadtree import PackedGrid, packed_grid
from .relevance import smooth_map


HEADS = 4
# The furthest that a balance moves an exponent away from its configured value, as a factor.
REACH = 3.0
# Maps are logarithms inside: a map that is known to be 0 or 1 counts as this.
LEAST, MOST = 1e-12, 1 - 1e-6
BALANCES = ("compress_particularize", "focus_diversify", "exploit_explore")


def image_mean(values: Tensor, image: Tensor, images: int) -> Tensor:
    """Mean of packed values over each image: `(nodes, dim)` to `(images, dim)`; zero for an image without nodes."""
    total = values.new_zeros(images, values.shape[1]).index_add(0, image, values)
    return total / torch.bincount(image, minlength=images).clamp(min=1)[:, None]


def token_positions(place: Tensor, dim: int) -> Tensor:
    """Sinusoidal position embeddings: `(tokens,)` to `(tokens, dim)`."""
    rates = 1e-4 ** torch.linspace(0, 1, dim // 2, device=place.device)
    angles = place.float()[:, None] * rates
    return torch.cat([angles.sin(), angles.cos()], 1)


class PerspectivalScorer(nn.Module):
    """Scores what stands out, whatever the question."""

    def __init__(self, dim: int):
        super().__init__()
        self.block = ConvBlock(dim)
        self.norm = nn.LayerNorm(dim)
        self.score = ZeroLinear(dim, 1)

    def forward(self, cells: Tensor, grid: PackedGrid) -> Tensor:
        """Logits of shape `(cells,)` from cells of shape `(cells, dim)`."""
        return self.score(self.norm(self.block(cells, grid)))[:, 0]

    def operations(self, cells: int) -> int:
        return self.block.operations(cells) + 2 * cells * self.score.weight.numel()


class QuestionEncoder(nn.Module):
    """Tokens of the questions at the scout's width, each aware of the few around it, so that a word may be several.

    Args:
        embedding_dim (`int`): width of the language model's token embeddings.
        dim (`int`): width of the scout.
    """

    def __init__(self, embedding_dim: int, dim: int):
        super().__init__()
        self.embedding_norm = nn.LayerNorm(embedding_dim)
        self.embed = Linear(embedding_dim, dim)
        self.block = ConvBlock(dim, kernel=(1, 5))

    def forward(self, question: Tensor, mask: Tensor) -> tuple[Tensor, PackedGrid]:
        """Encode the tokens that are not masked.

        Args:
            question (`Tensor` of shape `(images, tokens, embedding_dim)`): token embeddings.
            mask (`Tensor` of shape `(images, tokens)`): 0 on padding.

        Returns:
            `tuple[Tensor, PackedGrid]`: packed tokens of shape `(tokens of all images, dim)`, and their places.
        """
        mask = mask.bool()
        length = mask.sum(1)
        grid = packed_grid(torch.ones_like(length), length)
        embedded = self.embed(self.embedding_norm(question[mask]))  # (tokens, dim)
        if len(embedded) == 0:
            return embedded, grid
        return self.block(embedded + token_positions(grid.x, embedded.shape[1]), grid), grid


class ParticipatoryScorer(Initialized):
    """Scores what the question asks for.

    Each cell attends to the tokens of the question, and to a learned token that stands for none of them; the fusion
    `[c, q, c * q]` of the cell with what it found compares them, and two convolution blocks look around.

    Args:
        dim (`int`): width.
        is_axial (`bool`, *optional*): whether cells also look along their rows and columns, before each of the blocks.
    """

    def __init__(self, dim: int, is_axial: bool = False):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(dim))
        self.cell_norm, self.token_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.query, self.key, self.value = (Linear(dim, dim) for _ in range(3))
        self.found = Linear(dim, dim)
        self.asked = nn.Sequential(Linear(dim, dim), nn.GELU(), Linear(dim, dim))
        self.fuse = Linear(3 * dim, dim)
        self.blocks = nn.ModuleList(ConvBlock(dim) for _ in range(2))
        self.axial = nn.ModuleList(AxialAttention(dim) for _ in self.blocks) if is_axial else None
        self.norm = nn.LayerNorm(dim)
        self.score = ZeroLinear(dim, 1)

    def initialize(self) -> None:
        init.normal_(self.nothing)

    def attend(self, cells: Tensor, grid: PackedGrid, tokens: Tensor, token_grid: PackedGrid) -> Tensor:
        """What each cell finds in its image's question, of shape `(cells, dim)`."""
        images, dim = len(grid.rows), cells.shape[1]
        nothing = self.nothing.expand(images, 1, dim)
        longest = int(token_grid.cols.max())
        if longest:
            padded = torch.cat([nothing, to_canvas(tokens, token_grid)[:, 0]], 1)  # (images, 1 + tokens, dim)
        else:
            padded = nothing
        padded = self.token_norm(padded)
        allowed = torch.arange(1 + longest, device=cells.device) <= token_grid.cols[:, None]  # (images, 1 + tokens)

        def heads(values: Tensor) -> Tensor:  # (images, heads, n, dim / heads)
            return values.view(images, -1, HEADS, dim // HEADS).transpose(1, 2)

        query = to_canvas(self.query(self.cell_norm(cells)), grid)  # (images, rows, cols, dim)
        found = F.scaled_dot_product_attention(
            heads(query.flatten(1, 2)), heads(self.key(padded)), heads(self.value(padded)), allowed[:, None, None]
        )
        return self.found(from_canvas(found.transpose(1, 2).reshape_as(query), grid))

    def forward(self, cells: Tensor, grid: PackedGrid, tokens: Tensor, token_grid: PackedGrid) -> Tensor:
        """Score the cells of a batch of images.

        Args:
            cells (`Tensor` of shape `(cells, dim)`): cell features.
            grid ([`PackedGrid`]): their places.
            tokens (`Tensor` of shape `(tokens of all images, dim)`), token_grid ([`PackedGrid`]): the questions.

        Returns:
            `Tensor` of shape `(cells,)`: logits.
        """
        asked = self.asked(image_mean(tokens, token_grid.image, len(grid.rows)))  # (images, dim)
        question = self.attend(cells, grid, tokens, token_grid) + asked[grid.image]  # (cells, dim)
        fused = F.gelu(self.fuse(torch.cat([cells, question, cells * question], 1)))
        for number, block in enumerate(self.blocks):
            if self.axial is not None:
                fused = self.axial[number](fused, grid)
            fused = block(fused, grid)
        return self.score(self.norm(fused))[:, 0]

    def operations(self, cells: int, tokens: int) -> int:
        """Multiplications and additions for one image and a question of `tokens` tokens, without normalisation."""
        dim = len(self.nothing)
        per_cell = self.query.weight.numel() + self.found.weight.numel() + self.fuse.weight.numel() + dim
        per_token = self.key.weight.numel() + self.value.weight.numel()
        blocks = sum(block.operations(cells) for block in self.blocks)  # type: ignore[operator]
        if self.axial is not None:
            blocks += sum(layer.operations(cells) for layer in self.axial)  # type: ignore[operator]
        return blocks + 2 * (cells * per_cell + (tokens + 1) * per_token + 2 * cells * (tokens + 1) * dim)


class OpponentBalance(nn.Module):
    """Three pairs of opposite tendencies, weighed for each image and question.

    From the mean of the cells and the mean of the question's tokens, three numbers in (0, 1); 1/2 leaves everything as
    configured. With `R = 3` and a configured floor `f`:

    - *compress* (0) / *particularize* (1), `p`: relevance is raised to the power `R ** (2 p - 1)`, from flat maps that
      treat all alike to sharp ones that pick out few cells.
    - *focus* (0) / *diversify* (1), `d`: the floor that every cell keeps is `f ** (1.5 - d)`, between `f ** 1.5` and
      `f ** 0.5`: never zero, so that context is never lost, and never one, so that choosing never ends.
    - *exploit* (0) / *explore* (1), `e`: the weight of what the question asks for is multiplied by `R ** (1 - 2 e)`,
      that of information and salience by `R ** (2 e - 1)`.
    """

    def __init__(self, dim: int):
        super().__init__()
        self.norm = nn.LayerNorm(2 * dim)
        self.hidden = Linear(2 * dim, dim)
        self.balance = ZeroLinear(dim, len(BALANCES))

    def forward(self, cells: Tensor, grid: PackedGrid, tokens: Tensor, token_grid: PackedGrid) -> dict[str, Tensor]:
        """Arguments as of [`ParticipatoryScorer`]; returns each balance, of shape `(images,)`, by its name."""
        images = len(grid.rows)
        seen, asked = image_mean(cells, grid.image, images), image_mean(tokens, token_grid.image, images)
        hidden = F.gelu(self.hidden(self.norm(torch.cat([seen, asked], 1))))
        return dict(zip(BALANCES, self.balance(hidden).sigmoid().unbind(1), strict=True))


class LearnedRelevance(Float32Module):
    """Relevance of each cell from what it carries, how it stands out and what is asked, in a learned balance.

    Learning starts from maps `m_i` that are known without training, or from 1/2 where there is none. The map of a
    scorer is `s_i = sigmoid(logit(m_i) + z)` with its score `z`. With exponents `e_i`, the balanced weights (see
    [`OpponentBalance`]) divided by the sum of the configured weights of the maps that are known, and the power `p`,

        relevance = floor + (1 - floor) * stretch((smooth(prod_i m_i ** e_i) * prod_i (s_i / m_i) ** e_i) ** p)

    where `stretch` divides by an image's maximum. Scores start at zero and balances at 1/2, so that an untrained block
    is the training-free relevance ([`relevance.balance_maps`]) of the maps it is given. What is learned is not
    smoothed here: scorers look around by themselves, and may be as sharp as a single cell. How far relevance reaches
    beyond is for `relevance_spread` to say.

    Args:
        dim (`int`): width.
        cell_dim (`int`): width of the cell features.
        embedding_dim (`int`): width of the question's embeddings.
        weights (`dict[str, float]`): weights of the maps `information`, `salience` and `query`; a map of weight 0 has
            no scorer and no say.
        floor (`float`): floor of relevance at the balance 1/2.
        is_axial (`bool`, *optional*): whether the scorer of what is asked for looks along whole rows and columns.
    """

    def __init__(
        self,
        dim: int,
        cell_dim: int,
        embedding_dim: int,
        weights: dict[str, float],
        floor: float,
        is_axial: bool = False,
    ):
        super().__init__()
        self.weights, self.floor = dict(weights), floor
        self.cell_norm = nn.LayerNorm(cell_dim)
        self.embed = Linear(cell_dim, dim)
        self.question = QuestionEncoder(embedding_dim, dim)
        self.salience = PerspectivalScorer(dim) if weights["salience"] > 0 else None
        self.query = ParticipatoryScorer(dim, is_axial) if weights["query"] > 0 else None
        self.balance = OpponentBalance(dim)

    def forward(
        self,
        cells: Tensor,
        grids: Tensor,
        question: Tensor,
        question_mask: Tensor,
        known: dict[str, Tensor] | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Score the cells of a batch of images.

        Args:
            cells (`Tensor` of shape `(cells, cell_dim)`): cell features.
            grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
            question (`Tensor` of shape `(images, tokens, embedding_dim)`): token embeddings of each image's question.
            question_mask (`Tensor` of shape `(images, tokens)`): 0 on padding; a question may have no token.
            known (`dict[str, Tensor]`, *optional*): maps that are known without training, of shape `(cells,)` in
                [0, 1]: `information`, and `salience` or `query` where training-free ones are to be refined.

        Returns:
            `tuple[Tensor, dict, dict]`: relevance of shape `(cells,)` in (0, 1]; the maps, each of shape `(cells,)` in
            [0, 1]; and the balances, each of shape `(images,)` in (0, 1). All float32.
        """
        with torch.autocast(cells.device.type, enabled=False):
            return self._score(cells.float(), grids, question.float(), question_mask, known or {})

    def _score(
        self, cells: Tensor, grids: Tensor, question: Tensor, question_mask: Tensor, known: dict[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        grid = packed_grid(*grids.unbind(1))
        cells = self.embed(self.cell_norm(cells))  # (cells, dim)
        tokens, token_grid = self.question(question, question_mask)
        balance = self.balance(cells, grid, tokens, token_grid)

        start = {
            name: values.float().clamp(LEAST, MOST).log() for name, values in known.items() if self.weights[name] > 0
        }
        scores = {}
        if self.salience is not None:
            scores["salience"] = self.salience(cells, grid)
        if self.query is not None:
            scores["query"] = self.query(cells, grid, tokens, token_grid)

        power = REACH ** (2 * balance["compress_particularize"] - 1)  # (images,)
        explore = REACH ** (2 * balance["exploit_explore"] - 1)
        total_weight = sum(self.weights[name] for name in start) or 1.0

        def exponent(name: str) -> Tensor:  # (cells,)
            return (self.weights[name] / total_weight * (1 / explore if name == "query" else explore))[grid.image]

        before = torch.zeros_like(cells[:, 0])
        for name, logarithm in start.items():
            before = before + exponent(name) * logarithm
        total = smooth_map(before.exp(), grids).clamp(min=LEAST).log()  # (cells,)
        maps = {name: logarithm.exp() for name, logarithm in start.items()}
        for name, score in scores.items():
            logarithm = start.get(name, torch.full_like(score, 0.5).log())
            learned = F.logsigmoid(score + logarithm - (-logarithm.expm1()).log())  # of the map
            total = total + exponent(name) * (learned - logarithm)
            maps[name] = learned.exp()
        total = total * power[grid.image]
        highest = total.new_zeros(len(grids)).scatter_reduce(0, grid.image, total, "amax", include_self=False)
        floor = (self.floor ** (1.5 - balance["focus_diversify"]))[grid.image]  # (cells,)
        return floor + (1 - floor) * (total - highest[grid.image]).exp(), maps, balance

    def operations(self, cells: int, tokens: int) -> int:
        """Multiplications and additions for one image and a question of `tokens` tokens, without normalisation."""
        count = 2 * cells * self.embed.weight.numel()
        count += 2 * tokens * self.question.embed.weight.numel() + self.question.block.operations(tokens)
        if self.salience is not None:
            count += self.salience.operations(cells)
        if self.query is not None:
            count += self.query.operations(cells, tokens)
        return count


__all__ = ["LearnedRelevance"]
