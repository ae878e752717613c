"""Each loss against an obvious reference, and by its gradient."""

import math

import pytest
import torch
import torch.nn.functional as F

from arrcoc.training import losses


COUNTS = torch.tensor([6, 4, 5])


def maps(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Relevance that learns, and evidence in the first and the last of three images."""
    generator = torch.Generator().manual_seed(seed)
    relevance = (torch.rand(15, generator=generator) * 0.9 + 0.05).requires_grad_()
    target = torch.zeros(15)
    target[[1, 2, 12]] = torch.tensor([1.0, 0.5, 1.0])
    return relevance, target


def images(values: torch.Tensor) -> list[torch.Tensor]:
    return list(values.split(COUNTS.tolist()))


def test_sums_and_means_of_images():
    values = torch.arange(30.0).view(15, 2)
    expected = torch.stack([image.sum(0) for image in images(values)])
    assert torch.equal(losses.sum_per_image(values, COUNTS), expected)
    assert torch.allclose(losses.mean_per_image(values, COUNTS), expected / COUNTS[:, None])
    assert torch.equal(losses.mean_per_image(torch.zeros(0, 2), torch.tensor([0])), torch.zeros(1, 2))


class TestAnswer:
    @pytest.fixture
    def batch(self):
        torch.manual_seed(0)
        logits = torch.randn(3, 7, 11, requires_grad=True)
        labels = torch.randint(11, (3, 7))
        labels[0, :5] = labels[1, :2] = labels[2] = losses.IGNORED
        return logits, labels

    def test_mean_over_tokens(self, batch):
        logits, labels = batch
        expected = F.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
        torch.testing.assert_close(losses.answer_loss(logits, labels), expected)

    def test_mean_over_samples(self, batch):
        logits, labels = batch
        own = [F.cross_entropy(logits[row, :-1], labels[row, 1:]) for row in (0, 1)]  # the third has no answer
        found = losses.answer_loss(logits, labels, "sample")
        torch.testing.assert_close(found, (own[0] + own[1]) / 2)
        assert not torch.isclose(found, losses.answer_loss(logits, labels))

    @pytest.mark.parametrize("normalization", ["token", "sample"])
    def test_parts_of_a_step_add_up(self, batch, normalization):
        logits, labels = batch
        items = 7 if normalization == "token" else 2  # tokens of 2 and of 5, in two samples
        parts = [losses.answer_loss(logits[[row]], labels[[row]], normalization, items) for row in range(3)]
        torch.testing.assert_close(sum(parts), losses.answer_loss(logits, labels, normalization))

    def test_gradient_falls_on_answers_alone(self, batch):
        logits, labels = batch
        losses.answer_loss(logits, labels).backward()
        touched = logits.grad.abs().sum(2) > 0
        assert torch.equal(touched[:, :-1], labels[:, 1:] != losses.IGNORED)

    def test_nothing_to_answer(self, batch):
        logits, labels = batch
        loss = losses.answer_loss(logits, torch.full_like(labels, losses.IGNORED))
        loss.backward()
        assert loss == 0
        assert logits.grad.abs().sum() == 0

    def test_exact_answers(self):
        labels = torch.tensor([[-100, -100, 2, 3], [-100, 1, 1, -100], [-100] * 4])
        logits = F.one_hot(torch.tensor([[0, 2, 3, 0], [1, 0, 0, 0], [0, 0, 0, 0]]), 5).float()
        exact, has_labels = losses.exact_answers(logits, labels)
        assert exact.tolist() == [True, False, False]
        assert has_labels.tolist() == [True, True, False]


class TestAlignment:
    def test_balanced_cross_entropy(self):
        relevance, target = maps()
        found = losses.alignment_loss("bce", relevance, target, COUNTS)
        for image, (known, wanted) in enumerate(zip(images(relevance), images(target), strict=True)):
            if wanted.sum() == 0:
                assert found[image] == 0
                continue
            positive = -(wanted * known.log()).sum() / wanted.sum()
            negative = -((1 - wanted) * (1 - known).log()).sum() / (1 - wanted).sum()
            torch.testing.assert_close(found[image], (positive + negative) / 2)

    def test_divergence(self):
        relevance, target = maps()
        found = losses.alignment_loss("kl", relevance, target, COUNTS)
        for image, (known, wanted) in enumerate(zip(images(relevance), images(target), strict=True)):
            expected = torch.zeros(())
            if wanted.sum() > 0:
                expected = F.kl_div((known / known.sum()).log(), wanted / wanted.sum(), reduction="sum")
            torch.testing.assert_close(found[image], expected)

    def test_divergence_vanishes_where_the_maps_agree(self):
        target = torch.rand(15) + 0.1
        found = losses.alignment_loss("kl", target * 0.3, target, COUNTS)
        torch.testing.assert_close(found, torch.zeros(3), atol=1e-6, rtol=0)

    @pytest.mark.parametrize("kind", losses.ALIGNMENTS)
    def test_descent_finds_the_evidence(self, kind):
        scores = torch.zeros(15, requires_grad=True)
        _, target = maps()
        optimizer = torch.optim.Adam([scores], lr=0.2)
        for _ in range(60):
            optimizer.zero_grad()
            losses.alignment_loss(kind, scores.sigmoid(), target, COUNTS).sum().backward()
            optimizer.step()
        for number, (known, wanted) in enumerate(zip(images(scores), images(target), strict=True)):
            if number != 1:
                assert known[wanted > 0].min() > known[wanted == 0].max()
        assert torch.equal(images(scores)[1], torch.zeros(4))  # no evidence, no opinion

    @pytest.mark.parametrize("kind", losses.ALIGNMENTS)
    def test_a_cell_known_to_be_irrelevant_can_be_learned(self, kind):
        """The map of an image starts with a logit of -27 in its least relevant cell."""
        scores = torch.tensor([-27.6, 0.0, 0.0, 0.0], requires_grad=True)
        target = torch.tensor([1.0, 0.0, 0.0, 0.0])
        losses.alignment_loss(kind, F.logsigmoid(scores).exp(), target, torch.tensor([4])).sum().backward()
        assert scores.grad[0] < -0.1

    def test_maps_must_fit(self):
        with pytest.raises(ValueError, match="15 cells of relevance and 14 of the target"):
            losses.alignment_loss("bce", torch.ones(15), torch.ones(14), COUNTS)
        with pytest.raises(ValueError, match="'l2'"):
            losses.alignment_loss("l2", torch.ones(15), torch.ones(15), COUNTS)


class TestBudgets:
    def test_efficiency_is_the_share_of_the_budget(self):
        expected = torch.tensor([100.0, 64.0], requires_grad=True)
        found = losses.efficiency_loss(expected, torch.tensor([400, 64]))
        torch.testing.assert_close(found, torch.tensor([0.25, 1.0]))
        found.sum().backward()
        torch.testing.assert_close(expected.grad, torch.tensor([1 / 400, 1 / 64]))

    def test_below_the_target_there_is_nothing_to_gain(self):
        expected = torch.tensor([100.0, 300.0], requires_grad=True)
        found = losses.efficiency_loss(expected, torch.tensor([400, 400]), target=0.5)
        torch.testing.assert_close(found, torch.tensor([0.0, 0.25]))
        found.sum().backward()
        assert expected.grad[0] == 0

    def test_suggested_budgets(self):
        probabilities = torch.tensor([[0.2, 0.5, 0.3], [0.1, 0.1, 0.8], [1.0, 0.0, 0.0]], requires_grad=True)
        found = losses.budget_loss(probabilities, torch.tensor([64, 100, 400]), torch.tensor([65, 1000, 7]))
        torch.testing.assert_close(found, -torch.tensor([0.5, 0.8, 1.0]).log())

    def test_diversity_of_tiers(self):
        always_the_same = torch.tensor([[1.0, 0, 0]] * 4)
        each_in_turn = torch.eye(3)
        never_sure = torch.full((4, 3), 1 / 3)
        assert losses.tier_diversity_loss(always_the_same) == pytest.approx(1)
        assert losses.tier_diversity_loss(each_in_turn) == pytest.approx(0, abs=1e-6)
        assert losses.tier_diversity_loss(never_sure) == pytest.approx(0, abs=1e-6)
        assert losses.tier_diversity_loss(never_sure, hedging=0.5) == pytest.approx(0.5)
        assert losses.tier_diversity_loss(each_in_turn, hedging=0.5) == pytest.approx(0, abs=1e-6)

    def test_diversity_leaves_a_collapsed_router(self):
        scores = torch.tensor([[4.0, 0.0, 0.0]]).repeat(6, 1).requires_grad_()
        optimizer = torch.optim.Adam([scores], lr=0.1)
        for _ in range(50):
            optimizer.zero_grad()
            losses.tier_diversity_loss(scores.softmax(1)).backward()
            optimizer.step()
        assert losses.tier_diversity_loss(scores.softmax(1)) < 0.1


def test_balance():
    balance = {"a": torch.tensor([0.5, 0.5]), "b": torch.tensor([1.0, 1.0])}
    assert losses.balance_loss(balance) == pytest.approx(0.5)  # one in the middle, one on one side
    assert losses.balance_loss({"a": torch.tensor([0.0, 1.0])}) == pytest.approx(0)  # sides that differ by image
    one_sided = torch.full((2,), 0.9, requires_grad=True)
    losses.balance_loss({"a": one_sided}).backward()
    assert (one_sided.grad > 0).all()


def test_coherence():
    """Many tokens of little depth cost most."""
    depths = torch.tensor([1.0, 1.0, 0.0, 0.5, 0.0, 0.0], requires_grad=True)
    found = losses.coherence_loss(depths, torch.tensor([2, 4]), torch.tensor([16, 8]))
    torch.testing.assert_close(found, torch.tensor([0.0, 4 / 8 * 3.5 / 4]))
    found.sum().backward()
    torch.testing.assert_close(depths.grad[2:], torch.full((4,), -1 / 8))


class TestContrast:
    SAME = torch.eye(4, dtype=torch.bool)

    def test_collapse_is_the_excess_of_the_cosine(self):
        torch.manual_seed(0)
        means = torch.randn(4, 8) + 1
        excess = []
        for first in range(4):
            for second in range(4):
                if first != second:
                    cosine = F.cosine_similarity(means[first], means[second], dim=0)
                    excess.append(max(0.0, (cosine.item() - 0.6) / 0.4))
        found = losses.cosine_collapse_loss(means, self.SAME)
        assert found == pytest.approx(sum(excess) / 12, rel=1e-5)

    def test_the_same_image_may_be_alike(self):
        means = torch.ones(3, 5)
        assert losses.cosine_collapse_loss(means, self.SAME[:3, :3]) == pytest.approx(1)
        assert losses.cosine_collapse_loss(means, torch.ones(3, 3, dtype=torch.bool)) == 0

    def test_collapse_is_undone(self):
        torch.manual_seed(0)
        means = (1 + 0.01 * torch.randn(4, 8)).requires_grad_()
        optimizer = torch.optim.Adam([means], lr=0.05)
        for _ in range(40):
            optimizer.zero_grad()
            losses.cosine_collapse_loss(means, self.SAME).backward()
            optimizer.step()
        assert losses.cosine_collapse_loss(means, self.SAME) < 0.05

    def test_info_nce(self):
        torch.manual_seed(0)
        means, others = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
        logits = torch.stack([F.cosine_similarity(row[None], others) for row in means]) / 0.1
        rows = [-(logits[i, i] - logits[i].logsumexp(0)) for i in range(4)]
        columns = [-(logits[i, i] - logits[:, i].logsumexp(0)) for i in range(4)]
        expected = (sum(rows) + sum(columns)) / 8
        found = losses.info_nce_loss(means, others, self.SAME)
        torch.testing.assert_close(found, expected)
        found.backward()
        assert means.grad.abs().sum() > 0
        assert losses.info_nce_loss(others, others * 3, self.SAME) < found

    def test_info_nce_passes_over_the_same_image(self):
        means = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(1)), dim=1)
        twice = torch.cat([means, means[:1]])
        same = self.SAME.clone()
        same[0, 3] = same[3, 0] = True
        assert torch.isfinite(losses.info_nce_loss(twice, twice, same))
        assert losses.info_nce_loss(twice, twice, same) < losses.info_nce_loss(twice, twice, self.SAME) - 0.1
        assert losses.info_nce_loss(means[:1], means[1:2], self.SAME[:1, :1]) == 0


def test_evidence_coverage():
    boxes = torch.tensor([[0, 0, 1, 1], [0, 1, 1, 2], [1, 0, 2, 2], [0, 0, 2, 2]])
    cell_to_leaf = torch.tensor([0, 1, 2, 2, 3, 3, 3, 3])
    target = torch.tensor([1.0, 0, 0, 0.5, 1, 0, 0, 0])
    found = losses.evidence_coverage(boxes, cell_to_leaf, target, torch.tensor([4, 4]))
    torch.testing.assert_close(found, torch.tensor([1 / 1.5, 0.0]))
    dropped = torch.where(cell_to_leaf == 0, -1, cell_to_leaf)
    assert losses.evidence_coverage(boxes, dropped, target, torch.tensor([4, 4])).tolist() == [0, 0]


def test_losses_are_precise_in_bfloat16():
    relevance, target = maps()
    exact = losses.alignment_loss("bce", relevance.bfloat16().float(), target, COUNTS)
    assert losses.alignment_loss("bce", relevance.bfloat16(), target, COUNTS).dtype == torch.float32
    torch.testing.assert_close(losses.alignment_loss("bce", relevance.bfloat16(), target, COUNTS), exact)
    assert math.isfinite(losses.answer_loss(torch.randn(1, 3, 5).bfloat16(), torch.tensor([[0, 1, 2]])))
