"""Models whose allocation is relaxed in training: what learns, and what they do where nothing is relaxed."""

import pytest
import torch

from arrcoc.relaxation import (
    RELAXATIONS,
)
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import HOSTS
from tests.learned.helpers import LEARNED, perturb


ROWS, MODEL_BUDGETS = [[(8, 6), (3, 3)], [(5, 9)]], [15, 4, 12]


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("learned", LEARNED, ids=str)
@pytest.mark.parametrize("relaxation", RELAXATIONS)
def test_every_parameter_learns_from_the_answer(host, learned, relaxation):
    model = perturb(tiny_arrcoc_model(host, arrcoc_config={**LEARNED[learned], "relaxation": relaxation})).train()
    inputs = random_inputs(host, ROWS, MODEL_BUDGETS)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    for name, parameter in model.model.arrcoc.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("learned", LEARNED, ids=str)
def test_an_untrained_block_leaves_its_start(host, learned):
    """Scores start at zero, where only the last layers have a gradient; two steps reach every parameter."""
    model = tiny_arrcoc_model(host, arrcoc_config=LEARNED[learned]).train()
    block = model.model.arrcoc
    before = {name: parameter.detach().clone() for name, parameter in block.named_parameters()}
    optimizer = torch.optim.AdamW(block.parameters(), lr=1e-2, weight_decay=0)
    inputs = random_inputs(host, ROWS, MODEL_BUDGETS)
    for _ in range(3):
        optimizer.zero_grad()
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        optimizer.step()
    unchanged = [name for name, parameter in block.named_parameters() if torch.equal(parameter, before[name])]
    assert not unchanged


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("learned", LEARNED, ids=str)
def test_training_straight_through_sees_what_evaluation_sees(host, learned):
    """Where it is not faded."""
    model = perturb(tiny_arrcoc_model(host, arrcoc_config={**LEARNED[learned], "relaxation_fade": 0.0}))
    inputs = random_inputs(host, ROWS, MODEL_BUDGETS)
    hard, training = model.eval()(**inputs), model.train()(**inputs)
    assert torch.equal(hard.logits, training.logits)
    assert torch.equal(hard.allocation.boxes, training.allocation.boxes)


@pytest.mark.parametrize("host", HOSTS)
def test_the_soft_model_becomes_the_hard_one(host):
    """Stage `features`, budgets spent on whole splits: the answer of the mixture goes to that of the leaves."""
    inputs = random_inputs(host, [[(8, 8)], [(4, 8)]], [22, 14])
    distances = []
    for temperature in (1.0, 0.1, 1e-6):
        config = {**LEARNED["features"], "relaxation": "soft", "relaxation_temperature": temperature}
        model = perturb(tiny_arrcoc_model(host, arrcoc_config=config))
        distances.append((model.train()(**inputs).logits - model.eval()(**inputs).logits).abs().max())
    assert distances[0] > distances[1] > distances[2]
    assert distances[2] < 1e-4


def test_other_policies_and_evaluation_are_not_relaxed():
    inputs = random_inputs("qwen3_vl", ROWS, MODEL_BUDGETS)
    for policy in ("foveated", "tiers", "topk", "uniform", "random"):
        config = {**LEARNED["scout"], "policy": policy, "relaxation": "soft"}
        model = perturb(tiny_arrcoc_model("qwen3_vl", arrcoc_config=config))
        assert torch.equal(model.train()(**inputs).logits, model.eval()(**inputs).logits)


@pytest.mark.parametrize("host", HOSTS)
def test_without_relaxation_evidence_alone_teaches(host):
    """The answer says nothing to relevance, and a frozen tower is not gone back through."""
    config = {**LEARNED["scout"], "relaxation": "none"}
    model = perturb(tiny_arrcoc_model(host, arrcoc_config=config)).train()
    model.model.visual.requires_grad_(False)
    inputs = random_inputs(host, ROWS, MODEL_BUDGETS)
    hidden = []
    model.model.visual.register_forward_hook(lambda module, given, output: hidden.append(output.last_hidden_state))
    outputs = model(**inputs, labels=inputs["input_ids"])
    assert not any(states.requires_grad for states in hidden)
    outputs.loss.backward(retain_graph=True)
    scorers = [*model.model.arrcoc.scout.parameters(), *model.model.arrcoc.relevance.parameters()]
    assert all(parameter.grad is None for parameter in scorers)
    outputs.allocation.maps["query"].square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for parameter in model.model.arrcoc.scout.parameters())
    assert torch.equal(outputs.allocation.boxes, model.eval()(**inputs).allocation.boxes)
