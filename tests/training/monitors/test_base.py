"""What an alarm does, what is logged, and monitors from a configuration file."""

import logging
from types import SimpleNamespace

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerControl, TrainerState

from arrcoc.training.monitors import (
    ACTIONS,
    MONITORS,
    GradientNormMonitor,
    Monitor,
    VisionMonitor,
    base,
    make_monitors,
)
from tests.training.monitors.conftest import logged, perturbed


class Scripted(Monitor):
    """Breaks a weight at step 2, and finds out at step 3."""

    name = "scripted"
    broken: torch.Tensor | None = None

    def look(self):
        step, weight = self.trainer.state.global_step, self.trainer.model.lm_head.weight
        self.log({"step": step})
        if step == 2:
            perturbed(weight, 10.0)
            self.broken = weight.detach().clone()
        self.judge("it is broken" if step in (3, 4) else None)


def test_warn(make_trainer, caplog):
    """Training goes on; the alarm is said once until all is well again, and logged."""
    monitor = Scripted(every=1)
    trainer = make_trainer(monitor, max_steps=5)
    with caplog.at_level(logging.WARNING, "arrcoc"):
        trainer.train()
    assert trainer.state.global_step == 5
    assert [(alarm.step, alarm.message, alarm.action) for alarm in monitor.alarms] == [(3, "it is broken", "warn")]
    assert [record.getMessage() for record in caplog.records] == ["step 3: monitor scripted: it is broken"]
    assert logged(trainer, "monitor/scripted/alarm") == [1.0]
    assert logged(trainer, "monitor/scripted/step") == monitor.logged("step") == [1, 2, 3, 4, 5]
    assert [entry["step"] for entry in trainer.state.log_history if "loss" in entry] == [1, 2, 3, 4, 5]


def test_stop(make_trainer):
    monitor = Scripted("stop", every=1)
    trainer = make_trainer(monitor, max_steps=5)
    trainer.train()
    assert trainer.state.global_step == 3 and [alarm.action for alarm in monitor.alarms] == ["stop"]


def test_rollback(make_trainer):
    """Weights are those of before, rates are lower, and training goes on."""
    monitor = Scripted("rollback", every=1)
    trainer = make_trainer(monitor, max_steps=6, spike_ratio=1e6, snapshot_steps=1)
    before = trainer.model.lm_head.weight.detach().clone()
    trainer.train()
    assert trainer.state.global_step == 6
    assert logged(trainer, "rollback") == ["scripted: it is broken"] * 2
    assert (trainer.model.lm_head.weight - before).abs().max() < 0.01 < (monitor.broken - before).abs().max()


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", [name for name, kind in MONITORS.items() if issubclass(kind, Monitor)])
def test_every_monitor_can_warn_stop_and_roll_back(name, action, monkeypatch):
    """What raises the alarm of each is in its own tests; here, what the alarm then does."""
    asked: list[str] = []
    monkeypatch.setattr(base, "request_rollback", lambda trainer, reason: asked.append(reason))
    options = {"host_ability": {"samples": []}, "divergence": {"statistics": "folder"}}.get(name, {})
    (monitor,) = make_monitors({name: {"action": action, **options}})
    monitor.attach(SimpleNamespace(state=TrainerState(), control=TrainerControl(), log=lambda values: None))
    assert monitor.judge("it is broken")
    assert [(alarm.monitor, alarm.action) for alarm in monitor.alarms] == [(name, action)]
    assert monitor.trainer.control.should_training_stop == (action == "stop")
    assert asked == ([f"{name}: it is broken"] if action == "rollback" else [])


def test_every(make_trainer):
    monitor = Scripted(every=2)
    trainer = make_trainer(monitor, max_steps=5)
    trainer.train()
    assert monitor.logged("step") == [2, 4]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"action": "panic"}, "`action` is 'panic'; allowed are 'warn', 'stop', 'rollback'"),
        ({"every": 0}, "`every` is 0; allowed are whole numbers from 1"),
    ],
)
def test_options_are_checked(options, message):
    with pytest.raises(ValueError, match=message):
        Scripted(**options)


def test_a_rollback_needs_states_to_go_back_to(make_trainer):
    with pytest.raises(ValueError, match="'scripted' is to roll back, but no states are kept .*; set `spike_ratio`"):
        make_trainer(Scripted("rollback")).train()


def test_a_monitor_without_its_trainer():
    with pytest.raises(ValueError, match="'scripted' belongs to no trainer"):
        Scripted().on_train_begin(None, None, None)


def test_early_stopping(make_trainer):
    """That of transformers: the second evaluation is no better than the first."""
    (stopping,) = make_monitors({"early_stopping": {"early_stopping_patience": 1}})
    options = {"eval_strategy": "steps", "eval_steps": 1, "metric_for_best_model": "loss", "greater_is_better": False}
    trainer = make_trainer(stopping, max_steps=6, learning_rate=0.0, **options)
    trainer.train()
    assert trainer.state.global_step == 2 and len(logged(trainer, "eval_loss")) == 2


def test_make_monitors():
    made = make_monitors(
        {
            "gradient_norm": "stop",
            "vision": {"action": "warn", "every": 7},
            "budgets": True,
            "features": False,
            "early_stopping": {"early_stopping_patience": 3},
        }
    )
    assert [type(monitor) for monitor in made] == [
        GradientNormMonitor,
        VisionMonitor,
        MONITORS["budgets"],
        EarlyStoppingCallback,
    ]
    assert (made[0].action, made[1].every, made[3].early_stopping_patience) == ("stop", 7, 3)
    with pytest.raises(ValueError, match="found the monitor 'weather'; there are 'gradient_norm', "):
        make_monitors({"weather": True})
    with pytest.raises(ValueError, match="'vision' cannot be made of {'far': 1}: .*unexpected keyword argument 'far'"):
        make_monitors({"vision": {"far": 1}})
    with pytest.raises(ValueError, match="`action` is 'panic'"):
        make_monitors({"vision": "panic"})
    assert all(monitor.name == name for name, monitor in MONITORS.items() if issubclass(monitor, Monitor))
