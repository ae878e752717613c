"""Evaluation: the same figures in batches of any size, and rows that several processes repeat count once."""

import copy
from typing import Any

import pytest
import torch

from arrcoc.training.data import RowDataset
from arrcoc.training.losses import count_items, rows_of_images
from tests.training.conftest import make_model, make_rows, make_trainer


def uneven_rows(host: str) -> list[Any]:
    """Five rows that differ in the length of the answer, in whether evidence is known, and in having an image."""
    rows = [copy.copy(row) for row in make_rows(host, count=5, text_only=(3,))]
    object.__setattr__(rows[0], "answers", ("a rather longer answer than others",))
    object.__setattr__(rows[1], "evidence", None)
    return rows


def measured(trainer: Any, rows: list[Any]) -> dict[str, float]:
    found = trainer.evaluate(RowDataset(rows))
    return {name: value for name, value in found.items() if name.split("_")[-1] not in ("runtime", "second", "time")}


@pytest.mark.parametrize("normalization", ["token", "sample"])
def test_batches_of_any_size(host, normalization, tmp_path):
    """No loss is a mean of means: what it is divided by differs from batch to batch."""
    rows, found = uneven_rows(host), []
    trainer = make_trainer(
        make_model(host),
        host,
        tmp_path,
        rows,
        answer_normalization=normalization,
        loss_weights={"answer": 0.5, "alignment": 2.0},
    )
    for size in (1, 2, 5):
        trainer.args.per_device_eval_batch_size = size
        found.append(measured(trainer, rows))
    assert {"eval_loss/answer", "eval_loss/alignment", "eval_evidence_coverage", "eval_exact"} <= found[0].keys()
    for other in found[1:]:
        assert other == pytest.approx(found[0], rel=1e-4, abs=1e-5)
    expected = 0.5 * found[0]["eval_loss/answer"] + 2 * found[0]["eval_loss/alignment"]
    assert found[0]["eval_loss"] == pytest.approx(expected)


def test_repeated_rows_count_once(tmp_path, monkeypatch):
    """As in the last batch of several processes: its rows from some number on repeat others."""
    rows = uneven_rows("qwen3_vl")
    trainer = make_trainer(
        make_model("qwen3_vl"), "qwen3_vl", tmp_path, rows, loss_weights={"alignment": 1.0, "balance": 0.1}
    )
    expected = [measured(trainer, rows[:3]), measured(trainer, [rows[2]])]
    trainer.args.per_device_eval_batch_size = 4
    monkeypatch.setattr(trainer, "_own_rows", lambda count: 3)
    found = measured(trainer, rows[:3] + rows[:1])
    without = {"eval_loss", "eval_loss/balance"}  # a loss of whole batches sees all that is in them
    assert {name: value for name, value in found.items() if name not in without} == pytest.approx(
        {name: value for name, value in expected[0].items() if name not in without}, rel=1e-4, abs=1e-5
    )
    monkeypatch.setattr(trainer, "_own_rows", lambda count: 0)
    assert "eval_loss/answer" not in measured(trainer, rows[:2])
    assert "eval_loss/answer" in expected[1]


@pytest.mark.parametrize(
    ("processes", "remainder", "own"),
    [(2, 3, [2, 1]), (2, 1, [1, 0]), (3, 2, [2, 0, 0]), (2, 0, [2, 2]), (2, -1, [2, 2]), (1, 1, [2])],
)
def test_which_rows_are_repeated(processes, remainder, own, tmp_path, monkeypatch):
    """The rows that are left for the last step of all processes go to the first ones; others repeat rows."""

    class State:
        end_of_dataloader = True

    State.remainder = remainder  # type: ignore[attr-defined]
    trainer = make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path)
    monkeypatch.setattr(type(trainer.args), "world_size", processes)
    monkeypatch.setattr(trainer.accelerator, "gradient_state", State())
    found = []
    for process in range(processes):
        monkeypatch.setattr(type(trainer.args), "process_index", process)
        found.append(trainer._own_rows(2))
    assert found == own
    State.end_of_dataloader = False
    assert trainer._own_rows(2) == 2


def test_rows_of_images():
    is_placeholder = torch.tensor([[0, 1, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0], [0, 0, 0, 1]]).bool()
    assert rows_of_images(is_placeholder, torch.tensor([2, 1, 2, 1])).tolist() == [0, 2, 2, 3]
    assert rows_of_images(is_placeholder[1:2], torch.zeros(0, dtype=torch.long)).tolist() == []


def test_count_items():
    labels = torch.tensor([[5, -100, 3, 4], [7, -100, -100, -100], [-100, -100, 1, -100]])
    assert count_items(labels) == 3  # the first token of a row is never predicted
    assert count_items(labels, "sample") == 2
