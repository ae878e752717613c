"""The loop of the reference training: its optimizers, the mean of weights, and batches of several kinds."""

import pytest
import torch
from reference.loop import Stage, Trainer
from reference.optimizers import build_optimizers
from reference.stage_together import Together, together_step
from torch import nn


def line():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


@pytest.mark.parametrize("muon", [(), ("0", "2")])
def test_what_has_no_rate_stands_still_and_only_matrices_decay(muon):
    model = line()
    optimizers = build_optimizers(model, {"0": 1e-2, "0.bias": 1e-3}, muon)
    assert [type(optimizer).__name__ for optimizer in optimizers] == ["Muon", "AdamW"][not muon :]
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    found = {id(p): (group["peak"], group["weight_decay"] > 0) for group in groups for p in group["params"]}
    assert found == {id(model[0].weight): (1e-2, True), id(model[0].bias): (1e-3, False)}
    assert not model[1].weight.requires_grad and model[0].weight.requires_grad


@pytest.mark.parametrize("muon", [(), ("0", "1")])
def test_a_stage_ends_with_the_mean_of_its_weights(tmp_path, muon):
    """The mean is kept step by step beside the training, and resumes with it."""
    values, trace = torch.randn(8, 3), []

    def stage(model):
        def loss(batch):
            trace.append(model[0].weight.detach().clone())
            return model(batch["x"]).square().mean(), {}

        return Stage("line", 4, {"": 0.1}, lambda step: {"x": values}, loss, dict, warmup=1, muon=muon, mean=0.75)

    model = line()
    trainer = Trainer(model, [stage(model)], tmp_path / "whole", save_every=0)
    assert trainer.run()
    whole = model[0].weight.detach().clone()
    piece = line()
    pieces = Trainer(piece, [stage(piece)], tmp_path / "pieces", save_every=0)
    weights = trace[1:4]
    while not pieces.run(stop_after=0):
        pass
    torch.testing.assert_close(piece[0].weight, whole, atol=0, rtol=0)
    # The first mean is the first step's weights; the last step's are in `whole` alone and follow from it.
    mean = weights[0]
    for weight in weights[1:]:
        mean = 0.75 * mean + 0.25 * weight
    last = (whole - 0.75 * mean) / 0.25
    assert (last - weights[-1]).abs().max() > 1e-4  # it has moved
    assert 0 < (model(values).square().mean() - 0) < line()(values).square().mean()
    assert (whole - last).abs().max() > 1e-4


def test_a_state_of_other_stages_is_refused(tmp_path):
    def stage(name):
        return Stage(
            name, 2, {"": 0.1}, lambda step: {"x": torch.ones(1, 3)}, lambda batch: (model(batch["x"]).sum(), {}), dict
        )

    model = line()
    assert not Trainer(model, [stage("first"), stage("last")], tmp_path).run(stop_after=0)
    before = (tmp_path / "state.pt").read_bytes()
    with pytest.raises(ValueError, match=r"state.pt is of the stages \['first', 'last'\]; expected \['last'\]"):
        Trainer(model, [stage("last")], tmp_path).run()
    assert (tmp_path / "state.pt").read_bytes() == before


def test_matrices_of_named_parts_learn_by_muon_and_filters_do_not():
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1), nn.Conv1d(1, 1, 3, bias=False))
    muon, adamw = build_optimizers(model, {"": 1e-2}, ("0", "2"))
    assert [id(p) for group in muon.param_groups for p in group["params"]] == [id(model[0].weight)]
    others = {id(p) for p in model.parameters()} - {id(model[0].weight)}
    assert {id(p) for group in adamw.param_groups for p in group["params"]} == others


def test_batches_of_several_kinds_count_each_their_own_loss():
    losses = {
        "a": (1.0, lambda part: (part["x"].sum(), {"n": 1.0})),
        "b": (0.5, lambda part: (2 * part["y"].sum(), {"n": 2.0})),
    }
    parts = Together({"a": lambda step: {"x": torch.ones(step)}, "b": lambda step: {"y": torch.ones(3)}})
    total, metrics = together_step(losses, parts(5))
    assert total.item() == 8.0 and metrics == {"a.n": 1.0, "b.n": 2.0}
