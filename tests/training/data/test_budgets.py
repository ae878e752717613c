"""Budgets drawn for training, and suggested ones."""

import numpy as np
import pytest

from arrcoc.training.data import BudgetAugmentation, Row, suggested_budget
from arrcoc.training.data.budgets import uniform, with_budget


def test_shares_and_independence():
    drawn = BudgetAugmentation().draw(0, range(40000))
    values, counts = np.unique(drawn, return_counts=True)
    assert values.tolist() == [64, 100, 160, 256, 400]
    np.testing.assert_allclose(counts / 40000, [0.15, 0.25, 0.35, 0.20, 0.05], atol=0.01)
    assert {type(budget) for budget in drawn} == {int}
    numbers = uniform(3, 5, range(40000))
    assert 0 <= numbers.min() < numbers.max() < 1
    assert abs(np.corrcoef(numbers[1:], numbers[:-1])[0, 1]) < 0.02
    for other in (uniform(3, 6, range(40000)), uniform(4, 5, range(40000)), uniform(5, 3, range(40000))):
        assert abs(np.corrcoef(numbers, other)[0, 1]) < 0.02
    counts, _ = np.histogram(numbers, 20, (0, 1))
    assert counts.min() > 1800


def test_draws_depend_on_seed_epoch_and_index_alone():
    augmentation = BudgetAugmentation(seed=1)
    whole = augmentation.draw(2, range(100))
    assert [augmentation.draw(2, [index])[0] for index in range(100)] == whole
    assert augmentation.draw(2, range(99, -1, -1)) == whole[::-1]
    assert augmentation.draw(3, range(100)) != whole
    assert BudgetAugmentation(seed=2).draw(2, range(100)) != whole


def test_shares_of_the_native_count_and_zero_shares():
    drawn = BudgetAugmentation((0.25, 0.5, 1.0), (0, 3, 1)).draw(0, range(4000))
    assert set(drawn) == {0.5, 1.0}
    assert drawn.count(0.5) / 4000 == pytest.approx(0.75, abs=0.03)


@pytest.mark.parametrize(
    "arguments",
    [{"budgets": (0,)}, {"budgets": (1.5,)}, {"budgets": (True,)}, {"shares": (1.0,)}, {"shares": (0,) * 5}],
)
def test_bad_arguments(arguments):
    with pytest.raises(ValueError, match="budgets must be|shares must be"):
        BudgetAugmentation(**{"shares": (1,) * len(arguments.get("budgets", range(5)))} | arguments)


def test_suggestions():
    def row(question, **fields):
        return Row(id="r", question=question, answers=("A",), **fields)

    assert suggested_budget(row("Summarise this page.")) == 400
    assert suggested_budget(row("Is there a dog?")) == 64
    assert suggested_budget(row("Is there a dog?", token_budget=250)) == 256
    assert suggested_budget(row("Is there a dog?", token_budget=0.5)) == 64
    assert suggested_budget(row("Is there a dog?", token_budget=250, suggested_budget=90)) == 100
    drawn = with_budget(row("Is there a dog?", token_budget=256), 64)
    assert (drawn.token_budget, suggested_budget(drawn)) == (64, 256)
