"""What the model hands to relevance and allocation: the processor's maps, the question, the block's weights."""

import pytest
import torch

from arrcoc.relevance import spread_relevance
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.modeling.naive import without


ROWS, BUDGETS = [[(8, 6), (3, 3)], [(5, 9)]], [15, 4, 12]


def allocation_of(model, inputs):
    with torch.no_grad():
        return model.encode_images(**inputs).allocation


def naive_query_map(stock, inputs) -> list[torch.Tensor]:
    """Query map of each image: attention logits of the question's tokens in the first layer, head by head."""
    layer, text = stock.model.language_model.layers[0], stock.config.text_config
    attention, size = layer.self_attn, text.hidden_size // text.num_attention_heads

    def head(hidden, projection, norm, index):  # (tokens, dim) -> (tokens, size)
        states = projection(layer.input_layernorm(hidden))[:, index * size : (index + 1) * size]
        return norm(states) if norm is not None else states

    cells = stock.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    maps = []
    for image, features in enumerate(cells.pooler_output):
        asked = inputs["image_query_mask"][image].bool()
        question = stock.get_input_embeddings()(inputs["image_query_ids"][image, asked])
        score = torch.zeros(len(features))
        for query_head in range(text.num_attention_heads):
            key_head = query_head * text.num_key_value_heads // text.num_attention_heads
            query = head(question, attention.q_proj, getattr(attention, "q_norm", None), query_head)
            key = head(features, attention.k_proj, getattr(attention, "k_norm", None), key_head)
            logits = (query @ key.T / size**0.5).mean(0)  # (cells,)
            score += logits / logits.norm()
        maps.append((score - score.min()) / (score.max() - score.min()))
    return maps


@torch.no_grad()
def test_maps_are_the_processors_information_and_the_questions_attention(host, model, stock):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    allocation = allocation_of(model, inputs)
    assert set(allocation.maps) == {"information", "query"}
    assert torch.equal(allocation.maps["information"], inputs["image_information"])
    expected = torch.cat(naive_query_map(stock, inputs))
    torch.testing.assert_close(allocation.maps["query"], expected, rtol=1e-4, atol=1e-4)


def test_each_map_has_its_say(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    reference = allocation_of(model, inputs)
    for changed in ("image_information", "image_query_ids"):
        other = {
            **inputs,
            changed: inputs[changed].flip(-1) if changed == "image_information" else inputs[changed] // 2,
        }
        allocation = allocation_of(model, other)
        assert not torch.allclose(allocation.relevance, reference.relevance), changed
        assert not torch.equal(allocation.boxes, reference.boxes), changed


def test_the_question_is_never_read_from_the_prompt(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    text = inputs["mm_token_type_ids"] == 0
    changed = {**inputs, "input_ids": torch.where(text, inputs["input_ids"] // 2, inputs["input_ids"])}
    with torch.no_grad():
        ours, theirs = model(**inputs), model(**changed)
    assert not torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.allocation.boxes, theirs.allocation.boxes)
    assert torch.equal(ours.allocation.relevance, theirs.allocation.relevance)


def test_padding_of_the_question_has_no_say(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    padding = torch.full((3, 4), 99)
    padded = {
        **inputs,
        "image_query_ids": torch.cat([inputs["image_query_ids"], padding], 1),
        "image_query_mask": torch.cat([inputs["image_query_mask"], padding * 0], 1),
    }
    found, expected = allocation_of(model, padded), allocation_of(model, inputs)
    torch.testing.assert_close(found.relevance, expected.relevance)
    assert torch.equal(found.boxes, expected.boxes)
    unmasked = allocation_of(model, without(padded, "image_query_mask"))  # no mask: all tokens are the question's
    assert not torch.allclose(unmasked.relevance, expected.relevance)


@pytest.mark.parametrize(
    ("block", "maps"),
    [
        ({"information_weight": 0}, ["query"]),
        ({"query_weight": 0}, ["information"]),
        ({"query_scorer": "none"}, ["information"]),
        ({"salience_weight": 0.5}, ["information", "query", "salience"]),
        ({"query_scorer": "cosine"}, ["information", "query"]),
    ],
    ids=str,
)
def test_the_block_chooses_the_maps(host, model, block, maps):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    chosen = allocation_of(tiny_arrcoc_model(host, arrcoc_config=block, tie_word_embeddings=False), inputs)
    assert sorted(chosen.maps) == maps
    assert all(values.min() >= 0 and values.max() <= 1 for values in chosen.maps.values())
    assert not torch.allclose(chosen.relevance, allocation_of(model, inputs).relevance)


@pytest.mark.parametrize("relevance", ["free", "learned"])
@pytest.mark.parametrize("stage", ["features", "pixels"])
def test_relevance_spreads_as_far_as_the_block_says(host, stage, relevance):
    block = {"stage": stage, "relevance": relevance, "glance_level": 1}
    model = tiny_arrcoc_model(host, arrcoc_config=block)
    far = tiny_arrcoc_model(host, arrcoc_config={**block, "relevance_spread": 1.2})
    far.load_state_dict(model.state_dict())
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    narrow, wide = allocation_of(model, inputs), allocation_of(far, inputs)
    assert torch.equal(wide.relevance, spread_relevance(narrow.relevance, narrow.grids, 1.2))
    assert not torch.allclose(wide.relevance, narrow.relevance) and wide.budgets.tolist() == BUDGETS
    assert all(torch.equal(wide.maps[name], values) for name, values in narrow.maps.items())
    if relevance == "learned":
        far.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
        assert far.model.arrcoc.relevance.query.score.weight.grad.abs().max() > 0


def test_images_without_question_or_information(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    bare = allocation_of(model, without(inputs, "image_query_ids", "image_query_mask", "image_information"))
    assert not bare.maps
    assert (bare.relevance == 1).all()
    assert bare.budgets.tolist() == BUDGETS


def test_the_budget_is_exact_for_every_policy(host):
    rows = [[(7, 5)], [(1, 9), (6, 6)]]
    for policy in ("lod", "foveated", "tiers", "uniform", "random", "topk"):
        model = tiny_arrcoc_model(host, arrcoc_config={"policy": policy})
        for budgets in ([1, 1, 1], [2, 3, 5], [34, 8, 35], [35, 9, 36]):
            inputs = random_inputs(host, rows, budgets=budgets)
            with torch.no_grad():
                encoded = model.encode_images(**inputs)
            assert [len(tokens) for tokens in encoded.pooler_output] == budgets, policy
            assert model(**inputs).logits.shape[:2] == inputs["input_ids"].shape
