"""Budgets that collapse to the lowest tier, hedge, or vary as they should."""

import pytest
import torch

from arrcoc.training.monitors import BudgetMonitor
from tests.training.monitors.conftest import logged, make_rows


TIERS = [4, 8, 16]
LEARNED = {"budget": "learned", "relevance": "learned", "scout_dim": 16, "tiers": TIERS}


def learned(make_trainer, monitor, bias: list[float], **options):
    """A model that chooses budgets by itself, all the same for any image."""
    trainer = make_trainer(monitor, arrcoc_config=LEARNED, max_steps=4, **options)
    trainer.data_collator.token_budget = "learned:16"
    trainer.base.arrcoc.router.score.bias.data.copy_(torch.tensor(bias))
    return trainer


def test_collapse(make_trainer):
    monitor = BudgetMonitor("stop", every=2, least_images=4, patience=0)
    trainer = learned(make_trainer, monitor, [20.0, 0.0, 0.0])
    trainer.train()
    assert trainer.state.global_step == 2
    assert monitor.alarms[0].message == "100% of the images get about 4 tokens, above 95%"
    assert logged(trainer, "monitor/budgets/share_4") == [1.0] and logged(trainer, "monitor/budgets/share_16") == [0.0]
    assert logged(trainer, "monitor/budgets/tokens_mean") == [4.0]


@pytest.mark.parametrize("bias", [[0.0, 20.0, 0.0], [2.0, 2.0, 0.0]], ids=["one tier", "all tiers"])
def test_hedge(make_trainer, bias):
    """Also where tiers are drawn from probabilities that are the same for all images."""
    monitor = BudgetMonitor(every=2, least_images=4, patience=0)
    learned(make_trainer, monitor, bias).train()
    assert "all images get about" in monitor.alarms[0].message and "spread is 0.0" in monitor.alarms[0].message


def test_a_choice_that_varies(make_trainer, monkeypatch):
    monitor = BudgetMonitor(every=2, least_images=4, patience=0)
    trainer = learned(make_trainer, monitor, [0.0, 0.0, 0.0])
    score = trainer.base.arrcoc.router.score
    monkeypatch.setattr(score, "forward", lambda hidden: 9 * torch.eye(3)[torch.arange(len(hidden)) % 3] - 1)
    trainer.train()
    assert monitor.alarms == []
    assert sum(logged(trainer, f"monitor/budgets/share_{tier}")[0] for tier in TIERS) == pytest.approx(1)


@pytest.mark.parametrize(
    "options", [{"patience": 100, "least_images": 4}, {"patience": 0, "least_images": 5}], ids=str
)
def test_too_early_to_judge(make_trainer, options):
    monitor = BudgetMonitor(every=2, **options)
    learned(make_trainer, monitor, [20.0, 0.0, 0.0]).train()
    assert monitor.alarms == [] and len(monitor.logged("tokens_mean")) == 2


def test_given_budgets_are_logged(make_trainer):
    """All images get 64 tokens because that was asked for; accumulated batches count."""
    monitor = BudgetMonitor(every=1, least_images=1, patience=0)
    trainer = make_trainer(monitor, max_steps=2, gradient_accumulation_steps=2, rows=make_rows("qwen3_vl", 4))
    trainer.train()
    assert monitor.alarms == [] and monitor.logged("tokens_mean") == [8.0, 8.0]
    assert monitor.logged("tokens_std") == [0.0, 0.0] and monitor.logged("share_64") == [1.0, 1.0]


def test_text_alone(make_trainer):
    monitor = BudgetMonitor(every=1, patience=0)
    rows = [row.__class__(row.id, row.question, row.answers) for row in make_rows("qwen3_vl", 4)]
    make_trainer(monitor, max_steps=1, rows=rows, arrcoc_config={"compressor": "mean"}).train()
    assert monitor.logged("tokens_mean") == []
