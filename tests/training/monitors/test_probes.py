"""Samples of a monitor's own, and answers read off the model."""

import json

import pytest
import torch

from arrcoc.training.monitors import ProbeMonitor
from arrcoc.training.monitors.probes import Answers
from tests.training.monitors.conftest import make_rows


class Probe(ProbeMonitor):
    name = "probe"


def test_answers():
    """Three rows, of which the second has no answer."""
    row, label = torch.tensor([0, 0, 2, 2, 2]), torch.tensor([5, 6, 7, 8, 9])
    loss = torch.tensor([1.0, 3.0, 3.0, 6.0, 9.0])
    answers = Answers(3, row, label, torch.tensor([5, 6, 7, 0, 9]), loss)
    other = Answers(3, row, label, torch.tensor([5, 1, 7, 0, 9]), loss)
    assert answers.mean_losses()[[0, 2]].tolist() == [2.0, 6.0] and answers.mean_losses()[1].isnan()
    assert answers.right().tolist() == [True, True, False]
    assert answers.same(other).tolist() == [False, True, True]


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_answers_are_those_of_all_logits(host, make_trainer, padding_side):
    trainer = make_trainer(probe := Probe(make_rows(host, 5), batch_size=3), host=host)
    trainer.data_collator.padding_side = padding_side
    sizes = []
    for inputs, auxiliary in probe.batches():
        answers, base = probe.answers(inputs)
        with torch.no_grad():
            output = trainer.model(**{name: value for name, value in inputs.items() if name != "labels"})
        row, place = (inputs["labels"] != -100).nonzero().T
        logits = output.logits[row, place - 1]
        torch.testing.assert_close(answers.loss, -logits.log_softmax(-1)[torch.arange(len(row)), answers.label])
        assert torch.equal(answers.row, row) and torch.equal(answers.label, inputs["labels"][row, place])
        assert torch.equal(answers.token, logits.argmax(-1))
        assert base.allocation.budgets.tolist() == [8] * len(inputs["labels"])
        assert auxiliary["task"] == ["colour", "count", "colour"][: len(inputs["labels"])] or sizes
        sizes.append(len(inputs["labels"]))
    assert sizes == [3, 2]


def test_samples_of_its_own(make_trainer, tmp_path):
    """Evenly spaced rows of the evaluation data, of one of several such sets, of the training data; or of a file."""
    rows = make_rows("qwen3_vl", 8)

    def ids(probe) -> list[str]:
        return [row.id for row in probe.samples]

    trainer = make_trainer(probe := Probe(size=4), max_steps=1)
    trainer.train()
    assert ids(probe) == ["row 0", "row 2", "row 4", "row 6"]
    for data in (rows[4:], {"first": rows[4:], "second": rows}):
        trainer.eval_dataset = data
        probe.samples = None
        probe.on_train_begin(trainer.args, trainer.state, trainer.control)
        assert ids(probe) == [f"row {n}" for n in (4, 5, 6, 7)]
    trainer.eval_dataset = iter(rows)
    probe.samples = None
    with pytest.raises(ValueError, match="'probe' needs `samples`: the trainer's data have no length"):
        probe.on_train_begin(trainer.args, trainer.state, trainer.control)

    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({"id": "x", "question": "Why?", "answers": ["so"]}) + "\n")
    probe.samples = str(path)
    probe.on_train_begin(trainer.args, trainer.state, trainer.control)
    assert ids(probe) == ["x"]


def test_sizes_are_checked():
    with pytest.raises(ValueError, match="`size` is 0 and `batch_size` 8"):
        Probe(size=0)
