"""The router of learned budgets: what it reads, what it chooses, and what its gradient estimates."""

import math

import pytest
import torch

from arrcoc import Allocation, ArrCocConfig, allocate
from arrcoc.allocation import uniform_allocation
from arrcoc.multiresolution import draw_leaves
from arrcoc.pooling import pool_leaves
from arrcoc.reconstruction import rebuild_pictures
from arrcoc.router import START, BudgetRouter, TierFade, choose_budgets, image_statistics


TIERS = [2, 4, 8]
GRIDS = torch.tensor([[4, 6], [1, 3], [5, 5]])


def cell_values(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(int(GRIDS.prod(1).sum()), *shape, generator=torch.Generator().manual_seed(seed))


def make_router(cell_dim: int | None = 5) -> BudgetRouter:
    torch.manual_seed(0)
    router = BudgetRouter(16, TIERS, embedding_dim=6, cell_dim=cell_dim)
    with torch.no_grad():
        for parameter in router.parameters():
            parameter.add_(torch.randn_like(parameter))
    return router


def make_inputs() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    return {
        "relevance": cell_values(),
        "information": cell_values(seed=2),
        "question": torch.randn(3, 4, 6, generator=generator),
        "question_mask": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0]]),
        "features": cell_values(5, seed=3),
        "features_per_image": GRIDS.prod(1),
    }


def test_statistics_are_those_of_each_image() -> None:
    relevance, information = cell_values(), cell_values(seed=2)
    found = image_statistics(relevance, information, GRIDS)
    images = zip(relevance.split(GRIDS.prod(1).tolist()), information.split(GRIDS.prod(1).tolist()), strict=True)
    for row, (relevant, informative) in zip(found, images, strict=True):
        expected = [
            math.log1p(len(relevant)) / math.log(1000),
            math.log1p(float(informative.sum())) / math.log(1000),
            float(informative.mean()),
            float(relevant.mean()),
            float(informative.std(correction=0)),
            float(relevant.std(correction=0)),
        ]
        torch.testing.assert_close(row, torch.tensor(expected), rtol=1e-4, atol=1e-5)
    without = image_statistics(relevance, None, GRIDS)
    assert torch.equal(without[:, [0, 3, 5]], found[:, [0, 3, 5]])
    assert without[:, [1, 2, 4]].abs().max() == 0


def test_an_untrained_router_prefers_the_highest_tier() -> None:
    router = BudgetRouter(16, TIERS, embedding_dim=6, cell_dim=5)
    logits = router(GRIDS, **make_inputs())
    assert torch.equal(logits, torch.tensor([0.0, 0.0, START]).expand(3, 3))


@pytest.mark.parametrize("cell_dim", [5, None])
def test_an_image_is_scored_as_if_it_were_alone(cell_dim: int | None) -> None:
    router, inputs = make_router(cell_dim), make_inputs()
    together = router(GRIDS, **inputs)
    assert len(together.unique(dim=0)) == 3
    starts = [0, 24, 27, 52]
    for index in range(3):
        cells = slice(starts[index], starts[index + 1])
        per_cell = {name: inputs[name][cells] for name in ("relevance", "information", "features")}
        tokens = max(1, int(inputs["question_mask"][index].sum()))  # and without its padding
        per_image = {name: inputs[name][index : index + 1, :tokens] for name in ("question", "question_mask")}
        alone = router(
            GRIDS[index : index + 1], **per_cell, **per_image, features_per_image=GRIDS[index : index + 1].prod(1)
        )
        torch.testing.assert_close(together[index], alone[0], rtol=1e-4, atol=1e-4)


def test_everything_it_is_given_matters_and_may_be_missing() -> None:
    router, inputs = make_router(), make_inputs()
    logits = router(GRIDS, **inputs)
    for name in ("relevance", "information", "question", "features"):
        assert not torch.equal(
            router(GRIDS, **{**inputs, name: inputs[name] * torch.rand(inputs[name].shape)}), logits
        )
    assert router(GRIDS, inputs["relevance"]).isfinite().all()
    nobody_asks = {**inputs, "question_mask": torch.zeros(3, 4)}
    asks_nothing = {**inputs, "question": torch.zeros(3, 0, 6), "question_mask": torch.zeros(3, 0)}
    torch.testing.assert_close(router(GRIDS, **nobody_asks), router(GRIDS, **asks_nothing))


def test_it_stays_in_float32() -> None:
    router, inputs = make_router().to(torch.bfloat16), make_inputs()
    assert {parameter.dtype for parameter in router.parameters()} == {torch.float32}
    low = {**inputs, "question": inputs["question"].bfloat16(), "features": inputs["features"].bfloat16()}
    with torch.autocast("cpu", torch.bfloat16):
        logits = router(GRIDS, **low)
    assert logits.dtype == torch.float32
    rounded = {**inputs, "question": low["question"].float(), "features": low["features"].float()}
    torch.testing.assert_close(logits, router(GRIDS, **rounded))


LOGITS = torch.tensor([[0.0, 1.0, 0.5], [0.0, 0.0, 3.0], [2.0, 1.0, 0.0], [0.0, 0.0, 9.0]])


def test_the_best_tier_is_chosen_and_clipped() -> None:
    placeholders = torch.tensor([8, 3, 8, 5])
    choice = choose_budgets(LOGITS, TIERS, placeholders, torch.tensor([True, True, True, False]))
    assert choice.budgets.tolist() == [4, 3, 2, 5]
    assert choice.placeholders.tolist() == [8, 3, 8, 5]
    assert choice.lower is None and choice.share is None
    probabilities = LOGITS.softmax(1)
    torch.testing.assert_close(choice.tier_probabilities[:3], probabilities[:3])
    assert choice.tier_probabilities[3].tolist() == [0, 0, 0]
    counts = torch.tensor([[2.0, 4, 8], [2, 3, 3], [2, 4, 8]])
    torch.testing.assert_close(choice.expected_tokens[:3], (probabilities[:3] * counts).sum(1))
    assert choice.expected_tokens[3] == 5


def test_training_draws_tiers_as_often_as_they_are_probable() -> None:
    torch.manual_seed(0)
    logits, images = torch.tensor([0.0, 1.0, -0.5]), 20_000
    learned = torch.ones(images, dtype=torch.bool)
    choice = choose_budgets(logits.expand(images, 3), TIERS, torch.full((images,), 8), learned, explore=True)
    shares = torch.stack([(choice.budgets == tier).float().mean() for tier in TIERS])
    torch.testing.assert_close(shares, logits.softmax(0), atol=0.02, rtol=0)
    for tier, lower in ((8, 4), (4, 2), (2, 2)):
        assert (choice.lower[choice.budgets == tier] == lower).all()
    assert (choice.share == 1).all()
    # Two tiers beyond the placeholders are one and the same.
    clipped = choose_budgets(logits.expand(images, 3), TIERS, torch.full((images,), 3), learned, explore=True)
    assert set(clipped.budgets.tolist()) == {2, 3}
    assert (clipped.lower == 2).all()


def shown(cells: torch.Tensor, allocation: Allocation) -> torch.Tensor:
    """What each cell's leaf looks like, of the shape of `cells`."""
    pooled = pool_leaves(cells, allocation.relevance, allocation.cell_to_leaf, len(allocation.boxes))
    return pooled[allocation.cell_to_leaf]


@pytest.mark.parametrize("fade, power", [(0.0, 1), (1.0, 2)], ids=["linear loss", "faded, quadratic loss"])
def test_the_gradient_is_that_of_the_expected_loss_on_average(fade: float, power: int) -> None:
    """Exact, but for the draws, where the loss is linear; with fading for any loss."""
    torch.manual_seed(0)
    images, tiers = 6000, [1, 4, 16]
    grids = torch.tensor([[4, 4]]).expand(images, 2)
    cells = torch.randn(16, 2)
    weights = torch.randn(16, 2)

    def losses(content: torch.Tensor) -> torch.Tensor:  # (images * 16, 2) to (images,)
        return (content.view(-1, 16, 2) * weights).sum((1, 2)) ** power

    logits = torch.tensor([0.3, 0.0, 0.4], requires_grad=True)
    of_tiers = torch.cat([losses(shown(cells, uniform_allocation(grids[:1], torch.tensor([t])))) for t in tiers])
    (expected,) = torch.autograd.grad((logits.softmax(0) * of_tiers).sum(), logits)

    learned = torch.ones(images, dtype=torch.bool)
    choice = choose_budgets(logits.expand(images, 3), tiers, torch.full((images,), 16), learned, True, fade)
    fading = TierFade(uniform_allocation(grids, choice.lower), choice.share.repeat_interleave(16))
    allocation = uniform_allocation(grids, choice.budgets)
    content = shown(fading.features(cells.repeat(images, 1), allocation.relevance), allocation)
    (found,) = torch.autograd.grad(losses(content).mean(), logits)
    torch.testing.assert_close(found, expected, rtol=0.1, atol=0.05 * float(expected.abs().max()))


@pytest.mark.parametrize("fade", [1.0, 0.0])
def test_tokens_are_spent_where_the_question_needs_detail(fade: float) -> None:
    """Two questions about the same pictures, one of which needs all detail and the other none; tokens cost.

    Without fading, an answer that detail has made perfect has no slope, and the price takes the detail away.
    """
    torch.manual_seed(0)
    images, tiers = 64, [1, 4, 16]
    router = BudgetRouter(16, tiers, embedding_dim=6, cell_dim=None)
    optimizer = torch.optim.Adam(router.parameters(), 1e-2)
    grids, relevance = torch.tensor([[4, 4]]).expand(images, 2), torch.ones(16 * images)
    questions, needs_detail = torch.randn(2, 3, 6), torch.arange(images) % 2
    most, learned = torch.full((images,), 16), torch.ones(images, dtype=torch.bool)

    def scores() -> torch.Tensor:
        return router(grids, relevance, question=questions[needs_detail])

    for _ in range(150):
        cells = torch.randn(16 * images, 2)
        choice = choose_budgets(scores(), tiers, most, learned, True, fade)
        fading = TierFade(uniform_allocation(grids, choice.lower), choice.share.repeat_interleave(16))
        content = shown(fading.features(cells, relevance), uniform_allocation(grids, choice.budgets))
        errors = (content - cells).square().view(images, -1).mean(1)
        loss = (errors * needs_detail).mean() + 0.3 * (choice.expected_tokens / 16).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    chosen = choose_budgets(scores(), tiers, most, learned).budgets
    assert (chosen[needs_detail == 0] == 1).all()
    assert (chosen[needs_detail == 1] == 16).all() == (fade == 1)


@pytest.mark.parametrize("policy", ["lod", "foveated", "uniform", "topk"])
def test_fading_goes_from_a_tier_to_the_one_below(policy: str) -> None:
    features, relevance, config = cell_values(5), cell_values(seed=2) + 0.1, ArrCocConfig(policy=policy)
    upper = allocate(features, relevance, GRIDS, torch.tensor([12, 3, 10]), config)
    lower = allocate(features, relevance, GRIDS, torch.tensor([5, 3, 4]), config)
    ones = torch.ones(len(features))
    assert torch.equal(TierFade(lower, ones).features(features, upper.relevance), features)
    below = TierFade(lower, 0 * ones).features(features, upper.relevance)
    kept = lower.cell_to_leaf >= 0
    torch.testing.assert_close(below[kept], shown(features, lower)[kept])
    assert (below[~kept] == 0).all()
    half = TierFade(lower, 0.5 * ones).features(features, upper.relevance)
    torch.testing.assert_close(half, (features + below) / 2)
    low = features.bfloat16()
    assert torch.equal(TierFade(lower, ones).features(low, upper.relevance), low)


@pytest.mark.parametrize("policy", ["lod", "foveated", "uniform", "topk"])
def test_fading_of_pictures(policy: str) -> None:
    pictures, relevance, config = cell_values(3, 4, 4), cell_values(seed=2) + 0.1, ArrCocConfig(policy=policy)
    lower = allocate(pictures.flatten(1), relevance, GRIDS, torch.tensor([5, 2, 4]), config)
    ones = torch.ones(len(pictures))
    assert torch.equal(TierFade(lower, ones).pictures(pictures), pictures)
    below = TierFade(lower, 0 * ones).pictures(pictures)
    kept = lower.cell_to_leaf >= 0
    torch.testing.assert_close(below[kept], rebuild_pictures(draw_leaves(pictures, lower), lower)[kept])
    assert (below[~kept] == 0).all()
    # Drawn again, what was faded away is what the lower tier shows; a box that other leaves lie in shows them too.
    whole = torch.bincount(lower.cell_to_leaf[kept], minlength=len(lower.boxes)) == lower.sizes.prod(1)
    assert whole.all() == (policy != "foveated") and whole.any()
    torch.testing.assert_close(draw_leaves(below, lower)[whole], draw_leaves(pictures, lower)[whole])
