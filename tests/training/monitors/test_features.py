"""Features that become the same for all images, that grow, and attention scores that explode."""

import pytest
import torch

from arrcoc.training.monitors import AttentionScoreMonitor, FeatureMonitor, pairwise_cosine
from arrcoc.training.monitors.features import distinct
from tests.training.monitors.conftest import logged, make_rows


STAGES = {"tower", "tokens", "layer_1", "layer_2", "layer_3"}


class Breaking:
    """Breaks the model before its third step."""

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == 2:
            with torch.no_grad():
                self.damage(self.trainer.base)


def test_pairwise_cosine():
    features = [torch.randn(tokens, 8) for tokens in (5, 3, 9)]
    means = [tokens.mean(0) for tokens in features]
    expected = [torch.cosine_similarity(means[i], means[j], 0) for i in range(3) for j in range(3) if i != j]
    assert pairwise_cosine(features) == pytest.approx(float(torch.stack(expected).mean()), abs=1e-6)
    assert pairwise_cosine([features[0], 2 * features[0].flip(0)]) == pytest.approx(1)
    with pytest.raises(ValueError, match="found 1 images; expected at least two"):
        pairwise_cosine(features[:1])


def test_distinct():
    a, b = torch.rand(4, 3), torch.rand(4, 3)
    assert distinct([a, b, a.clone(), b[:2], b]) == [0, 1, 3]


@pytest.mark.parametrize("stage", ["features", "pixels"])
def test_healthy_features(host, make_trainer, stage):
    monitor = FeatureMonitor(every=2)
    trainer = make_trainer(monitor, host=host, arrcoc_config={"stage": stage, "adapter": "quality"}, max_steps=4)
    trainer.train()
    assert monitor.alarms == []
    for name in STAGES:
        cosines, deviations = (logged(trainer, f"monitor/features/{kind}/{name}") for kind in ("cosine", "std"))
        assert len(cosines) == len(deviations) == 3 and max(cosines) < 0.6 and min(deviations) > 0.1


def test_what_is_measured(host, make_trainer):
    """The stages against the model's own outputs, image by image; rows of the same image count once."""
    rows = make_rows(host, 3)
    rows.append(rows[0].__class__("again", "And how many?", ("one",), rows[0].images))
    monitor = FeatureMonitor(rows, batch_size=2)
    trainer = make_trainer(monitor, host=host, max_steps=1)
    base, means = trainer.base, {name: [] for name in STAGES}
    for row in rows[:3]:
        inputs = {n: v for n, v in trainer.data_collator([row]).items() if n not in ("labels", "evidence", "task")}
        names = ("input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw")
        budget = [name for name in inputs if name.startswith("image_") and name != "image_grid_thw"]
        with torch.no_grad():
            stock = base.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output[0]
            output = base(**{name: inputs[name] for name in (*names, *budget)}, output_hidden_states=True)
        visual = inputs["input_ids"][0] == base.config.image_token_id
        hidden = {f"layer_{layer}": output.hidden_states[layer][0, visual] for layer in (1, 2, 3)}
        for name, features in ({"tower": stock, "tokens": output.image_hidden_states} | hidden).items():
            means[name].append(features)
    trainer.train()
    for name in STAGES:
        expected = pairwise_cosine(means[name])
        assert logged(trainer, f"monitor/features/cosine/{name}") == [pytest.approx(expected, abs=1e-4)]
        deviation = float(torch.cat(means[name]).std())
        assert logged(trainer, f"monitor/features/std/{name}") == [pytest.approx(deviation, rel=1e-4)]


class Collapsing(Breaking, FeatureMonitor):
    @staticmethod
    def damage(base):
        last = [parameter for name, parameter in base.visual.merger.named_parameters()][-2:]
        last[0].zero_()  # weight
        last[1].copy_(torch.linspace(-1, 1, len(last[1])))  # bias


def test_collapsed_features(host, make_trainer):
    monitor = Collapsing(action="stop", every=2)
    trainer = make_trainer(monitor, host=host, max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 4 and len(monitor.alarms) == 1
    assert "different images are alike at tower: cosine 1.0000, 0." in monitor.alarms[0].message
    assert "different images are alike at tokens" in monitor.alarms[0].message


def test_collapse_is_rolled_back(make_trainer):
    monitor = Collapsing(action="rollback", every=3)
    trainer = make_trainer(monitor, max_steps=6, spike_ratio=1e6)
    trainer.train()
    cosines = logged(trainer, "monitor/features/cosine/tower")
    assert len(monitor.alarms) == 1 and cosines[1] > 0.99 and cosines[2] == pytest.approx(cosines[0], abs=1e-3)


class Growing(Breaking, FeatureMonitor):
    @staticmethod
    def damage(base):
        for parameter in list(base.visual.merger.parameters())[-2:]:
            parameter.mul_(5)


def test_growing_features(make_trainer):
    monitor = Growing(every=3)
    make_trainer(monitor).train()
    assert "features at tower have 5 times the standard deviation of the start" in monitor.alarms[0].message


def test_a_host_that_is_alike_by_itself(make_trainer):
    """It is judged by what is lost of the difference there was."""

    class Alike(FeatureMonitor):
        drift = 0.0

        def _features(self, inputs):
            count = len(inputs["image_grid_thw"])
            apart = (torch.eye(8)[:count] * (1 - self.drift))[:, None]
            yield "layer_3", list(3 + apart.expand(-1, 4, -1))

    monitor = Alike(every=1)
    trainer = make_trainer(monitor, max_steps=1)
    trainer.train()
    assert logged(trainer, "monitor/features/cosine/layer_3")[0] > 0.9 and monitor.alarms == []
    monitor.drift = 0.5
    monitor.look()
    assert monitor.alarms == []
    monitor.drift = 0.9
    monitor.look()
    assert "alike at layer_3" in monitor.alarms[0].message


def test_one_image_cannot_be_compared(make_trainer):
    with pytest.raises(ValueError, match="found 1 images"):
        make_trainer(FeatureMonitor(make_rows("qwen3_vl", 1))).train()


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_healthy_scores(host, make_trainer):
    monitor = AttentionScoreMonitor(every=2, rows=1000)
    trainer = make_trainer(monitor, host=host, max_steps=2)
    highest = {"tower": [], "language": []}
    handles = []
    for part, modules in (("tower", trainer.base.visual), ("language", trainer.base.language_model)):
        handles += [
            module.register_forward_hook(lambda *_, part=part: highest[part].append(1))
            for module in modules.modules()
            if type(module).__name__.endswith("Attention")
        ]
    trainer.train()
    assert monitor.alarms == [] and all(highest.values())
    for part in ("tower", "language"):
        assert len(logged(trainer, f"monitor/attention/max/{part}")) == 2
        assert 0.5 < max(logged(trainer, f"monitor/attention/max/{part}")) < 20


class Exploding(Breaking, AttentionScoreMonitor):
    @staticmethod
    def damage(base):
        attention = base.language_model.layers[1].self_attn
        getattr(attention, "q_norm", attention.q_proj).weight.mul_(100)


def test_exploding_scores(host, make_trainer):
    monitor = Exploding(action="stop", every=1)
    trainer = make_trainer(monitor, host=host, max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 3
    assert "attention scores in the language part reach " in monitor.alarms[0].message


def test_a_host_with_high_scores(make_trainer):
    """What counts is that they grow."""
    monitor = Exploding(every=1, most=0.1)
    make_trainer(monitor, max_steps=2).train()
    assert monitor.alarms == []
    make_trainer(monitor, max_steps=3).train()
    assert [alarm.step for alarm in monitor.alarms] == [3]
