"""Relevance without training: maps over cells of what stands out and what the question asks for, and their balance.

The third map, what carries information whoever asks, is measured on the pixels by the processor. All functions work on
packed batches: `(cells,)` holds the cells of all images one after another, each image in raster order.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .layers import from_canvas, to_canvas
from .quadtree import PackedGrid, packed_grid


# Print runs in lines: across them relevance reaches this share of how far it reaches along them.
ACROSS_LINES = 1 / 3


def normalize_per_image(values: Tensor, image: Tensor, images: int) -> Tensor:
    """Stretch each image's values to [0, 1]; an image of equal values becomes 1 everywhere.

    Args:
        values (`Tensor` of shape `(cells,)`): any finite values.
        image (`Tensor` of shape `(cells,)`): image of each cell.
        images (`int`): number of images.
    """
    low = values.new_zeros(images).scatter_reduce(0, image, values, "amin", include_self=False)[image]
    high = values.new_zeros(images).scatter_reduce(0, image, values, "amax", include_self=False)[image]
    span = high - low
    return torch.where(span > 0, (values - low) / torch.where(span > 0, span, 1), 1)


def sum_of_neighbors(values: Tensor, cells: PackedGrid, axis: int) -> Tensor:
    """Sum of each cell and its two neighbours along one axis (0: rows, 1: columns); outside the grid counts as zero.

    Args:
        values (`Tensor` of shape `(cells, ...)`).

    Returns:
        `Tensor` of the same shape.
    """
    position, size, stride = (
        (cells.y, cells.rows[cells.image], cells.cols[cells.image])
        if axis == 0
        else (cells.x, cells.cols[cells.image], torch.ones_like(cells.x))
    )
    padded = torch.cat([values, values.new_zeros(1, *values.shape[1:])])
    index = torch.arange(len(values), device=values.device)
    before = torch.where(position > 0, index - stride, len(values))
    after = torch.where(position + 1 < size, index + stride, len(values))
    return values + padded[before] + padded[after]


def smooth_map(values: Tensor, grids: Tensor) -> Tensor:
    """Mean over each cell's 3x3 neighbourhood inside its grid, so that detail does not end abruptly.

    Args:
        values (`Tensor` of shape `(cells, ...)`), grids (`Tensor` of shape `(images, 2)`).

    Returns:
        `Tensor` of the same shape as `values`.
    """
    cells = packed_grid(*grids.unbind(1))
    total = sum_of_neighbors(sum_of_neighbors(values, cells, 0), cells, 1)
    ones = torch.ones(len(cells.image), dtype=values.dtype, device=values.device)
    count = sum_of_neighbors(sum_of_neighbors(ones, cells, 0), cells, 1)
    return total / count.view(-1, *[1] * (values.ndim - 1))


def salience_map(features: Tensor, grids: Tensor) -> Tensor:
    """Perspectival relevance without weights: how far a cell stands out from its surroundings.

    The distance of a cell's feature from the mean of its 3x3 neighbourhood (centre-surround contrast; Itti, Koch &
    Niebur, "A model of saliency-based visual attention for rapid scene analysis", IEEE TPAMI 20(11), 1998).

    Args:
        features (`Tensor` of shape `(cells, dim)`): cell features.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

    Returns:
        `Tensor` of shape `(cells,)` in [0, 1], float32.
    """
    cells = packed_grid(*grids.unbind(1))
    # Relative to a cell of its image: where all cells are equal, contrast is then exactly zero and no rounding error.
    features = features.float() - features[cells.offsets[cells.image]].float()
    contrast = (features - smooth_map(features, grids)).norm(dim=-1)
    return normalize_per_image(contrast, cells.image, len(grids))


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens of each question.

    Args:
        values (`Tensor` of shape `(images, tokens, ...)`), mask (`Tensor` of shape `(images, tokens)`).

    Returns:
        `Tensor` of shape `(images, ...)`; zero for a question without tokens.
    """
    weights = mask.to(values.dtype).view(*mask.shape, *[1] * (values.ndim - 2))
    return (values * weights).sum(1) / weights.sum(1).clamp(min=1)


def cosine_scores(features: Tensor, question: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """Mean cosine of a cell's feature and the embeddings of the question's tokens.

    The relevance of CDPruner (Zhang et al., "Beyond attention or similarity", 2025) in the form used for hosts without
    a text tower: `q_j = mean_t cos(v_j, e_t)`.

    Args:
        features (`Tensor` of shape `(cells, dim)`): cell features in the language model's embedding space.
        question (`Tensor` of shape `(images, tokens, dim)`): embeddings of each image's question.
        mask (`Tensor` of shape `(images, tokens)`): 1 for tokens of the question, 0 for padding.
        image (`Tensor` of shape `(cells,)`): image of each cell.

    Returns:
        `Tensor` of shape `(cells,)`, float32.
    """
    mean = masked_mean(F.normalize(question.float(), dim=-1), mask)  # (images, dim)
    return (F.normalize(features.float(), dim=-1) * mean[image]).sum(-1)


def attention_scores(query: Tensor, key: Tensor, mask: Tensor, image: Tensor) -> Tensor:
    """Cross-attention of the question and the cells in one layer of the language model, without rotary positions.

    The score of HAWK (github.com/peppery77/HAWK) with equal heads: for each head the
    logits `q_t . k_j / sqrt(d)`, averaged over the question's tokens, form a vector over the image's cells that is
    divided by its norm; the score is the mean over heads.

    Args:
        query (`Tensor` of shape `(images, tokens, heads, head_dim)`): queries of the question's tokens.
        key (`Tensor` of shape `(cells, key_heads, head_dim)`): keys of the cells; `key_heads` divides `heads`.
        mask (`Tensor` of shape `(images, tokens)`): 1 for tokens of the question, 0 for padding.
        image (`Tensor` of shape `(cells,)`): image of each cell.

    Returns:
        `Tensor` of shape `(cells,)`, float32.
    """
    images, _, heads, head_dim = query.shape
    groups = heads // key.shape[1]
    mean = masked_mean(query.float(), mask) / head_dim**0.5  # (images, heads, head_dim)
    mean = mean.view(images, key.shape[1], groups, head_dim)
    logits = torch.einsum("chd,chgd->chg", key.float(), mean[image]).flatten(1)  # (cells, heads)
    norms = logits.new_zeros(images, heads).index_add(0, image, logits.square()).sqrt()
    return (logits / norms.clamp(min=torch.finfo(logits.dtype).tiny)[image]).mean(1)


def balance_maps(maps: dict[str, Tensor], weights: dict[str, float], floor: float, grids: Tensor) -> Tensor:
    """Balance maps into one relevance.

    A weighted geometric mean, in which a cell is relevant if every map that has a say agrees, smoothed over neighbours
    and stretched to a maximum of 1 an image, above a floor that every cell keeps so that context is never lost.

    Args:
        maps (`dict[str, Tensor]`): each of shape `(cells,)` in [0, 1].
        weights (`dict[str, float]`): exponent of each map, not negative; a map of weight 0 has no say.
        floor (`float`): least relevance, in (0, 1].
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.

    Returns:
        `Tensor` of shape `(cells,)` in [floor, 1], float32.
    """
    cells = packed_grid(*grids.unbind(1))
    total = sum(weights[name] for name in maps)
    relevance = torch.ones(len(cells.image), device=grids.device)
    for name, values in maps.items():
        if weights[name] > 0:
            # In float64: a power in float32 may differ in its last bit with the cell's place in the batch.
            relevance = relevance * values.double().clamp(0, 1) ** (weights[name] / total)
    relevance = relevance.float()
    relevance = smooth_map(relevance, grids)
    highest = relevance.new_zeros(len(grids)).scatter_reduce(0, cells.image, relevance, "amax")[cells.image]
    relevance = torch.where(highest > 0, relevance / torch.where(highest > 0, highest, 1), 1)
    return floor + (1 - floor) * relevance


def spread_relevance(relevance: Tensor, grids: Tensor, reach: float) -> Tensor:
    """Let relevance reach the cells around, so that what lies beside the most relevant cells comes next.

    The mean over an image's cells, weighted with `exp(-dx / reach - dy / (reach / 3))` for a distance of `dx` columns
    and `dy` rows, stretched to a maximum of 1. Which cell is needed is never quite sure, and where one letter is
    needed the next ones are too; without it, cells of equally little relevance are told apart by nothing.

    Args:
        relevance (`Tensor` of shape `(cells,)`): positive relevance.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
        reach (`float`): in cells along a line, positive.

    Returns:
        `Tensor` of shape `(cells,)` in (0, 1], float32. Where an image's highest is 1, its least does not become less.
    """
    cells = packed_grid(*grids.unbind(1))
    # In float64, as in `balance_maps`: the size of the canvas depends on the batch, and so does the order of a sum.
    values = relevance.double()
    canvas = to_canvas(torch.stack([values, torch.ones_like(values)], 1), cells)  # (images, rows, cols, 2)

    def nearness(count: int, reach: float) -> Tensor:  # (count, count)
        place = torch.arange(count, dtype=values.dtype, device=values.device)
        return (-(place[:, None] - place).abs() / reach).exp()

    down, along = nearness(canvas.shape[1], reach * ACROSS_LINES), nearness(canvas.shape[2], reach)
    reached = torch.einsum("ivxd,xu->ivud", torch.einsum("iyxd,yv->ivxd", canvas, down), along)
    total, weight = from_canvas(reached, cells).unbind(1)  # (cells,)
    spread = total / weight
    highest = spread.new_zeros(len(grids)).scatter_reduce(0, cells.image, spread, "amax")[cells.image]
    return (spread / highest).float()
