"""Training through discrete choices: how the answer's loss reaches the relevance that decided where detail goes.

An allocation splits the nodes of a quadtree whose worth exceeds a threshold, the lowest that the budget pays for. Here
each split is given a probability instead, and with it each cell the probability of being drawn at any level of detail.
What a cell looks like is then a mixture of its drawings at all levels, which has a gradient.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedConfig

from .allocation import allocate, lod_splits, node_worths
from .multiresolution import join_children
from .outputs import Allocation
from .quadtree import QuadTree, build_quadtree, gather_children


RELAXATIONS = ("straight_through", "gumbel", "soft")

# Logarithms of worths as small as this count as equal; a split and a refusal of equal worth are told apart by MARGIN.
TINY = 1e-30
MARGIN = 1e-3
# A choice against these odds or longer ones is not counted as rarer: rare choices would drown all others.
LEAST_LOGIT = -2.0
# How far leaves fade where the configuration does not say, by stage.
FADES = {"pixels": 0.8, "features": 0.0}


def split_probabilities(
    tree: QuadTree,
    worths: list[Tensor],
    costs: list[Tensor],
    splits: list[Tensor],
    max_level: int,
    temperature: float,
    perturbed: list[Tensor] | None = None,
) -> list[Tensor]:
    """Probability that each node is split, around the decisions that were taken.

    `sigmoid((log worth - threshold) / temperature)`, with a threshold halfway between the least worth that was split
    and the highest that was refused in an image. As the temperature goes to zero the probabilities become the
    decisions. The budget stays spent in expectation: raising one node's worth raises the threshold, as it does when
    leaves are counted, by the share of that node in `sum(cost * probability)` (the implicit derivative of a threshold
    that keeps this sum).

    Args:
        tree ([`QuadTree`]): quadtrees of the grids.
        worths, costs (`list[Tensor]`): as from `node_worths`.
        splits (`list[Tensor]`): as from `lod_splits`.
        max_level (`int`): nodes above it are no matter of worth; theirs is the decision itself.
        temperature (`float`): positive; of a difference of logarithms.
        perturbed (`list[Tensor]`, *optional*): the worths that were decided on, if noise was added to them. The result
            is then 1 for what was split and 0 for what was not, with the gradient of the logarithm of the probability
            that the noise splits a node: each choice counts the more the less likely it was, so that what is learned
            does not depend on how often it was tried (Horvitz & Thompson's estimator, as in Kool et al., 2019).

    Returns:
        `list[Tensor]`: for levels 1, 2, ... the probabilities, of shape `(nodes_l,)`.
    """
    free = slice(0, max_level)
    if not worths[free]:
        return [split.to(worths[0].dtype) for split in splits] if worths else []
    images = len(tree.cells.rows)
    image = torch.cat([level.image for level in tree.levels[1:][free]])  # (nodes,)
    logarithm = torch.cat(worths[free]).clamp(min=TINY).log()
    cost, is_split = torch.cat(costs[free]), torch.cat(splits[free])

    # An image that splits all of its nodes, or none, has one of the two bounds alone.
    level = logarithm.detach() if perturbed is None else torch.cat(perturbed[free]).clamp(min=TINY).log()
    inf = torch.full((images,), torch.inf, dtype=level.dtype, device=level.device)
    least_split = inf.scatter_reduce(0, image[is_split], level[is_split], "amin")
    most_refused = (-inf).scatter_reduce(0, image[~is_split], level[~is_split], "amax")
    low, high = torch.maximum(most_refused, most_refused.new_tensor(TINY).log()), least_split
    threshold = torch.where(high.isinf(), low, (low + high) / 2)[image]  # (nodes,)

    level, offset = logarithm.detach(), 0.0 if perturbed is not None else torch.where(is_split, MARGIN, -MARGIN)
    spread = ((level - threshold + offset) / temperature).sigmoid()
    weight = cost * spread * (1 - spread)  # how the expected number of leaves changes with a node's worth
    total = weight.new_zeros(images).index_add(0, image, weight)
    share = weight / total.clamp(min=TINY)[image]
    moved = (share * (logarithm - level)).to(logarithm.dtype)  # zero, with the threshold's derivative
    shift = moved.new_zeros(images).index_add(0, image, moved)[image]
    logit = (logarithm - shift - threshold + offset) / temperature
    if perturbed is None:
        probability = logit.sigmoid()
    else:
        likelihood = F.logsigmoid(logit.clamp(min=LEAST_LOGIT))
        probability = torch.where(is_split, (likelihood - likelihood.detach()).exp(), 0.0)

    sizes = [len(worth) for worth in worths[free]]
    forced = [split.to(probability.dtype) for split in splits[max_level:]]
    return [*probability.split(sizes), *forced]


class _CreditRefused(torch.autograd.Function):
    """Splits as they are, whose gradient is taken relative to the mean over those that were hardly chosen."""

    @staticmethod
    def forward(ctx: Any, probability: Tensor, is_split: Tensor) -> Tensor:
        ctx.save_for_backward(is_split, probability * (1 - probability) * is_split)
        return probability.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        is_split, doubt = ctx.saved_tensors
        hardly_chosen = (doubt * gradient).sum() / doubt.sum().clamp(min=TINY)
        return gradient - hardly_chosen * is_split, None


def credit_refused(probabilities: list[Tensor], splits: list[Tensor]) -> list[Tensor]:
    """The same probabilities; what was refused is credited with what the splits are worth that were hardly chosen.

    The gradient of a leaf says what its own splits are worth. Of a split that was refused no token shows anything: its
    gradient is zero, as if it were known to be worth nothing, so that what is chosen stays chosen whether it helps or
    not. Here it is taken to be worth as much as the splits on the other side of the threshold: the mean of their
    gradients over the batch, weighted with their doubt `p * (1 - p)`. Since the budget is fixed, only differences
    count, and the mean is subtracted from what was chosen instead. A split that helps less than that gives way to
    others, until what is hardly chosen is worth nothing. As the mean is over the batch, gradients of several small
    batches are not quite those of a large one, and a batch should hold many images.

    Args:
        probabilities, splits (`list[Tensor]`): as from `split_probabilities` and `lod_splits`.
    """
    if not probabilities:
        return probabilities
    credited = _CreditRefused.apply(torch.cat(probabilities), torch.cat(splits))
    return list(credited.split([len(probability) for probability in probabilities]))


def finer_shares(tree: QuadTree, probabilities: list[Tensor]) -> list[Tensor]:
    """Probability that each cell is drawn at a finer level than 1, 2, ...: that all ancestors from there up are split.

    Returns:
        `list[Tensor]`: for levels 1, 2, ... the probabilities, of shape `(cells,)`; they rise with the level.
    """
    shares: list[Tensor] = []
    reached: Tensor | None = None
    for level in reversed(range(len(probabilities))):
        reached = probabilities[level] if reached is None else probabilities[level] * reached[tree.parents[level + 1]]
        shares.append(reached)
    return [share[ancestors] for share, ancestors in zip(shares[::-1], ancestor_indices(tree), strict=True)]


def ancestor_indices(tree: QuadTree) -> Iterator[Tensor]:
    """For levels 1, 2, ... the ancestor of each cell, of shape `(cells,)`."""
    ancestor = torch.arange(len(tree.cells.image), device=tree.cells.image.device)
    for parents in tree.parents:
        ancestor = parents[ancestor]
        yield ancestor


def coarse_pictures(tree: QuadTree, cells: Tensor) -> Iterator[Tensor]:
    """Each cell as a leaf of level 1, 2, ... shows it: its part of the leaf's drawing, blown up to its own size.

    Args:
        tree ([`QuadTree`]): quadtrees of the grids.
        cells (`Tensor` of shape `(cells, channels, side, side)`): pictures of the cells; `side` is even.

    Yields:
        `Tensor` of the shape of `cells`.
    """
    side = cells.shape[-1]
    drawings, place = cells, torch.arange(side, device=cells.device)
    grid = tree.cells
    for level, (children, ancestor) in enumerate(zip(tree.children, ancestor_indices(tree), strict=True), start=1):
        drawings = join_children(children, F.avg_pool2d(drawings, 2))
        size = 2**level
        rows = (grid.y % size * side)[:, None] + place  # (cells, side): pixel of the full picture within the leaf
        columns = (grid.x % size * side)[:, None] + place
        picture = drawings[ancestor[:, None, None], :, (rows // size)[:, :, None], (columns // size)[:, None]]
        yield picture.permute(0, 3, 1, 2)  # (cells, channels, side, side)


def coarse_means(tree: QuadTree, features: Tensor, weights: Tensor) -> Iterator[Tensor]:
    """The weighted mean of each cell's leaf of level 1, 2, ...

    Args:
        tree ([`QuadTree`]): quadtrees of the grids.
        features (`Tensor` of shape `(cells, dim)`): cell features.
        weights (`Tensor` of shape `(cells,)`): positive weights.

    Yields:
        `Tensor` of shape `(cells, dim)`.
    """
    mass = weights.float()
    total = features.float() * mass[:, None]
    for children, ancestor in zip(tree.children, ancestor_indices(tree), strict=True):
        mass, total = gather_children(mass, children, 0.0).sum(1), gather_children(total, children, 0.0).sum(1)
        yield (total / mass[:, None])[ancestor]


def mix_levels(values: Tensor, coarser: Iterable[Tensor], finer: list[Tensor]) -> Tensor:
    """Mixture of what cells look like at all levels, each weighted with its probability.

    With `v_l` the values at level `l` and `f_l` the probability of a finer level, `sum_l (f_{l+1} - f_l) v_l` is
    `v_0 - sum_l (1 - f_l) (v_{l-1} - v_l)`: each level's detail fades as it becomes less probable.

    Args:
        values (`Tensor` of shape `(cells, ...)`): at full detail.
        coarser (`Iterable[Tensor]`): the same at levels 1, 2, ...
        finer (`list[Tensor]`): probabilities as from `finer_shares`.
    """
    mixed = previous = values.float()
    for coarse, share in zip(coarser, finer, strict=True):
        mixed = mixed - (1 - share).view(-1, *[1] * (values.ndim - 1)) * (previous - coarse)
        previous = coarse
    return mixed


def gumbel_gains(gains: list[Tensor], temperature: float) -> list[Tensor]:
    """Perturb the logarithms of gains so that training explores.

    With the difference of two Gumbel variables of scale `temperature`, as in the binary Gumbel-softmax: a node beats a
    threshold with the probability `sigmoid((log gain - threshold) / temperature)`.
    """
    noise = (torch.rand_like(gain).clamp(1e-6, 1 - 1e-6).logit() for gain in gains)
    return [gain * (temperature * logistic).exp() for gain, logistic in zip(gains, noise, strict=True)]


@dataclass(frozen=True)
class Relaxation:
    """The mixture behind an allocation.

    `"soft"` shows the mixture of levels itself. The others show the leaves that were chosen, with the gradient of the
    mixture: drawing a leaf averages away what is finer, so that this is the gradient of fading into coarser levels.
    Where the answer is sure it has no gradient at the leaf itself; they may be shown part of the way from the leaves
    to their parents, where the answer is unsure of what it would lose.

    Attributes:
        kind (`str`): one of `RELAXATIONS`.
        tree ([`QuadTree`]): quadtrees of the grids.
        finer (`list[Tensor]`): probabilities that carry the gradient, as from `finer_shares`.
        decided (`list[Tensor]`): the same for the decisions that were taken, 0 or 1.
        fade (`float`): how far leaves are faded into their parents, in [0, 1].
    """

    kind: str
    tree: QuadTree
    finer: list[Tensor]
    decided: list[Tensor]
    fade: float

    def pictures(self, cells: Tensor) -> Tensor:
        """Pictures of the cells that a tower is to see; of the shape of `cells`, `(cells, channels, side, side)`."""
        return mix_levels(cells, coarse_pictures(self.tree, cells.float()), self._shares()).to(cells.dtype)

    def features(self, features: Tensor, weights: Tensor) -> Tensor:
        """As `pictures`, of features `(cells, dim)` whose leaves are weighted means; they keep their own gradient."""
        weights = weights if self.kind == "soft" else weights.detach()
        return mix_levels(features, coarse_means(self.tree, features, weights), self._shares()).to(features.dtype)

    def _shares(self) -> list[Tensor]:
        """How much of each level's detail is shown, of shape `(cells,)`: what `mix_levels` takes as probabilities."""
        if self.kind == "soft":
            return self.finer
        below = [torch.zeros_like(share) for share in self.decided[:1]] + self.decided[:-1]
        return [
            1 - self.fade * share * (1 - under) + (finer - finer.detach())  # faded at the level above the leaf alone
            for share, under, finer in zip(self.decided, below, self.finer, strict=True)
        ]


def relaxed_allocation(
    features: Tensor,
    relevance: Tensor,
    grids: Tensor,
    budgets: Tensor,
    config: PreTrainedConfig,
    gains: Callable[[QuadTree, Tensor, Tensor], list[Tensor]],
) -> tuple[Allocation, Relaxation]:
    """Allocate as `allocate` does, and keep what a gradient to `relevance` needs.

    Arguments as of `allocate`, for the policy `lod`; `config` also has `stage`, `relaxation`, `relaxation_temperature`
    and `relaxation_fade`.

    Returns:
        `tuple[Allocation, Relaxation]`: the allocation, the same as without gradients but for the noise of `gumbel`,
        and the mixture behind it.
    """
    tree = build_quadtree(grids)
    node_gains = gains(tree, features.detach().float(), relevance)
    noisy = config.relaxation == "gumbel"
    with torch.no_grad():
        chosen_gains = gumbel_gains(node_gains, config.relaxation_temperature) if noisy else node_gains
        allocation = allocate(features, relevance, grids, budgets, config, gains=lambda *_: chosen_gains)
        chosen_worths, costs = node_worths(tree, chosen_gains)
        splits = lod_splits(tree, chosen_worths, costs, budgets, config.max_level)[0] if costs else []
    worths, _ = node_worths(tree, node_gains)
    probabilities = split_probabilities(
        tree,
        worths,
        costs,
        splits,
        config.max_level,
        config.relaxation_temperature,
        perturbed=chosen_worths if noisy else None,
    )
    if config.relaxation == "straight_through":
        probabilities = credit_refused(probabilities, splits)
    relaxation = Relaxation(
        kind=config.relaxation,
        tree=tree,
        finer=finer_shares(tree, probabilities),
        decided=finer_shares(tree, [split.float() for split in splits]),
        fade=FADES[config.stage] if config.relaxation_fade is None else config.relaxation_fade,
    )
    return allocation, relaxation


__all__ = ["Relaxation", "relaxed_allocation"]
