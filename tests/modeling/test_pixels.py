"""Stage `pixels`: the tower runs on the leaves alone. Its limits, and that it works wherever the model does."""

import pytest
import torch
import torch.nn.functional as F

from arrcoc.allocation import uniform_allocation
from arrcoc.multiresolution import cells_to_patches, patches_to_cells
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.modeling.naive import collate, stock_inputs


ROWS = [[(9, 13), (5, 3)], [(7, 7)]]
BUDGETS = [30, 4, 20]
UNTIED = {"tie_word_embeddings": False}


@pytest.fixture
def pixels(host):
    return tiny_arrcoc_model(host, arrcoc_config={"stage": "pixels"}, **UNTIED)


def halve_pictures(inputs: dict, rows: list, patch_size: int) -> dict:
    """The stock inputs of the same prompts with every picture shrunk to half by a box filter."""
    cells = patches_to_cells(inputs["pixel_values"], 6, patch_size, 2)
    side, start, patches, grids = cells.shape[-1], 0, [], []
    for height, width in (grid for row in rows for grid in row):
        tiles = cells[start : start + height * width].view(height, width, 6, side, side)
        start += height * width
        half = F.avg_pool2d(tiles.permute(2, 0, 3, 1, 4).reshape(6, height * side, width * side), 2)
        half = half.view(6, height // 2, side, width // 2, side).permute(1, 3, 0, 2, 4).reshape(-1, 6, side, side)
        patches.append(cells_to_patches(half, 2))
        grids.append([1, height, width])
    return {**stock_inputs(inputs), "pixel_values": torch.cat(patches), "image_grid_thw": torch.tensor(grids)}


def test_native_budget_is_stock_bit_for_bit(host, pixels, stock):
    inputs = random_inputs(host, ROWS, native_budgets(ROWS))
    with torch.no_grad():
        assert torch.equal(pixels(**inputs).logits, stock(**stock_inputs(inputs)).logits)
    options = {"max_new_tokens": 6, "do_sample": False}
    placeholders = [stock.config.image_token_id, stock.config.video_token_id]
    expected = stock.generate(**stock_inputs(inputs), **options, suppress_tokens=placeholders)
    assert torch.equal(pixels.generate(**inputs, **options), expected)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_leaves_of_one_cell_are_the_stock_tower(host, attention):
    model = tiny_arrcoc_model(host, arrcoc_config={"stage": "pixels"}, **UNTIED)
    model.set_attn_implementation(attention)
    inputs = random_inputs(host, ROWS, BUDGETS)
    grids = inputs["image_grid_thw"][:, 1:] // 2
    vision = model.config.vision_config
    cells = patches_to_cells(inputs["pixel_values"], 6, vision.patch_size, 2)
    with torch.no_grad():
        ours = model.model._encode_leaves(cells, uniform_allocation(grids, grids.prod(1)))
        theirs = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"])
    layers = [(ours.pooler_output, theirs.pooler_output)]
    if host == "qwen3_vl":
        layers += zip(ours.deepstack_features, theirs.deepstack_features, strict=True)
    for tokens, expected in layers:
        torch.testing.assert_close(torch.cat(tokens), torch.cat(expected), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [[[(16, 16)]], [[(16, 12)], [(6, 20), (8, 8)]]], ids=["one", "batch"])
def test_matched_uniform_leaves_are_a_plain_resize(host, stock, rows):
    block = {"stage": "pixels", "policy": "uniform", "position_scale": "matched"}
    model = tiny_arrcoc_model(host, arrcoc_config=block, **UNTIED)
    inputs = random_inputs(host, rows, [height * width // 4 for row in rows for height, width in row])
    halved = halve_pictures(inputs, rows, model.config.vision_config.patch_size)
    with torch.no_grad():
        ours, theirs = (
            model.encode_images(**inputs),
            stock.model.get_image_features(halved["pixel_values"], halved["image_grid_thw"]),
        )
        logits, expected = model(**inputs).logits, stock(**halved).logits
    assert (ours.allocation.levels == 1).all()
    torch.testing.assert_close(torch.cat(ours.pooler_output), torch.cat(theirs.pooler_output), rtol=0, atol=1e-4)
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-4)
    assert torch.equal(model.model.rope_deltas, stock.model.rope_deltas)
    options = {"max_new_tokens": 8, "do_sample": False}
    placeholders = [stock.config.image_token_id, stock.config.video_token_id]
    assert torch.equal(
        model.generate(**inputs, **options), stock.generate(**halved, **options, suppress_tokens=placeholders)
    )


def test_native_positions_differ_from_a_plain_resize(host, stock):
    """The two position scales are not the same thing."""
    block = {"stage": "pixels", "policy": "uniform", "position_scale": "native"}
    model = tiny_arrcoc_model(host, arrcoc_config=block, **UNTIED)
    rows = [[(16, 16)]]
    inputs = random_inputs(host, rows, [64])
    halved = halve_pictures(inputs, rows, model.config.vision_config.patch_size)
    with torch.no_grad():
        assert (model(**inputs).logits - stock(**halved).logits).abs().max() > 1e-3


def test_the_tower_sees_only_leaves(host, pixels):
    """Its cost falls with the budget: patches that enter it, the glance of level 2 included."""
    patches = []
    hook = pixels.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: patches.append(len(args[0])))
    with torch.no_grad():
        pixels(**random_inputs(host, ROWS, BUDGETS))
    hook.remove()
    glance = sum(-(-height // 4) * -(-width // 4) for row in ROWS for height, width in row)
    assert patches == [4 * glance, 4 * sum(BUDGETS)]


def test_without_a_glance_the_question_has_no_say(host):
    model = tiny_arrcoc_model(host, arrcoc_config={"stage": "pixels", "cell_encoder": "none"}, **UNTIED)
    with torch.no_grad():
        assert list(model(**random_inputs(host, ROWS, BUDGETS)).allocation.maps) == ["information"]


@pytest.mark.parametrize("policy", ["lod", "foveated", "pairs", "windows", "tiers", "uniform", "random", "topk"])
def test_batch_equals_singles_and_cache_equals_recomputation(host, policy):
    block = {"stage": "pixels", "policy": policy, "region_size": 4, "tiers": [2, 4, 9]}
    if policy in ("pairs", "windows"):
        drawing = {"pairs": "shrunk", "windows": "window"}[policy]
        block |= {"policy": "foveated", "pair_worth": 0.9, "pair_drawing": drawing}
    model = tiny_arrcoc_model(host, arrcoc_config=block, **UNTIED)
    singles = [random_inputs(host, [[grid]], [k], seed=k) for grid, k in (((9, 13), 30), ((5, 3), 4), ((7, 7), 20))]
    batch = collate(singles)
    options = {"max_new_tokens": 5, "do_sample": False}
    together = model.generate(**batch, **options)
    assert torch.equal(together, model.generate(**batch, **options, use_cache=False))
    for row, single in enumerate(singles):
        assert torch.equal(together[row, -5:], model.generate(**single, **options)[0, -5:])


def test_a_line_across_two_rows_reaches_the_tower_as_a_window(host):
    """Cells of even rows have print in their lower patches alone, those of odd rows in their upper ones."""
    options = {"stage": "pixels", "policy": "foveated", "context_share": 0, "pair_worth": 0.9}
    model = tiny_arrcoc_model(host, arrcoc_config=options | {"pair_drawing": "window"}, **UNTIED)
    inputs = random_inputs(host, [[(8, 8)]], [9])
    cells = inputs["pixel_values"].view(8, 8, 4, -1)  # rows, columns, patches of a cell, values
    cells[::2, :, :2], cells[1::2, :, 2:] = 0, 0
    seen = []
    hook = model.model.visual.patch_embed.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    with torch.no_grad():
        allocation = model(**inputs).allocation
    hook.remove()
    pairs = (allocation.windows == 0.5).nonzero()[:, 0]
    assert len(pairs) == 8 and (allocation.windows[allocation.sizes.prod(1) > 2] == -1).all()
    leaves = seen[-1].view(9, 4, -1)
    for leaf in pairs.tolist():
        top, left, _, _ = allocation.boxes[leaf].tolist()
        assert top % 2 == 0
        torch.testing.assert_close(leaves[leaf], torch.cat([cells[top, left, 2:], cells[top + 1, left, :2]]))
    shrunk = tiny_arrcoc_model(host, arrcoc_config=options, **UNTIED)
    with torch.no_grad():
        assert shrunk(**inputs).allocation.windows is None


def test_gradients_reach_the_whole_tower(host, pixels):
    pixels.train()
    inputs = random_inputs(host, ROWS, BUDGETS)
    labels = inputs["input_ids"].masked_fill(inputs["mm_token_type_ids"] == 1, -100)
    pixels(**inputs, labels=labels).loss.backward()
    for name, parameter in pixels.model.visual.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_activation_checkpointing_changes_nothing(host):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_arrcoc_model(host, arrcoc_config={"stage": "pixels"}, **UNTIED).train()
        if checkpointing:
            model.activation_checkpointing_enable()
        inputs = random_inputs(host, ROWS, BUDGETS)
        model(**inputs, labels=inputs["input_ids"]).loss.backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_bfloat16_allocates_as_float32(host, pixels):
    """The glance that the question is compared with differs in precision; full detail goes to the same cells."""
    inputs = random_inputs(host, [[(24, 24)]], [96])
    with torch.no_grad():
        exact = pixels(**inputs).allocation
        rounded = pixels.to(torch.bfloat16)(**inputs)
    assert rounded.logits.isfinite().all()
    same = exact.levels[exact.cell_to_leaf] == rounded.allocation.levels[rounded.allocation.cell_to_leaf]
    assert same.float().mean() >= 0.99


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0])
def test_constant_pictures_give_finite_logits(host, pixels, value):
    inputs = random_inputs(host, ROWS, BUDGETS)
    inputs["pixel_values"].fill_(value)
    inputs["image_information"].zero_()
    with torch.no_grad():
        output = pixels(**inputs)
    assert output.logits.isfinite().all()
    assert output.allocation.relevance.isfinite().all()
