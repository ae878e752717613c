"""The progress bar: what it shows, and what it counts."""

import re

import pytest
from transformers import ProgressCallback

from arrcoc.training.progress import TrainingProgress
from tests.training.conftest import make_model, make_rows, make_trainer


def logged(trainer, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def run(tmp_path, capsys, rows=None, **options):
    options = {"disable_tqdm": False, "callbacks": [TrainingProgress()]} | options
    trainer = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, rows, **options)
    capsys.readouterr()
    trainer.train()
    return trainer, capsys.readouterr().err


def test_what_is_shown(tmp_path, capsys):
    """Six tokens an image, two images a batch, two batches a step; once with the evaluation's result."""
    options = {"max_steps": 3, "gradient_accumulation_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    trainer, shown = run(tmp_path, capsys, **options)
    assert [type(c) for c in trainer.callback_handler.callbacks if isinstance(c, ProgressCallback)] == [
        TrainingProgress
    ]
    assert "3/3" in shown and re.search(r"loss [\d.]+, 6 tokens/image, [\d.]+ images/s", shown)
    assert logged(trainer, "speed/tokens_per_image") == [6.0] * 3
    rates = logged(trainer, "speed/images_per_second")
    assert len(rates) == 3 and min(rates) > 0
    assert max(4 / rate for rate in rates) < logged(trainer, "train_runtime")[0]
    assert len(logged(trainer, "loss")) == 3


def test_it_may_be_added_later(tmp_path, capsys):
    trainer = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, disable_tqdm=False)
    trainer.add_callback(TrainingProgress())
    assert [type(c) for c in trainer.callback_handler.callbacks if isinstance(c, ProgressCallback)] == [
        TrainingProgress
    ]
    trainer.train()
    assert "2/2" in capsys.readouterr().err


def test_text_alone(tmp_path, capsys):
    trainer, shown = run(tmp_path, capsys, make_rows("qwen3_vl", 4, text_only=(0, 1, 2, 3)))
    assert re.search(r"loss [\d.]+\]", shown) and "tokens/image" not in shown
    assert logged(trainer, "speed/tokens_per_image") == []


def test_a_bar_that_is_not_wanted(tmp_path, capsys):
    trainer, shown = run(tmp_path, capsys, disable_tqdm=True)
    assert "steps" not in shown and logged(trainer, "speed/tokens_per_image") == [6.0] * 2


def test_a_bar_without_its_trainer():
    with pytest.raises(ValueError, match="belongs to no trainer"):
        TrainingProgress().on_train_begin(None, None, None)
