"""benchmarks/looking.py, coverage.py and robustness.py: what they measure, on allocations and pages known by hand."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import arrcoc
from arrcoc.evaluation.coverage import row_coverage
from arrcoc.evaluation.documents import read_documents
from arrcoc.evaluation.leaves import allocation_of
from arrcoc.evaluation.policies import ARRCOC, block_policy
from arrcoc.training.data.evidence import evidence_cells
from arrcoc.training.data.reading import read_rows
from arrcoc.training.data.rows import row_from_dict
from arrcoc.training.data.synthetic import synthetic_rows


sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import coverage  # noqa: E402
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
    # The last leaf as a window of its two cells.
    window = allocation_of([2, 4, 0, 0, 2, 2, 0, 2, 1, 3, 1, 2, 2, 3, 0.25, 3, 1.25, 4])
    seen = looking.full_detail(window)
    assert seen.view(2, 4).tolist() == [[False, False, True, True], [False, False, True, True]]
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


def test_coverage_of_the_bundled_model_by_hand_and_by_set(documents):
    model, processor = arrcoc.reference("tiny")
    rows = [row for document in documents[:2] for row in synthetic_rows(document) if row.evidence and row.evidence[0]]
    found = [coverage.measure(model, processor, row, 0.25) for row in rows]
    inputs = looking.inputs_of(processor, rows[:1], 0.25)
    with torch.no_grad():
        allocation = model.encode_images(**inputs).allocation
    share = evidence_cells(rows[0].evidence[0], rows[0].images[0].size, (16, 16))
    seen = (share * looking.full_detail(allocation)).sum() / share.sum()
    assert found[0]["arrcoc"].full_detail == pytest.approx(float(seen), abs=1e-6)
    for name, policy in {"best cells": "topk", "uniform": "uniform"}.items():  # as the model would divide them itself
        with block_policy(model, f"{ARRCOC}-{policy}"), torch.no_grad():
            own = row_coverage(model.encode_images(**inputs).allocation, rows[0].decoded())
        assert found[0][name] == own
    for values in found:
        assert values["uniform"].full_detail == 0 and values["uniform"].resolution == pytest.approx(0.5)
        for name in ("best cells", "information"):  # what is no token of its own is dropped
            assert values[name].full_detail == pytest.approx(values[name].resolution)
    known = inputs["image_information"].topk(64).indices
    assert found[0]["information"].full_detail == pytest.approx(float(share[known].sum() / share.sum()), abs=1e-6)
    assert any(values["information"] != values["best cells"] for values in found)
    rows[0] = replace(rows[0], set="one")
    result = coverage.summarize(rows, found)
    assert list(result) == ["one", *dict.fromkeys(row.set for row in rows[1:]), "all"]
    assert result["one"]["items"] == 1
    mean = sum(values["arrcoc"].full_detail for values in found) / len(found)
    assert result["all"]["full_detail"]["arrcoc"]["mean"] == pytest.approx(mean)
    assert result["all"]["items"] == len(rows) and result["all"]["images"] == 2


def test_coverage_is_written_and_needs_evidence(tmp_path, monkeypatch, capsys):
    looking.Image.new("RGB", (64, 64), "white").save(tmp_path / "page.png")
    fields = {"id": "a", "image": "page.png", "question": "Fee?", "answers": ["1"], "set": "sheets"}
    rows = [fields | {"evidence": [[0, 0, 20, 20]]}, fields | {"id": "b"}]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    page, found = tmp_path / "page.md", tmp_path / "found.json"
    data = ["coverage.py", "--data", str(tmp_path / "rows.jsonl"), "--budgets", "0.25"]
    monkeypatch.setattr(sys, "argv", [*data, "--json", str(found), "--markdown", str(page)])
    coverage.main()
    result = json.loads(found.read_text())
    assert result["rows"] == 1 and result["left_out"] == 1 and len(result["weights"]) == 16
    assert "| sheets | 1 | 1 | " in page.read_text() and result["weights"] in page.read_text()

    (tmp_path / "rows.jsonl").write_text(json.dumps(rows[1]) + "\n")
    monkeypatch.setattr(sys, "argv", data)
    with pytest.raises(SystemExit):
        coverage.main()
    assert "expected rows with evidence, found none" in capsys.readouterr().err


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
