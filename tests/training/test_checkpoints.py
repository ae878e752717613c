"""Checkpoints: written whole or not at all, the best and the last kept, and plain words where one cannot be used."""

import json
import re
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from transformers import Trainer, TrainingArguments

from arrcoc.training import checkpoints as module
from arrcoc.training.checkpoints import (
    CheckpointError,
    CheckpointMixin,
    abandon_newer,
    check_checkpoint,
    checkpoint_steps,
    last_complete_checkpoint,
    surplus_checkpoints,
    tidy,
)


DIM = 96


class Line(nn.Module):
    """The smallest model that the Trainer takes, with something random in it."""

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = nn.Linear(DIM, DIM), nn.Dropout(0.5)

    def forward(self, x, labels):
        return {"loss": (self.dropout(self.linear(x)) - labels).square().mean()}


class CheckpointedTrainer(CheckpointMixin, Trainer):
    pass


def data(rows: int = 12) -> list[dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [{name: torch.randn(DIM, generator=generator) for name in ("x", "labels")} for _ in range(rows)]


def trainer(folder: Path, **options) -> CheckpointedTrainer:
    torch.manual_seed(0)
    options = {"save_steps": 2, "max_steps": 8, "learning_rate": 1e-2} | options
    arguments = TrainingArguments(
        str(folder),
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        logging_steps=1,
        per_device_train_batch_size=4,
        **options,
    )
    return CheckpointedTrainer(Line(), arguments, train_dataset=data(), eval_dataset=data())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def losses(run: Trainer) -> dict[int, float]:
    return {entry["step"]: entry["loss"] for entry in run.state.log_history if "loss" in entry}


@pytest.mark.parametrize("interruption", [3, 4, 6])
def test_resumed_training_is_uninterrupted_training(tmp_path, interruption):
    """Data order and dropout included, within an epoch (of three steps), at its end, and in another epoch."""
    whole = trainer(tmp_path / "whole")
    whole.train("auto")
    cut = trainer(tmp_path / "cut", save_steps=interruption)
    cut.train("auto")
    for step, path in checkpoint_steps(tmp_path / "cut").items():
        if step > interruption:
            module.delete(path)
    resumed = trainer(tmp_path / "cut")
    resumed.train("auto")
    assert resumed._initial_global_step == interruption
    assert losses(resumed) == losses(whole)
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True))


class Changing(list):
    """Data that are other ones in each epoch."""

    epoch = 0

    def set_epoch(self, epoch):
        self.epoch = epoch

    def __getitem__(self, index):
        return {name: values + self.epoch for name, values in super().__getitem__(index).items()}


@pytest.mark.parametrize("interruption", [3, 4])
def test_the_data_know_their_epoch(tmp_path, interruption):
    """Also where an epoch, of three steps, is resumed from its middle."""
    found = []
    for steps in (8, interruption, 8):
        run = trainer(tmp_path / str(min(len(found), 1)), save_steps=interruption, max_steps=steps)
        run.train_dataset = Changing(data())
        run.args.lr_scheduler_type = "constant"
        run.train("auto")
        found.append(losses(run))
    assert found[2] == found[0] and run._initial_global_step == interruption


@pytest.mark.parametrize(
    ("steps", "scores", "options", "surplus"),
    [
        ([], {}, {}, []),
        ([1, 2], {1: 1.0, 2: 2.0}, {}, []),
        ([1, 2, 3, 4, 5], {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.9}, {}, [2]),  # the last is the worst, but kept
        ([1, 2, 3, 4, 5], {1: 0.1, 2: 0.5, 3: 0.2, 4: 0.3, 5: 0.9}, {"greater_is_better": True}, [1, 3]),
        ([1, 2, 3, 4, 5, 6], {}, {}, [1, 2, 3]),  # without scores the newest
        ([1, 2, 3, 4, 5, 6], {1: float("nan"), 2: 1.0}, {}, [1, 3, 4]),
        ([5, 6, 7, 8, 9], dict.fromkeys(range(10), 1.0), {}, [8]),  # of equals the first
    ],
)
def test_surplus(steps, scores, options, surplus):
    assert surplus_checkpoints(steps, scores, 3, **options) == surplus


def test_the_best_and_the_last_are_kept(tmp_path, monkeypatch):
    scores = dict(zip(range(1, 9), [5.0, 1.0, 6.0, 2.0, 7.0, 8.0, 3.0, 9.0], strict=True))
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_steps": 1, "save_total_limit": 3}
    run = trainer(tmp_path, **options, metric_for_best_model="score", greater_is_better=False)
    monkeypatch.setattr(run, "evaluate", lambda **kwargs: scored(run, scores[run.state.global_step]))
    run.train()
    assert list(checkpoint_steps(tmp_path)) == [2, 4, 7, 8]
    for step, folder in checkpoint_steps(tmp_path).items():
        state = json.loads((folder / "trainer_state.json").read_text())
        assert state["global_step"] == step
        assert state["best_model_checkpoint"] == str(tmp_path / "checkpoint-2")
        assert state["best_metric"] == 1.0
    assert not [name for name in names(tmp_path) if not name.startswith("checkpoint-")]


def scored(run: Trainer, score: float) -> dict[str, float]:
    run.log({"eval_score": score})
    return {"eval_score": score}


def test_the_best_model_is_loaded_at_the_end(tmp_path, monkeypatch):
    run = trainer(
        tmp_path,
        eval_strategy="steps",
        eval_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="score",
        greater_is_better=True,
    )
    monkeypatch.setattr(run, "evaluate", lambda **kwargs: scored(run, -abs(run.state.global_step - 4)))
    run.train()
    best = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert run.state.best_model_checkpoint == str(tmp_path / "checkpoint-4")
    assert torch.equal(run.model.linear.weight, best["linear.weight"])


@contextmanager
def files_of_at_most(size: int):
    """As on a full disk, writing fails with an error of the system."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("limit", [DIM * DIM * 2, DIM * DIM * 5], ids=["weights", "optimizer"])
def test_a_failed_write_leaves_the_last_checkpoint(tmp_path, limit):
    trainer(tmp_path, max_steps=2).train()
    run = trainer(tmp_path, max_steps=4)
    with files_of_at_most(limit), pytest.raises(CheckpointError) as failure:
        run.train("auto")
    message = str(failure.value)
    assert "checkpoint-4 could not be written" in message and "step 2 is left" in message
    assert re.search(r"\([\d.]+ GiB free on that disk\)", message)
    assert names(tmp_path) == ["checkpoint-2"]
    check_checkpoint(tmp_path / "checkpoint-2")

    again = trainer(tmp_path, max_steps=4)
    again.train("auto")
    assert list(losses(again)) == [1, 2, 3, 4] and list(checkpoint_steps(tmp_path)) == [2, 4]


def test_a_failed_first_write(tmp_path):
    with files_of_at_most(1000), pytest.raises(CheckpointError, match="there is none to go on from"):
        trainer(tmp_path).train()


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"])
def test_an_unreadable_checkpoint(tmp_path, name):
    """A run goes back to the one before, and says so; asked for by name it is an error."""
    trainer(tmp_path, max_steps=4).train()
    truncate(tmp_path / "checkpoint-4" / name)
    with pytest.raises(CheckpointError, match=f"checkpoint-4 cannot be read: {name}: "):
        trainer(tmp_path).train(tmp_path / "checkpoint-4")
    run = trainer(tmp_path, max_steps=4)
    with pytest.warns(UserWarning, match=f"checkpoint-4 cannot be read: {name}.*going back to .*checkpoint-2$"):
        run.train("auto")
    assert list(losses(run)) == [1, 2, 3, 4] and names(tmp_path) == ["checkpoint-2", "checkpoint-4"]
    check_checkpoint(tmp_path / "checkpoint-4")


def test_none_is_readable(tmp_path):
    trainer(tmp_path, max_steps=4).train()
    for folder in checkpoint_steps(tmp_path).values():
        (folder / "trainer_state.json").unlink()
    with pytest.raises(CheckpointError, match="no checkpoint of .* can be read: .*checkpoint-4 .*checkpoint-2 "):
        trainer(tmp_path).train("auto")


def test_check(tmp_path):
    with pytest.raises(CheckpointError, match="there is no checkpoint .*nowhere"):
        check_checkpoint(tmp_path / "nowhere")
    (tmp_path / "trainer_state.json").write_text('{"global_step": 3}')
    check_checkpoint(tmp_path)
    (tmp_path / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}')
    with pytest.raises(CheckpointError, match="model.safetensors.index.json: it names model-1.safetensors, which is"):
        check_checkpoint(tmp_path)
    (tmp_path / "trainer_state.json").write_text("[]")
    with pytest.raises(CheckpointError, match="expected an object with `global_step`"):
        check_checkpoint(tmp_path)


def test_no_checkpoint_yet(tmp_path):
    assert last_complete_checkpoint(tmp_path) is None
    assert last_complete_checkpoint(tmp_path / "nowhere") is None
    with pytest.raises(ValueError, match="no checkpoint to go on from"):
        trainer(tmp_path).train(True)


def test_going_back_leaves_newer_checkpoints_aside(tmp_path):
    """A run that was sent back to step 4 is not resumed from the step 8 that it had reached before."""
    trainer(tmp_path).train()
    run = trainer(tmp_path, max_steps=5)
    run.train(tmp_path / "checkpoint-4")
    assert list(checkpoint_steps(tmp_path)) == [2, 4, 5] and names(tmp_path) == [f"checkpoint-{i}" for i in (2, 4, 5)]

    abandon_newer(tmp_path, 2)
    assert names(tmp_path) == ["abandoned-checkpoint-4", "abandoned-checkpoint-5", "checkpoint-2"]


def test_tidy(tmp_path):
    """What was being written or deleted goes; what was moved out of the way comes back if nothing took its place."""
    for name in (".partial-checkpoint-6", ".deleted-checkpoint-1", ".replaced-checkpoint-2", ".replaced-checkpoint-4"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    for name in ("checkpoint-4", ".other", "runs"):
        (tmp_path / name).mkdir()
    tidy(tmp_path)
    assert names(tmp_path) == [".other", "checkpoint-2", "checkpoint-4", "runs"]
    assert (tmp_path / "checkpoint-2" / "file").read_text() == ".replaced-checkpoint-2"


def test_publish_takes_the_place_of_an_older_one(tmp_path):
    for name in ("new", "checkpoint-2"):
        (tmp_path / name / "sub").mkdir(parents=True)
        (tmp_path / name / "sub" / "file").write_text(name)
    module.publish(tmp_path / "new", tmp_path / "checkpoint-2")
    assert names(tmp_path) == ["checkpoint-2"]
    assert (tmp_path / "checkpoint-2" / "sub" / "file").read_text() == "new"
