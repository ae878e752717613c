"""Bootstrap intervals: against the normal approximation, over images, paired."""

import numpy as np
import pytest

from arrcoc.evaluation import bootstrap_interval, paired_difference


def test_an_interval_is_that_of_the_normal_approximation():
    values = np.random.default_rng(0).random(400)
    found = bootstrap_interval(values)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=half / 15)
    assert found.high == pytest.approx(values.mean() + half, abs=half / 15)
    wider = bootstrap_interval(values, confidence=0.99)
    assert wider.low < found.low < found.high < wider.high
    assert bootstrap_interval(values) == found  # the same draws each time
    assert bootstrap_interval(values, seed=1) != found


def test_images_are_drawn_not_questions():
    """Ten equal questions an image say no more than one: the interval is that of the images."""
    images = np.random.default_rng(1).random(50)
    repeated, groups = np.repeat(images, 10), np.repeat(np.arange(50), 10)
    by_image = bootstrap_interval(repeated, groups.tolist())
    alone = bootstrap_interval(images)
    assert (by_image.low, by_image.high) == (pytest.approx(alone.low), pytest.approx(alone.high))
    by_question = bootstrap_interval(repeated)
    ratio = (by_image.high - by_image.low) / (by_question.high - by_question.low)
    assert ratio == pytest.approx(10**0.5, rel=0.1)


def test_images_of_several_questions_weigh_more():
    found = bootstrap_interval([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert (found.mean, found.low, found.high) == (0.75, 0.0, 1.0)


def test_paired_differences_cancel_what_items_share():
    generator = np.random.default_rng(2)
    hardness = generator.random(300)
    second = hardness + 0.01 * generator.standard_normal(300)
    first = hardness + 0.05 + 0.01 * generator.standard_normal(300)
    found = paired_difference(first, second)
    assert found.low > 0.04 and found.high < 0.06
    assert found.mean == pytest.approx((first - second).mean())
    alone = bootstrap_interval(first)
    assert alone.high - alone.low > 10 * (found.high - found.low)
    assert paired_difference(second, first).mean == pytest.approx(-found.mean)


def test_coverage_of_the_truth():
    """Of many experiments, about 95 % of the intervals hold the true mean."""
    generator = np.random.default_rng(3)
    hits = 0
    for _ in range(200):
        found = bootstrap_interval(generator.random(60) < 0.3, resamples=500)
        hits += found.low <= 0.3 <= found.high
    assert 0.88 < hits / 200 < 0.99


def test_resamples_in_pieces_are_the_same(monkeypatch):
    values = np.random.default_rng(4).random(3000).tolist()
    found = bootstrap_interval(values, resamples=1500)  # 666 at once
    draws = np.random.default_rng(0).integers(0, 3000, (1500, 3000))
    low, high = np.quantile(np.asarray(values)[draws].mean(1), [0.025, 0.975])
    assert (found.low, found.high) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    "arguments, message",
    [
        (([],), "at least one finite value"),
        (([1.0, float("nan")],), "at least one finite value"),
        (([1.0, 2.0], ["a"]), "1 groups for 2 values"),
        (([1.0], None, 1.0), "confidence"),
        (([1.0], None, 0.5, 0), "resample"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        bootstrap_interval(*arguments)


def test_pairs_must_be_pairs():
    with pytest.raises(ValueError, match="2 and 1"):
        paired_difference([1, 2], [1])


def test_an_interval_reads_well():
    assert str(bootstrap_interval([0.5, 0.5])) == "0.5 [0.5, 0.5]"
