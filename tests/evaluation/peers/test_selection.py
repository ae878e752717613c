"""Each method, batched over images of different sizes, against a literal transcription for one image."""

import pytest
import torch

from arrcoc.evaluation.peers import selection
from arrcoc.relevance import attention_scores, cosine_scores
from tests.evaluation.peers import reference


COUNTS, TOKENS = [12, 1, 23, 7, 16], [5, 3, 1, 6, 4]
BUDGETS = [[4, 1, 9, 7, 1], [1, 1, 23, 3, 15], [12, 1, 2, 1, 8]]


class Batch:
    """Random images, and what lies in the padding is noise: nothing may read it."""

    def __init__(self, seed: int):
        generator = torch.Generator().manual_seed(seed)

        def noise(*shape):
            return torch.randn(*shape, generator=generator)

        images, cells, tokens = len(COUNTS), max(COUNTS), max(TOKENS)
        self.mask = selection.image_mask(torch.tensor(COUNTS))
        self.question_mask = selection.image_mask(torch.tensor(TOKENS)).long()
        self.features = noise(images, cells, 8)
        self.tower = noise(images, cells, 6)
        self.keys = noise(images, cells, 5)
        self.attention = noise(images, cells).exp()
        self.question = noise(images, tokens, 8)
        self.query = noise(images, tokens, 4, 5)
        self.key = noise(images, cells, 2, 5)

    def cells(self, name: str, image: int) -> torch.Tensor:
        return getattr(self, name)[image, : COUNTS[image]]

    def tokens(self, name: str, image: int) -> torch.Tensor:
        return getattr(self, name)[image, : TOKENS[image]]


@pytest.fixture(params=range(3))
def case(request):
    return Batch(request.param), torch.tensor(BUDGETS[request.param])


def check(kept, budgets, expected):
    assert kept.sum(1).tolist() == budgets.tolist()
    for image, cells in enumerate(expected):
        assert kept[image].nonzero()[:, 0].tolist() == cells, f"image {image}"


def each(budgets, choose):
    return [choose(image, int(budget)) for image, budget in enumerate(budgets)]


def test_divprune(case):
    batch, budgets = case
    kept = selection.divprune(batch.features, batch.mask, budgets)
    check(kept, budgets, each(budgets, lambda i, k: reference.divprune(batch.cells("features", i), k)))


@pytest.mark.parametrize("theta", [None, 0.5])
def test_cdpruner(case, theta):
    batch, budgets = case
    # The rank of a determinantal point process is that of the features: beyond it, what comes next is rounding.
    features = torch.nn.functional.pad(batch.features, (0, 24)) + 0.05 * torch.eye(24, 32)[: batch.mask.shape[1]].roll(
        8, 1
    )
    relevance = selection.question_relevance(batch.features, batch.question, batch.question_mask)
    kept = selection.cdpruner(features, relevance, batch.mask, budgets, theta)

    def choose(image, budget):
        own = relevance[image, : COUNTS[image]]
        return reference.cdpruner(features[image, : COUNTS[image]], own, budget, theta)

    check(kept, budgets, each(budgets, choose))


def test_cdpruner_refuses_a_weight_out_of_range(case):
    batch, budgets = case
    with pytest.raises(ValueError, match="relevance_weight"):
        selection.cdpruner(batch.features, batch.attention, batch.mask, budgets, 1.0)


def test_cdpruner_goes_on_where_the_rank_is_used_up():
    features = torch.randn(1, 40, 3, generator=torch.manual_seed(0)).expand(2, -1, -1)
    mask = torch.ones(2, 40, dtype=torch.bool)
    kept = selection.cdpruner(features, features[..., 0], mask, torch.tensor([30, 3]))
    assert kept.sum(1).tolist() == [30, 3]


def test_question_relevance(case):
    batch, _ = case
    found = selection.question_relevance(batch.features, batch.question, batch.question_mask)
    for image, count in enumerate(COUNTS):
        expected = torch.tensor(
            [
                sum(reference.cosine(v, t) for t in batch.tokens("question", image)) / TOKENS[image]
                for v in batch.cells("features", image)
            ]
        )
        torch.testing.assert_close(found[image, :count], expected)
    packed = cosine_scores(batch.features[batch.mask], batch.question, batch.question_mask, batch.mask.nonzero()[:, 0])
    torch.testing.assert_close(found[batch.mask], packed)
    nothing = selection.question_relevance(batch.features, batch.question, torch.zeros_like(batch.question_mask))
    assert not nothing.any()


@pytest.mark.parametrize("weights", [None, [0.1, 0.4, 0.0, 0.2]])
def test_hawk(case, weights):
    batch, budgets = case
    scores = selection.hawk_scores(batch.query, batch.key, batch.question_mask, batch.mask, weights)
    expected = [
        reference.hawk_scores(batch.tokens("query", i), batch.cells("key", i), weights or [1.0] * 4)
        for i in range(len(COUNTS))
    ]
    for image, count in enumerate(COUNTS):
        torch.testing.assert_close(scores[image, :count], expected[image], rtol=1e-4, atol=1e-5)
    kept = selection.top_cells(scores, batch.mask, budgets)
    check(kept, budgets, each(budgets, lambda i, k: reference.top(expected[i], k)))


def test_hawk_of_equal_heads_is_the_packages_own_first_layer_score(case):
    batch, _ = case
    scores = selection.hawk_scores(batch.query, batch.key, batch.question_mask, batch.mask)
    packed = attention_scores(batch.query, batch.key[batch.mask], batch.question_mask, batch.mask.nonzero()[:, 0])
    torch.testing.assert_close(scores[batch.mask], packed, rtol=1e-4, atol=1e-5)


def test_hawk_wants_one_weight_a_head(case):
    batch, _ = case
    with pytest.raises(ValueError, match="28 head weights for 4"):
        selection.hawk_scores(batch.query, batch.key, batch.question_mask, batch.mask, selection.HAWK_HEAD_WEIGHTS)


@pytest.mark.parametrize("seed, budgets", [(0, BUDGETS[0]), (0, BUDGETS[1]), (11, BUDGETS[0])])
def test_mmtok(seed, budgets):
    """Batches of which other temperatures or another weight of the image keep other cells."""
    batch, budgets = Batch(seed), torch.tensor(budgets)
    kept = selection.mmtok(batch.features, batch.tower, batch.question, batch.question_mask, batch.mask, budgets)

    def choose(image, budget):
        features, tower = batch.cells("features", image), batch.cells("tower", image)
        return reference.mmtok(features, tower, batch.tokens("question", image), budget)

    check(kept, budgets, each(budgets, choose))


@pytest.mark.parametrize("alpha", [1.0, 2.0])
def test_scope(case, alpha):
    batch, budgets = case
    kept = selection.scope(batch.features, batch.attention, batch.mask, budgets, alpha)

    def choose(image, budget):
        return reference.scope(batch.cells("features", image), batch.cells("attention", image), budget, alpha)

    check(kept, budgets, each(budgets, choose))


@pytest.mark.parametrize("balance", [0.5, 0.8])
def test_idpruner(case, balance):
    batch, budgets = case
    kept = selection.idpruner(batch.features, batch.attention, batch.mask, budgets, balance)

    def choose(image, budget):
        if COUNTS[image] == 1:
            return [0]  # nothing to stretch
        return reference.idpruner(batch.cells("features", image), batch.cells("attention", image), budget, balance)

    check(kept, budgets, each(budgets, choose))


def test_visionzip(case):
    batch, budgets = case
    heads = selection.visionzip(batch.attention, batch.keys, batch.mask, budgets)
    for image, budget in enumerate(budgets.tolist()):
        groups = reference.visionzip(batch.cells("attention", image), batch.cells("keys", image), budget)
        assert len(groups) == budget
        expected = [next(head for head, cells in groups.items() if i in cells) for i in range(COUNTS[image])]
        assert heads[image, : COUNTS[image]].tolist() == expected
        assert (heads[image, COUNTS[image] :] == -1).all()


def test_density_peaks(case):
    batch, budgets = case
    clusters = budgets.clamp(max=5)
    centers = selection.density_peaks(batch.features, batch.mask, clusters)
    for image, count in enumerate(COUNTS):
        expected = reference.density_peaks(batch.cells("features", image), int(clusters[image]))
        assert centers[image, :count].tolist() == expected
        assert (centers[image, count:] == -1).all()


def test_density_peaks_of_no_tokens():
    centers = selection.density_peaks(
        torch.randn(2, 4, 3), torch.tensor([[False] * 4, [True] * 4]), torch.tensor([0, 1])
    )
    assert centers[0].tolist() == [-1] * 4
    assert len(set(centers[1].tolist())) == 1


def test_random_cells():
    mask, budgets = selection.image_mask(torch.tensor(COUNTS)), torch.tensor(BUDGETS[0])
    kept = selection.random_cells(mask, budgets, seeds=3)
    assert kept.sum(1).tolist() == BUDGETS[0]
    assert not (kept & ~mask).any()
    alone = selection.random_cells(mask[2:3], budgets[2:3], seeds=3)
    assert torch.equal(kept[2:3], alone)
    seeded = selection.random_cells(mask, budgets, seeds=[3, 3, 4, 3, 3])
    assert torch.equal(seeded[0], kept[0])
    assert not torch.equal(seeded[2], kept[2])
    with pytest.raises(ValueError, match="2 seeds for 5 images"):
        selection.random_cells(mask, budgets, seeds=[1, 2])


def test_random_cells_are_drawn_evenly():
    mask = torch.ones(4000, 6, dtype=torch.bool)
    kept = selection.random_cells(mask, torch.full((4000,), 2), seeds=range(4000))
    assert (kept.float().mean(0) - 1 / 3).abs().max() < 0.04


def test_equal_scores_keep_the_first_cells():
    mask = selection.image_mask(torch.tensor([5, 3]))
    kept = selection.top_cells(torch.ones(2, 5), mask, torch.tensor([2, 2]))
    assert kept.tolist() == [[True, True, False, False, False]] * 2
    features = torch.ones(2, 5, 4)
    assert selection.divprune(features, mask, torch.tensor([2, 3])).sum(1).tolist() == [2, 3]
    relevance = torch.ones(2, 5)
    for choose in (selection.cdpruner, selection.idpruner):
        assert choose(features, relevance, mask, torch.tensor([4, 3])).sum(1).tolist() == [4, 3]
