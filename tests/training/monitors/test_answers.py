"""A model that does not look at the image, domains that are unlearned, and a host that forgets."""

import re

import pytest
import torch

from arrcoc.training.data import Row
from arrcoc.training.monitors import HostAbilityMonitor, ValidationMonitor, VisionMonitor
from arrcoc.training.monitors.answers import BLANKS, blank_pixels, row_tiers
from tests.helpers.tiny_processors import tiny_image_processor, tiny_processor
from tests.training.monitors.conftest import logged, make_rows, picture


def test_blank_pixels(host):
    """Those of blank pictures, as the image processor makes them."""
    from PIL import Image

    processor = tiny_image_processor(host)
    real = processor(picture(host, 0), return_tensors="pt")["pixel_values"]
    for kind in ("white", "black"):
        blank = Image.new("RGB", picture(host, 0).size, kind)
        expected = processor(blank, return_tensors="pt")["pixel_values"]
        found = blank_pixels(real, kind, processor.image_mean, processor.image_std)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    noise = blank_pixels(real, "noise", processor.image_mean, processor.image_std)
    white = blank_pixels(real, "white", processor.image_mean, processor.image_std)
    black = blank_pixels(real, "black", processor.image_mean, processor.image_std)
    assert noise.shape == real.shape and noise.dtype == real.dtype
    assert (noise <= white).all() and (noise >= black).all() and (noise.std(1) > 0.2).all()
    assert torch.equal(noise, blank_pixels(real, "noise", processor.image_mean, processor.image_std))


def test_a_model_that_looks(host, make_trainer):
    monitor = VisionMonitor(every=2)
    trainer = make_trainer(monitor, host=host)
    trainer.train()
    assert monitor.alarms == []
    for kind in BLANKS:
        assert logged(trainer, f"monitor/vision/same/{kind}")[0] < 0.5
        assert logged(trainer, f"monitor/vision/loss_rise/{kind}")[0] != 0


class Blind(VisionMonitor):
    """Makes the model pass over what it is shown: visual tokens are zero, in all layers."""

    def on_train_begin(self, args, state, control, **kwargs):
        super().on_train_begin(args, state, control, **kwargs)

        def dark(module, arguments, output):
            output.pooler_output = output.pooler_output * 0
            if getattr(output, "deepstack_features", None) is not None:
                output.deepstack_features = [features * 0 for features in output.deepstack_features]
            return output

        self.trainer.base.visual.register_forward_hook(dark)


def test_a_model_that_does_not_look(host, make_trainer):
    monitor = Blind(action="stop", every=2)
    trainer = make_trainer(monitor, host=host, max_steps=6)
    trainer.train()
    assert trainer.state.global_step == 2
    assert monitor.alarms[0].message == (
        "the model does not look: the same answers for 100% with noise, 100% with white, 100% with black"
    )
    assert logged(trainer, "monitor/vision/loss_rise/white") == [pytest.approx(0, abs=1e-5)]


def test_it_may_look_later(make_trainer):
    monitor = Blind(every=1, patience=3)
    make_trainer(monitor, max_steps=4).train()
    assert [alarm.step for alarm in monitor.alarms] == [3]


def test_vision_needs_images_and_a_processor(make_trainer):
    text = [Row("text", "Why?", ("so",))]
    with pytest.raises(ValueError, match="'vision' needs samples with images"):
        make_trainer(VisionMonitor(text, every=1), max_steps=1).train()
    trainer = make_trainer(VisionMonitor(every=1), max_steps=1)
    trainer.processing_class = None
    with pytest.raises(ValueError, match="'vision' needs the trainer's `processing_class`"):
        trainer.train()


def slow_losses(trainer, rows) -> dict[str, tuple[float, bool]]:
    """Loss and whether all is right, one row at a time, from all logits."""
    found = {}
    for row in rows:
        batch = trainer.data_collator([row])
        names = [name for name in batch if name not in ("task", "row_ids", "evidence", "has_evidence")]
        inputs = {name: batch[name] for name in names if name != "suggested_budgets"}
        labels = inputs.pop("labels")[0]
        with torch.no_grad():
            logits = trainer.model.eval()(**inputs).logits[0]
        losses, right = [], []
        for place in range(1, len(labels)):
            if labels[place] != -100:
                losses.append(-logits[place - 1].log_softmax(-1)[labels[place]])
                right.append(int(logits[place - 1].argmax()) == int(labels[place]))
        found[row.id] = float(torch.stack(losses).mean()), all(right)
    return found


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_validation_by_tier_and_domain(host, make_trainer):
    """The means of groups of rows that are scored one at a time."""
    budgets = (5, 16, 8)
    rows = [
        Row(
            f"{task} {budget}", "Which?", ("red", "blue")[:1], (picture(host, number),), task=task, token_budget=budget
        )
        for number, (task, budget) in enumerate((task, budget) for task in ("a", "b") for budget in budgets)
    ]
    rows += [Row("text", "Why?", ("because",), task="b")]
    monitor = ValidationMonitor(rows, batch_size=3, every=1)
    trainer = make_trainer(monitor, host=host, max_steps=1, learning_rate=0.0)
    single = slow_losses(trainer, rows)
    trainer.train()
    assert monitor.alarms == []
    groups = {"domain/a": [r.id for r in rows if r.task == "a"], "domain/b": [r.id for r in rows if r.task == "b"]}
    groups |= {"tier/none": ["text"], "tier/64": [r.id for r in rows if r.id != "text"]}  # the nearest tier of all
    for group, ids in groups.items():
        expected = sum(single[row][0] for row in ids) / len(ids)
        assert logged(trainer, f"monitor/validation/{group}/loss") == [pytest.approx(expected, rel=1e-4)]
        assert logged(trainer, f"monitor/validation/{group}/exact") == [sum(single[r][1] for r in ids) / len(ids)]


@pytest.mark.parametrize("host", ["qwen3_vl"])
def test_tiers_of_rows(host):
    """By the images of each row, however many there are; learned budgets by what was spent."""
    processor = tiny_processor(host)
    big = picture(host, 0, 20, 20)
    rows = [[big, big], [], [big]]
    text = ["<|vision_start|><|image_pad|><|vision_end|>" * len(images) + "?" for images in rows]
    inputs = processor(
        images=[i for i in rows if i], text=text, token_budget=[90, 110, 260], padding=True, return_tensors="pt"
    )
    config = type("Config", (), {"image_token_id": processor.image_token_id})()
    config.vision_config = type("Vision", (), {"spatial_merge_size": 2})()
    allocation = type("Allocation", (), {"budgets": inputs["image_token_budgets"], "placeholders": None})()
    assert row_tiers(inputs, allocation, config) == ["100", "none", "256"]
    allocation.placeholders, allocation.budgets = allocation.budgets, torch.tensor([60, 60, 90])
    assert row_tiers(inputs, allocation, config) == ["64", "none", "100"]
    native = processor(images=[[big]], text=text[2:], return_tensors="pt")
    assert row_tiers(native, None, config) == ["400"]
    assert row_tiers({"input_ids": inputs["input_ids"][1:2]}, None, config) == ["none"]


def test_a_domain_that_is_unlearned(make_trainer):
    """One of two gets worse by more than a tenth: the other is no comfort."""

    class Unlearning(ValidationMonitor):
        def answers(self, inputs):
            answers, base = super().answers(inputs)
            worse = 0.2 * (self.trainer.state.global_step - 1) * (torch.arange(answers.samples) % 2 == 1)
            answers.loss.mul_(1 + worse[answers.row])
            return answers, base

    monitor = Unlearning(action="stop", every=1, least_rows=2)
    trainer = make_trainer(monitor, max_steps=6, learning_rate=0.0)
    trainer.train()
    assert trainer.state.global_step == 2
    assert re.fullmatch(r"the loss of count is 6\.\d+, up from 5\.\d+", monitor.alarms[0].message)
    few = Unlearning(every=1, least_rows=5)
    make_trainer(few, learning_rate=0.0).train()
    assert few.alarms == []


def test_a_host_that_keeps_its_abilities(make_trainer):
    rows = [Row(f"row {n}", f"Say {n}", ("abcdefgh"[n:],)) for n in range(4)]
    healthy = HostAbilityMonitor(rows, every=1)
    trainer = make_trainer(healthy, learning_rate=0.0)
    trainer.train()
    assert healthy.alarms == [] and len(healthy.logged("accuracy")) == 4
    assert len(set(healthy.logged("accuracy"))) == len(set(healthy.logged("loss"))) == 1


def test_an_alarm_at_one_percent(make_trainer, monkeypatch):
    monitor = HostAbilityMonitor(make_rows("qwen3_vl", 2), action="stop", every=1)
    trainer = make_trainer(monitor, max_steps=6)
    accuracies = iter([0.800, 0.793, 0.791])

    class Found:
        def __init__(self, accuracy):
            self.token, self.label = torch.arange(1000), torch.arange(1000)
            self.label[: round(1000 * (1 - accuracy))] += 1
            self.loss = torch.ones(1000)

    monkeypatch.setattr(monitor, "answers", lambda inputs: (Found(next(accuracies)), None))
    trainer.train()
    assert trainer.state.global_step == 2
    assert monitor.alarms[0].message == "token accuracy on the host's own samples fell from 0.8000 to 0.7910"
