"""Plots and pages of a run without a model, and of one with a made-up model."""

import base64
import io
import os
import re

import pytest
from PIL import Image

from arrcoc.cli.evaluate import evaluate
from arrcoc.cli.report import report
from arrcoc.evaluation.page import hardest_items, html_page, markdown_page
from arrcoc.evaluation.plots import draw_plots
from arrcoc.evaluation.records import read_json, read_records
from arrcoc.evaluation.summary import summarize
from tests.evaluation.test_summary import header, item, records


@pytest.fixture(scope="module")
def run(pages, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "run"
    policies = ("arrcoc", "arrcoc-topk", "resize")
    evaluate([str(pages)], folder, budgets=(1.0, 0.25), policies=policies, resamples=50, quiet=True)
    return folder


def test_page_holds_all_it_shows(run, tmp_path):
    markdown = tmp_path / "results.md"
    report(run, markdown=markdown, hardest=2, resamples=50)
    page = (run / "report" / "index.html").read_text()
    assert not re.findall(r'(?:src|href)="(?!data:)', page)  # nothing is fetched
    pictures = [base64.b64decode(code) for code in re.findall(r'src="data:image/png;base64,([^"]+)"', page)]
    assert len(pictures) == 2 + 2 * 2  # two plots; two items at one budget, each as leaves and as what they hold
    assert all(Image.open(io.BytesIO(data)).format == "PNG" for data in pictures)
    for items in hardest_items(read_records(run), 2):
        assert items[0]["id"] in page and items[0]["policy"] == "arrcoc"

    text = markdown.read_text()
    for path in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
        assert Image.open(tmp_path / path).format == "PNG"
    summary = read_json(run / "summary.json")
    for figures in summary["tasks"]["pages"]["conditions"]:
        assert f"| {figures['policy']} | {figures['budget']} | {figures['tokens']:.1f} |" in text
        assert f"{figures['score']['mean']:.3f} [{figures['score']['low']:.3f}" in text


def test_a_page_says_how_to_write_it_again(run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent.parent)
    report(run, markdown=tmp_path / "results.md", hardest=0, resamples=50)
    path, page = run.relative_to(run.parent.parent), os.path.relpath(tmp_path / "results.md")
    assert f"Written by `arrcoc report {path} --markdown {page}`" in (tmp_path / "results.md").read_text()


def test_a_report_may_be_written_again(run):
    (run / "report").mkdir(exist_ok=True)
    (run / "report" / "old-tiers.png").write_text("of another summary")
    report(run, hardest=0, resamples=50)
    assert {path.name for path in (run / "report").iterdir()} == {
        "index.html",
        "pages-quality-tokens.png",
        "pages-tiers.png",
    }


def test_only_an_earlier_report_is_replaced(run, tmp_path, capsys):
    """A folder is replaced whole: that of the run, or any other that holds something, must not be."""
    before = {path.name for path in run.iterdir()}
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "photo.png").write_text("mine")
    with pytest.raises(FileExistsError, match="holds header.json"):
        report(run, out=run, resamples=50)
    with pytest.raises(FileExistsError, match="holds header.json"):
        report(run, markdown=run.with_suffix(".md"), resamples=50)  # whose plots would stand in `run`
    with pytest.raises(FileExistsError, match="holds photo.png"):
        report(run, markdown=tmp_path / "notes.md", resamples=50)
    assert {path.name for path in run.iterdir()} == before
    assert (tmp_path / "notes" / "photo.png").read_text() == "mine" and not (tmp_path / "notes.md").exists()


def test_hardest_items_are_the_worst_of_different_images():
    found = hardest_items(records(), 2)
    assert [items[0]["row"] for items in found] == [3, 0]  # row 2 is of row 3's image, row 1 of row 0's
    assert [entry["policy"] for entry in found[0]][0] == "arrcoc"


def test_plots_of_a_summary():
    settings = header()
    more = [item(row, "arrcoc", "auto", 1.0) for row in range(6)] + [
        item(row, "fastv", "0.25", 0.5) for row in range(6)
    ]
    settings["conditions"] = [*settings["conditions"], ["arrcoc", "auto"], ["fastv", "0.25"]]
    plots = draw_plots(summarize(records() + more, settings, 50))["pages"]
    assert set(plots) == {"quality-tokens", "quality-milliseconds", "tiers", "calibration"}

    def drawn(name):
        return {line.get_label(): line.get_xydata().tolist() for line in plots[name].axes[0].lines}

    assert drawn("quality-tokens")["arrcoc"] == [
        [64, 5 / 6],
        [16, 4 / 6],
    ]  # native, then the budget; not what is chosen
    assert drawn("quality-milliseconds").keys() == {"arrcoc", "resize"}  # masking inside the model saves no time


def test_texts_are_escaped():
    marked = [entry | {"question": "<script>", "answers": ["a|b & c"], "prediction": "<b>"} for entry in records()]
    settings = header(host="h")
    page = html_page(summarize(marked, settings, 50), marked, {"pages": {}}, 1)
    assert "<script>" not in page and "&lt;script&gt;" in page and "a|b &amp; c" in page


def test_markdown_names_the_settings():
    settings = header(model="/somewhere/checkpoint", weights="abc", block={}, seed=3)
    text = markdown_page(summarize(records(), settings, 50), {"pages": {"tiers": "results/t.png"}}, "arrcoc report r")
    assert "- model: `checkpoint`" in text and "somewhere" not in text and "- seed: `3`" in text
    assert "![tiers](results/t.png)" in text and "Written by `arrcoc report r`" in text
    assert "By domain, arrcoc:" in text and "0.500 [" in text
