"""The two exact limits: at native budget the stock model, bit for bit; with equal leaves its average-pooled cells."""

import pytest
import torch
import torch.nn.functional as F

from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_stock_model
from tests.modeling.naive import stock_inputs


# For each prompt the grids (rows, columns in cells) of its images.
PROMPTS = {
    "one image": [[(4, 6)]],
    "one cell": [[(1, 1)]],
    "thin": [[(1, 7), (5, 1)]],
    "several images": [[(4, 6), (3, 3), (2, 5)]],
    "batch": [[(4, 6)], [(3, 5), (2, 2)], [(5, 3)]],
    "mixed with text": [[], [(3, 5), (2, 2)], [], [(4, 4)]],
    "text only": [[], []],
}
SIDES = ("left", "right")


def limit_inputs(host: str, rows, side: str, explicit: bool) -> dict[str, torch.Tensor]:
    """Prompts at native budget: without budgets, or with budgets equal to the native counts."""
    return random_inputs(host, rows, budgets=native_budgets(rows) if explicit else None, padding_side=side)


@pytest.mark.parametrize("explicit", [False, True], ids=["no budgets", "native budgets"])
@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("rows", PROMPTS.values(), ids=PROMPTS)
def test_native_forward_is_stock_bit_for_bit(host, model, stock, rows, side, explicit):
    inputs = limit_inputs(host, rows, side, explicit)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    with torch.no_grad():
        ours = model(**inputs, labels=labels, output_hidden_states=True)
        theirs = stock(**stock_inputs(inputs), labels=labels, output_hidden_states=True)
        base, stock_base = model.model(**inputs), stock.model(**stock_inputs(inputs))
    assert torch.equal(ours.logits, theirs.logits)
    assert torch.equal(ours.loss, theirs.loss)
    assert len(ours.hidden_states) == len(theirs.hidden_states)
    assert all(torch.equal(a, b) for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True))
    assert torch.equal(base.last_hidden_state, stock_base.last_hidden_state)
    assert torch.equal(model.model.rope_deltas, stock.model.rope_deltas) or not any(rows)


@pytest.mark.parametrize("explicit", [False, True], ids=["no budgets", "native budgets"])
@pytest.mark.parametrize("rows", PROMPTS.values(), ids=PROMPTS)
@pytest.mark.parametrize("beams", [1, 3])
def test_native_generate_is_stock_bit_for_bit(host, model, stock, rows, beams, explicit):
    inputs = limit_inputs(host, rows, "left", explicit)
    options = {"max_new_tokens": 6, "do_sample": False, "num_beams": beams, "num_return_sequences": beams}
    options |= {"return_dict_in_generate": True, "output_logits": True}
    placeholders = [stock.config.image_token_id, stock.config.video_token_id]  # ours never generates them
    ours = model.generate(**inputs, **options)
    theirs = stock.generate(**stock_inputs(inputs), **options, suppress_tokens=placeholders)
    assert torch.equal(ours.sequences, theirs.sequences)
    assert len(ours.logits) == len(theirs.logits) > 1
    assert all(torch.equal(a, b) for a, b in zip(ours.logits, theirs.logits, strict=True))


@pytest.mark.parametrize("policy", ["lod", "foveated", "tiers", "uniform", "random", "topk"])
def test_every_policy_is_stock_at_native_budget(host, stock, policy):
    model = tiny_arrcoc_model(host, arrcoc_config={"policy": policy}, tie_word_embeddings=False)
    inputs = limit_inputs(host, PROMPTS["batch"], "left", explicit=True)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**stock_inputs(inputs)).logits)


def test_native_gradients_are_those_of_stock(host):
    model, stock = tiny_arrcoc_model(host), tiny_stock_model(host)
    inputs = limit_inputs(host, PROMPTS["batch"], "left", explicit=True)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)
    model(**inputs, labels=labels).loss.backward()
    stock(**stock_inputs(inputs), labels=labels).loss.backward()
    theirs = dict(stock.named_parameters())
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, theirs[name].grad, rtol=1e-4, atol=1e-6, msg=name)


@pytest.mark.parametrize("level", [1, 2])
def test_uniform_leaves_are_the_average_pool_of_stock_features(host, stock, level):
    """With leaves of one size, tokens are the stock features pooled by an ordinary average-pooling layer."""
    model = tiny_arrcoc_model(host, arrcoc_config={"policy": "uniform"}, tie_word_embeddings=False)
    side = 2**level
    grids = [(4, 8), (8, 4), (12, 4)]
    budgets = [rows * cols // side**2 for rows, cols in grids]
    inputs = random_inputs(host, [[grid] for grid in grids], budgets=budgets)
    with torch.no_grad():
        ours = model.encode_images(**inputs)
        theirs = stock.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)

    def pool(cells: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        picture = cells.T.reshape(1, -1, *grid)  # (1, dim, rows, columns)
        return F.avg_pool2d(picture, side)[0].flatten(1).T  # (tokens, dim)

    layers = [(ours.pooler_output, theirs.pooler_output)]
    if host == "qwen3_vl":
        assert len(ours.deepstack_features) == len(theirs.deepstack_features) == 2
        layers += zip(ours.deepstack_features, theirs.deepstack_features, strict=True)
    for tokens, cells in layers:
        assert len(tokens) == len(cells) == len(grids)
        for grid, image_tokens, image_cells in zip(grids, tokens, cells, strict=True):
            torch.testing.assert_close(image_tokens, pool(image_cells, grid), rtol=0, atol=1e-6)
    assert (ours.allocation.levels == level).all()
