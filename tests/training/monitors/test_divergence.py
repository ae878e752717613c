"""Compressed tokens that leave the host's own."""

import pytest
import torch

from arrcoc.host_statistics import HostStatistics
from arrcoc.training.monitors import DivergenceMonitor
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.training.monitors.conftest import logged, perturbed


@pytest.fixture
def statistics(host, make_trainer):
    trainer = make_trainer(host=host)
    batch = trainer.data_collator(trainer.train_dataset)
    return HostStatistics.measure(tiny_arrcoc_model(host), [batch])


class Breaking(DivergenceMonitor):
    """Throws the adapter off before the third step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            for parameter in self.trainer.base.arrcoc.adapter.parameters():
                perturbed(parameter, 1.0)


def by_hand(tokens: torch.Tensor, host) -> float:
    """The divergence of Gaussians, channel by channel."""
    mean, variance = tokens.mean(0), tokens.var(0, correction=0)
    ratio = variance / host.variance
    return float(((ratio - ratio.log() - 1 + (mean - host.mean) ** 2 / host.variance) / 2).mean())


def test_divergence(host, make_trainer, statistics, tmp_path):
    statistics.save_pretrained(tmp_path / "statistics")
    monitor = Breaking(str(tmp_path / "statistics"), "stop", every=2, least_tokens=4, most=8.0)
    trainer = make_trainer(monitor, host=host, max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 4 and [alarm.step for alarm in monitor.alarms] == [4]
    assert "nats a channel from the host's own, above 8" in monitor.alarms[0].message
    first, second = logged(trainer, "monitor/divergence/level_1")
    assert first < 8 < second


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_tokens_are_gathered_between_looks(make_trainer, statistics, host):
    class Recording(DivergenceMonitor):
        def observe(self):
            super().observe()
            record = self.trainer.last_forward
            levels = (record.allocation.levels + 0.5).floor()
            self.seen = torch.cat(
                [getattr(self, "seen", torch.empty(0, 64)), torch.cat(record.visual_tokens)[levels == 1]]
            )

    monitor = Recording(statistics, every=2, least_tokens=4)
    trainer = make_trainer(monitor, host=host, max_steps=2, gradient_accumulation_steps=2, learning_rate=1e-9)
    trainer.train()
    expected = by_hand(monitor.seen.double(), statistics.layers["tokens"])
    assert monitor.logged("level_1") == [pytest.approx(expected, rel=1e-3)]


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_few_tokens_are_not_judged(make_trainer, statistics, host):
    monitor = DivergenceMonitor(statistics, every=1, least_tokens=1000, most=0.0)
    trainer = make_trainer(monitor, host=host)
    trainer.train()
    assert monitor.alarms == [] and logged(trainer, "monitor/divergence/level_1") == []


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_statistics_of_another_host(make_trainer, statistics, host):
    other = {"qwen3_vl": "qwen2_5_vl", "qwen2_5_vl": "qwen3_vl"}[host]
    with pytest.raises(ValueError, match="host statistics do not fit the model: host: found"):
        make_trainer(DivergenceMonitor(statistics), host=other).train()
