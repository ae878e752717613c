"""Every method through the one way to run it, from pictures and text to generated tokens."""

import pytest
import torch
from PIL import Image, ImageDraw

from arrcoc.evaluation.peers import (
    PEERS,
    encode_cells,
    native_grids,
    peer_batch,
    peer_features,
    resized_inputs,
    running_peer,
)
from tests.helpers.tiny_processors import CELL_SIZE, tiny_processor


MARK = "<|vision_start|><|image_pad|><|vision_end|>"
TEXT = [
    f"<|im_start|>user\n{MARK}What is the total?<|im_end|>\n<|im_start|>assistant\n",
    f"<|im_start|>user\n{MARK}{MARK}Which is red?<|im_end|>\n<|im_start|>assistant\n",
]
GREEDY = {"max_new_tokens": 3, "do_sample": False}


def pictures(host):
    cell, drawn = CELL_SIZE[host], []
    for index, (rows, cols) in enumerate([(6, 8), (5, 4), (3, 3)]):
        image = Image.new("RGB", (cols * cell, rows * cell), "white")
        ImageDraw.Draw(image).text((10, 10 + 20 * index), "Total 12.50", fill=("red", "black", "blue")[index])
        drawn.append(image)
    return drawn


@pytest.mark.parametrize("name", PEERS)
def test_every_peer_runs(host, model, name):
    processor = tiny_processor(host)
    batch = peer_batch(processor, name, pictures(host), TEXT, [12, 0.5, 40], padding=True)
    assert batch.native.tolist() == [48, 20, 9]
    assert batch.budgets.tolist() == [12, 10, 9]
    with running_peer(model, batch) as run:
        generated = model.generate(**run.arguments, **GREEDY)
    assert generated.shape[0] == 2
    stage = PEERS[name].stage
    if stage == "features":
        assert run.tokens.tolist() == [12, 10, 9] == run.allocation.budgets.tolist()
        expected = peer_features(model, batch.inputs, name)
        assert torch.equal(expected.allocation.boxes, run.allocation.boxes)
        assert torch.equal(model.generate(**batch.inputs, encoded_images=expected, **GREEDY), generated)
    elif stage == "language_model":
        assert run.allocation is None
        assert run.record.tokens[0].tolist() == [48, 20, 9]
        assert run.record.tokens[-1, 2] == 9  # a native budget drops nothing
        assert torch.equal(run.tokens, run.record.mean_tokens)
        assert (run.tokens[:2] < torch.tensor([48, 20])).all()
    else:
        assert run.tokens.tolist() == [12, 9, 9]  # 3 x 4; 3 x 3, as 10 cells have no better shape; untouched
        inputs = resized_inputs(processor, pictures(host), TEXT, [12, 0.5, 40], padding=True, return_tensors="pt")
        assert torch.equal(model.generate(**inputs, **GREEDY), generated)


def test_options_reach_the_method(host, model):
    batch = peer_batch(tiny_processor(host), "random", pictures(host), TEXT, 5, padding=True)
    boxes = []
    for seed in (1, 2):
        with running_peer(model, batch, seeds=seed) as run:
            boxes.append(run.allocation.boxes)
    assert not torch.equal(*boxes)
    batch = peer_batch(tiny_processor(host), "fastv", pictures(host), TEXT, 5, padding=True)
    with running_peer(model, batch, layer=1) as run:
        model.generate(**run.arguments, **GREEDY)
    assert run.record.tokens.tolist() == [[48, 20, 9], [5, 5, 5], [5, 5, 5]]


@pytest.mark.parametrize("name", [name for name, peer in PEERS.items() if peer.stage != "image"])
def test_methods_and_budgets_may_share_the_encoded_cells(host, model, name):
    processor = tiny_processor(host)
    batches = [peer_batch(processor, name, pictures(host), TEXT, budget, padding=True) for budget in (0.5, 0.25)]
    cells = encode_cells(model, batches[0].inputs, batches[0].native)
    for batch in batches:
        with running_peer(model, batch) as run:
            expected = model.generate(**run.arguments, **GREEDY)
        with running_peer(model, batch, cells) as shared:
            assert torch.equal(model.generate(**shared.arguments, **GREEDY), expected)
        assert torch.equal(shared.tokens, run.tokens)
        if run.allocation is not None:
            assert torch.equal(shared.allocation.boxes, run.allocation.boxes)


def test_a_question_may_be_given_apart_from_the_prompt(host, model):
    processor, kept = tiny_processor(host), []
    for queries in (None, "What is the total?", "Which is red?"):
        batch = peer_batch(processor, "hawk", pictures(host)[:1], TEXT[0], 6, queries=queries)
        with running_peer(model, batch) as run:
            kept.append(run.allocation.boxes)
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


@pytest.mark.parametrize("name", ["resize", "fastv"])
def test_methods_that_read_no_question_apart_ignore_it(host, name):
    asked = peer_batch(tiny_processor(host), name, pictures(host)[:1], TEXT[0], 6, queries="Which is red?")
    plain = peer_batch(tiny_processor(host), name, pictures(host)[:1], TEXT[0], 6)
    assert asked.inputs.keys() == plain.inputs.keys()
    assert all(torch.equal(asked.inputs[key], plain.inputs[key]) for key in plain.inputs)


def test_native_grids_are_the_processors(host):
    processor = tiny_processor(host)
    images = [Image.new("RGB", size) for size in ((333, 150), (40, 700), (17, 17))]
    inputs = processor(images=images, text=[MARK] * 3, padding=True, return_tensors="pt")
    assert native_grids(processor, images) == [tuple(grid) for grid in (inputs["image_grid_thw"][:, 1:] // 2).tolist()]


def test_unknown_peers_are_named(host):
    with pytest.raises(ValueError, match="'prumerge'.*visionzip"):
        peer_batch(tiny_processor(host), "prumerge", [], TEXT, 5)
