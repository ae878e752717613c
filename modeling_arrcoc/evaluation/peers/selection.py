"""How published methods choose the visual tokens that they keep: pure functions, batched over images of any sizes.

Images are padded to the longest: `(images, cells)`, with a mask that is true on the cells of each image. Every
function keeps exactly the budget of each image and reads no other image's cells. Of equals the first cell is chosen.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


# Raw head weights published for Qwen2.5-VL-7B (28 heads); github.com/peppery77/HAWK, src/hawk/config.py.
HAWK_HEAD_WEIGHTS = (
    *(0.0875, 0.3000, 0.0480, 0.0321, 0.0104, 0.0102, 0.0336, 0.0460, 0.0540, 0.0472, 0.0234, 0.0537, 0.0109, 0.0573),
    *(0.0276, 0.0403, 0.0429, 0.0352, 0.0162, 0.0519, 0.0553, 0.0266, 0.0222, 0.0480, 0.0337, 0.0250, 0.0000, 0.0224),
)


def pad_images(values: Tensor, counts: Sequence[int]) -> Tensor:
    """Lay packed values out by image.

    Args:
        values (`Tensor` of shape `(cells of all images, ...)`): images one after another.
        counts (`Sequence[int]` of length `images`): cells of each image.

    Returns:
        `Tensor` of shape `(images, cells, ...)`, zero beyond an image's cells.
    """
    return pad_sequence(list(values.split(list(counts))), batch_first=True)


def image_mask(counts: Tensor) -> Tensor:
    """True on each image's cells; `counts (images,)` to `(images, cells)`."""
    return torch.arange(int(counts.max()), device=counts.device) < counts[:, None]


def cosine_similarity(features: Tensor) -> Tensor:
    """Cosine of each pair of an image's cells, float32: `(images, cells, dim)` to `(images, cells, cells)`."""
    unit = F.normalize(features.float(), dim=-1)
    return unit @ unit.transpose(1, 2)


def minmax(scores: Tensor, mask: Tensor, epsilon: float = 0.0) -> Tensor:
    """Stretch each image's scores: `(s - min + epsilon) / (max - min)`, and 1 where an image's are all equal.

    Args:
        scores (`Tensor` of shape `(images, cells)`), mask (`Tensor` of shape `(images, cells)`).
    """
    low = scores.masked_fill(~mask, torch.inf).amin(1, keepdim=True)
    span = scores.masked_fill(~mask, -torch.inf).amax(1, keepdim=True) - low
    return torch.where(span > 0, (scores - low + epsilon) / torch.where(span > 0, span, 1), 1.0)


def top_cells(scores: Tensor, mask: Tensor, budgets: Tensor) -> Tensor:
    """The cells of highest score.

    Args:
        scores (`Tensor` of shape `(images, cells)`): any finite values.
        mask (`Tensor` of shape `(images, cells)`): cells to choose from.
        budgets (`Tensor` of shape `(images,)`): cells to keep, at most those of the mask.

    Returns:
        `Tensor` of shape `(images, cells)`, true on the kept cells.
    """
    order = scores.float().masked_fill(~mask, -torch.inf).argsort(stable=True, dim=1, descending=True)
    places = torch.arange(order.shape[1], device=order.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places) < budgets[:, None]


def random_cells(mask: Tensor, budgets: Tensor, seeds: int | Sequence[int] = 0) -> Tensor:
    """Cells drawn evenly without replacement; a draw depends on the image's seed and size alone.

    Args:
        mask, budgets: as in `top_cells`.
        seeds (`int` or `Sequence[int]`): of each image, or one for all.
    """
    seeds = [seeds] * len(mask) if isinstance(seeds, int) else list(seeds)
    if len(seeds) != len(mask):
        raise ValueError(f"found {len(seeds)} seeds for {len(mask)} images; expected one for all or one an image")
    draws = [
        torch.rand(count, generator=torch.Generator().manual_seed(seed))
        for seed, count in zip(seeds, mask.sum(1).tolist(), strict=True)
    ]
    return top_cells(pad_sequence(draws, batch_first=True).to(mask.device), mask, budgets)


def _greedy_cells(
    mask: Tensor,
    budgets: Tensor,
    gains: Callable[[int], Tensor],
    take: Callable[[int, Tensor], None],
) -> Tensor:
    """Keep one cell of each image after another.

    Args:
        mask, budgets: as in `top_cells`.
        gains (`Callable`): from the step to the gain of each cell, `(images, cells)`; the highest is taken.
        take (`Callable`): told the step and the cell taken, `(images,)`.
    """
    kept = torch.zeros_like(mask)
    rows = torch.arange(len(mask), device=mask.device)
    for step in range(int(budgets.max())):
        chosen = gains(step).masked_fill(kept | ~mask, -torch.inf).argmax(1)  # (images,)
        kept[rows, chosen] |= step < budgets
        take(step, chosen)
    return kept


def divprune(features: Tensor, mask: Tensor, budgets: Tensor) -> Tensor:
    """DivPrune (Alvar et al., CVPR 2025): the least distance between kept cells is made large, greedily.

    With `D_ij = 1 - cos(v_i, v_j)` the first cell is `argmax_i min_{j != i} D_ij`, each next one
    `argmax_i min_{j kept} D_ij`.

    Args:
        features (`Tensor` of shape `(images, cells, dim)`): visual tokens.
        mask, budgets: as in `top_cells`.
    """
    distance = 1 - cosine_similarity(features)  # (images, cells, cells)
    rows = torch.arange(len(mask), device=mask.device)
    others = mask[:, None] & ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    nearest = distance.masked_fill(~others, torch.inf).amin(2)  # (images, cells)

    def take(step: int, chosen: Tensor) -> None:
        nonlocal nearest
        to_chosen = distance[rows, chosen]
        nearest = to_chosen if step == 0 else torch.minimum(nearest, to_chosen)

    return _greedy_cells(mask, budgets, lambda step: nearest, take)


def question_relevance(features: Tensor, question: Tensor, question_mask: Tensor) -> Tensor:
    """Mean cosine of each cell and the question's token embeddings: CDPruner's relevance for hosts without CLIP.

    Args:
        features (`Tensor` of shape `(images, cells, dim)`): visual tokens.
        question (`Tensor` of shape `(images, tokens, dim)`): embeddings of the question about each image.
        question_mask (`Tensor` of shape `(images, tokens)`): 1 for tokens, 0 for padding.

    Returns:
        `Tensor` of shape `(images, cells)`, float32; zero without a question.
    """
    cosines = F.normalize(features.float(), dim=-1) @ F.normalize(question.float(), dim=-1).transpose(1, 2)
    weights = question_mask.to(cosines)
    return (cosines @ weights[..., None])[..., 0] / weights.sum(1, keepdim=True).clamp(min=1)


def cdpruner(
    features: Tensor, relevance: Tensor, mask: Tensor, budgets: Tensor, relevance_weight: float | None = None
) -> Tensor:
    """CDPruner (Zhang et al., NeurIPS 2025): greedy maximum of a determinantal point process given the question.

    The kernel is `L_ij = r_i cos(v_i, v_j) r_j`, with `r = (q - min q + 1e-6) / (max q - min q)` of the relevance `q`.

    Args:
        features (`Tensor` of shape `(images, cells, dim)`): visual tokens.
        relevance (`Tensor` of shape `(images, cells)`): `q`, as from `question_relevance`.
        mask, budgets: as in `top_cells`.
        relevance_weight (`float`, *optional*): `theta` in [0, 1); `r` becomes `exp(r theta / (2 (1 - theta)))`.

    Raises:
        ValueError: if `relevance_weight` lies outside [0, 1).
    """
    if relevance_weight is not None and not 0 <= relevance_weight < 1:
        raise ValueError(f"relevance_weight must lie in [0, 1), got {relevance_weight}")
    weight = minmax(relevance.float(), mask, epsilon=1e-6)
    if relevance_weight is not None:
        weight = (relevance_weight / (2 * (1 - relevance_weight)) * weight).exp()
    kernel = weight[:, :, None] * cosine_similarity(features) * weight[:, None]  # (images, cells, cells)
    rows = torch.arange(len(mask), device=mask.device)
    left = kernel.diagonal(dim1=1, dim2=2).clone()  # (images, cells): what a cell adds to the log determinant
    factors = kernel.new_zeros(len(mask), int(budgets.max()), mask.shape[1])  # rows of the Cholesky factor

    def take(step: int, chosen: Tensor) -> None:
        earlier = factors[:, :step]  # (images, step, cells)
        own = earlier[rows, :, chosen]  # (images, step)
        row = kernel[rows, chosen] - (own[:, None] @ earlier)[:, 0]
        pivot = left[rows, chosen][:, None]  # rounding alone once the kernel's rank is used up: nothing to take away
        factors[:, step] = torch.where(pivot > 1e-10, row / pivot.clamp(min=1e-10).sqrt(), 0)
        left.sub_(factors[:, step].square())

    return _greedy_cells(mask, budgets, lambda step: left, take)


def hawk_scores(
    query: Tensor, key: Tensor, question_mask: Tensor, mask: Tensor, head_weights: Sequence[float] | None = None
) -> Tensor:
    """HAWK: what the question's tokens look for in the first layer of the language model, without rotary positions.

    `a_hj = mean_t q_ht . k_hj / sqrt(d)`, each head's vector over an image's cells divided by its Euclidean norm, and
    the heads summed with weights that add up to 1.

    Args:
        query (`Tensor` of shape `(images, tokens, heads, head_dim)`): of the question's tokens.
        key (`Tensor` of shape `(images, cells, key_heads, head_dim)`): of the cells; `key_heads` divides `heads`.
        question_mask (`Tensor` of shape `(images, tokens)`): 1 for tokens, 0 for padding.
        mask (`Tensor` of shape `(images, cells)`): the cells.
        head_weights (`Sequence[float]` of length `heads`, *optional*): equal if not given.

    Returns:
        `Tensor` of shape `(images, cells)`, float32; zero without a question.

    Raises:
        ValueError: if there is not one weight a head.
    """
    heads = query.shape[2]
    weights = torch.ones(heads) if head_weights is None else torch.tensor(head_weights, dtype=torch.float32)
    if len(weights) != heads:
        raise ValueError(f"found {len(weights)} head weights for {heads} heads")
    weights = (weights / weights.sum()).to(query.device)
    tokens = question_mask.to(torch.float32)
    mean = torch.einsum("bt,bthd->bhd", tokens, query.float()) / tokens.sum(1).clamp(min=1)[:, None, None]
    keys = key.float().repeat_interleave(heads // key.shape[2], dim=2)  # (images, cells, heads, head_dim)
    logits = torch.einsum("bhd,bchd->bch", mean, keys) / query.shape[3] ** 0.5
    logits = logits.masked_fill(~mask[..., None], 0)
    return F.normalize(logits, dim=1) @ weights


def _coverage_cells(values: Tensor, weights: Tensor, mask: Tensor, budgets: Tensor) -> Tensor:
    """Greedy maximum coverage: the gain of cell `j` is `weights_j sum_r max(0, values_rj - best_r)`.

    Args:
        values (`Tensor` of shape `(images, rows, cells)`): how well a cell covers each of the rows.
        weights (`Tensor` of shape `(images, cells)`): factors of the gains.
    """
    images = torch.arange(len(mask), device=mask.device)
    best = values.new_zeros(values.shape[:2])  # (images, rows)

    def gains(step: int) -> Tensor:
        return (values - best[..., None]).clamp(min=0).sum(1) * weights

    def take(step: int, chosen: Tensor) -> None:
        torch.maximum(best, values[images, :, chosen], out=best)

    return _greedy_cells(mask, budgets, gains, take)


def mmtok(
    features: Tensor,
    tower_features: Tensor,
    question: Tensor,
    question_mask: Tensor,
    mask: Tensor,
    budgets: Tensor,
    question_temperature: float = 0.01,
    image_temperature: float = 0.2,
    image_weight: float = 0.5,
) -> Tensor:
    """MMTok (Dong et al., 2025): the kept cells cover the question's tokens and the image's cells.

    `P = softmax_v(cos(t, v) / 0.01) / m` for the `m` tokens of the question, `Q = softmax(cos(u, u) / 0.2) / n` for
    the `n` cells; greedy maximum coverage of the rows `[P; 0.5 Q]`.

    Args:
        features (`Tensor` of shape `(images, cells, dim)`): visual tokens `v`.
        tower_features (`Tensor` of shape `(images, cells, tower_dim)`): `u`, the tower's features before the merger.
        question, question_mask: as in `question_relevance`.
        mask, budgets: as in `top_cells`.
    """
    cosines = F.normalize(question.float(), dim=-1) @ F.normalize(features.float(), dim=-1).transpose(1, 2)
    tokens = question_mask.to(cosines)
    to_question = (cosines / question_temperature).masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    to_question = to_question * tokens[..., None] / tokens.sum(1).clamp(min=1)[:, None, None]
    to_image = cosine_similarity(tower_features) / image_temperature
    to_image = to_image.masked_fill(~mask[:, None], -torch.inf).softmax(-1)
    to_image = to_image * mask[..., None] / mask.sum(1)[:, None, None]
    values = torch.cat([to_question, image_weight * to_image], 1)  # (images, tokens + cells, cells)
    return _coverage_cells(values, torch.ones_like(mask, dtype=torch.float32), mask, budgets)


def scope(features: Tensor, attention: Tensor, mask: Tensor, budgets: Tensor, alpha: float = 1.0) -> Tensor:
    """SCOPE (Deng et al., 2025): saliency times coverage, `a_j^alpha sum_i max(0, cos_ij - best_i)`.

    Args:
        features (`Tensor` of shape `(images, cells, dim)`): visual tokens.
        attention (`Tensor` of shape `(images, cells)`): saliency, what attention a cell receives in the tower.
        mask, budgets: as in `top_cells`.
        alpha (`float`): exponent of the saliency.
    """
    similarity = cosine_similarity(features).masked_fill(~mask[..., None], 0)  # padding is nothing to cover
    return _coverage_cells(similarity, attention.float() ** alpha, mask, budgets)


def idpruner(features: Tensor, scores: Tensor, mask: Tensor, budgets: Tensor, balance: float = 0.5) -> Tensor:
    """IDPruner's maximal marginal relevance with a given score.

    First the highest `s = minmax(score)`, then `argmax_i balance s_i - (1 - balance) max_{j kept} cos_ij`.

    Args:
        features (`Tensor` of shape `(images, cells, dim)`): visual tokens.
        scores (`Tensor` of shape `(images, cells)`): importance; the published method trains a scorer.
        mask, budgets: as in `top_cells`.
        balance (`float`): weight of importance against diversity.
    """
    similarity, importance = cosine_similarity(features), minmax(scores.float(), mask)
    rows = torch.arange(len(mask), device=mask.device)
    nearest = torch.full_like(importance, -2.0)  # below every cosine

    def gains(step: int) -> Tensor:
        return importance if step == 0 else balance * importance - (1 - balance) * nearest

    def take(step: int, chosen: Tensor) -> None:
        torch.maximum(nearest, similarity[rows, chosen], out=nearest)

    return _greedy_cells(mask, budgets, gains, take)


def visionzip(
    attention: Tensor, keys: Tensor, mask: Tensor, budgets: Tensor, contextual_share: float = 10 / 64
) -> Tensor:
    """VisionZip (Yang et al., CVPR 2025): the most attended cells are kept, the rest merged into a few.

    Of K tokens `K_t = max(1, round(K 10 / 64))` are contextual. The `K - K_t` most attended cells are kept as they
    are; of the remaining cells, in order, every `(remaining // K_t)`-th is a target, and each of the others is merged
    into the target whose key is most like its own.

    Args:
        attention (`Tensor` of shape `(images, cells)`): what attention a cell receives in the tower.
        keys (`Tensor` of shape `(images, cells, key_dim)`): mean key of a cell in the same layer.
        mask, budgets: as in `top_cells`.
        contextual_share (`float`): share of contextual tokens.

    Returns:
        `Tensor` of shape `(images, cells)`: the cell that each cell is merged into, its own index if it is kept; -1 on
        padding. A token is the mean of the cells merged into it.
    """
    contextual = (budgets.double() * contextual_share).round().long().clamp(min=1)  # (images,)
    remaining = mask & ~top_cells(attention, mask, budgets - contextual)
    step = (remaining.sum(1) // contextual)[:, None]
    place = remaining.cumsum(1) - 1  # (images, cells)
    target = remaining & (place % step == 0) & (place // step < contextual[:, None])
    nearest = cosine_similarity(keys).masked_fill(~target[:, None], -torch.inf).argmax(2)  # (images, cells)
    own = torch.arange(mask.shape[1], device=mask.device).expand_as(nearest)
    return torch.where(remaining & ~target, nearest, own).masked_fill(~mask, -1)


def density_peaks(features: Tensor, mask: Tensor, clusters: Tensor) -> Tensor:
    """Clusters around density peaks (DPC-KNN), with which SparseVLM recycles tokens that it prunes.

    With `d_ij = ||x_i - x_j|| / sqrt(dim)`, the density of a token is `exp(-mean d^2)` over its `c` nearest (itself
    included), for `c` clusters. A token's score is its density times the distance to the nearest denser token; the `c`
    best are centres and every token joins the nearest. Of equally dense tokens the first counts as denser.

    Args:
        features (`Tensor` of shape `(images, tokens, dim)`): the tokens.
        mask (`Tensor` of shape `(images, tokens)`): tokens to cluster.
        clusters (`Tensor` of shape `(images,)`): clusters of each image, at most its tokens.

    Returns:
        `Tensor` of shape `(images, tokens)`: the centre of each token's cluster, -1 where there is no token.
    """
    tokens = torch.arange(mask.shape[1], device=mask.device)
    pairs = mask[:, None] & mask[:, :, None]
    distance = torch.cdist(features.float(), features.float(), compute_mode="donot_use_mm_for_euclid_dist")
    distance = (distance / features.shape[2] ** 0.5).masked_fill(~pairs, torch.inf)  # (images, tokens, tokens)
    nearest = distance.sort(2).values.square()
    is_near = tokens < clusters[:, None, None]
    density = (-nearest.masked_fill(~is_near, 0).sum(2) / clusters[:, None].clamp(min=1)).exp()  # (images, tokens)
    denser = density[:, None] > density[:, :, None]
    denser |= (density[:, None] == density[:, :, None]) & (tokens < tokens[:, None])
    farthest = distance.masked_fill(~pairs, 0).amax((1, 2))[:, None, None]
    apart = torch.where(denser & pairs, distance, farthest).amin(2)
    centers = top_cells(apart * density, mask, clusters)
    joined = distance.masked_fill(~centers[:, None], torch.inf).argmin(2)
    return torch.where(centers, tokens, joined).masked_fill(~mask, -1)
