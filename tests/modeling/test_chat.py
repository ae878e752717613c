"""Several turns: chats continued from a cache, chats read anew, and images that are encoded once for several calls."""

import copy

import pytest
import torch
from torch import Tensor

from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import MERGE_SIZE, TOKEN_IDS
from tests.modeling.naive import IMAGE_INPUTS, TEXT_INPUTS, naive_greedy, without


NEW_TOKENS = 6
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
DETAILS = {"return_dict_in_generate": True, "output_logits": True}
ROWS, BUDGETS = [[(7, 8)], [], [(3, 5), (1, 7)]], [15, 4, 3]

# Images of the second turn, row by row, and their budgets.
SECOND_TURNS = {
    "no new image": ([[], [], []], []),
    "a new image in every row": ([[(3, 3)], [(2, 2)], [(2, 6)]], [4, 3, 5]),
    "new images in the last row": ([[], [], [(2, 6), (4, 4)]], [5, 6]),
    "a new image in the first row": ([[(3, 3)], [], []], [4]),
    "a first image in the middle row": ([[], [(3, 3)], []], [4]),
}


def images_of_rows(inputs: dict[str, Tensor]) -> list[int]:
    return (inputs["input_ids"] == TOKEN_IDS["<|vision_start|>"]).sum(1).tolist()


def per_image(inputs: dict[str, Tensor], name: str) -> list[Tensor]:
    """An image input, image by image; pixels and information are packed."""
    if name not in inputs:
        return []
    patches = inputs["image_grid_thw"].prod(1)
    counts = {"pixel_values": patches, "image_information": patches // MERGE_SIZE**2}
    return list(inputs[name].split(counts.get(name, torch.ones_like(patches)).tolist()))


def conversation(turn: dict[str, Tensor], sequences: Tensor, following: dict[str, Tensor]) -> dict[str, Tensor]:
    """A first turn with its answers, and a second turn in the columns after them; images in the order of the rows."""
    answers = torch.ones_like(sequences[:, turn["input_ids"].shape[1] :])
    joined = {
        "input_ids": torch.cat([sequences, following["input_ids"]], 1),
        "attention_mask": torch.cat([turn["attention_mask"], answers, following["attention_mask"]], 1),
        "mm_token_type_ids": torch.cat([turn["mm_token_type_ids"], answers * 0, following["mm_token_type_ids"]], 1),
    }
    for name in IMAGE_INPUTS:
        old, new = iter(per_image(turn, name)), iter(per_image(following, name))
        parts = []
        for first, second in zip(images_of_rows(turn), images_of_rows(following), strict=True):
            parts += [next(old) for _ in range(first)] + [next(new) for _ in range(second if name in following else 0)]
        joined[name] = torch.cat(parts)
    return joined


def second_turn(host: str, turn: dict[str, Tensor], sequences: Tensor, rows, budgets) -> dict[str, Tensor]:
    return conversation(turn, sequences, random_inputs(host, rows, budgets=budgets, seed=7))


def other_question(query_ids: Tensor) -> Tensor:
    return (query_ids * 7 + 13) % 256


@pytest.mark.parametrize(("rows", "budgets"), SECOND_TURNS.values(), ids=SECOND_TURNS)
def test_a_chat_goes_on_from_its_cache(host, model, stock, rows, budgets):
    """A second turn from the cache gives what the whole conversation gives when it is read anew, and by hand."""
    turn = random_inputs(host, ROWS, budgets=BUDGETS)
    first = model.generate(**turn, **GREEDY, **DETAILS)
    chat = second_turn(host, turn, first.sequences, rows, budgets)
    read_anew = model.generate(**chat, **GREEDY, **DETAILS)
    model.generate(**turn, **GREEDY)  # leaves the model with the state of the first turn, as a chat does
    continued = model.generate(**chat, **GREEDY, **DETAILS, past_key_values=first.past_key_values)
    for found in (read_anew, continued):
        with torch.no_grad():
            expected, logits = naive_greedy(stock, chat, model.encode_images(**chat).allocation, NEW_TOKENS)
        assert torch.equal(found.sequences[:, -NEW_TOKENS:], expected)
        kept = logits.isfinite()
        torch.testing.assert_close(torch.stack(found.logits, 1)[kept], logits[kept], rtol=1e-3, atol=1e-3)


def test_a_cached_image_keeps_its_allocation(host, model):
    """A new question about a cached image changes nothing about the image: it is in the cache as it was."""
    turn = random_inputs(host, ROWS, budgets=BUDGETS)
    first = model.generate(**turn, **GREEDY, **DETAILS)
    chat = second_turn(host, turn, first.sequences, *SECOND_TURNS["a new image in every row"])
    asked_anew = chat | {"image_query_ids": chat["image_query_ids"].clone()}
    cached = [0, 3, 4]  # new images are the second, third and last
    asked_anew["image_query_ids"][cached] = other_question(chat["image_query_ids"][cached])
    boxes = [model.encode_images(**inputs).allocation.image(0).boxes for inputs in (chat, asked_anew)]
    assert not torch.equal(*boxes)
    caches = [first.past_key_values, copy.deepcopy(first.past_key_values)]
    found = [
        model.generate(**inputs, **GREEDY, past_key_values=cache)
        for inputs, cache in zip((chat, asked_anew), caches, strict=True)
    ]
    assert torch.equal(*found)


def test_a_chat_goes_on_after_another_one(host, model):
    """Two chats that take turns: the host's state of one must not be used for the other."""
    turns = [
        random_inputs(host, [[(4, 6)]], budgets=[5]),
        random_inputs(host, [[(2, 9)]], budgets=[18], seed=1),
    ]
    firsts = [model.generate(**turn, **GREEDY, **DETAILS) for turn in turns]
    for turn, first in zip(turns, firsts, strict=True):
        chat = second_turn(host, turn, first.sequences, [[]], [])
        continued = model.generate(**chat, **GREEDY, past_key_values=first.past_key_values)
        assert torch.equal(continued, tiny_arrcoc_model(host, tie_word_embeddings=False).generate(**chat, **GREEDY))


def test_three_turns(host, model):
    """Text, then an image, then text again, all from one cache."""
    turn = random_inputs(host, [[]])
    answered = model.generate(**without(turn, *IMAGE_INPUTS), **GREEDY, **DETAILS)
    for rows, budgets in (([[(4, 4)]], [6]), ([[]], [])):
        turn = second_turn(host, turn, answered.sequences, rows, budgets)
        expected = model.generate(**turn, **GREEDY)
        answered = model.generate(**turn, **GREEDY, **DETAILS, past_key_values=answered.past_key_values)
        assert torch.equal(answered.sequences, expected)


@pytest.mark.parametrize("budgets", [BUDGETS, None], ids=["budgets", "native"])
@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "num_return_sequences": 3}], ids=["greedy", "beams"])
def test_encoded_images_serve_several_calls(host, model, budgets, options):
    """Generation from encoded images equals generation from pixels, and leaves the encoded images as they were."""
    inputs = random_inputs(host, ROWS, budgets=budgets)
    expected = model.generate(**inputs, **GREEDY, **options)
    with torch.no_grad():
        encoded = model.encode_images(**without(inputs, *TEXT_INPUTS))
    tokens = [image.clone() for image in encoded.pooler_output]
    deepstack = copy.deepcopy(getattr(encoded, "deepstack_features", None))
    text = {name: inputs[name] for name in TEXT_INPUTS}
    for prompt in (text, inputs, text | {"image_grid_thw": inputs["image_grid_thw"]}):
        if budgets is None and "image_grid_thw" not in prompt:
            continue  # at native budget the host computes positions from the grids
        found = model.generate(**prompt, encoded_images=encoded, **GREEDY, **options)
        assert torch.equal(found, expected)
    assert len(encoded.pooler_output) == len(tokens)
    assert all(torch.equal(a, b) for a, b in zip(encoded.pooler_output, tokens, strict=True))
    for layer, before in zip(getattr(encoded, "deepstack_features", None) or [], deepstack or [], strict=True):
        assert len(layer) == len(before)
        assert all(torch.equal(a, b) for a, b in zip(layer, before, strict=True))


def test_a_second_pass_sees_the_same_allocation(host, model, stock):
    """A "thinking" pass: the first answer goes back with another question, the images stay as they were allocated."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    encoded = model.encode_images(**inputs)
    first = model.generate(**inputs, encoded_images=encoded, **GREEDY)
    thinking = second_turn(host, inputs, first, [[], [], []], [])
    thinking |= {"image_query_ids": other_question(inputs["image_query_ids"])}
    with torch.no_grad():
        anew = model.encode_images(**thinking).allocation
    assert not torch.equal(anew.boxes, encoded.allocation.boxes)
    second = model.generate(**thinking, encoded_images=encoded, **GREEDY)
    with torch.no_grad():
        expected, _ = naive_greedy(stock, thinking, encoded.allocation, NEW_TOKENS)
    assert torch.equal(second[:, -NEW_TOKENS:], expected)


def test_encoded_images_must_fit_the_prompt(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    encoded = model.encode_images(**inputs)
    others = random_inputs(host, ROWS, budgets=[15, 4, 4])
    with pytest.raises(ValueError, match="23 image placeholders in the prompt for 22 visual tokens"):
        model.generate(**others, encoded_images=encoded, **GREEDY)
