"""Rules of updating: turns, plateaus, spikes and setting back."""

import math
from types import SimpleNamespace

import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, TrainerControl, TrainerState

from arrcoc.training import request_rollback
from arrcoc.training.components import named_components
from arrcoc.training.updates import PlateauRule, RollBack, SpikeRule, remember
from tests.training.conftest import losses, make_model, make_trainer, moved, weights


class FakeTrainer:
    """A trainer of one weight, as far as the rules need it."""

    def __init__(self, **arguments):
        self.weight = torch.nn.Parameter(torch.tensor([1.0]))
        self.optimizer = torch.optim.AdamW([{"params": [self.weight], "lr": 0.1}, {"params": [], "lr": 0.2}])
        self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda step: 1.0)
        self.state, self.control, self.rollback = TrainerState(), TrainerControl(), RollBack()
        self.args = SimpleNamespace(rollback_rate_factor=0.5, max_rollbacks=2, **arguments)

    def step(self, rule, loss: float, gradient: float = 1.0) -> None:
        self.weight.grad = torch.tensor([gradient])
        self.optimizer.step()
        self.lr_scheduler.step()
        self.state.global_step += 1
        rule.on_log(self.args, self.state, self.control, logs={"loss": loss})

    @property
    def rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]


class TestPlateau:
    def test_rates_fall_where_the_loss_does_not(self):
        trainer, rule = FakeTrainer(), PlateauRule(patience=3)
        rule.attach(trainer)
        for loss in (5, 4, 3):
            trainer.step(rule, loss)
        for _ in range(2):
            trainer.step(rule, 3.0)
            assert trainer.rates == [0.1, 0.2]
        trainer.step(rule, 3.1)
        assert trainer.rates == pytest.approx([0.05, 0.1])
        trainer.lr_scheduler.step()
        assert trainer.rates == pytest.approx([0.05, 0.1])  # the schedule goes on from there
        for _ in range(3):
            trainer.step(rule, 3.0)
        assert trainer.rates == pytest.approx([0.025, 0.05])

    def test_a_loss_that_falls_keeps_them(self):
        trainer, rule = FakeTrainer(), PlateauRule(patience=3)
        rule.attach(trainer)
        for step in range(20):
            trainer.step(rule, 5 * 0.99**step)
        assert trainer.rates == [0.1, 0.2]

    def test_other_logs_say_nothing(self):
        trainer, rule = FakeTrainer(), PlateauRule(patience=1)
        rule.attach(trainer)
        for _ in range(5):
            trainer.state.global_step += 1
            rule.on_log(None, trainer.state, trainer.control, logs={"eval_loss": 1.0})
        assert trainer.rates == [0.1, 0.2]


class TestSpike:
    def start(self) -> tuple[FakeTrainer, SpikeRule]:
        trainer, rule = FakeTrainer(), SpikeRule(ratio=3.0, every=2, least=2)
        rule.attach(trainer)
        rule.on_train_begin(trainer.args, trainer.state, trainer.control)
        return trainer, rule

    @pytest.mark.parametrize("loss", [10.0, math.nan, math.inf])
    def test_weights_and_optimizer_go_back(self, loss):
        trainer, rule = self.start()
        seen = {}
        for step in range(1, 6):
            trainer.step(rule, 1.0)
            moments = trainer.optimizer.state[trainer.weight]
            seen[step] = (trainer.weight.item(), moments["exp_avg"].item(), moments["step"].item())
        trainer.step(rule, loss, gradient=100.0)
        back = trainer.state.log_history[-1]["rollback_to_step"]
        assert back == 4  # states are kept at every second step, and that of step 4 was seen to be good
        moments = trainer.optimizer.state[trainer.weight]
        assert (trainer.weight.item(), moments["exp_avg"].item(), moments["step"].item()) == seen[back]
        assert trainer.weight.grad is None
        assert trainer.rates == pytest.approx([0.05, 0.1])
        assert not trainer.control.should_training_stop

    def test_going_back_does_not_change_the_state_gone_back_to(self):
        trainer, rule = self.start()
        for _ in range(4):
            trainer.step(rule, 1.0)
        found = []
        for _ in range(2):
            trainer.step(rule, 100.0)
            found.append(trainer.weight.item())
        assert found[0] == found[1]

    def test_a_falling_loss_is_no_spike(self):
        trainer, rule = self.start()
        for loss in (9, 6, 4, 2.5, 2, 3, 5):
            trainer.step(rule, loss)
        assert trainer.rollback.count == 0

    def test_too_many_spikes_stop_training(self):
        trainer, rule = self.start()
        for loss in (1, 1, 1, 1, 50, 50):
            trainer.step(rule, loss)
            assert not trainer.control.should_training_stop
        trainer.step(rule, 50)
        assert trainer.control.should_training_stop
        assert trainer.rollback.count == 2

    def test_without_a_state_training_stops(self):
        trainer = FakeTrainer()
        assert not request_rollback(trainer, "no reason")
        assert trainer.control.should_training_stop


def test_a_rule_goes_on_where_a_checkpoint_left_it():
    for rule, attributes in (
        (PlateauRule(7, 0.3), {"best": 1.5, "since": 4}),
        (SpikeRule(2.0, 10, least=3), {"losses": [1.0, 2.0]}),
    ):
        for name, value in attributes.items():
            setattr(rule, name, value)
        state = rule.state()
        again = type(rule)(**state["args"])
        for name, value in state["attributes"].items():
            setattr(again, name, value)
        assert {**vars(again), "trainer": None} == {**vars(rule), "trainer": None}


def test_states_are_given_back_to_rules_of_the_same_class_in_order():
    plateau, first, second = PlateauRule(7), SpikeRule(2.0, 10), SpikeRule(3.0, 5)
    old = [SpikeRule(9.0, 1).state(), SpikeRule(9.0, 1).state()]
    new = [{"attributes": {"losses": [float(number)]}} for number in (1, 2)]
    remember(
        [plateau, first, TrainerCallback(), second],
        {"SpikeRule": old + new, "PlateauRule": {"args": {"patience": 99}, "attributes": {"best": 1.5, "since": 4}}},
    )
    assert (first.losses, second.losses, first.ratio, second.ratio) == ([1.0], [2.0], 2.0, 3.0)
    assert (plateau.patience, plateau.best, plateau.since) == (7, 1.5, 4)


def test_resuming_amid_a_plateau_and_a_spike_is_exact(tmp_path):
    """A run is cut off where its weights have blown up, but no loss has shown it yet: what it goes back to, and when
    rates fall, is as without the interruption."""

    class Explosion(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 6:
                with torch.no_grad():
                    model.lm_head.weight.mul_(20)

    options = {
        "spike_ratio": 1.5,
        "snapshot_steps": 2,
        "plateau_steps": 3,
        "learning_rate": 1e-6,
        "lr_scheduler_type": "constant",
        "save_strategy": "steps",
        "save_steps": 6,
    }
    found = {}
    for name, steps in (("whole", 9), ("cut", 6), ("cut", 9)):
        model = make_model("qwen3_vl")
        trainer = make_trainer(model, "qwen3_vl", tmp_path / name, callbacks=[Explosion()], max_steps=steps, **options)
        trainer.train(resume_from_checkpoint="auto")
        found[name] = losses(trainer), losses(trainer, "lr/allocator"), weights(model)
        back = [entry["rollback_to_step"] for entry in trainer.state.log_history if "rollback" in entry]
    assert back == [4] and trainer.rollback.count == 1
    assert found["cut"][:2] == found["whole"][:2]
    assert len(set(found["whole"][1])) > 2  # lowered by the spike, and by a plateau that began before the interruption
    assert moved(model, found["whole"][2]) == set()


def test_patience_of_early_stopping_goes_on(tmp_path):
    """Evaluations without progress before an interruption count."""
    options = {
        "learning_rate": 0.0,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
        "metric_for_best_model": "loss",
        "greater_is_better": False,
        "lr_scheduler_type": "constant",
    }
    for steps, last in ((2, 2), (6, 3)):
        stopping = EarlyStoppingCallback(early_stopping_patience=2)
        trainer = make_trainer(
            make_model("qwen3_vl"), "qwen3_vl", tmp_path, callbacks=[stopping], max_steps=steps, **options
        )
        trainer.train(resume_from_checkpoint="auto")
        assert trainer.state.global_step == last


def test_components_learn_in_turn(tmp_path):
    """Turns are counted in optimizer steps, and the gradients of components that rest are not computed."""

    class Watching(TrainerCallback):
        def __init__(self):
            self.learned, self.gradients = [], []

        def on_step_begin(self, args, state, control, model, **kwargs):
            self.before = weights(model)

        def on_pre_optimizer_step(self, args, state, control, model, **kwargs):
            self.gradients.append({c for c, _, p in named_components(model) if p.grad is not None})

        def on_step_end(self, args, state, control, model, **kwargs):
            changed = moved(model, self.before)
            self.learned.append({c for c, name, _ in named_components(model) if name in changed})

    model, watching = make_model("qwen3_vl"), Watching()
    for component, _, parameter in named_components(model):
        parameter.requires_grad_(component != "vision")
    block = {"allocator", "compressor", "adapter"}
    cycle = [block, {"bridge"}, block | {"bridge", "llm"}]
    trainer = make_trainer(
        model,
        "qwen3_vl",
        tmp_path,
        callbacks=[watching],
        update_cycle=[sorted(components) for components in cycle],
        gradient_accumulation_steps=2,
        max_steps=4,
        per_device_train_batch_size=1,
        lr_scheduler_type="constant",
        loss_weights={"alignment": 1.0},
    )
    trainer.train()
    assert watching.learned == watching.gradients == [*cycle, cycle[0]]
    assert {c for c, _, p in named_components(model) if p.requires_grad} == block | {"bridge", "llm"}


@pytest.mark.parametrize(
    ("cycle", "message"),
    [
        ([["allocator"], ["adapter"]], "never names bridge, compressor, llm, vision"),
        ([["lora"], ["allocator", "compressor", "adapter", "bridge", "vision", "llm"]], "in which nothing is trained"),
    ],
)
def test_cycles_that_make_no_sense_are_refused(cycle, message, tmp_path):
    trainer = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, update_cycle=cycle)
    with pytest.raises(ValueError, match=message):
        trainer.train()


def test_training_recovers_from_an_explosion(tmp_path):
    """Weights blown up in mid-training are set back, rates lowered, and the loss goes on from where it was."""

    class Explosion(TrainerCallback):
        def on_step_end(self, args, state, control, model, **kwargs):
            if state.global_step == 6:
                with torch.no_grad():
                    model.lm_head.weight.mul_(20)

    trainer = make_trainer(
        make_model("qwen3_vl"),
        "qwen3_vl",
        tmp_path,
        callbacks=[Explosion()],
        spike_ratio=1.5,
        snapshot_steps=1,
        max_steps=9,
        lr_scheduler_type="constant",
    )
    trainer.train()
    found = losses(trainer)
    assert trainer.rollback.count == 1
    assert [entry["rollback_to_step"] for entry in trainer.state.log_history if "rollback" in entry] == [5]
    assert found[6] > 1.5 * found[5]
    assert max(found[7:]) < 1.2 * found[5]
    rates = losses(trainer, "lr/allocator")
    assert rates[-1] == pytest.approx(rates[0] / 2)
