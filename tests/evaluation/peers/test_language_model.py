"""Dropping tokens inside the language model: masking is cutting out, with caches, padding, beams and images."""

import pytest
import torch

from arrcoc.evaluation.peers import pruned_language_model
from arrcoc.evaluation.peers.language_model import sparsevlm_layers
from tests.evaluation.peers.cutting import FastV, SparseVLM
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.modeling.naive import collate


NEW_TOKENS = 4
GREEDY = {"max_new_tokens": NEW_TOKENS, "min_new_tokens": NEW_TOKENS, "do_sample": False}
DETAILS = {"return_dict_in_generate": True, "output_logits": True}
PROMPTS = [([(8, 8)], [17]), ([(3, 5), (4, 6)], [4, 9]), ([(1, 7)], [2])]
BUDGETS = torch.tensor([17, 4, 9, 2])
SCHEDULE = (1.5, 0.7)


def prompts(host):
    return [random_inputs(host, [grids], text_length=5 + seed, seed=seed) for seed, (grids, _) in enumerate(PROMPTS)]


def options(name):
    return {"layer": 2} if name == "fastv" else {"layers": [0, 1], "schedule": SCHEDULE}


def naive(stock, name, prompt, budgets):
    if name == "fastv":
        return FastV(stock, prompt, budgets).greedy(prompt, [1], NEW_TOKENS)
    schedule = dict(enumerate(SCHEDULE))
    return SparseVLM(stock, prompt, budgets, schedule=schedule).greedy(prompt, [0, 1], NEW_TOKENS)


@pytest.fixture(params=["fastv", "sparsevlm"])
def name(request):
    return request.param


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
def test_generation_is_that_of_a_model_whose_tokens_are_cut_out(host, stock, name, implementation):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False, attn_implementation=implementation)
    assert model.model.language_model.config._attn_implementation == implementation
    singles = prompts(host)
    batch = collate(singles)
    with pruned_language_model(model, batch, name, BUDGETS, **options(name)) as record:
        found = model.generate(**batch, **GREEDY, **DETAILS)
    plain = model.generate(**batch, **GREEDY, **DETAILS)
    for row, (single, (_, budgets)) in enumerate(zip(singles, PROMPTS, strict=True)):
        tokens, logits = naive(stock, name, single, budgets)
        kept = logits.isfinite()
        got = torch.stack([step[row] for step in found.logits])
        torch.testing.assert_close(got[kept], logits[kept], rtol=1e-3, atol=2e-3)
        assert found.sequences[row, -NEW_TOKENS:].tolist() == tokens
        # Alone, without padding, transformers leaves the mask out.
        with pruned_language_model(model, single, name, torch.tensor(budgets), **options(name)):
            alone = model.generate(**single, **GREEDY, **DETAILS)
        torch.testing.assert_close(torch.cat(alone.logits)[kept], logits[kept], rtol=1e-3, atol=2e-3)
        assert (got - torch.stack([step[row] for step in plain.logits]))[kept].abs().max() > 0.05  # it does something
    assert record.tokens[0].tolist() == [64, 15, 24, 7]
    if name == "fastv":
        assert record.tokens[1:].tolist() == [[64, 15, 24, 7], BUDGETS.tolist()]
    else:
        # 26 of 64 are kept; 12 of the 38 others recycled as 2 clusters. Then 12, and 5 of 16 others as one.
        assert record.tokens[1:, 0].tolist() == [28, 13]
    assert torch.equal(record.mean_tokens, record.tokens.float().mean(0))


def test_without_a_cache_and_with_copies_the_text_is_the_same(host, model, name):
    batch = collate(prompts(host))
    with pruned_language_model(model, batch, name, BUDGETS, **options(name)):
        expected = model.generate(**batch, **GREEDY)
        assert torch.equal(model.generate(**batch, **GREEDY, use_cache=False), expected)
        static = model.generate(**batch, **GREEDY, cache_implementation="static", disable_compile=True)
        assert torch.equal(static, expected)
        sampled = model.generate(**batch, **GREEDY | {"do_sample": True}, temperature=1e-4, num_return_sequences=2)
        assert torch.equal(sampled, expected.repeat_interleave(2, 0))
        beams = model.generate(**batch, **GREEDY, num_beams=3)
    with pruned_language_model(model, batch, name, BUDGETS, **options(name)):
        assert torch.equal(model.generate(**batch, **GREEDY, num_beams=3, use_cache=False), beams)


def test_right_padding_asks_the_same_last_token(host, model, name):
    singles = prompts(host)
    left, right = collate(singles), collate(singles, padding_side="right")
    logits = []
    for batch in (left, right):
        with pruned_language_model(model, batch, name, BUDGETS, **options(name)), torch.no_grad():
            found = model(**batch).logits
        logits.append(torch.cat([found[row][batch["attention_mask"][row].bool()] for row in range(3)]))
    torch.testing.assert_close(*logits, rtol=1e-3, atol=2e-3)


def test_the_native_budget_and_the_time_after_the_block_are_the_stock_model(host, model, stock, name):
    batch = collate(prompts(host))
    with torch.no_grad():
        expected = stock(**batch).logits
        native = torch.tensor([64, 15, 24, 7])
        with pruned_language_model(model, batch, name, native, **options(name)) as record:
            torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-4)
        assert record.tokens.tolist() == [native.tolist()] * 3
        with pruned_language_model(model, batch, name, BUDGETS, **options(name)):
            assert not torch.allclose(model(**batch).logits, expected, atol=1e-2)
        assert torch.equal(model(**batch).logits, expected)


def test_hooks_go_when_a_run_fails(host, model):
    batch = collate(prompts(host))
    with pytest.raises(KeyError), pruned_language_model(model, batch, "fastv", BUDGETS):
        raise KeyError
    assert not any(layer._forward_pre_hooks for layer in model.model.language_model.layers)


def test_sparsevlm_layers_follow_the_depth():
    assert sparsevlm_layers(32) == [2, 6, 15]
    assert sparsevlm_layers(28) == [2, 5, 13]
    assert sparsevlm_layers(36) == [2, 7, 17]
    assert sparsevlm_layers(4) == [0, 1, 2]
    assert sparsevlm_layers(3) == [0, 1]


def test_wrong_arguments_are_named(host, model):
    batch = collate(prompts(host))

    def run(name="fastv", budgets=BUDGETS, inputs=batch, **keywords):
        with pruned_language_model(model, inputs, name, budgets, **keywords):
            return model.generate(**inputs, **GREEDY, **({"prefill_chunk_size": 4} if not keywords else {}))

    with pytest.raises(ValueError, match="'divprune'.*language_model"):
        run("divprune", layer=2)
    with pytest.raises(ValueError, match="native counts"):
        run(budgets=BUDGETS + 60, layer=2)
    for layer in (0, 3):
        with pytest.raises(ValueError, match="layers"):
            run(layer=layer)
    with pytest.raises(ValueError, match="schedule"):
        run("sparsevlm", layers=[0, 1], schedule=(1.0,))
    with pytest.raises(ValueError, match="one forward pass"):
        run()
    with pytest.raises(ValueError, match="placeholders"):
        run(inputs=batch | {"input_ids": batch["input_ids"].clamp(max=250)}, layer=2)
    last_token = int(batch["mm_token_type_ids"][2].nonzero().max())
    cut = {key: batch[key][2:, : last_token + 1] for key in ("input_ids", "attention_mask", "mm_token_type_ids")}
    alone = prompts(host)[2] | cut
    with pytest.raises(ValueError, match="no text follows"):
        run(inputs=alone, budgets=BUDGETS[3:], layer=2)


def test_attention_that_takes_no_mask_is_refused(host):
    model = tiny_arrcoc_model(host)
    model.model.language_model.config._attn_implementation = "flash_attention_2"
    batch = collate(prompts(host))
    with pytest.raises(ValueError, match="flash_attention_2"), pruned_language_model(model, batch, "fastv", BUDGETS):
        pass
