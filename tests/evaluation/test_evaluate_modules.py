"""The metrics as modules of `evaluate`, loaded without a network."""

import pytest

from arrcoc.evaluation import ANSWER_METRICS, anls, normalized_edit_distance, word_overlap, word_scores
from arrcoc.evaluation.evaluate_modules import METRICS_FOLDER, load_metric


PREDICTIONS = ["dalas", "103", ""]
REFERENCES = [["Dallas", "Dallas, TX"], ["100"], ["one", "two"]]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path_factory.getbasetemp() / "modules"))
    monkeypatch.setattr("evaluate.config.HF_METRICS_CACHE", tmp_path_factory.getbasetemp() / "metrics")


@pytest.mark.parametrize("name", [name for name in ANSWER_METRICS if name != "contains_formula"])
def test_answer_metrics_are_means_of_the_functions(name):
    found = load_metric(name).compute(predictions=PREDICTIONS, references=REFERENCES)
    scores = [ANSWER_METRICS[name](*pair) for pair in zip(PREDICTIONS, REFERENCES, strict=True)]
    assert found == {name: pytest.approx(sum(scores) / 3)}


def test_metrics_of_transcripts():
    pages, texts = ["the cat sat", "on"], [["the cat sat down"], ["on", "off"]]
    scores = [word_scores("the cat sat", "the cat sat down"), word_scores("on", "on")]
    found = load_metric("word_scores").compute(predictions=pages, references=texts)
    assert found == {name: pytest.approx((scores[0][name] + scores[1][name]) / 2) for name in scores[0]}
    assert load_metric("ned").compute(predictions=pages, references=texts) == {
        "ned": pytest.approx(normalized_edit_distance("the cat sat", "the cat sat down") / 2)
    }
    assert load_metric("word_overlap").compute(predictions=pages, references=texts) == {
        "word_overlap": pytest.approx((word_overlap("the cat sat", "the cat sat down") + 1) / 2)
    }


def test_batches_are_collected():
    metric = load_metric("anls")
    metric.add(prediction="dalas", reference=["dallas"])
    metric.add_batch(predictions=["x"], references=[["y"]])
    assert metric.compute() == {"anls": pytest.approx(anls("dalas", ["dallas"]) / 2)}


def test_every_script_is_described():
    for path in METRICS_FOLDER.glob("*.py"):
        assert len(load_metric(path.stem).description) > 20


def test_unknown_metrics_are_named():
    with pytest.raises(ValueError, match="'bleu'.*anls"):
        load_metric("bleu")
