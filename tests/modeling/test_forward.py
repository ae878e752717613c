"""Forward passes with compressed images, against a stock model that is fed pooled features and positions by hand."""

import pytest
import torch

from arrcoc import Allocation
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.modeling.naive import collate, naive_features, naive_logits, naive_positions, without


ROWS = [[(4, 6)], [], [(3, 5), (1, 7)], [(8, 8)]]
BUDGETS = [9, 4, 3, 17]


def assert_attended_close(ours, theirs, inputs, tolerance=1e-4):
    """Compare `(batch, length, ...)` where tokens are not padding."""
    attended = inputs["attention_mask"].bool()
    torch.testing.assert_close(ours[attended], theirs[attended], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("policy", ["lod", "foveated", "pairs", "tiers", "uniform", "random", "topk"])
def test_logits_are_those_of_a_stock_model_fed_by_hand(host, stock, policy, side):
    block = {"policy": "foveated", "pair_worth": 0.9} if policy == "pairs" else {"policy": policy}
    model = tiny_arrcoc_model(host, arrcoc_config=block, tie_word_embeddings=False)
    inputs = random_inputs(host, ROWS, budgets=BUDGETS, padding_side=side)
    with torch.no_grad():
        outputs = model(**inputs)
        expected = naive_logits(stock, inputs, outputs.allocation)
    assert_attended_close(outputs.logits, expected, inputs)


def test_visual_tokens_are_pooled_box_by_box(host, model, stock):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        ours = model.encode_images(**inputs)
        theirs = naive_features(stock, inputs, ours.allocation)
    layers = [(ours.pooler_output, theirs.pooler_output)]
    if host == "qwen3_vl":
        layers += zip(ours.deepstack_features, theirs.deepstack_features, strict=True)
    for tokens, expected in layers:
        assert [len(image) for image in tokens] == BUDGETS
        torch.testing.assert_close(torch.cat(tokens), torch.cat(expected), rtol=1e-5, atol=1e-5)
    assert ours.allocation.relevance.unique().numel() > 10  # or weights could be ignored unnoticed


@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_are_leaf_centres_and_text_goes_on_as_in_the_host(host, model, stock, side):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS, padding_side=side)
    mask = inputs["attention_mask"]
    allocation = model.encode_images(**inputs).allocation
    positions, deltas = model.model.leaf_position_ids(
        allocation, inputs["input_ids"], inputs["mm_token_type_ids"], mask
    )
    expected, following = naive_positions(inputs["input_ids"], mask, allocation, model.config.image_token_id)
    assert torch.equal(positions[:, mask.bool()], expected[:, mask.bool()])
    assert torch.equal(deltas[:, 0], following - mask.sum(1))
    assert positions.frac().any()  # some centres lie between cells

    native = random_inputs(host, ROWS, padding_side=side)
    stock_positions, _ = stock.model.get_rope_index(**without(native, "pixel_values"))
    last_text = {row: stock_positions[:, row, native["attention_mask"][row].bool()][:, -1] for row in range(len(ROWS))}
    for row, position in last_text.items():
        assert torch.equal(positions[:, row, mask[row].bool()][:, -1], position.float())


def test_text_positions_do_not_depend_on_the_budget(host, model):
    ends = []
    for budgets in ([1, 1, 1, 1], BUDGETS, native_budgets(ROWS)):
        inputs = random_inputs(host, ROWS, budgets=budgets)
        allocation = model.encode_images(**inputs).allocation
        positions, _ = model.model.leaf_position_ids(
            allocation, inputs["input_ids"], inputs["mm_token_type_ids"], inputs["attention_mask"]
        )
        ends.append(positions[:, :, -4:])
    assert torch.equal(ends[0], ends[1])
    assert torch.equal(ends[0], ends[2])


def test_outputs_report_the_allocation(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        for outputs in (model(**inputs), model.model(**inputs)):
            assert isinstance(outputs.allocation, Allocation)
            assert outputs.allocation.budgets.tolist() == BUDGETS
            assert outputs.allocation.grids.tolist() == [list(grid) for row in ROWS for grid in row]
        assert model(**random_inputs(host, ROWS)).allocation is None
        assert model(**random_inputs(host, [[], []])).allocation is None
        hidden = model.model(**inputs).last_hidden_state
    assert hidden.shape[:2] == inputs["input_ids"].shape


def test_tuples_on_request(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        for module in (model, model.model):
            as_tuple, as_dict = module(**inputs, return_dict=False), module(**inputs)
            assert isinstance(as_tuple, tuple)
            assert torch.equal(as_tuple[0], as_dict[0])
            assert isinstance(as_tuple[-1], Allocation)
        labels = inputs["input_ids"]
        loss, logits, *_ = model(**inputs, labels=labels, return_dict=False)
        assert torch.equal(loss, model(**inputs, labels=labels).loss)
        assert torch.equal(logits, model(**inputs).logits)
        features = model.model.get_image_features(
            **without(inputs, "input_ids", "attention_mask", "mm_token_type_ids"), return_dict=False
        )
    assert isinstance(features, tuple)


def test_embeddings_in_place_of_ids(host, model):
    """Embedded text gives the same logits, with positions computed from the ids."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        expected = model(**inputs).logits
        allocation = model.encode_images(**inputs).allocation
        positions, _ = model.model.leaf_position_ids(
            allocation, inputs["input_ids"], inputs["mm_token_type_ids"], inputs["attention_mask"]
        )
        embeds = model.get_input_embeddings()(inputs["input_ids"])
        found = model(**without(inputs, "input_ids"), inputs_embeds=embeds, position_ids=positions).logits
    assert torch.equal(found, expected)


def test_encoded_images_can_be_injected(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        encoded = model.encode_images(**inputs)
        text = {name: inputs[name] for name in ("input_ids", "attention_mask", "mm_token_type_ids")}
        outputs = model(**text, mm_encoder_outputs={"image": encoded})
        assert torch.equal(outputs.logits, model(**inputs).logits)
    assert outputs.allocation is encoded.allocation


def test_a_batch_equals_its_rows(host, model):
    """Padding, and the other images of a batch, change nothing."""
    singles = [
        random_inputs(host, [row], budgets=budgets, seed=seed)
        for seed, (row, budgets) in enumerate(zip(ROWS, ([9], [], [4, 3], [17]), strict=True))
    ]
    for side in ("left", "right"):
        batch = collate(singles, side)
        with torch.no_grad():
            together = model(**batch).logits
            alone = [model(**single).logits[0] for single in singles]
        for row, expected in enumerate(alone):
            found = together[row, batch["attention_mask"][row].bool()]
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
