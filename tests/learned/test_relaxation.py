"""Gradients through the choice of leaves, against mixtures written out cell by cell."""

import pytest
import torch

from arrcoc import ArrCocConfig
from arrcoc.allocation import allocate, lod_splits, node_worths
from arrcoc.multiresolution import draw_leaves, drawing_gains, drawing_losses
from arrcoc.pooling import pool_leaves
from arrcoc.quadtree import build_quadtree, sketch_features, split_gains
from arrcoc.relaxation import (
    RELAXATIONS,
    Relaxation,
    coarse_means,
    coarse_pictures,
    credit_refused,
    finer_shares,
    gumbel_gains,
    mix_levels,
    relaxed_allocation,
    split_probabilities,
)


GRIDS = [(8, 8), (5, 7), (1, 6), (1, 1), (12, 3)]
BUDGETS = [20, 11, 3, 1, 36]


def problem(ties: bool = False, seed: int = 0):
    """Trees of `GRIDS` with random gains, and what they decide under `BUDGETS`."""
    generator = torch.Generator().manual_seed(seed)
    tree = build_quadtree(torch.tensor(GRIDS))
    gains = [torch.rand(len(level.image), generator=generator) for level in tree.levels[1:]]
    if ties:
        gains = [(gain * 3).round() for gain in gains]
    worths, costs = node_worths(tree, gains)
    splits, _ = lod_splits(tree, worths, costs, torch.tensor(BUDGETS), 3)
    return tree, worths, costs, splits


def naive_ancestors(tree, cell: int) -> list[int]:
    """Index of the node of level 1, 2, ... above a cell."""
    image, y, x = (int(values[cell]) for values in (tree.cells.image, tree.cells.y, tree.cells.x))
    found = []
    for level, nodes in enumerate(tree.levels[1:], start=1):
        cols = int(nodes.cols[image])
        found.append(int(nodes.offsets[image]) + (y >> level) * cols + (x >> level))
    return found


def naive_level_shares(tree, probabilities, cell: int) -> list[torch.Tensor]:
    """Probability that a cell is drawn at level 0, 1, ...: all ancestors above are split and that one is not."""
    ancestors = naive_ancestors(tree, cell)
    shares = []
    for level in range(len(ancestors) + 1):
        share = torch.tensor(1.0)
        for above in range(level, len(ancestors)):
            share = share * probabilities[above][ancestors[above]]
        if level > 0:
            share = share * (1 - probabilities[level - 1][ancestors[level - 1]])
        shares.append(share)
    return shares


@pytest.mark.parametrize("ties", [False, True])
def test_probabilities_become_the_decisions_without_temperature(ties):
    tree, worths, costs, splits = problem(ties)
    cold = split_probabilities(tree, worths, costs, splits, 3, 1e-6)
    assert all(torch.equal(probability, split.float()) for probability, split in zip(cold, splits, strict=True))
    warm = split_probabilities(tree, worths, costs, splits, 3, 0.5)
    for probability, split, worth in zip(warm[:3], splits, worths, strict=False):
        likely = torch.where(split, probability, 1 - probability)[worth > 0]
        assert (likely >= 0.5).all()  # what was decided is what is likely
        assert (likely < 1).any()
    for probability, split in zip(warm[3:], splits[3:], strict=True):  # above `max_level`: no matter of worth
        assert torch.equal(probability, split.float())


def test_probabilities_follow_worth():
    tree, worths, costs, splits = problem()
    probabilities = split_probabilities(tree, worths, costs, splits, 3, 0.5)
    nodes = zip(*(torch.cat(values[:3]).tolist() for values in (worths, probabilities)), strict=True)
    image = torch.cat([level.image for level in tree.levels[1:4]]).tolist()
    by_image: dict[int, list] = {}
    for number, node in zip(image, nodes, strict=True):
        by_image.setdefault(number, []).append(node)
    for found in by_image.values():
        by_worth = sorted(found)
        assert all(low[1] <= high[1] + 1e-6 for low, high in zip(by_worth, by_worth[1:], strict=False))


def test_the_expected_number_of_leaves_has_no_gradient():
    """A node whose worth rises takes the budget from others."""
    tree, worths, costs, splits = problem()
    worths = [worth.clone().requires_grad_() for worth in worths]
    probabilities = split_probabilities(tree, worths, costs, splits, 3, 0.5)
    expected = sum((cost * probability).sum() for cost, probability in zip(costs, probabilities, strict=True))
    single = torch.autograd.grad(probabilities[0][0], worths[0], retain_graph=True)[0]
    assert single[0] > 0
    assert single[1:16].min() < 0
    assert single[16:].abs().max() == 0  # not that of other images
    gradients = torch.autograd.grad(expected, worths[:3])
    assert max(gradient.abs().max() for gradient in gradients) < 1e-5


def test_shares_of_the_levels():
    tree, worths, costs, splits = problem()
    probabilities = split_probabilities(tree, worths, costs, splits, 3, 0.5)
    finer = finer_shares(tree, probabilities)
    bounds = [torch.zeros(len(tree.cells.image)), *finer, torch.ones(len(tree.cells.image))]
    for cell in range(len(tree.cells.image)):
        naive = torch.stack(naive_level_shares(tree, probabilities, cell))
        ours = torch.stack([high[cell] - low[cell] for low, high in zip(bounds, bounds[1:], strict=False)])
        torch.testing.assert_close(ours, naive)


def test_coarse_pictures_are_block_means_of_the_whole_picture():
    """A cell seen from level `l` has its pixels averaged over blocks of `2**l`, cut out of the full picture."""
    rows, cols, side, channels = 6, 11, 6, 2  # blocks of 4 and 8 pixels reach over the borders of cells
    tree = build_quadtree(torch.tensor([[2, 3], [rows, cols]]))
    cells = torch.rand(6 + rows * cols, channels, side, side)
    full = cells[6:].view(rows, cols, channels, side, side).permute(2, 0, 3, 1, 4).reshape(channels, rows * side, -1)
    for level, coarse in enumerate(coarse_pictures(tree, cells), start=1):
        size = 2**level
        picture = coarse[6:].view(rows, cols, channels, side, side).permute(2, 0, 3, 1, 4).reshape(full.shape)
        for top in range(0, rows // size * size * side, size):
            for left in range(0, cols // size * size * side, size):
                block = full[:, top : top + size, left : left + size].mean((1, 2))
                found = picture[:, top : top + size, left : left + size]
                torch.testing.assert_close(found, block[:, None, None].expand_as(found))


def test_coarse_means():
    tree = build_quadtree(torch.tensor(GRIDS))
    cells = len(tree.cells.image)
    features, weights = torch.randn(cells, 3), torch.rand(cells) + 0.1
    ancestors = [naive_ancestors(tree, cell) for cell in range(cells)]
    for level, coarse in enumerate(coarse_means(tree, features, weights)):
        for cell in range(cells):
            same = torch.tensor([other[level] == ancestors[cell][level] for other in ancestors])
            same &= tree.cells.image == tree.cells.image[cell]
            mean = (features[same] * weights[same, None]).sum(0) / weights[same].sum()
            torch.testing.assert_close(coarse[cell], mean)


@pytest.mark.parametrize("kind", ["pictures", "features"])
def test_mixture_and_its_gradient(kind):
    """What `Relaxation` gives is the sum over levels of share times value, forward and backward."""
    tree, worths, costs, splits = problem()
    worths = [worth.clone().requires_grad_() for worth in worths]
    cells = len(tree.cells.image)
    weights = torch.rand(cells) + 0.1
    values = torch.randn(cells, 2, 4, 4) if kind == "pictures" else torch.randn(cells, 5)
    coarser = coarse_pictures(tree, values) if kind == "pictures" else coarse_means(tree, values, weights)
    levels = [values, *coarser]
    probe = torch.randn_like(values)

    def gradients(result):
        return torch.autograd.grad((result * probe).sum(), worths[:3], retain_graph=True)

    probabilities = split_probabilities(tree, worths, costs, splits, 3, 0.5)
    naive = torch.stack(
        [
            sum(share * level[cell] for share, level in zip(shares, levels, strict=True))
            for cell, shares in ((cell, naive_level_shares(tree, probabilities, cell)) for cell in range(cells))
        ]
    )
    finer = finer_shares(tree, probabilities)
    for relaxation in RELAXATIONS:
        relaxed = relaxation_of(relaxation, tree, finer)
        found = relaxed.pictures(values) if kind == "pictures" else relaxed.features(values, weights)
        if relaxation == "soft":
            torch.testing.assert_close(found, naive)
        else:
            assert torch.equal(found, values)
        for ours, theirs in zip(gradients(found), gradients(naive), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["soft", "straight_through"])
def test_the_features_own_gradient(kind):
    """Straight through, features get the gradient of the hard leaves; softly, that of the mixture."""
    tree, worths, costs, splits = problem()
    cells = len(tree.cells.image)
    features, weights = torch.randn(cells, 5, requires_grad=True), torch.rand(cells) + 0.1
    finer = finer_shares(tree, split_probabilities(tree, worths, costs, splits, 3, 0.5))
    probe = torch.randn(cells, 5)
    found = relaxation_of(kind, tree, finer).features(features, weights)
    expected = features if kind != "soft" else mix_levels(features, coarse_means(tree, features, weights), finer)
    ours, theirs = (torch.autograd.grad((result * probe).sum(), features)[0] for result in (found, expected))
    torch.testing.assert_close(ours, theirs)


def relaxation_of(kind: str, tree, finer) -> Relaxation:
    """A mixture without fading."""
    decided = [(share.detach() > 0.5).float() for share in finer]
    return Relaxation(kind, tree, finer, decided, 0.0)


def images(seed: int = 0):
    """Two images whose budgets are spent on whole splits, so that all leaves are squares."""
    generator = torch.Generator().manual_seed(seed)
    grids = torch.tensor([(8, 8), (4, 8)])
    cells = int(grids.prod(1).sum())
    pictures = torch.rand(cells, 3, 8, 8, generator=generator)
    return grids, torch.tensor([22, 14]), pictures, torch.rand(cells, generator=generator) + 0.05


@pytest.mark.parametrize("stage", ["pixels", "features"])
def test_the_hard_leaves_are_the_limit_of_the_mixture(stage):
    """Without temperature every cell looks like its leaf: the leaves drawn from the mixture are the leaves."""
    grids, budgets, pictures, relevance = images()
    config = ArrCocConfig(relaxation="soft", relaxation_temperature=1e-6)
    if stage == "pixels":
        values, measured, gains = pictures, drawing_losses(pictures, grids), drawing_gains
    else:
        values, measured, gains = pictures.flatten(1), sketch_features(pictures.flatten(1)), split_gains
    allocation, relaxation = relaxed_allocation(measured, relevance.requires_grad_(), grids, budgets, config, gains)
    hard = allocate(measured, relevance.detach(), grids, budgets, config, gains)
    assert torch.equal(allocation.boxes, hard.boxes)
    side = hard.sizes[hard.cell_to_leaf]  # (cells, 2)
    assert torch.equal(side[:, 0], side[:, 1])
    for level, share in enumerate(relaxation.finer, start=1):
        assert torch.equal(share, (side[:, 0] < 2**level).float())
    if stage == "pixels":
        mixed, drawn = draw_leaves(relaxation.pictures(values), hard), draw_leaves(values, hard)
    else:
        mixed, drawn = (
            pool_leaves(part, relevance, hard.cell_to_leaf, len(hard.boxes))
            for part in (relaxation.features(values, relevance), values)
        )
    torch.testing.assert_close(mixed, drawn)


def test_finer_levels_cancel_in_a_leaf():
    """Leaves drawn straight through have no gradient to splits of nodes that were refused."""
    grids, budgets, pictures, relevance = images()
    allocation, relaxation = relaxed_allocation(
        drawing_losses(pictures, grids), relevance.requires_grad_(), grids, budgets, ArrCocConfig(), drawing_gains
    )
    finer = [share.detach().requires_grad_() for share in relaxation.finer]
    leaves = draw_leaves(relaxation_of("straight_through", relaxation.tree, finer).pictures(pictures), allocation)
    gradients = torch.autograd.grad((leaves * torch.randn_like(leaves)).sum(), finer)
    size = allocation.sizes[allocation.cell_to_leaf].amax(1)
    for level, gradient in enumerate(gradients, start=1):
        total = torch.zeros(len(leaves)).index_add(0, allocation.cell_to_leaf, gradient)  # over each leaf
        refused = allocation.sizes.amax(1) >= 2**level
        assert total[refused].abs().max() < 1e-4 if refused.any() else True
        assert gradient[size < 2**level].abs().max() > 1e-4 if (size < 2**level).any() else True


def test_gumbel_noise():
    """Noise is logistic, and a gain of nothing stays nothing."""
    torch.manual_seed(0)
    gains = [torch.full((20000,), 2.0), torch.zeros(10)]
    noise = (gumbel_gains(gains, 0.5)[0] / 2).log() / 0.5
    for threshold in (-2.0, 0.0, 1.0):
        expected = torch.tensor(-threshold).sigmoid()
        assert abs((noise > threshold).float().mean() - expected) < 0.01
    assert (gumbel_gains(gains, 0.5)[1] == 0).all()
    grids, budgets, pictures, relevance = images()
    config = ArrCocConfig(relaxation="gumbel")
    losses = drawing_losses(pictures, grids)
    boxes = {
        str(relaxed_allocation(losses, relevance, grids, budgets, config, drawing_gains)[0].boxes.tolist())
        for _ in range(8)
    }
    assert len(boxes) > 4


def test_what_noise_chose_is_weighed_by_how_likely_it_was():
    """A split counts with the gradient of the logarithm of its probability, a refusal not at all."""
    tree, worths, costs, _ = problem()
    perturbed = [
        worth * factor
        for worth, factor in zip(worths, gumbel_gains([torch.ones_like(w) for w in worths], 1), strict=False)
    ]
    perturbed, _ = node_worths(tree, perturbed)
    splits, _ = lod_splits(tree, perturbed, costs, torch.tensor(BUDGETS), 3)
    worths = [worth.clone().requires_grad_() for worth in worths]
    chosen = split_probabilities(tree, worths, costs, splits, 3, 1.0, perturbed)
    assert all(torch.equal(values, split.float()) for values, split in zip(chosen, splits, strict=True))
    node = int(splits[0].nonzero()[0, 0])
    gradient = torch.autograd.grad(chosen[0][node], worths[0], retain_graph=True)[0]
    level = torch.cat(perturbed[:3]).log()
    image = torch.cat([nodes.image for nodes in tree.levels[1:4]])
    own = image == image[node]
    split = torch.cat(splits[:3])
    threshold = (level[own & split].min() + level[own & ~split].max()) / 2
    logit = torch.cat(worths[:3]).detach().log() - threshold
    spread = logit.sigmoid() * (1 - logit.sigmoid())
    share = torch.cat(costs[:3])[node] * spread[node] / (torch.cat(costs[:3]) * spread)[own].sum()
    expected = (1 - logit[node].sigmoid()) * (1 - share) / worths[0][node] if logit[node] > -2 else torch.tensor(0.0)
    torch.testing.assert_close(gradient[node], expected.detach())
    refused = torch.autograd.grad(
        sum(values[~split].sum() for values, split in zip(chosen, splits, strict=False)), worths[:3]
    )
    assert max(part.abs().max() for part in refused) == 0


def test_refused_splits_are_credited_with_what_was_hardly_chosen():
    """Each chosen split's gradient is that of its probability less the mean, weighted by doubt; others keep theirs."""
    tree, worths, costs, splits = problem()
    probabilities = [p.requires_grad_() for p in split_probabilities(tree, worths, costs, splits, 3, 0.5)]
    credited = credit_refused(probabilities, splits)
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(credited, probabilities, strict=True))
    probes = [torch.randn_like(probability) for probability in probabilities]
    total = sum((probe * part).sum() for probe, part in zip(probes, credited, strict=True))
    found = torch.autograd.grad(total, probabilities)
    mass, mean = 0.0, 0.0
    for probability, split, probe in zip(probabilities, splits, probes, strict=True):
        for p, chosen, gradient in zip(probability.tolist(), split.tolist(), probe.tolist(), strict=True):
            if chosen:
                mass, mean = mass + p * (1 - p), mean + p * (1 - p) * gradient
    for split, probe, gradient in zip(splits, probes, found, strict=True):
        torch.testing.assert_close(gradient, probe - (mean / mass) * split)
    assert credit_refused([], []) == []


def test_what_does_not_help_gives_way_to_what_was_refused():
    """Of two splits just above the threshold one helps; the other sinks, and what was refused rises."""
    tree = build_quadtree(torch.tensor([(4, 8)]))
    gains = [torch.tensor([4.0, 3.9, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0]), torch.ones(2), torch.ones(1)]
    worths, costs = node_worths(tree, gains)
    worths = [worth.requires_grad_() for worth in worths]
    splits, _ = lod_splits(tree, worths, costs, torch.tensor([11]), 3)
    assert splits[0].tolist() == [True, True] + [False] * 6
    losses = []
    for credited in (False, True):
        probabilities = split_probabilities(tree, worths, costs, splits, 3, 2.0)
        probabilities = credit_refused(probabilities, splits) if credited else probabilities
        loss = -probabilities[0][0]  # split 0 helps, split 1 does not, and nothing is known of the others
        losses.append(torch.autograd.grad(loss, worths[0])[0])
    plain, credited = (-gradient for gradient in losses)  # where descent goes
    assert plain[0] > 0 and (plain[2:] < 0).all()
    assert credited[0] > 0 and credited[1] < plain[1] and (credited[2:] > plain[2:]).all()


@pytest.mark.parametrize("stage", ["pixels", "features"])
def test_fading_goes_from_the_leaf_to_its_parent(stage):
    grids, budgets, pictures, relevance = images()
    config = ArrCocConfig(stage=stage, relaxation_fade=0.7)
    allocation, relaxation = relaxed_allocation(
        drawing_losses(pictures, grids), relevance.requires_grad_(), grids, budgets, config, drawing_gains
    )
    weights = relevance.detach()
    if stage == "pixels":
        values, coarser = pictures, coarse_pictures(relaxation.tree, pictures)
        found = draw_leaves(relaxation.pictures(values), allocation)
    else:
        values = pictures.flatten(1)
        coarser = coarse_means(relaxation.tree, values, weights)
        found = pool_leaves(
            relaxation.features(values, relevance), weights, allocation.cell_to_leaf, len(allocation.boxes)
        )
    levels = [values, *coarser]
    leaf = allocation.sizes[allocation.cell_to_leaf, 0].float().log2().long()  # (cells,)
    parent = (leaf + 1).clamp(max=len(levels) - 1)
    shown, above = (torch.stack(levels)[level, torch.arange(len(leaf))] for level in (leaf, parent))
    expected = shown * 0.3 + above * 0.7
    if stage == "pixels":
        expected = draw_leaves(expected, allocation)
    else:
        expected = pool_leaves(expected, weights, allocation.cell_to_leaf, len(allocation.boxes))
    torch.testing.assert_close(found, expected)


def test_how_far_leaves_fade_by_default():
    grids, budgets, pictures, relevance = images()
    for options, fade in (
        ({"stage": "pixels"}, 0.8),
        ({"stage": "features"}, 0.0),
        ({"stage": "pixels", "relaxation_fade": 0.0}, 0.0),
    ):
        _, relaxation = relaxed_allocation(
            drawing_losses(pictures, grids), relevance, grids, budgets, ArrCocConfig(**options), drawing_gains
        )
        assert relaxation.fade == fade
