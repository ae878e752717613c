"""Mixtures by weights, curricula, several questions an image."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from arrcoc.training.data import (
    DIFFICULTY_SHARES,
    MODALITY_WEIGHTS,
    TASK_WEIGHTS,
    Curriculum,
    Row,
    ShuffledOrder,
    WeightedOrder,
    combined_weights,
    difficulty_buckets,
    difficulty_scores,
    modality,
    nested_weights,
    question_kind,
    questions_per_image,
    rebalanced,
    rescored,
    task_group,
)


def row(number=0, question="What?", image: str | None = "a.png", **fields):
    images = () if image is None else (Path(image),)
    return Row(id=str(number), question=question, answers=("A",), images=images, **fields)


def shares(keys, order):
    counts = Counter(keys[index] for index in order)
    return {key: count / len(order) for key, count in counts.items()}


def test_groups_of_rows():
    assert task_group(row(task="chart", set="chartqa")) == "chart"
    assert task_group(row(task="key_value", set="synthetic_form")) == "ocr"
    assert task_group(row(task="chart_value", set="synthetic_pie_chart")) == "chart"
    assert task_group(row(task="vqa", image=None)) == "text"
    assert task_group(row(task="my own")) == "my own"
    found = [modality(row(task=task)) for task in ("ocr", "chart", "table", "vqa", "caption", "math")]
    assert found == ["ocr"] * 3 + ["vision"] * 3
    assert modality(row(image=None)) == "text"


def test_every_synthetic_kind_has_a_group():
    from arrcoc.synthetic import KINDS

    for kind in KINDS:
        assert task_group(row(task="count", set=f"synthetic_{kind}")) in TASK_WEIGHTS


def test_published_weights():
    assert sum(TASK_WEIGHTS.values()) == pytest.approx(1)
    assert sum(MODALITY_WEIGHTS.values()) == pytest.approx(1)
    assert sum(DIFFICULTY_SHARES) == pytest.approx(1)


def test_shuffled_order():
    order = ShuffledOrder(50, seed=3)
    assert sorted(order(0)) == list(range(50))
    assert order(0) == ShuffledOrder(50, seed=3)(0)
    assert len({tuple(order(epoch)) for epoch in range(4)} | {tuple(ShuffledOrder(50, seed=4)(0))}) == 5


def test_weighted_order_follows_the_weights():
    keys = ["ocr"] * 100 + ["chart"] * 2000 + ["vqa"] * 1900
    order = WeightedOrder(keys, {"ocr": 0.5, "chart": 0.3, "vqa": 0.2, "table": 9.0}, size=4000, seed=1)
    first = order(0)
    found = shares(keys, first)
    assert found == pytest.approx({"ocr": 0.5, "chart": 0.3, "vqa": 0.2}, abs=0.03)
    counts = Counter(first)
    assert max(counts[index] for index in range(100)) - min(counts[index] for index in range(100)) <= 1
    assert max(counts[index] for index in range(100, 4000)) == 1
    assert first == WeightedOrder(keys, order.weights, size=4000, seed=1)(0)
    unseen = set(range(100, 2100)) - set(first)
    assert len(unseen & set(order(1))) > 300, "another epoch takes another part of a large group"
    # evenly mixed: every stretch has about the same shares
    assert shares(keys, first[:1000])["ocr"] == pytest.approx(0.5, abs=0.07)


def test_weights_may_change():
    keys = ["a"] * 10 + ["b"] * 10
    order = WeightedOrder(keys, {"a": 1.0, "b": 0.0})
    assert set(order(0)) == set(range(10))
    order.weights = {"a": 0.0, "b": 1.0}
    assert set(order(1)) == set(range(10, 20))
    for weights, message in (
        ({"a": 1.0}, "no weight is given for 'b'"),
        ({"a": 0, "b": 0}, "not all zero"),
        ({"a": -1, "b": 2}, "not be negative"),
    ):
        with pytest.raises(ValueError, match=message):
            WeightedOrder(keys, weights)
    with pytest.raises(ValueError, match="no samples"):
        WeightedOrder([], {})


def test_nested_weights():
    keys = [("ocr", "ocr")] * 5 + [("ocr", "chart")] * 5 + [("vision", "vqa")] * 3 + [("text", "text")]
    found = nested_weights(keys, MODALITY_WEIGHTS, TASK_WEIGHTS)
    expected = {
        ("ocr", "ocr"): 0.5 * 35 / 55,
        ("ocr", "chart"): 0.5 * 20 / 55,
        ("vision", "vqa"): 0.35,
        ("text", "text"): 0.15,
    }
    assert found == pytest.approx(expected)
    order = WeightedOrder(keys, found, size=6000)(0)
    by_modality = shares([outer for outer, _ in keys], order)
    assert by_modality == pytest.approx(MODALITY_WEIGHTS, abs=0.03)
    with pytest.raises(ValueError, match="have weight 0"):
        nested_weights([("ocr", "chart")], MODALITY_WEIGHTS, {"chart": 0.0})


def test_rebalancing():
    weights = {"ocr": 0.5, "chart": 0.3, "vqa": 0.2}
    best = {"ocr": 1.0, "chart": 1.0, "vqa": 1.0}
    assert rebalanced(weights, {"ocr": 1.09, "chart": 0.9}, best) == weights
    found = rebalanced(weights, {"ocr": 1.0, "chart": 1.11, "vqa": 1.0}, best, factor=2)
    assert sum(found.values()) == pytest.approx(1)
    assert found["chart"] / found["ocr"] == pytest.approx(2 * 0.3 / 0.5)


def test_buckets_have_their_shares():
    scores = np.random.default_rng(0).permutation(1000)
    buckets = difficulty_buckets(scores)
    assert np.bincount(buckets).tolist() == [200, 400, 300, 100]
    assert scores[buckets == 0].max() == 199
    assert scores[buckets == 3].min() == 900
    equal = difficulty_buckets(np.zeros(10))
    assert np.bincount(equal).tolist() == [2, 4, 3, 1]
    assert np.bincount(difficulty_buckets([1.0, 2.0], (0.5, 0.5))).tolist() == [1, 1]


def test_scores_from_names_and_losses():
    rows = [row(difficulty=name) for name in ("easy", "very hard", None, "hard")]
    scores = difficulty_scores(rows)
    assert scores.tolist() == [0, 3, 1, 2]
    with pytest.raises(ValueError, match=r"found \['heavy'\]"):
        difficulty_scores([row(difficulty="heavy")])

    start = np.linspace(0.0, 3.0, 100)
    losses = -start  # the model finds hard what was thought easy
    once = rescored(start, range(100), losses, momentum=0.5)
    assert np.abs(once - once.mean()).max() < np.abs(start - start.mean()).max() / 2
    for _ in range(8):
        start = rescored(start, range(100), losses, momentum=0.3)
    assert difficulty_buckets(start)[:10].tolist() == [3] * 10
    named = rescored(np.ones(100), range(100), -losses, momentum=0.0)  # nothing was known before
    assert np.array_equal(named.round(), difficulty_buckets(np.arange(100)))
    part = rescored(np.arange(4.0), [1, 2, 1], [9.0, 1.0, 0.5], momentum=0.0)
    assert (part[0], part[3]) == (0, 3)
    assert part[1] < part[2]  # the last loss of sample 1 counts
    assert rescored(start, [], []).tolist() == start.tolist()
    with pytest.raises(ValueError, match="one finite loss"):
        rescored(start, [0], [float("nan")])


def test_curriculum():
    curriculum = Curriculum(until=0.5)
    assert list(curriculum(0.0).values()) == pytest.approx([0.6, 0.3, 0.1, 0.0])
    assert list(curriculum(0.25).values()) == pytest.approx([0.4, 0.35, 0.2, 0.05])
    assert list(curriculum(0.5).values()) == pytest.approx(DIFFICULTY_SHARES)
    assert curriculum(1.0) == pytest.approx(curriculum(0.7))
    with pytest.raises(ValueError, match="equally long"):
        Curriculum(start=(1.0,))
    buckets = difficulty_buckets(np.arange(2000)).tolist()
    order = WeightedOrder(buckets, curriculum, size=4000, epochs=2)
    early, late = order(0), order(1)
    assert shares(buckets, early[:500])[0] > 0.5
    assert shares(buckets, early[:500]).get(3, 0) < 0.03
    assert shares(buckets, late) == pytest.approx(dict(enumerate(DIFFICULTY_SHARES)), abs=0.03)


def test_mixture_and_curriculum_together():
    tasks = ["ocr", "vqa"] * 1000
    buckets = difficulty_buckets(np.random.default_rng(0).random(2000)).tolist()
    keys = list(zip(tasks, buckets, strict=True))
    order = WeightedOrder(keys, combined_weights({"ocr": 0.8, "vqa": 0.2}, Curriculum()), size=4000)(0)
    assert shares(tasks, order)["ocr"] == pytest.approx(0.8, abs=0.03)
    assert shares(buckets, order[-1000:])[0] == pytest.approx(0.2, abs=0.05)
    assert shares(buckets, order[:500])[0] > 0.45


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Summarise the page.", "summary"),
        ("Explain this chart.", "summary"),
        ("Compare sales in 2010 and 2011.", "comparison"),
        ("Is the blue bar higher than the red one?", "comparison"),
        ("What is the largest value?", "comparison"),
        ("Is there a signature?", "targeted"),
        ("Who is the author?", "targeted"),
        ("What is the total?", "extraction"),
        ("How much tax was paid?", "extraction"),
    ],
)
def test_kinds_of_questions(question, kind):
    assert question_kind(question) == kind


def test_several_questions_an_image():
    questions = ["What is the total?", "What is the tax?", "What is the sum?", "Summarise.", "Is there a seal?"]
    rows = [row(f"{image}{n}", text, image=f"{image}.png") for image in "ab" for n, text in enumerate(questions)]
    rows.append(row("text", image=None))
    found = questions_per_image(rows, 3)
    assert found[-1].id == "text"
    for image in "ab":
        chosen = [one.question for one in found if one.id.startswith(image)]
        assert len(chosen) == 3
        assert {question_kind(question) for question in chosen} == {"extraction", "summary", "targeted"}
    assert [rows.index(one) for one in found] == sorted(rows.index(one) for one in found)
    assert questions_per_image(rows, 3) == found
    chosen = {one.question for seed in range(20) for one in questions_per_image(rows, 3, seed)}
    assert set(questions) <= chosen
    assert questions_per_image(rows, 99) == rows
    with pytest.raises(ValueError, match="at least 1"):
        questions_per_image(rows, 0)
