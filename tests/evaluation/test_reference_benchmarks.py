"""benchmarks/looking.py and benchmarks/robustness.py: what they measure, on allocations and pages known by hand."""

import json
import sys
from pathlib import Path

import pytest
import torch

from arrcoc.evaluation.documents import read_documents
from arrcoc.evaluation.leaves import allocation_of
from arrcoc.training.data.reading import read_rows
from arrcoc.training.data.rows import row_from_dict
from arrcoc.training.data.synthetic import synthetic_rows


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import looking  # noqa: E402
import robustness  # noqa: E402


DOCUMENTS = "24,size=256,kinds=form+receipt+table,clear"


@pytest.fixture(scope="module")
def documents():
    return list(read_documents(DOCUMENTS))


def row(name, evidence, key=None):
    fields = {"id": name, "image": looking.Image.new("RGB", (128, 128)), "question": name, "answers": ["a"]}
    return row_from_dict(fields | {"evidence": evidence, "key_box": key}, name=name)


def test_cells_in_full_detail_and_leaves_without():
    # 2 x 4 cells: one leaf of 2 x 2, two single cells, one leaf of 2 x 1
    allocation = allocation_of([2, 4, 0, 0, 2, 2, 0, 2, 1, 3, 1, 2, 2, 3, 0, 3, 2, 4])
    seen = looking.full_detail(allocation)
    assert seen.view(2, 4).tolist() == [[False, False, True, False], [False, False, True, False]]
    cells = torch.zeros(2, 4, dtype=torch.bool)
    cells[1, 1] = cells[0, 2] = True
    assert looking.tokens_without(allocation, cells.flatten()) == 0.5
    assert looking.tokens_without(allocation, torch.zeros(8, dtype=torch.bool)) == 1


def test_questions_whose_evidence_lies_elsewhere():
    near, far = row("near", [[0, 0, 30, 30]]), row("far", [[70, 70, 90, 90]])
    named, blind = row("named", [[70, 0, 90, 20]], [5, 5, 20, 20]), row("blind", None)
    assert looking.elsewhere([blind, near, named, far], (4, 4)) == (
        near,
        far,
    )  # the key of `named` is in a cell of `near`
    assert looking.elsewhere([near, named], (4, 4)) is None


@pytest.mark.slow
def test_the_bundled_model_is_measured(tmp_path, monkeypatch, capsys):
    written = ["--json", str(tmp_path / "found.json"), "--markdown", str(tmp_path / "page.md")]
    monkeypatch.setattr(sys, "argv", ["looking.py", "--documents", "6", "--budgets", "0.25", *written])
    looking.main()
    found = json.loads((tmp_path / "found.json").read_text())
    assert found == json.loads(capsys.readouterr().out)
    assert found["native"] == 256 and found["looking"]["0.25"]["tokens"]["mean"] == 64
    assert found["confident"].keys() == {"1.0", "0.25"}
    page = (tmp_path / "page.md").read_text()
    assert f"{found['looking']['0.25']['moved']['mean']:.3f}" in page and found["weights"] in page
    assert all(shown.keys() == {"page", "noise", "white", "black"} for shown in found["confident"].values())


def test_sets_are_of_the_pages_and_questions_that_they_name(documents):
    found = robustness.sets_of(documents)
    words = sorted(len(document.words) for document in documents)
    for document, fields in found["busy_page_short_question"] + found["misleading"]:
        assert len(document.words) >= words[-8]
        assert fields["evidence"]
    for document, fields in found["plain_page_long_question"]:
        assert len(document.words) <= words[7]
        longest = max(len(question.text.split()) for question in robustness.printed(document))
        assert len(fields["question"].split()) == longest
    for document, fields in found["ambiguous"]:
        asked = next(one for one in synthetic_rows(document) if one.id == fields["id"])
        assert len(fields["question"].split()) == 1 and fields["answers"] == list(asked.answers)
    assert all(fields["question"].startswith("Explain simply: ") for _, fields in found["misleading"])
    assert all(len(pairs) >= 3 for pairs in found.values())


def test_sets_are_written_as_rows_that_eval_reads(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["robustness.py", "--documents", "9", "--out", str(tmp_path / "sets")])
    robustness.main()
    rows = read_rows(tmp_path / "sets" / "misleading.jsonl")
    assert len(rows) == 3 and all(one.decoded().images[0].size == (256, 256) for one in rows)
    with pytest.raises(FileExistsError):
        robustness.main()
