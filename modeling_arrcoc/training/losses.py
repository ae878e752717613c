"""Training losses, as pure functions of tensors; each is differentiable and computed in float32 at least.

Packed layout: `(cells,)` holds the cells of all images one after another, each image in raster order; `(leaves, ...)`
likewise their visual tokens. Losses of single images have shape `(images,)` and are averaged over cells or leaves
within an image first, so that an image of 400 tokens weighs as much as one of 64.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


IGNORED = -100  # label of a token that no loss falls on
ALIGNMENTS = ("bce", "kl")
CONTRASTS = ("cosine", "info_nce")
# Mean cosine of healthy features of different images is below this.
HEALTHY_COSINE = 0.6
_LEAST = 1e-6
# A map that is all but 0 where it should be 1 still has a gradient.
_TINY = 1e-30


def sum_per_image(values: Tensor, counts: Tensor) -> Tensor:
    """Sum packed values over each image.

    Args:
        values (`Tensor` of shape `(packed, ...)`): values.
        counts (`Tensor` of shape `(images,)`): how many of them each image has.

    Returns:
        `Tensor` of shape `(images, ...)`.
    """
    image = torch.arange(len(counts), device=values.device).repeat_interleave(counts.to(values.device))
    return values.new_zeros(len(counts), *values.shape[1:]).index_add(0, image, values)


def mean_per_image(values: Tensor, counts: Tensor) -> Tensor:
    """Mean of packed values over each image; arguments as of `sum_per_image`."""
    size = counts.to(values.device).clamp(min=1).view(-1, *[1] * (values.ndim - 1))
    return sum_per_image(values, counts) / size


def rows_of_images(is_placeholder: Tensor, placeholders: Tensor) -> Tensor:
    """The row of a batch that each image stands in.

    Args:
        is_placeholder (`Tensor` of shape `(batch, length)`): whether a token stands for a part of an image.
        placeholders (`Tensor` of shape `(images,)`): how many of them each image has, in the order of the batch.

    Returns:
        `Tensor` of shape `(images,)`, int64.
    """
    ends = is_placeholder.sum(1).cumsum(0)  # (batch,) placeholders up to the end of each row
    return torch.searchsorted(ends, placeholders.to(ends).cumsum(0))


def answer_loss(
    logits: Tensor, labels: Tensor, normalization: str = "token", num_items: Tensor | int | None = None
) -> Tensor:
    """Negative log-likelihood of the answers.

    Args:
        logits (`Tensor` of shape `(batch, length, vocabulary)`): of the token after each.
        labels (`Tensor` of shape `(batch, length)`): token ids; `IGNORED` on prompt, padding and visual tokens.
        normalization (`str`): `"token"`, the mean over tokens with a label; or `"sample"`, the mean over the samples
            that have any of their own means.
        num_items (`Tensor` or `int`, *optional*): what to divide the sum by instead of this batch's own number of
            tokens or samples, where the loss of several batches is added up.

    Returns:
        `Tensor`: a number; 0 without labels.
    """
    items = count_items(labels, normalization) if num_items is None else num_items
    labels = labels[:, 1:].to(logits.device)
    mask = labels != IGNORED
    losses = F.cross_entropy(logits[:, :-1][mask].float(), labels[mask], reduction="none")  # (labelled tokens,)
    if normalization == "sample":
        lengths = mask.sum(1)  # (batch,)
        losses = losses / lengths.repeat_interleave(lengths)
    return losses.sum() / torch.as_tensor(items, device=losses.device).clamp(min=1)


def count_items(labels: Tensor, normalization: str = "token") -> Tensor:
    """How many tokens, or samples, of a batch have labels: what `answer_loss` divides by.

    Args:
        labels, normalization: as of `answer_loss`.

    Returns:
        `Tensor`: a whole number.
    """
    mask = labels[:, 1:] != IGNORED
    return (mask.any(1) if normalization == "sample" else mask).sum()


def exact_answers(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples greedy decoding would answer exactly: those whose every label is the likeliest next token.

    Args:
        logits, labels: as of `answer_loss`.

    Returns:
        `tuple[Tensor, Tensor]`: whether each sample is exact, and whether it has labels at all; both of shape
        `(batch,)`.
    """
    labels = labels[:, 1:].to(logits.device)
    mask = labels != IGNORED
    return ((logits[:, :-1].argmax(-1) == labels) | ~mask).all(1) & mask.any(1), mask.any(1)


def efficiency_loss(expected_tokens: Tensor, budgets: Tensor, target: float = 0.0) -> Tensor:
    """Share of the token budget that an image is expected to use, beyond a target.

    Args:
        expected_tokens (`Tensor` of shape `(images,)`): mean of the router's distribution over numbers of tokens.
        budgets (`Tensor` of shape `(images,)`): tokens that each image may use.
        target (`float`): share below which fewer tokens bring nothing.

    Returns:
        `Tensor` of shape `(images,)`, not negative.
    """
    return (expected_tokens.float() / budgets.to(expected_tokens.device) - target).clamp(min=0)


def budget_loss(probabilities: Tensor, tiers: Tensor, suggested: Tensor) -> Tensor:
    """Negative log-likelihood of the budget that an image should need, where something is known of it.

    Args:
        probabilities (`Tensor` of shape `(images, tiers)`): of each tier.
        tiers (`Tensor` of shape `(tiers,)`): token counts, ascending.
        suggested (`Tensor` of shape `(images,)`): tokens that each image should need; counts as the lowest tier that
            is not below it, or the highest.

    Returns:
        `Tensor` of shape `(images,)`, not negative.
    """
    right = torch.searchsorted(tiers, suggested.to(tiers)).clamp(max=len(tiers) - 1)[:, None]  # (images, 1)
    return -probabilities.float().gather(1, right)[:, 0].clamp(min=_LEAST).log()


def alignment_loss(kind: str, relevance: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """How far a map of relevance is from where an answer stands, or from where a teacher looks.

    `"bce"` is binary cross-entropy in which the cells of the target and all others have half of the weight each:
    evidence is a few cells of an image. `"kl"` is the divergence of relevance, as a distribution over an image's
    cells, from the target's: it does not depend on the scale of either.

    Args:
        kind (`str`): `"bce"` or `"kl"`.
        relevance (`Tensor` of shape `(cells,)`): a map in [0, 1].
        target (`Tensor` of shape `(cells,)`): how much of each cell is evidence, in [0, 1]; of a teacher for `"kl"`
            any map that is not negative.
        counts (`Tensor` of shape `(images,)`): cells of each image.

    Returns:
        `Tensor` of shape `(images,)`, not negative; 0 for an image whose target is zero everywhere.

    Raises:
        ValueError: for an unknown kind, or maps of different lengths.
    """
    if relevance.shape != target.shape or len(target) != int(counts.sum()):
        raise ValueError(
            f"found {len(relevance)} cells of relevance and {len(target)} of the target for {int(counts.sum())} cells"
        )
    relevance, target = relevance.float(), target.to(relevance.device, torch.float32)
    counts = counts.to(relevance.device)

    def share(values: Tensor) -> Tensor:  # of the image's sum
        return values / sum_per_image(values, counts).clamp(min=_LEAST).repeat_interleave(counts)

    if kind == "bce":
        relevance = relevance.clamp(_TINY, 1 - 2**-24)
        losses = -(share(target) * relevance.log() + share(1 - target) * (-relevance).log1p()) / 2
    elif kind == "kl":
        target = share(target)
        losses = torch.xlogy(target, target) - target * share(relevance.clamp(min=_TINY)).log()
    else:
        raise ValueError(f"found the alignment {kind!r}; expected one of {ALIGNMENTS}")
    return sum_per_image(losses, counts) * (sum_per_image(target, counts) > 0)


def entropy(probabilities: Tensor) -> Tensor:
    """Entropy in nats over the last dimension."""
    return -torch.xlogy(probabilities, probabilities).sum(-1)


def tier_diversity_loss(probabilities: Tensor, hedging: float = 0.0) -> Tensor:
    """Against a router that gives all images the same budget, and against one that cannot decide.

    One minus the entropy of the batch's mean distribution over tiers, plus the mean entropy of single images, both as
    shares of the largest entropy. Both together are what is left of the mutual information of image and tier (Krause,
    Perona & Gomes, "Discriminative clustering by regularized information maximization", 2010).

    Args:
        probabilities (`Tensor` of shape `(images, tiers)`): of each tier, at least two.
        hedging (`float`): weight of the images' own entropy.

    Returns:
        `Tensor`: a number; 0 where every tier is used equally often, each time without doubt, 1 where it is always the
        same.
    """
    probabilities = probabilities.float()
    largest = math.log(probabilities.shape[1])
    return 1 - entropy(probabilities.mean(0)) / largest + hedging * entropy(probabilities).mean() / largest


def balance_loss(balance: dict[str, Tensor]) -> Tensor:
    """Against balances of opposite tendencies that have gone to one side for all images.

    Args:
        balance (`dict[str, Tensor]`): each of shape `(images,)` in (0, 1).

    Returns:
        `Tensor`: one minus the entropy, in bits, of the batch's mean balance, averaged over balances; in [0, 1].
    """
    mean = torch.stack([values.float().mean() for values in balance.values()])  # (balances,)
    return (1 - entropy(torch.stack([mean, 1 - mean], -1)) / math.log(2)).mean()


def coherence_loss(depths: Tensor, budgets: Tensor, cells: Tensor) -> Tensor:
    """Against many tokens that carry only shallow features.

    Args:
        depths (`Tensor` of shape `(leaves,)`): share of the tower's tapped layers that each token keeps, in [0, 1].
        budgets (`Tensor` of shape `(images,)`): tokens of each image.
        cells (`Tensor` of shape `(images,)`): its native number of tokens.

    Returns:
        `Tensor` of shape `(images,)`: mean share of layers left out, times the share of the native tokens that is
        spent.
    """
    return mean_per_image(1 - depths.float(), budgets) * (budgets / cells).to(depths.device)


def cosine_collapse_loss(means: Tensor, same: Tensor, healthy: float = HEALTHY_COSINE) -> Tensor:
    """Against visual tokens that become alike for different images.

    Args:
        means (`Tensor` of shape `(images, dim)`): mean visual token of each image.
        same (`Tensor` of shape `(images, images)`): which of them show the same image, and may be alike.
        healthy (`float`): cosine up to which there is no loss.

    Returns:
        `Tensor`: mean excess of the cosine over pairs of different images, as a share of the largest; 0 without pairs.
    """
    means = F.normalize(means.float(), dim=1)
    different = ~same.to(means.device)
    excess = ((means @ means.T - healthy) / (1 - healthy)).clamp(min=0)
    return (excess * different).sum() / different.sum().clamp(min=1)


def info_nce_loss(means: Tensor, others: Tensor, same: Tensor, temperature: float = 0.1) -> Tensor:
    """Tell images apart by their mean tokens in two drawings, such as compressed and native.

    InfoNCE (van den Oord, Li & Vinyals, "Representation learning with contrastive predictive coding", 2018), in both
    directions.

    Args:
        means, others (`Tensor` of shape `(images, dim)`): mean visual tokens of each image in the two drawings.
        same (`Tensor` of shape `(images, images)`): which of them show the same image; beyond the diagonal they count
            neither as right nor as wrong.
        temperature (`float`): scale of the cosines.

    Returns:
        `Tensor`: a number; 0 for a single image.
    """
    means, others = F.normalize(means.float(), dim=1), F.normalize(others.float(), dim=1)
    repeated = same.to(means.device) & ~torch.eye(len(means), dtype=torch.bool, device=means.device)
    logits = (means @ others.T / temperature).masked_fill(repeated, -torch.inf)  # (images, images)
    right = torch.arange(len(means), device=means.device)
    return (F.cross_entropy(logits, right) + F.cross_entropy(logits.T, right)) / 2


def evidence_coverage(boxes: Tensor, cell_to_leaf: Tensor, target: Tensor, counts: Tensor) -> Tensor:
    """Share of an image's evidence that is drawn in full detail, as leaves of one cell; a measure without gradient.

    Args:
        boxes (`Tensor` of shape `(leaves, 4)`), cell_to_leaf (`Tensor` of shape `(cells,)`): as of [`Allocation`].
        target (`Tensor` of shape `(cells,)`): how much of each cell is evidence.
        counts (`Tensor` of shape `(images,)`): cells of each image.

    Returns:
        `Tensor` of shape `(images,)` in [0, 1]; 0 without evidence.
    """
    area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
    full = (area[cell_to_leaf.clamp(min=0)] == 1) & (cell_to_leaf >= 0)  # (cells,)
    target = target.to(full.device)
    return sum_per_image(target * full, counts) / sum_per_image(target, counts).clamp(min=_LEAST)


__all__ = [
    "alignment_loss",
    "answer_loss",
    "balance_loss",
    "budget_loss",
    "coherence_loss",
    "cosine_collapse_loss",
    "count_items",
    "efficiency_loss",
    "evidence_coverage",
    "exact_answers",
    "info_nce_loss",
    "rows_of_images",
    "tier_diversity_loss",
]
