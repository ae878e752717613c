"""Phases: what they train, their gates, and running them one after another."""

import dataclasses
import json

import pytest
import torch
from transformers import TrainerCallback

from arrcoc.training import PHASES, Gate, Phase, apply_phase, run_phases
from arrcoc.training.arguments import ArrCocTrainingArguments
from arrcoc.training.components import named_components
from arrcoc.training.phases import Lora
from arrcoc.training.runs import GateError, load_trained, read_result, run_phase
from tests.training.conftest import QUIET, make_model, make_rows, make_trainer, moved, weights


# peft 0.21 asks for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

BLOCK = {"allocator", "compressor", "adapter"}


def trained(model) -> set[str]:
    return {component for component, _, parameter in named_components(model) if parameter.requires_grad}


class TestGate:
    START = {"eval_loss": 2.0}

    @pytest.mark.parametrize(
        ("gate", "value", "passes"),
        [
            (Gate("loss", 1.0), 1.0, True),
            (Gate("loss", 1.0), 1.1, False),
            (Gate("loss", 1.0, "at_least"), 1.1, True),
            (Gate("loss", 1.0, relative=True), 1.9, True),
            (Gate("loss", 0.9, relative=True), 1.9, False),
            (Gate("loss", 1.0), float("nan"), False),
            (Gate("loss", 0.0, "at_least"), float("inf"), False),
        ],
    )
    def test_passes(self, gate, value, passes):
        assert gate.passes({"eval_loss": value}, self.START) is passes

    def test_what_is_not_measured_is_named(self):
        with pytest.raises(KeyError, match="does not measure 'exact'"):
            Gate("exact", 1.0).passes({"eval_loss": 1.0}, {})
        with pytest.raises(ValueError, match="'below'"):
            Gate("loss", 1.0, "below")


class TestDescriptions:
    def test_the_phases_that_are_known(self):
        assert {"phase0", "phase1", "phase2", "phase3", "phase1_vision", "phase2_language"} <= PHASES.keys()
        rates = ArrCocTrainingArguments("out", **QUIET, **PHASES["phase3"].arguments())
        assert [rates.rate(name) for name in ("allocator", "bridge", "lora")] == pytest.approx([1e-4, 1e-5, 1e-4])
        assert PHASES["phase1"].arguments()["learning_rate"] == 1e-3  # little that learns on a frozen host
        cycle = PHASES["phase2"].arguments()["update_cycle"]
        assert [set(components) for components in cycle] == [BLOCK, {"bridge"}, BLOCK, BLOCK | {"bridge"}]

    @pytest.mark.parametrize("name", PHASES)
    def test_all_are_valid_arguments(self, name):
        ArrCocTrainingArguments("out", **QUIET, **PHASES[name].arguments())

    def test_changes(self):
        phase = Phase.from_dict(
            {
                "name": "short",
                "like": "phase3",
                "steps": 7,
                "lora": {"r": 4},
                "gate": {"threshold": 0.9},
                "budgets": [64, 0.5],
                "budget_shares": [1, 2],
            }
        )
        assert (phase.name, phase.steps, phase.trains) == ("short", 7, PHASES["phase3"].trains)
        assert phase.lora == Lora(r=4)
        assert phase.gate == Gate("loss/answer", 0.9, relative=True)
        assert phase.budgets == (64, 0.5)

    def test_a_phase_of_ones_own(self):
        phase = Phase.from_dict({"name": "mine", "trains": ["adapter"], "steps": 3})
        assert phase == Phase("mine", ("adapter",), 3)

    @pytest.mark.parametrize(
        ("description", "message"),
        [
            ({"name": "phase1", "step": 3}, "no 'step'"),
            ({"name": "phase7"}, "no phase 'phase7'"),
            ({"name": "x", "like": "phase7"}, "no phase 'phase7'"),
            ({"steps": 3}, "without a name"),
            ({"name": "phase1", "trains": ["head"]}, "trains \\['head'\\]"),
            ({"name": "phase1", "lora": {"rank": 3}}, "rank"),
            ({"name": "phase1", "trains": ["lora"]}, "neither"),
        ],
        ids=str,
    )
    def test_what_is_no_phase_is_refused(self, description, message):
        with pytest.raises(ValueError, match=message):
            Phase.from_dict(description)


class TestApply:
    @pytest.mark.parametrize("name", ["phase0", "phase1", "phase2"])
    def test_frozen_and_trained(self, host, stage, name):
        model = make_model(host, stage)
        assert apply_phase(model, PHASES[name]) is model
        assert trained(model) == set(PHASES[name].trains)

    def test_last_vision_blocks(self, host):
        model = apply_phase(make_model(host), PHASES["phase1_vision"])
        names = {name for name, p in model.named_parameters() if p.requires_grad and "visual.blocks" in name}
        assert {name.split("visual.blocks.")[1].split(".")[0] for name in names} == {"2", "3"}

    def test_last_language_layers(self, host):
        phase = Phase("last", ("llm", "adapter"), 1, llm_layers=1)
        model = apply_phase(make_model(host), phase)
        names = {name for name, p in model.named_parameters() if p.requires_grad and "language_model" in name}
        assert {name.split(".layers.")[1].split(".")[0] for name in names} == {"2"}
        assert not model.lm_head.weight.requires_grad

    def test_lora(self, host, stage):
        """LoRA on the attention of the language model; block and bridge learn as copies, so that peft saves them."""
        model = apply_phase(make_model(host, stage), PHASES["phase3"])
        assert trained(model) == BLOCK | {"bridge", "lora"}
        learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        assert all("lora_" in name or ".modules_to_save.default." in name for name in learning)
        adapted = [name for name in learning if "lora_" in name]
        assert len(adapted) == 2 * 4 * model.config.text_config.num_hidden_layers
        assert all(".language_model.layers." in name and ".self_attn." in name for name in adapted)

    def test_a_phase_after_lora_has_it_merged(self, host):
        model = apply_phase(make_model(host), PHASES["phase3"])
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.add_(0.1)
        changed = apply_phase(model, PHASES["phase1"])
        assert not hasattr(changed, "peft_config")
        assert trained(changed) == BLOCK
        assert any(".self_attn.q_proj.weight" in name for name in moved(changed, weights(make_model(host))))

    def test_nothing_to_train(self):
        model = make_model("qwen3_vl")
        model.model.arrcoc = None
        with pytest.raises(ValueError, match="of which the model has no parameters"):
            apply_phase(model, PHASES["phase1"])


STEPS = {"max_steps": 2, "per_device_eval_batch_size": 4}
FIRST = Phase("first", ("allocator",), 2, loss_weights={"answer": 0.0, "alignment": 1.0})
SECOND = Phase(
    "second", ("adapter", "lora"), 2, lora=Lora(r=2, dropout=0.0), gate=Gate("loss/answer", 2.0, relative=True)
)


def runner(host: str, callbacks=(), **options):
    """Makes the trainers of phases; `callbacks` are those of every phase."""
    rows = make_rows(host)

    def make(model, phase, folder):
        arguments = phase.arguments() | {"save_strategy": "steps", "save_steps": 1, "lr_scheduler_type": "constant"}
        return make_trainer(model, host, folder, rows, callbacks=list(callbacks), **{**arguments, **options})

    return make


def test_phases_run_in_turn_and_once(host, tmp_path):
    """Each trains what it says; run again, nothing is trained and the model is the same."""
    model = make_model(host)
    before = weights(model)
    after, results = run_phases(model, [FIRST, SECOND], runner(host), tmp_path)
    assert [result.name for result in results] == ["first", "second"]
    assert all(result.passed for result in results)
    moved_parts = {
        component
        for component, name, parameter in named_components(after)
        if "original_module" not in name and "lora_" not in name and not parameter.equal(before[plain(name)])
    }
    assert moved_parts == {"allocator", "adapter"}

    def never(*_):
        raise AssertionError("a phase that is done was run again")

    again, same = run_phases(make_model(host), [FIRST, SECOND], never, tmp_path)
    assert same == results
    assert moved(again, weights(after)) == set()


def plain(name: str) -> str:
    return name.removeprefix("base_model.model.").replace("modules_to_save.default.", "").replace("base_layer.", "")


def test_a_gate_that_is_not_passed_ends_the_run(tmp_path):
    gated = dataclasses.replace(FIRST, gate=Gate("loss", -1.0))
    made = []

    def make(model, phase, folder):
        made.append(phase.name)
        return runner("qwen3_vl")(model, phase, folder)

    for _ in range(2):  # also when the same command is given again
        with pytest.raises(GateError, match="phase 'first' ended with loss = .* which does not pass its gate"):
            run_phases(make_model("qwen3_vl"), [gated, SECOND], make, tmp_path)
    assert made == ["first"]
    assert read_result(tmp_path / "second") is None


def test_a_trial_is_taken_back(host, tmp_path):
    """What a phase that keeps nothing has trained is gone, with its LoRA."""
    model = make_model(host)
    before = weights(model)
    for trial in (FIRST, SECOND):
        trial = dataclasses.replace(trial, keeps=False)
        model, results = run_phases(model, [trial], runner(host), tmp_path)
        assert results[0].passed
        assert not hasattr(model, "peft_config")
        assert {name for name, _ in model.named_parameters()} == set(before)
        assert moved(model, before) == set()


def test_a_run_that_was_cut_off_goes_on(host, tmp_path):
    """Stopped in the second phase, the same call ends with the weights of a run that was not."""

    class Cut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if "second" in args.output_dir and state.global_step == 2:
                raise KeyboardInterrupt

    whole, _ = run_phases(make_model(host), [FIRST, SECOND], runner(host), tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run_phases(make_model(host), [FIRST, SECOND], runner(host, [Cut()]), tmp_path / "cut")
    assert read_result(tmp_path / "cut" / "first").passed
    resumed, results = run_phases(make_model(host), [FIRST, SECOND], runner(host), tmp_path / "cut")
    assert moved(resumed, weights(whole)) == set()
    start = json.loads((tmp_path / "cut" / "second" / "start.json").read_text())
    assert results[1].start == start


def test_the_evaluation_before_a_phase_changes_nothing_in_it(tmp_path):
    """Whether it was evaluated or read from its file, data and noise are the same; it must be of its beginning."""
    found, phase = [], dataclasses.replace(SECOND, lora=Lora(r=2, dropout=0.5))
    for again in (False, True):
        model = apply_phase(make_model("qwen3_vl"), phase)
        trainer = runner("qwen3_vl")(model, phase, tmp_path / f"run{again}")
        if again:
            (tmp_path / "runTrue").mkdir(exist_ok=True)
            (tmp_path / "runTrue" / "start.json").write_text((tmp_path / "runFalse" / "start.json").read_text())
        result = run_phase(trainer, phase, tmp_path / f"run{again}")
        found.append((result, weights(model)))
    assert found[0][0].start == found[1][0].start and found[0][0].start["eval_loss/answer"] > 0
    assert moved(model, found[0][1]) == set()
    (tmp_path / "runTrue" / "start.json").unlink()
    trainer = runner("qwen3_vl")(apply_phase(make_model("qwen3_vl"), phase), phase, tmp_path / "runTrue")
    with pytest.raises(GateError, match="the gate compares with .*start.json, which is missing"):
        run_phase(trainer, phase, tmp_path / "runTrue")


def test_weights_of_another_model_are_refused(tmp_path):
    run_phases(make_model("qwen3_vl"), [FIRST], runner("qwen3_vl"), tmp_path)
    with pytest.raises(ValueError, match="weights that the model does not have"):
        load_trained(make_model("qwen3_vl", scout_dim=16, relevance="free"), tmp_path / "first")
