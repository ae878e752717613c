"""Generation with compressed images: greedy, cached, padded, batched, beams, sampling, chunked."""

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessorList

from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.modeling.naive import IMAGE_INPUTS, collate, naive_greedy, naive_logits, without


ROWS, BUDGETS = [[(4, 6)], [], [(3, 5), (1, 7)]], [9, 4, 3]
NEW_TOKENS = 8
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
DETAILS = {"return_dict_in_generate": True, "output_logits": True}


def single_prompts(host: str) -> list[dict[str, torch.Tensor]]:
    """Prompts of one row, with different images, budgets and lengths."""
    prompts = [([(4, 6)], [9]), ([], []), ([(3, 5), (1, 7)], [4, 3]), ([(8, 8)], [17])]
    return [
        random_inputs(host, [grids], budgets=budgets, text_length=4 + seed, seed=seed)
        for seed, (grids, budgets) in enumerate(prompts)
    ]


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_greedy_is_the_argmax_of_full_forward_passes(host, model, stock, use_cache):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    found = model.generate(**inputs, **GREEDY, **DETAILS, use_cache=use_cache)
    with torch.no_grad():
        allocation = model.encode_images(**inputs).allocation
        tokens, logits = naive_greedy(stock, inputs, allocation, NEW_TOKENS)
    assert torch.equal(found.sequences[:, : inputs["input_ids"].shape[1]], inputs["input_ids"])
    torch.testing.assert_close(torch.stack(found.logits, 1).isfinite(), torch.ones_like(logits, dtype=torch.bool))
    kept = logits.isfinite()
    torch.testing.assert_close(torch.stack(found.logits, 1)[kept], logits[kept], rtol=1e-3, atol=1e-3)
    assert torch.equal(found.sequences[:, -NEW_TOKENS:], tokens)
    assert found.sequences[:, -NEW_TOKENS:].unique().numel() > 4  # or errors could go unnoticed


def test_a_batch_generates_what_its_prompts_do_alone(host, model):
    """Left padding, other images and other budgets in the batch change nothing."""
    singles = single_prompts(host)
    together = model.generate(**collate(singles), **GREEDY, **DETAILS)
    for row, single in enumerate(singles):
        alone = model.generate(**single, **GREEDY, **DETAILS)
        assert torch.equal(together.sequences[row, -NEW_TOKENS:], alone.sequences[0, -NEW_TOKENS:])
        for a, b in zip(together.logits, alone.logits, strict=True):
            torch.testing.assert_close(a[row], b[0], rtol=1e-3, atol=1e-3)


def test_more_left_padding_changes_nothing(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    padded = dict(inputs)
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        padded[name] = torch.nn.functional.pad(inputs[name], (5, 0))
    expected = model.generate(**inputs, **GREEDY)[:, -NEW_TOKENS:]
    assert torch.equal(model.generate(**padded, **GREEDY)[:, -NEW_TOKENS:], expected)


@pytest.mark.parametrize("use_cache", [True, False], ids=["cached", "uncached"])
def test_beams(host, model, stock, use_cache):
    """Each beam's score is the log-likelihood that full forward passes give its tokens."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    options = {"num_beams": 3, "num_return_sequences": 3, "length_penalty": 0.0, "use_cache": use_cache}
    found = model.generate(**inputs, **GREEDY, **options, return_dict_in_generate=True, output_scores=True)
    assert found.sequences.shape == (9, inputs["input_ids"].shape[1] + NEW_TOKENS)
    assert (found.sequences_scores.view(3, 3).diff(dim=1) <= 0).all()
    assert len(found.sequences.unique(dim=0)) == 9
    with torch.no_grad():
        allocation = model.encode_images(**inputs).allocation
        for beam in range(3):
            sequences = found.sequences[beam::3]  # (prompts, length): each prompt's beam of this rank
            grown = grow(inputs, sequences[:, -NEW_TOKENS:])
            likelihoods = naive_logits(stock, grown, allocation)[:, -NEW_TOKENS - 1 : -1].log_softmax(-1)
            expected = likelihoods.gather(2, sequences[:, -NEW_TOKENS:, None]).sum((1, 2))
            torch.testing.assert_close(found.sequences_scores[beam::3], expected, rtol=1e-4, atol=1e-3)


def grow(inputs, new_tokens):
    """The prompts with new text at their ends."""
    extra = {"input_ids": new_tokens, "attention_mask": new_tokens * 0 + 1, "mm_token_type_ids": new_tokens * 0}
    return inputs | {name: torch.cat([inputs[name], columns], 1) for name, columns in extra.items()}


def test_num_return_sequences_samples_differ_and_repeat_with_the_seed(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    options = {"max_new_tokens": NEW_TOKENS, "do_sample": True, "top_k": 50, "temperature": 2.0}
    torch.manual_seed(3)
    first = model.generate(**inputs, **options, num_return_sequences=4)
    torch.manual_seed(3)
    assert torch.equal(first, model.generate(**inputs, **options, num_return_sequences=4))
    assert not torch.equal(first, model.generate(**inputs, **options, num_return_sequences=4))
    length = inputs["input_ids"].shape[1]
    assert torch.equal(first[:, :length], inputs["input_ids"].repeat_interleave(4, 0))
    assert len(first[:4].unique(dim=0)) > 1


def test_several_sequences_see_the_same_images(host, model):
    """Nearly greedy sampling: all sequences of a prompt must be the greedy one, so each sees its prompt's images."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    greedy = model.generate(**inputs, **GREEDY)
    options = GREEDY | {"do_sample": True, "temperature": 1e-4, "num_return_sequences": 3}
    assert torch.equal(model.generate(**inputs, **options), greedy.repeat_interleave(3, 0))


@pytest.mark.parametrize("budgets", [BUDGETS, None], ids=["budgets", "native"])
@pytest.mark.parametrize("options", [{"do_sample": False}, {"do_sample": True}, {"num_beams": 2}], ids=str)
def test_placeholders_are_never_generated(host, budgets, options):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    placeholders = [model.config.image_token_id, model.config.video_token_id]
    with torch.no_grad():  # the head wants nothing but placeholders
        model.lm_head.weight[placeholders] = 0
        handle = model.lm_head.register_forward_hook(
            lambda _, __, logits: logits.index_fill(-1, torch.tensor(placeholders), 1e4)
        )
        inputs = random_inputs(host, ROWS, budgets=budgets)
        assert torch.isin(model(**inputs).logits.argmax(-1), torch.tensor(placeholders)).all()
        length = inputs["input_ids"].shape[1]
        generated = model.generate(**inputs, max_new_tokens=6, **options)[:, length:]
        handle.remove()
    assert not torch.isin(generated, torch.tensor(placeholders)).any()


def test_generate_takes_what_transformers_does(host, model):
    """Positional prompt, a generation configuration, and own logits processors and prefix functions."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    expected = model.generate(**inputs, **GREEDY)
    positional = model.generate(inputs["input_ids"], GenerationConfig(**GREEDY), **without(inputs, "input_ids"))
    assert torch.equal(positional, expected)

    def only_seven(ids, scores):
        return torch.full_like(scores, -torch.inf).index_fill(1, torch.tensor([7]), 0.0)

    found = model.generate(**inputs, **GREEDY, logits_processor=LogitsProcessorList([only_seven]))
    assert (found[:, -NEW_TOKENS:] == 7).all()
    with pytest.raises(ValueError, match="foo"):
        model.generate(**inputs, foo=1)


def test_generate_leaves_its_inputs_alone(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    before = {name: value.clone() for name, value in inputs.items()}
    model.generate(**inputs, **GREEDY, num_beams=2)
    assert inputs.keys() == before.keys()
    assert all(torch.equal(inputs[name], value) for name, value in before.items())


def test_images_are_encoded_once(host, model, monkeypatch):
    calls = []
    encode = type(model.model.visual).forward

    def counted(self, *args, **kwargs):
        calls.append(1)
        return encode(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model.visual), "forward", counted)
    model.generate(**random_inputs(host, ROWS, budgets=BUDGETS), **GREEDY, num_beams=2)
    assert len(calls) == 1


@pytest.mark.parametrize("budgets", [BUDGETS, None], ids=["budgets", "native"])
def test_chunked_prefill(host, model, budgets):
    """Prompts that are read in pieces, which cut through images, give the same text."""
    inputs = random_inputs(host, ROWS, budgets=budgets)
    expected = model.generate(**inputs, **GREEDY, **DETAILS)
    for size in (3, 7):
        found = model.generate(**inputs, **GREEDY, **DETAILS, prefill_chunk_size=size)
        assert torch.equal(found.sequences, expected.sequences)
        for a, b in zip(found.logits, expected.logits, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_embeddings_in_place_of_ids(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    expected = model.generate(**inputs, **GREEDY)[:, -NEW_TOKENS:]
    embeds = model.get_input_embeddings()(inputs["input_ids"])
    found = model.generate(**inputs, inputs_embeds=embeds, **GREEDY)
    assert torch.equal(found[:, -NEW_TOKENS:], expected)
    with pytest.raises(ValueError, match="input_ids"):
        model.generate(**without(inputs, "input_ids"), inputs_embeds=embeds, **GREEDY)


def test_prompts_of_one_call_do_not_leak_into_the_next(host, model):
    """The host keeps state between calls; text prompts after image prompts, and forward passes, ignore it."""
    images, text = random_inputs(host, ROWS, budgets=BUDGETS), random_inputs(host, [[], []], seed=5)
    fresh = tiny_arrcoc_model(host, tie_word_embeddings=False)
    expected_text, expected_logits = fresh.generate(**text, **GREEDY), fresh(**images).logits
    model.generate(**images, **GREEDY)
    assert torch.equal(model.generate(**text, **GREEDY), expected_text)
    assert torch.equal(model(**images).logits, expected_logits)
    assert torch.equal(model(**without(text, *IMAGE_INPUTS)).logits, fresh(**without(text, *IMAGE_INPUTS)).logits)
