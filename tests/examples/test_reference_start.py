"""Training of the reference that goes on from a checkpoint, with some of the stages."""

import pytest
import torch
from reference.loop import Trainer
from reference.model import HOSTS
from reference.plan import Plan, Reference
from reference.presets import PRESETS, STAGES
from train_reference import load_checkpoint, save_checkpoint


def reference_of(preset, host="qwen3_vl", seed=0):
    torch.manual_seed(seed)
    return Reference(preset.model, host)


@pytest.mark.parametrize("host", HOSTS)
def test_it_takes_the_weights_of_a_checkpoint(preset, tmp_path, host):
    trained, reference = reference_of(preset, host), reference_of(preset, host, seed=1)
    save_checkpoint(trained, tmp_path / "checkpoint", 512)
    load_checkpoint(reference, str(tmp_path / "checkpoint"))
    found = reference.model.state_dict()
    for name, weights in trained.model.state_dict().items():
        assert found[name].dtype == torch.float32
        assert torch.equal(found[name], weights.to(torch.bfloat16).float()), name


def test_a_checkpoint_with_other_weights_is_refused(preset, tmp_path):
    save_checkpoint(reference_of(preset, "qwen2_5_vl"), tmp_path / "checkpoint", 512)
    with pytest.raises(ValueError, match="checkpoint has other weights than the preset's model"):
        load_checkpoint(reference_of(preset), str(tmp_path / "checkpoint"))


def test_stages_are_chosen_by_name_and_keep_their_order(root, preset):
    plan = Plan(preset, root, reference_of(preset))
    assert tuple(stage.name for stage in plan.stages()) == STAGES
    assert [stage.name for stage in plan.stages(["together", "enlarged"])] == ["enlarged", "together"]


def test_only_what_the_stages_need_is_drawn():
    preset = PRESETS["cpu"]
    every = preset.drawings()
    assert {preset.pages, preset.validation, preset.heldout, *preset.large_pages} <= set(every)
    assert {*preset.print, *preset.small_print} < set(every) and len(set(every)) == len(every)
    assert set(every) - set(preset.drawings(["together"])) == set(preset.small_print)
    assert set(every) - set(preset.drawings(["enlarged"])) == set(preset.small_print)
    assert set(every) - set(preset.drawings(["looking again"])) == set(preset.print)


def test_a_reader_that_is_not_trained_learns_before_the_tower(root, preset, tmp_path):
    reference = reference_of(preset)
    plan = Plan(preset, root, reference)
    assert [stage.name for stage in plan.stages(["budgets"], has_reader=False)] == ["budgets"]
    assert [stage.name for stage in plan.stages(["budgets", "together"], has_reader=False)][0] == "reader"
    stages = plan.stages(["enlarged", "together"], has_reader=False)
    assert [(stage.name, stage.steps) for stage in stages[:2]] == [("reader", preset.reader), ("enlarged", 4)]
    before = {name: weights.clone() for name, weights in reference.state_dict().items()}
    Trainer(reference, stages[:1], tmp_path).run(stop_after=0)  # a single step
    moved = {name for name, weights in reference.state_dict().items() if not torch.equal(weights, before[name])}
    assert moved and all(name.startswith("reader.") for name in moved)
