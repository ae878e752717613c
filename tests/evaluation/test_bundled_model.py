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


def load(name):
    model, processor = arrcoc.reference(name)
    return model.eval(), processor


@pytest.mark.parametrize(
    ("page", "name"),
    [(f"{page}.md", "tiny") for page in ("results", "results_large", "looking", "rungs", "options", "robustness")]
    + [("twin.md", "twin")],
)
def test_results_are_of_the_bundled_weights(page, name):
    (digest,) = re.findall(r"- weights: `(\w+)`", (DOCS / page).read_text(encoding="utf-8"))
    assert digest == checkpoint_digest(reference_folder(name))


def test_coverage_is_of_the_bundled_weights_that_decide_where_to_look():
    page = (DOCS / "real_pages.md").read_text(encoding="utf-8")
    (digest,) = re.findall(r"what decides where to look: `(\w+)`", page)
    assert digest == checkpoint_digest(reference_folder(), ANSWERING)


def test_it_reads_the_demos_form():
    model, processor = load("tiny")
    entries = dict(ENTRIES)
    with Image.open(reference_folder().parent / "demo_form.png") as image:
        picture = image.convert("RGB")
    for question in QUESTIONS:
        (key,) = re.findall('"(.*)"', question)
        assert respond(model.float(), processor, picture, question, 1.0, 32).answer == entries[key]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "documents", "least"),
    [("tiny", "kinds=form+receipt+invoice+table,clear", 0.3), ("twin", "kinds=form+receipt,clear,plain", 0.2)],
)
def test_it_answers_about_documents_that_it_never_saw(name, documents, least):
    """Bounds far below what docs/results.md and docs/twin.md have: other machines draw with other typefaces."""
    task = synthetic_task(read_documents(f"60,size=256,{documents}")).subset(96)
    run = ModelPolicies(*load(name), max_new_tokens=48)
    wanted = [Condition("native", 1.0), Condition("arrcoc", 64), Condition("random", 64)]
    right = {condition.policy: 0.0 for condition in wanted}
    for start in range(0, 96, 32):
        rows = task.rows[start : start + 32]
        for condition, answers in run.answers(task, rows, wanted):
            scores = [task.score(row, answer.prediction) for row, answer in zip(rows, answers, strict=True)]
            right[condition.policy] += sum(score["exact_match"] for score in scores) / 96
    assert right["native"] > least and right["arrcoc"] > 0.5 * right["native"]
    assert right["arrcoc"] > right["random"]
