"""What tokens buy, by hand."""

import pytest

from arrcoc.evaluation import budget_calibration, compression_ratio, token_efficiency


def test_compression_ratio():
    assert compression_ratio([100, 300], [20, 80]) == 4
    for native, used in (([100], []), ([], []), ([100], [0])):
        with pytest.raises(ValueError, match="at least 1"):
            compression_ratio(native, used)


def test_token_efficiency():
    assert token_efficiency(0.9, 0.9, 1000, 1000) == 1
    assert token_efficiency(0.81, 0.9, 1000, 250) == pytest.approx(3.6)  # 90 % of the score at 25 % of the tokens
    with pytest.raises(ValueError, match="native score"):
        token_efficiency(0.5, 0.0, 1000, 100)


def test_budget_calibration():
    budgets = [64, 100, 256, 400]
    scores = [
        [1, 1, 1, 1],  # needs 64
        [0, 0, 1, 1],  # needs 256
        [1, 0, 1, 1],  # needs 256: the answer at 64 was luck
        [0, 0, 0, 1],  # needs 400
        [1, 1, 1, 0],  # no budget is enough
    ]
    found = budget_calibration([64, 100, 300, 1600, 64], budgets, scores)
    assert (found.items, found.unanswered) == (4, 1)
    assert (found.under, found.exact, found.over) == (0.25, 0.75, 0.0)
    # log2 of 1, 100/256, 300/256 and 4.
    assert found.log2_ratio == pytest.approx((0 - 1.356144 + 0.228819 + 2) / 4, abs=1e-5)
    # Ranks 1, 2, 3, 4 against 1, 2.5, 2.5, 4.
    assert found.correlation == pytest.approx(4.5 / (5 * 4.5) ** 0.5)


def test_budget_calibration_of_constant_budgets_and_graded_scores():
    found = budget_calibration([400, 400], [64, 400], [[0.6, 0.9], [0.2, 0.9]])
    assert (found.under, found.exact, found.over, found.correlation) == (0.0, 0.5, 0.5, 0.0)
    stricter = budget_calibration([400, 400], [64, 400], [[0.6, 0.9], [0.2, 0.9]], target=0.8)
    assert (stricter.exact, stricter.over) == (1.0, 0.0)
    less = budget_calibration([10], [64, 400], [[1, 1]])  # below the sweep
    assert less.under == 1


def test_wrong_sweeps_are_named():
    with pytest.raises(ValueError, match="ascending"):
        budget_calibration([64], [100, 64], [[1, 1]])
    with pytest.raises(ValueError, match=r"found \(1, 3\)"):
        budget_calibration([64], [64, 100], [[1, 1, 1]])
    with pytest.raises(ValueError, match="no item"):
        budget_calibration([64], [64, 100], [[1, 0]])
