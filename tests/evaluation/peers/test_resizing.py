"""The control of equal tokens by resizing: how near it comes, and that the processor changes nothing more."""

import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc.evaluation.peers import resized_grid, resized_inputs
from tests.helpers.tiny_processors import CELL_SIZE, HOSTS, tiny_image_processor, tiny_processor


PROMPT = "<|im_start|>user\n<|vision_start|><|image_pad|><|vision_end|>What?<|im_end|>\n"


def picture(rows, cols, host, seed=0):
    generator = np.random.default_rng(seed)
    cell = CELL_SIZE[host]
    return Image.fromarray(generator.integers(0, 256, (rows * cell, cols * cell, 3), dtype=np.uint8))


def test_resized_grid_by_hand():
    assert resized_grid((24, 32), 64) == (7, 9)  # 63; 8 x 8 would squeeze the width, 6 x 10 the height
    assert resized_grid((64, 64), 64) == (8, 8)
    assert resized_grid((64, 64), 63) == (7, 9)  # neither axis is coarser than in 7 x 7
    assert resized_grid((3, 5), 15) == (3, 5)
    assert resized_grid((3, 5), 400) == (3, 5)
    assert resized_grid((1, 40), 7) == (1, 7)
    assert resized_grid((40, 1), 7) == (7, 1)
    assert resized_grid((40, 40), 1) == (1, 1)


@pytest.mark.parametrize("grid", [(24, 32), (50, 7), (9, 9), (1, 12), (30, 41)])
def test_resized_grid_has_the_finest_coarser_axis(grid):
    rows, cols = grid
    for budget in (1, 2, 5, 17, 64, 100, 256):
        found = resized_grid(grid, budget)
        assert found[0] * found[1] <= budget or found == grid
        if rows * cols <= budget:
            continue
        allowed = [(h, w) for h, w in itertools.product(range(1, rows + 1), range(1, cols + 1)) if h * w <= budget]
        assert min(found[0] / rows, found[1] / cols) == max(min(h / rows, w / cols) for h, w in allowed)
        # As many tokens as such a grid can have.
        best = min(found[0] / rows, found[1] / cols)
        assert found[0] * found[1] == max(h * w for h, w in allowed if min(h / rows, w / cols) == best)


@pytest.mark.parametrize("host", HOSTS)
def test_tokens_of_resized_pictures(host):
    processor = tiny_processor(host)
    pictures = [picture(16, 24, host), picture(9, 4, host, seed=1)]
    inputs = resized_inputs(processor, pictures, [PROMPT, PROMPT], [64, 400], padding=True, return_tensors="pt")
    assert "image_token_budgets" not in inputs
    grids = inputs["image_grid_thw"][:, 1:] // 2
    assert grids.tolist() == [[7, 9], [9, 4]]
    placeholders = (inputs["input_ids"] == processor.tokenizer.convert_tokens_to_ids("<|image_pad|>")).sum(1)
    assert placeholders.tolist() == [63, 36]
    # What the processor makes of the picture that Pillow resized to these cells, and of the other as it is.
    cell = CELL_SIZE[host]
    small = pictures[0].resize((9 * cell, 7 * cell), Image.Resampling.BICUBIC)
    expected = processor(images=[small, pictures[1]], text=[PROMPT, PROMPT], padding=True, return_tensors="pt")
    assert torch.equal(inputs["pixel_values"], expected["pixel_values"])
    shares = resized_inputs(processor, pictures, [PROMPT, PROMPT], 0.25, padding=True, return_tensors="pt")
    assert (shares["image_grid_thw"][:, 1:] // 2).prod(1).tolist() == [96, 8]


@pytest.mark.parametrize("host", HOSTS)
def test_no_budget_and_large_budgets_are_native(host):
    processor = tiny_processor(host, token_budget=7)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (150, 333, 3), dtype=np.uint8))
    native = processor(images=[image], text=PROMPT, token_budget=None, return_tensors="pt")
    for budget in (None, 4096, 1.0):
        found = resized_inputs(processor, [image], PROMPT, budget, return_tensors="pt")
        assert found.keys() == native.keys()
        assert all(torch.equal(found[name], native[name]) for name in native)


@pytest.mark.parametrize("host", HOSTS)
def test_the_processors_least_size_does_not_enlarge_pictures_again(host, tmp_path):
    cell = CELL_SIZE[host]
    limits = {"shortest_edge": 64 * cell**2, "longest_edge": 4096 * cell**2}
    processor = tiny_processor(host, image_processor=tiny_image_processor(host, size=limits))
    pictures = [picture(16, 16, host), picture(3, 3, host)]
    pictures[0].save(tmp_path / "page.png")
    inputs = resized_inputs(processor, [tmp_path / "page.png", pictures[1]], [PROMPT] * 2, [9, None], padding=True)
    # The small picture still grows to the least size, as it does natively.
    assert [grid[1] * grid[2] // 4 for grid in inputs["image_grid_thw"]] == [9, 64]
