"""Chats about pictures, and what a processor makes of them."""

import numpy as np
import torch
from PIL import Image


IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
OWN_KEYS = {"image_token_budgets", "image_query_ids", "image_query_mask", "image_information"}
STOCK_KEYS = {"input_ids", "attention_mask", "mm_token_type_ids", "pixel_values", "image_grid_thw"}


def picture(width, height, seed=0):
    """Some structure on paper: text-like bars over noise-free white."""
    rng = np.random.default_rng(seed)
    pixels = np.full((height, width, 3), 255, np.uint8)
    for _ in range(20):
        y, x = rng.integers(0, height), rng.integers(0, width)
        pixels[y : y + 3, x : x + 12] = rng.integers(0, 160, 3)
    return Image.fromarray(pixels)


def user(text, *images):
    content = [{"type": "image", "image": image} for image in images]
    return {"role": "user", "content": [*content, {"type": "text", "text": text}]}


def chat(processor, conversation, **kwargs):
    return processor.apply_chat_template(
        conversation, add_generation_prompt=True, tokenize=True, return_dict=True, **kwargs
    )


def placeholders(processor, inputs):
    return [int((np.asarray(ids) == processor.image_token_id).sum()) for ids in inputs["input_ids"]]


def questions(processor, inputs):
    ids, mask = np.asarray(inputs["image_query_ids"]), np.asarray(inputs["image_query_mask"])
    return [processor.tokenizer.decode(row[keep == 1]) for row, keep in zip(ids, mask, strict=True)]


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert type(a[key]) is type(b[key]), key
        if isinstance(a[key], torch.Tensor):
            assert a[key].dtype == b[key].dtype and torch.equal(a[key], b[key]), key
        else:
            assert np.array_equal(np.asarray(a[key], object), np.asarray(b[key], object)), key
