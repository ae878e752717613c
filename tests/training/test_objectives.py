"""Losses that do not fit the model, refused or said when the trainer is made."""

import pytest

from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.training.conftest import make_model, make_trainer


def test_a_loss_that_the_model_cannot_have_is_refused(tmp_path):
    for name, message in {
        "efficiency": "the loss 'efficiency' needs a model with `budget='learned'`; it is 'given'",
        "coherence": "`semantic_depth='learned'`",
        "distribution": "needs `host_statistics`",
    }.items():
        with pytest.raises(ValueError, match=message):
            make_trainer(make_model("qwen3_vl"), "qwen3_vl", tmp_path, loss_weights={name: 1.0})
    with pytest.raises(ValueError, match="`relevance='learned'`; it is 'free'"):
        make_trainer(tiny_arrcoc_model("qwen3_vl"), "qwen3_vl", tmp_path, loss_weights={"alignment": 1.0})


@pytest.mark.parametrize(
    ("policy", "losses", "warns"),
    [
        ("foveated", {"answer": 1.0}, True),
        ("foveated", {"answer": 1.0, "alignment": 1.0}, False),
        ("lod", {"answer": 1.0}, False),
    ],
)
def test_relevance_that_nothing_teaches_is_said(tmp_path, caplog, policy, losses, warns):
    model = make_model("qwen3_vl", policy=policy)
    make_trainer(model, "qwen3_vl", tmp_path, loss_weights=losses)
    assert ("relevance learns nothing: answers do not reach it with policy='foveated'" in caplog.text) == warns
    caplog.clear()
    model.model.arrcoc.requires_grad_(False)
    make_trainer(model, "qwen3_vl", tmp_path, loss_weights=losses)
    assert "relevance learns nothing" not in caplog.text
