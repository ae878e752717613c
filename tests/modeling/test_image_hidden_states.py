"""The visual tokens in the outputs: what the language model was given, with a gradient for losses on tokens."""

import pytest
import torch

from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model


ROWS = [[(4, 6)], [], [(3, 5), (1, 7)]]
BUDGETS = [9, 4, 3]


@pytest.mark.parametrize("stage", ["features", "pixels"])
@pytest.mark.parametrize("budgets", [BUDGETS, None], ids=["budgets", "native"])
def test_they_are_what_the_language_model_was_given(host, stage, budgets):
    model = tiny_arrcoc_model(host, arrcoc_config={"stage": stage}, tie_word_embeddings=False)
    inputs = random_inputs(host, ROWS, budgets=budgets)
    given = {}
    handle = model.model.language_model.register_forward_pre_hook(
        lambda _, __, kwargs: given.update(kwargs), with_kwargs=True
    )
    with torch.no_grad():
        outputs = model(**inputs)
        base = model.model(**inputs)
        encoded = model.encode_images(**inputs)
    handle.remove()
    expected = given["inputs_embeds"][inputs["input_ids"] == model.config.image_token_id]
    assert torch.equal(outputs.image_hidden_states, expected)
    assert torch.equal(base.image_hidden_states, expected)
    assert torch.equal(torch.cat(tuple(encoded.pooler_output)), expected)


def test_there_are_none_without_images(host, model):
    assert model(**random_inputs(host, [[], []])).image_hidden_states is None


@pytest.mark.parametrize("budgets", [BUDGETS, None], ids=["budgets", "native"])
def test_losses_on_them_reach_the_tower(host, budgets):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    model(**random_inputs(host, ROWS, budgets=budgets)).image_hidden_states.square().mean().backward()
    assert model.model.visual.patch_embed.proj.weight.grad.abs().sum() > 0
    assert model.lm_head.weight.grad is None
