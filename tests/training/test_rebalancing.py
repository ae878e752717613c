"""Mixtures that follow what the monitor of validation has logged."""

from typing import Any

import pytest
from transformers import TrainerState

from arrcoc.training.data import Curriculum, WeightedOrder
from arrcoc.training.rebalancing import MixtureRule
from tests.training.conftest import make_rows


def make_rule(**options: Any) -> MixtureRule:
    rows = make_rows("qwen3_vl", count=4, text_only=(3,))
    for row, (task, name) in zip(
        rows, (("ocr", ""), ("forms", "synthetic_form"), ("chart", ""), ("sums", "")), strict=True
    ):
        object.__setattr__(row, "task", task)
        object.__setattr__(row, "set", name)
    weights = {"ocr": 0.5, "chart": 0.3, "text": 0.2}
    keys: list[Any] = ["ocr", "ocr", "chart", "text"]
    if options:
        keys = [(key, 0) for key in keys]
        start = {(group, 0): weight for group, weight in weights.items()}
        return MixtureRule(rows, WeightedOrder(keys, start), weights, **options)
    return MixtureRule(rows, WeightedOrder(keys, weights), weights)


def look(epoch: float, **losses: float) -> dict[str, float]:
    return {"epoch": epoch} | {f"monitor/validation/domain/{name}/loss": loss for name, loss in losses.items()}


def weights_at(rule: MixtureRule, epoch: float, *history: dict[str, float]) -> Any:
    rule.on_epoch_begin(None, TrainerState(epoch=epoch, log_history=list(history)), None)
    return rule.order.weights


def test_a_task_that_is_unlearned_gets_more_weight():
    """Against its lowest loss so far, by the last look of each epoch; what a later epoch sees is of no account."""
    rule = make_rule()
    history = [
        look(0.5, ocr=1.0, chart=2.0, sums=1.0),
        {"epoch": 0.7, "loss": 3.0},
        look(1.0, ocr=1.05, chart=2.3, sums=9.0),
        look(1.4, chart=1.0),
        look(2.0, ocr=1.0, chart=1.0, sums=1.0),
    ]
    assert weights_at(rule, 0.0, *history) == {"ocr": 0.5, "chart": 0.3, "text": 0.2}
    grown = {"ocr": 0.5 / 1.25, "chart": 0.45 / 1.25, "text": 0.3 / 1.25}  # chart is up by 15 %, text by far more
    assert weights_at(rule, 1.0, *history) == pytest.approx(grown)
    assert weights_at(rule, 1.5, *history) == pytest.approx(grown)  # resumed amid the epoch
    assert weights_at(rule, 2.0, *history) == pytest.approx(grown)  # all is well again


def test_domains_of_a_group_are_one_loss():
    rule = make_rule()
    history = [look(0.5, ocr=1.0, forms=1.0), look(1.0, ocr=1.3, forms=0.8, unknown=7.0)]
    assert weights_at(rule, 1.0, *history) == {"ocr": 0.5, "chart": 0.3, "text": 0.2}


def test_the_curriculum_goes_on():
    rule = make_rule(curriculum=Curriculum((1.0, 0.0), (0.5, 0.5), until=1.0))
    weights = weights_at(rule, 1.0, look(0.5, ocr=1.0), look(1.0, ocr=2.0))
    grown = 0.75 / 1.25
    assert weights(0.0)["ocr", 0] == pytest.approx(grown)
    assert weights(1.0)["ocr", 0] == weights(1.0)["ocr", 1] == pytest.approx(grown / 2)
    assert rule.order.probabilities(0.0)[0] == pytest.approx(grown)
