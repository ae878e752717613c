"""Published methods on both hosts: what they read there, rows and places of their tokens, what is generated."""

import pytest
import torch
from transformers import AttentionInterface
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import eager_attention_forward
from transformers.vision_utils import get_vision_window_index

from arrcoc.evaluation.peers import PEERS, peer_features, selection
from arrcoc.evaluation.peers import host as peers_host
from arrcoc.evaluation.peers.host import encode_cells
from tests.evaluation.peers import reference
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_config_dict
from tests.modeling.naive import Features, naive_logits, naive_positions, without


ROWS, BUDGETS = [[(4, 6)], [], [(3, 5), (1, 7)]], [9, 4, 3]
COUNTS = native_budgets(ROWS)
ON_FEATURES = [peer.name for peer in PEERS.values() if peer.stage == "features"]
ASKING = [peer.name for peer in PEERS.values() if peer.stage == "features" and peer.asks]
KEEPING = [name for name in ON_FEATURES if name not in ("pooling", "visionzip")]

CALLS = []


def recording_attention(module, query, key, value, attention_mask, **kwargs):
    """Eager attention that notes its weights."""
    output, weights = eager_attention_forward(module, query, key, value, attention_mask, **kwargs)
    CALLS.append((module, key, weights))
    return output, weights


AttentionInterface.register("recording", recording_attention)


def raster(host, stock, inputs, cells):
    """Cells in the tower's order put into raster order, by the stock code."""
    if host == "qwen3_vl":
        return cells
    vision = stock.config.vision_config
    order, _ = get_vision_window_index(
        inputs["image_grid_thw"],
        spatial_merge_size=vision.spatial_merge_size,
        window_size=vision.window_size,
        patch_size=vision.patch_size,
    )
    return cells[torch.argsort(order)]


def unpad(values, counts=COUNTS):
    return torch.cat([row[:count] for row, count in zip(values, counts, strict=True)])


@torch.no_grad()
def test_attention_and_keys_are_those_of_the_tower(host, model, stock):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    cells = encode_cells(model, inputs, inputs["image_token_budgets"])
    implementation = stock.model.visual.config._attn_implementation
    CALLS.clear()
    try:
        stock.model.visual.config._attn_implementation = "recording"
        encoded = stock.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    finally:
        stock.model.visual.config._attn_implementation = implementation
    last = [(key[0], weights[0]) for module, key, weights in CALLS if module is stock.model.visual.blocks[-1].attn]
    assert [weights.shape[-1] // 4 for _, weights in last] == COUNTS  # one call an image: whole images

    received = torch.cat([weights.mean(0).sum(0) for _, weights in last]).view(-1, 4).mean(1)
    torch.testing.assert_close(unpad(cells.attention), raster(host, stock, inputs, received), rtol=1e-4, atol=1e-5)
    keys = torch.cat([key.mean(0) for key, _ in last]).view(sum(COUNTS), 4, -1).mean(1)
    torch.testing.assert_close(unpad(cells.keys), raster(host, stock, inputs, keys), rtol=1e-4, atol=1e-5)
    tower = encoded.last_hidden_state.view(sum(COUNTS), 4, -1).mean(1)
    expected = raster(host, stock, inputs, tower)
    torch.testing.assert_close(unpad(cells.tower_features), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(unpad(cells.features), torch.cat(tuple(encoded.pooler_output)), rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_attention_in_chunks_is_attention(monkeypatch):
    query, key = torch.randn(2, 9, 3, 4)
    expected = peers_host.received_attention(query, key, [4, 5], 0.5)
    monkeypatch.setattr(peers_host, "QUERY_ROWS", 2)
    torch.testing.assert_close(peers_host.received_attention(query, key, [4, 5], 0.5), expected)
    assert expected.split([4, 5])[0].sum() == pytest.approx(4, abs=1e-5)


@torch.no_grad()
def test_hawk_reads_the_first_layer(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    inputs["image_query_mask"][1, 4:] = 0
    cells = encode_cells(model, inputs, inputs["image_token_budgets"])
    image = torch.arange(3).repeat_interleave(torch.tensor(COUNTS))
    own = model.model._query_scores(
        torch.cat(tuple(cells.encoded.pooler_output)), inputs["image_query_ids"], inputs["image_query_mask"], image
    )
    torch.testing.assert_close(unpad(cells.hawk), own, rtol=1e-4, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize("host", ["qwen2_5_vl"])
def test_hawk_weighs_the_heads_that_its_weights_were_published_for(host):
    """28 heads, as in Qwen2.5-VL-7B."""
    config = tiny_config_dict(host)
    text = config["text_config"] | {"hidden_size": 28 * 8, "num_attention_heads": 28, "num_key_value_heads": 4}
    text["rope_parameters"] = text["rope_parameters"] | {"mrope_section": [2, 1, 1]}
    vision = config["vision_config"] | {"out_hidden_size": 28 * 8}
    model = tiny_arrcoc_model(host, text_config=text, vision_config=vision)
    inputs = random_inputs(host, [[(3, 4)]], budgets=[4])
    cells = encode_cells(model, inputs, inputs["image_token_budgets"])
    layer = model.model.language_model.layers[0]
    question = layer.input_layernorm(model.get_input_embeddings()(inputs["image_query_ids"][0]))
    query = layer.self_attn.q_proj(question).view(-1, 28, 8)
    key = layer.self_attn.k_proj(layer.input_layernorm(cells.encoded.pooler_output[0])).view(-1, 4, 8)
    expected = reference.hawk_scores(query, key, list(selection.HAWK_HEAD_WEIGHTS))
    torch.testing.assert_close(cells.hawk[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", KEEPING)
def test_kept_cells_keep_their_rows_and_places(host, model, stock, name):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    features = peer_features(model, inputs, name)
    allocation = features.allocation
    assert allocation.budgets.tolist() == BUDGETS
    encoded = stock.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    layers = [(features.pooler_output, encoded.pooler_output)]
    if host == "qwen3_vl":
        layers += list(zip(features.deepstack_features, encoded.deepstack_features, strict=True))
        assert len(layers) == 3
    for image in range(3):
        part = allocation.image(image)
        kept = (part.cell_to_leaf >= 0).nonzero()[:, 0]
        assert part.cell_to_leaf[kept].tolist() == list(range(BUDGETS[image]))  # in raster order
        columns = int(part.grids[0, 1])
        assert part.boxes.tolist() == [[i // columns, i % columns, i // columns + 1, i % columns + 1] for i in kept]
        for found, all_cells in layers:
            torch.testing.assert_close(found[image], all_cells[image][kept])


def test_merged_cells_are_means_in_the_places_of_their_targets(host, model, stock):
    inputs = random_inputs(host, ROWS, budgets=[19, 8, 3])
    features = peer_features(model, inputs, "visionzip")
    encoded = stock.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    layers = [(features.pooler_output, encoded.pooler_output)]
    if host == "qwen3_vl":
        layers += list(zip(features.deepstack_features, encoded.deepstack_features, strict=True))
    merged = 0
    for image in range(3):
        part = features.allocation.image(image)
        assert (part.cell_to_leaf >= 0).all()  # nothing is dropped
        top, left = part.boxes[:, :2].unbind(1)
        head = top * part.grids[0, 1] + left
        assert part.cell_to_leaf[head].tolist() == list(range(len(head)))
        for leaf in range(len(head)):
            inside = (part.cell_to_leaf == leaf).nonzero()[:, 0]
            merged += len(inside) > 1
            for found, cells in layers:
                torch.testing.assert_close(found[image][leaf], cells[image][inside].mean(0), rtol=1e-4, atol=1e-5)
    assert merged >= 3


@pytest.mark.parametrize("name", ON_FEATURES)
def test_the_native_budget_is_the_stock_model(host, model, stock, name):
    inputs = random_inputs(host, ROWS, budgets=COUNTS)
    features = peer_features(model, inputs, name)
    text = without(
        inputs, "pixel_values", "image_token_budgets", "image_query_ids", "image_query_mask", "image_information"
    )
    with torch.no_grad():
        found = model(**text, mm_encoder_outputs={"image": features}).logits
        expected = naive_logits(stock, inputs, None)
    shown = inputs["attention_mask"].bool()
    torch.testing.assert_close(found[shown], expected[shown], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["divprune", "visionzip", "pooling"])
def test_generation_is_the_stock_models_with_the_kept_rows(host, model, stock, name):
    """Greedy generation with a cache, against full passes of a stock model fed the rows at their native positions."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    features = peer_features(model, inputs, name)
    found = model.generate(**inputs, encoded_images=features, max_new_tokens=5, do_sample=False)[:, -5:]
    grown = {key: inputs[key] for key in ("input_ids", "attention_mask")}
    encoded = Features(pooler_output=features.pooler_output, deepstack_features=features.deepstack_features)
    for _ in range(5):
        positions, _ = naive_positions(
            **grown, allocation=features.allocation, image_token_id=stock.config.image_token_id
        )
        with torch.no_grad():
            logits = stock(
                **grown, position_ids=positions, mm_encoder_outputs={"image": encoded}, use_cache=False
            ).logits[:, -1]
        logits[:, [stock.config.image_token_id, stock.config.video_token_id]] = -torch.inf
        chosen = logits.argmax(1, keepdim=True)
        ones = torch.ones_like(chosen)
        grown = {
            "input_ids": torch.cat([grown["input_ids"], chosen], 1),
            "attention_mask": torch.cat([grown["attention_mask"], ones], 1),
        }
    assert torch.equal(found, grown["input_ids"][:, -5:])


@pytest.mark.parametrize("name", ON_FEATURES)
def test_other_images_in_the_batch_change_nothing(host, model, name):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    together = peer_features(model, inputs, name)
    start, patches = COUNTS[0] * 4, COUNTS[1] * 4
    alone = {
        "pixel_values": inputs["pixel_values"][start : start + patches],
        **{key: inputs[key][1:2] for key in inputs if key.startswith("image_") and key != "image_information"},
    }
    features = peer_features(model, alone, name)
    assert torch.equal(features.allocation.boxes, together.allocation.image(1).boxes)
    torch.testing.assert_close(features.pooler_output[0], together.pooler_output[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ASKING)
def test_asking_methods_read_the_question_and_not_its_padding(host, model, name):
    rows = [[(8, 8)]]
    inputs = random_inputs(host, rows, budgets=[6])
    kept = {tuple(map(tuple, peer_features(model, inputs, name).allocation.boxes.tolist()))}
    padded = dict(inputs)
    for key in ("image_query_ids", "image_query_mask"):
        padded[key] = torch.nn.functional.pad(inputs[key], (0, 4))
    assert tuple(map(tuple, peer_features(model, padded, name).allocation.boxes.tolist())) in kept
    for seed in range(1, 4):
        asked = inputs | {"image_query_ids": random_inputs(host, rows, budgets=[6], seed=seed)["image_query_ids"]}
        kept.add(tuple(map(tuple, peer_features(model, asked, name).allocation.boxes.tolist())))
    assert len(kept) > 1
    with pytest.raises(ValueError, match="image_query_ids"):
        peer_features(model, without(inputs, "image_query_ids", "image_query_mask"), name)


def test_idpruner_takes_a_given_score(host, model):
    inputs = random_inputs(host, [[(4, 6)], [(3, 5)]], budgets=[5, 4])
    scores = torch.rand(39, generator=torch.Generator().manual_seed(0))
    features = peer_features(model, inputs, "idpruner", scores=scores, balance=1.0)  # importance alone
    kept = (features.allocation.cell_to_leaf >= 0).split([24, 15])
    for image, part in enumerate(scores.split([24, 15])):
        assert set(kept[image].nonzero()[:, 0].tolist()) == set(part.topk([5, 4][image]).indices.tolist())
    assert peer_features(model, inputs, "idpruner", scores="attention").allocation.budgets.tolist() == [5, 4]
    with pytest.raises(ValueError, match="38 scores for 39"):
        peer_features(model, inputs, "idpruner", scores=scores[1:])
    with pytest.raises(ValueError, match="vibes"):
        peer_features(model, inputs, "idpruner", scores="vibes")


def test_random_cells_follow_their_seeds(host, model):
    inputs = random_inputs(host, [[(8, 8)]], budgets=[9])
    boxes = [peer_features(model, inputs, "random", seeds=seed).allocation.boxes for seed in (0, 0, 1)]
    assert torch.equal(boxes[0], boxes[1])
    assert not torch.equal(boxes[0], boxes[2])


def test_wrong_arguments_are_named(host, model):
    inputs = random_inputs(host, [[(4, 6)]], budgets=[9])
    with pytest.raises(ValueError, match="'fastv'.*'features'.*divprune"):
        peer_features(model, inputs, "fastv")
    with pytest.raises(ValueError, match="image_token_budgets"):
        peer_features(model, without(inputs, "image_token_budgets"), "random")
    for budgets in ([0], [25], [9, 9]):
        with pytest.raises(ValueError, match="native counts"):
            peer_features(model, inputs, "random", torch.tensor(budgets))
    with pytest.raises(ValueError, match="no images"):
        peer_features(model, without(inputs, "pixel_values"), "random")
