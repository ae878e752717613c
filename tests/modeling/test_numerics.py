"""Attention implementations, precisions, activation checkpointing, and gradients through pooling."""

import pytest
import torch

from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_stock_model
from tests.modeling.naive import naive_logits, stock_inputs


ROWS, BUDGETS = [[(4, 6)], [], [(3, 5), (1, 7)]], [9, 4, 3]


def labelled(host: str) -> dict[str, torch.Tensor]:
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    text = (inputs["mm_token_type_ids"] == 0) & inputs["attention_mask"].bool()
    return inputs | {"labels": inputs["input_ids"].masked_fill(~text, -100)}


def gradients(model, inputs) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model(**inputs).loss.backward()
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("side", ["left", "right"])
def test_eager_and_sdpa_agree(host, side):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS, padding_side=side)
    logits = {}
    for attention in ("eager", "sdpa"):
        model = tiny_arrcoc_model(host)
        model.set_attn_implementation(attention)
        assert model.config.text_config._attn_implementation == attention
        with torch.no_grad():
            logits[attention] = model(**inputs).logits[inputs["attention_mask"].bool()]
    assert not torch.equal(logits["eager"], logits["sdpa"])  # two code paths ran
    torch.testing.assert_close(logits["eager"], logits["sdpa"], rtol=1e-4, atol=1e-4)


def test_eager_attentions_have_the_length_of_the_compressed_prompt(host):
    model = tiny_arrcoc_model(host)
    model.set_attn_implementation("eager")
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    outputs = model(**inputs, output_attentions=True, output_hidden_states=True)
    batch, length = inputs["input_ids"].shape
    layers = model.config.text_config.num_hidden_layers
    assert [tuple(map.shape) for map in outputs.attentions] == [(batch, 4, length, length)] * layers
    assert [tuple(state.shape) for state in outputs.hidden_states] == [(batch, length, 64)] * (layers + 1)


def test_gradients_reach_every_parameter(host):
    """Through the pooled tokens back into the whole tower, and through all of the language model."""
    inputs = labelled(host)
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    for name, gradient in gradients(model, inputs).items():
        assert gradient.isfinite().all(), name
        assert gradient.count_nonzero() > 0, name


def test_gradients_are_those_of_a_stock_model_fed_by_hand(host):
    """The backward pass of pooling and of leaf positions: gradients as when a stock model is fed pooled features."""
    inputs = labelled(host)
    model, stock = tiny_arrcoc_model(host), tiny_stock_model(host)
    found = gradients(model, inputs)
    with torch.no_grad():
        allocation = model(**inputs).allocation
    logits = naive_logits(stock, inputs, allocation)
    stock.loss_function(logits=logits, labels=inputs["labels"], vocab_size=logits.shape[-1]).backward()
    for name, parameter in stock.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("reentrant", [False, True])
def test_activation_checkpointing_changes_nothing(host, reentrant):
    inputs = labelled(host)
    model = tiny_arrcoc_model(host, tie_word_embeddings=False).train()
    plain_loss, plain = model(**inputs).loss, gradients(model, inputs)
    model.activation_checkpointing_enable(activation_checkpointing_kwargs={"use_reentrant": reentrant})
    assert model.is_activation_checkpointing
    if reentrant:
        model.enable_input_require_grads()
    calls = count_calls(model.model.language_model.layers[1].mlp)
    checkpointed_loss, checkpointed = model(**inputs).loss, gradients(model, inputs)
    assert len(calls) == 3  # a plain forward pass, and one with its recomputation
    assert torch.equal(plain_loss, checkpointed_loss)
    for name, gradient in checkpointed.items():
        torch.testing.assert_close(gradient, plain[name], rtol=1e-5, atol=1e-7, msg=name)


def count_calls(module: torch.nn.Module) -> list[int]:
    calls = []
    module.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def test_frozen_tower(host):
    """With the tower frozen the language model still trains, and nothing is recorded for the tower."""
    model = tiny_arrcoc_model(host, tie_word_embeddings=False).train()
    model.model.visual.requires_grad_(False)
    model(**labelled(host)).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is None) == name.startswith("model.visual."), name


def test_bfloat16_is_close_to_float32(host):
    """Sums of pooling are taken in float32, so that bfloat16 costs no more than it costs the stock model."""
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    exact, rounded = tiny_arrcoc_model(host), tiny_arrcoc_model(host).to(torch.bfloat16)
    with torch.no_grad():
        reference, found = exact.encode_images(**inputs), rounded.encode_images(**inputs)
        for tokens, expected in zip(found.pooler_output, reference.pooler_output, strict=True):
            assert tokens.dtype == torch.bfloat16
            assert torch.nn.functional.cosine_similarity(tokens.float(), expected).min() > 0.98
        assert found.allocation.relevance.dtype == torch.float32
        logits = rounded(**inputs).logits
        assert logits.dtype == torch.bfloat16
        assert logits.isfinite().all()
        generated = rounded.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] == inputs["input_ids"].shape[1] + 3


def test_bfloat16_native_is_stock_bit_for_bit(host):
    rows = [[(4, 6)], [(3, 5), (2, 2)]]
    inputs = random_inputs(host, rows, budgets=[24, 15, 4])
    model, stock = tiny_arrcoc_model(host).to(torch.bfloat16), tiny_stock_model(host).to(torch.bfloat16)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**stock_inputs(inputs)).logits)


def test_bfloat16_autocast(host):
    inputs = labelled(host)
    model = tiny_arrcoc_model(host, tie_word_embeddings=False).train()
    plain = model(**inputs).loss
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    torch.testing.assert_close(loss, plain, rtol=0.05, atol=0.05)
    assert all(parameter.grad.isfinite().all() for parameter in model.parameters())


def test_forward_passes_are_deterministic(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        first, second = model(**inputs), model(**inputs)
    assert torch.equal(first.logits, second.logits)
    assert torch.equal(first.allocation.boxes, second.allocation.boxes)


def test_logits_to_keep(host, model):
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        full = model(**inputs).logits
        for kept, places in ((1, [-1]), (torch.tensor([2, -1]), [2, -1])):
            # Not bit for bit: matrices of other heights take other kernels on some processors.
            found = model(**inputs, logits_to_keep=kept).logits
            torch.testing.assert_close(found, full[:, places], atol=1e-5, rtol=1e-5)
