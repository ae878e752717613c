"""Gradients that explode, that do not arrive, and that are no numbers."""

import math
import re

import pytest
import torch

from arrcoc.training.monitors import GradientNormMonitor, NonFiniteMonitor
from tests.training.monitors.conftest import logged


HEALTHY = 50.0  # the norm of a random model's gradient is about 12


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_healthy_gradients(make_trainer, host):
    monitor = GradientNormMonitor(every=2, most=HEALTHY, dead_steps=2)
    trainer = make_trainer(monitor, host=host, max_steps=4)
    trainer.train()
    assert monitor.alarms == []
    seen = logged(trainer, "monitor/gradient_norm/adapter")
    own = logged(trainer, "grad_norm/adapter")
    assert seen == [max(own[:2]), max(own[2:])] and min(seen) > 1e-3
    assert {key for entry in trainer.state.log_history for key in entry if key.startswith("monitor/")} == {
        f"monitor/gradient_norm/{name}" for name in ("adapter", "bridge", "llm", "vision")
    }


def test_exploding_gradient(make_trainer):
    monitor = GradientNormMonitor("stop", most=HEALTHY)
    trainer = make_trainer(monitor, loss_weights={"answer": 1000.0})
    trainer.train()
    assert trainer.state.global_step == 1
    assert re.search(r"the gradient of llm explodes: its norm is \d\.\d+e\+03, above 50", monitor.alarms[0].message)


def test_dead_gradient(make_trainer):
    """At native budget all leaves are one cell, which the adapter never changes."""
    monitor = GradientNormMonitor("stop", most=HEALTHY, dead_steps=3)
    trainer = make_trainer(monitor, max_steps=6)
    trainer.data_collator.token_budget = 1.0
    trainer.train()
    assert trainer.state.global_step == 3
    assert monitor.alarms[0].message == "the gradient of adapter is dead: its norm is 0 for 3 steps"


def test_components_that_rest_are_not_dead(make_trainer):
    monitor = GradientNormMonitor(most=HEALTHY, dead_steps=1)
    make_trainer(monitor, max_steps=4, update_cycle=[["adapter"], ["adapter", "bridge", "llm", "vision"]]).train()
    assert monitor.alarms == []


def poison(trainer, batch_number: int):
    """Put infinity into the pixels of one batch."""
    collate, count = trainer.data_collator, iter(range(1000))

    def poisoned(rows):
        batch = collate(rows)
        if next(count) == batch_number:
            batch["pixel_values"][0, 0] = math.inf
        return batch

    trainer.data_collator = poisoned


class Recording(NonFiniteMonitor):
    def observe(self):
        self.losses = [*getattr(self, "losses", []), self.trainer.last_forward.loss]


def finite(model) -> bool:
    return all(bool(torch.isfinite(parameter).all()) for parameter in model.parameters())


def test_nan(make_trainer):
    """The step is not taken, and those after it are sound; without the guard all weights are lost."""
    monitor = Recording("warn", every=1)
    trainer = make_trainer(monitor, max_steps=4)
    poison(trainer, 1)
    trainer.train()
    assert finite(trainer.model)
    assert logged(trainer, "monitor/non_finite/steps_not_taken") == [0, 1, 1, 1]
    assert [math.isfinite(loss) for loss in monitor.losses] == [True, False, True, True]
    assert len(monitor.alarms) == 1 and "llm, " in monitor.alarms[0].message
    assert monitor.alarms[0].message.endswith("is not finite at a loss of nan; the step is not taken")

    bare = make_trainer(max_steps=4)
    poison(bare, 1)
    bare.train()
    assert not finite(bare.model)


def test_nan_stops(make_trainer):
    monitor = NonFiniteMonitor()
    trainer = make_trainer(monitor, max_steps=4)
    poison(trainer, 1)
    trainer.train()
    assert trainer.state.global_step == 2 and finite(trainer.model)


def test_healthy_steps_are_all_taken(make_trainer):
    monitor = NonFiniteMonitor(every=3)
    guarded, bare = make_trainer(monitor), make_trainer()
    guarded.train()
    bare.train()
    assert monitor.alarms == [] and logged(guarded, "monitor/non_finite/steps_not_taken") == [0]
    assert logged(guarded, "loss") == logged(bare, "loss")


@pytest.mark.parametrize("monitor", [GradientNormMonitor, NonFiniteMonitor])
def test_without_clipping_there_are_no_norms(make_trainer, monitor):
    with pytest.raises(ValueError, match="`max_grad_norm` must be positive"):
        make_trainer(monitor(), max_grad_norm=0).train()
