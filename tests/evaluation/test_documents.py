"""Synthetic documents as a task: how they are named, and that their pictures are found again."""

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from arrcoc.cli.evaluate import evaluate
from arrcoc.cli.report import report
from arrcoc.evaluation import documents_text, image_key, read_documents, synthetic_task
from arrcoc.evaluation.records import read_json, read_records
from arrcoc.synthetic import KINDS, DocumentStream, generate
from arrcoc.synthetic.fonts import Face, bundled_face


def test_documents_are_named_by_a_text():
    assert read_documents() == DocumentStream(count=500, split="heldout")
    assert read_documents("30,size=512,kinds=form+bar_chart,clear", first=7) == DocumentStream(
        first=7, count=30, kinds=("form", "bar_chart"), size=512, split="heldout", clear=True
    )
    assert read_documents("4,plain") == DocumentStream(count=4, split="heldout", faces=(bundled_face(),))
    assert read_documents("clear,9") == DocumentStream(count=9, split="heldout", clear=True)
    assert read_documents("split=validation,size=300x400").size == (300, 400)
    assert read_documents("size=256-1024").size == range(256, 1025)


@pytest.mark.parametrize(
    "text", ["", "size=512", "size=300x400", "size=256-1024,split=train", "kinds=form+table,size=512,clear,plain"]
)
def test_a_stream_is_told_as_it_was_read(text):
    assert documents_text(read_documents(text)) == text
    assert documents_text(read_documents(f"12,{text}", first=3)) == text


def test_a_stream_without_a_text_has_none():
    assert documents_text(DocumentStream(size=range(256, 513, 32))) is None
    assert documents_text(DocumentStream(faces=(Face("Other", "Other Regular", None),))) is None


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("1000;clear", "'1000;clear'.*size=PX"),
        ("0", "'0'.*number of documents"),
        ("blurred", "'blurred' among.*'blurred'"),
        ("sise=512", "'sise=512'"),
        ("size=big", "512x768.*'big'"),
        ("size=64", "256 … 1536 px"),
        ("kinds=form+poem", "'poem'"),
        ("kinds=", "kinds must be"),
        ("split=test", "'test'"),
        ("clear,clear", "second 'clear'"),
        ("10,20", "second '20'"),
    ],
)
def test_bad_options_are_named(text, match):
    with pytest.raises(ValueError, match=match):
        read_documents(text)


def test_questions_about_documents():
    stream = DocumentStream(first=3, split="heldout")
    task = synthetic_task(stream, count=7)
    assert len(task.rows) == 7 and task.name == "synthetic"
    again = synthetic_task(DocumentStream(first=3, count=2, split="heldout"))
    assert [row.question for row in again.rows][:7] == [row.question for row in task.rows][: len(again.rows)]
    for row in task.rows:
        (seed,) = {source.index for source in row.images}
        assert np.array_equal(row.decoded().images[0], generate(seed, split="heldout").image)
        assert task.groups(row)["domain"] in {f"synthetic_{kind}" for kind in KINDS}
        assert task.score(row, row.answers[0]) == {"exact_match": 1.0, "anls": 1.0}
    assert 2 <= len({image_key(row) for row in task.rows}) < 7
    with pytest.raises(ValueError, match="count"):
        synthetic_task(stream)


def test_options_reach_the_documents_and_name_the_task():
    options = "kinds=form+receipt,size=256-300,clear"
    task = synthetic_task(read_documents(f"4,{options}"))
    assert (task.name, task.documents) == ("synthetic-form+receipt-256-300-clear", options)
    assert {task.groups(row)["domain"] for row in task.rows} <= {"synthetic_form", "synthetic_receipt"}
    row = task.rows[0].decoded()
    expected = generate(0, ("form", "receipt"), range(256, 301), "heldout", clear=True).image
    assert np.array_equal(row.images[0], expected)
    assert not np.array_equal(expected, generate(0, ("form", "receipt"), range(256, 301), "heldout").image)


def test_the_page_draws_the_pictures_again(tmp_path):
    """The rows' pictures are nowhere on disk, and the page shows where the model looked all the same."""
    options = {"budgets": (0.25,), "policies": ("arrcoc", "resize"), "resamples": 20, "quiet": True}
    evaluate(["synthetic:2,size=256,kinds=form+table,clear"], tmp_path / "run", seed=5, **options)
    records = read_records(tmp_path / "run")
    assert {record["paths"][0] for record in records} == {5, 6}
    header = read_json(tmp_path / "run" / "header.json")
    assert header["tasks"]["synthetic-form+table-256-clear"]["documents"] == "kinds=form+table,size=256,clear"
    report(tmp_path / "run", hardest=2, resamples=20)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    found = re.findall(r'alt="what" src="data:image/png;base64,([^"]+)"', page)
    assert len(found) == 2
    for code, text in zip(found, re.findall(r"heldout_(\d)_\d+, synthetic", page), strict=True):
        shown = Image.open(io.BytesIO(base64.b64decode(code))).convert("L")
        like = {"kinds": ("form", "table"), "size": 256, "split": "heldout", "clear": True}
        drawn, other = (generate(seed, **like).image.convert("L") for seed in (int(text), 11 - int(text)))
        small = [np.asarray(one.resize((16, 16), Image.Resampling.BOX), float) for one in (shown, drawn, other)]
        assert abs(small[0] - small[1]).mean() < abs(small[0] - small[2]).mean() / 3


def test_pictures_that_cannot_be_found_are_said_to_be_missing(tmp_path):
    options = {"budgets": (0.25,), "policies": ("arrcoc",), "resamples": 20, "quiet": True}
    evaluate(["synthetic:1,size=256,kinds=form"], tmp_path / "run", **options)
    header = tmp_path / "run" / "header.json"
    header.write_text(header.read_text().replace('"documents"', '"unknown"'))
    report(tmp_path / "run", hardest=1, resamples=20)
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert "The picture is not among the files of the run." in page and 'alt="what"' not in page
