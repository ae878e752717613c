"""The bundled model really reads, and the pages of results are about the weights that come with the package."""

import re
from pathlib import Path

import pytest
from PIL import Image

import arrcoc
from arrcoc.cli.ask import respond
from arrcoc.cli.demo import QUESTIONS
from arrcoc.evaluation.digest import ANSWERING, checkpoint_digest
from arrcoc.evaluation.documents import read_documents, synthetic_task
from arrcoc.evaluation.policies import Condition, ModelPolicies
from arrcoc.pretrained import reference_folder
from examples.draw_demo_document import ENTRIES


DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def loaded():
    model, processor = arrcoc.reference("tiny")
    processor.tokenizer.padding_side = "left"
    return model.eval(), processor


@pytest.mark.parametrize("page", ["results.md", "looking.md", "rungs.md", "options.md", "robustness.md"])
def test_results_are_of_the_bundled_weights(page):
    (digest,) = re.findall(r"- weights: `(\w+)`", (DOCS / page).read_text(encoding="utf-8"))
    assert digest == checkpoint_digest(reference_folder())


def test_coverage_is_of_the_bundled_weights_that_decide_where_to_look():
    page = (DOCS / "real_pages.md").read_text(encoding="utf-8")
    (digest,) = re.findall(r"what decides where to look: `(\w+)`", page)
    assert digest == checkpoint_digest(reference_folder(), ANSWERING)


def test_it_reads_the_demos_form(loaded):
    model, processor = loaded
    entries = dict(ENTRIES)
    with Image.open(reference_folder().parent / "demo_form.png") as image:
        picture = image.convert("RGB")
    for question in QUESTIONS:
        (key,) = re.findall('"(.*)"', question)
        assert respond(model.float(), processor, picture, question, 1.0, 32).answer == entries[key]


@pytest.mark.slow
def test_it_answers_about_documents_that_it_never_saw(loaded):
    """A bound far below what docs/results.md has: other machines draw with other typefaces."""
    task = synthetic_task(read_documents("60,size=256,kinds=form+receipt+invoice+table,clear")).subset(96)
    run = ModelPolicies(*loaded, max_new_tokens=48)
    wanted = [Condition("native", 1.0), Condition("arrcoc", 64), Condition("random", 64)]
    right = {condition.policy: 0.0 for condition in wanted}
    for start in range(0, 96, 32):
        rows = task.rows[start : start + 32]
        for condition, answers in run.answers(task, rows, wanted):
            scores = [task.score(row, answer.prediction) for row, answer in zip(rows, answers, strict=True)]
            right[condition.policy] += sum(score["exact_match"] for score in scores) / 96
    assert right["native"] > 0.3 and right["arrcoc"] > 0.5 * right["native"]
    assert right["arrcoc"] > right["random"]
