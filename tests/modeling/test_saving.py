"""Saving and loading ARR-COC checkpoints: configurations, weights, shards, dtypes, heads and base models."""

import json

import pytest
import torch
from safetensors import safe_open
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, GenerationConfig

from arrcoc import ArrCocConfig
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import ARRCOC_CONFIGS, ARRCOC_MODELS, tiny_arrcoc_model, tiny_config_dict


ROWS, BUDGETS = [[(4, 6)], [(3, 5), (1, 7)]], [9, 4, 3]
BLOCK = {"policy": "random", "seed": 5, "tiers": [4, 9], "relevance_floor": 0.25, "query_scorer": "cosine"}


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


def settings(config):
    """A configuration without the place that it was loaded from."""
    return {name: value for name, value in config.to_dict().items() if name != "_name_or_path"}


def test_config_round_trip(host, tmp_path):
    config = ARRCOC_CONFIGS[host](**tiny_config_dict(host), arrcoc_config=BLOCK)
    config.save_pretrained(tmp_path)
    for loaded in (type(config).from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is type(config)
        assert type(loaded.arrcoc_config) is ArrCocConfig
        assert type(loaded.text_config) is type(config.text_config)
        assert {name: getattr(loaded.arrcoc_config, name) for name in BLOCK} == BLOCK
        assert settings(loaded) == settings(config)
    saved = json.loads((tmp_path / "config.json").read_text())
    assert saved["model_type"] == config.model_type
    assert saved["arrcoc_config"].items() >= BLOCK.items()


def test_config_takes_the_block_in_every_form(host):
    as_object = ARRCOC_CONFIGS[host](**tiny_config_dict(host), arrcoc_config=ArrCocConfig(**BLOCK))
    as_dict = ARRCOC_CONFIGS[host](**tiny_config_dict(host), arrcoc_config=BLOCK)
    default = ARRCOC_CONFIGS[host](**tiny_config_dict(host))
    assert settings(as_object) == settings(as_dict)
    assert settings(default.arrcoc_config) == settings(ArrCocConfig())
    assert settings(default.arrcoc_config) != settings(as_dict.arrcoc_config)


@pytest.mark.parametrize("shard_size", ["5GB", "50KB"], ids=["one file", "sharded"])
def test_save_and_load(host, tmp_path, shard_size):
    """Weights, block, generation configuration and outputs come back from the folder."""
    model = tiny_arrcoc_model(host, arrcoc_config=BLOCK)
    model.generation_config = GenerationConfig(max_new_tokens=3, temperature=0.5, do_sample=True)
    model.save_pretrained(tmp_path, max_shard_size=shard_size)
    files = list(tmp_path.glob("*.safetensors"))
    assert len(files) == 1 if shard_size == "5GB" else len(files) > 3
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    for load in (ARRCOC_MODELS[host], AutoModelForImageTextToText):
        loaded, report = load.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is type(model)
        assert not any(report.values()), report
        state = model.state_dict()
        assert loaded.state_dict().keys() == state.keys()
        assert all(torch.equal(value, state[name]) for name, value in loaded.state_dict().items())
        assert torch.equal(logits(loaded, inputs), logits(model, inputs))
        assert loaded.config.arrcoc_config.policy == "random"
        assert loaded.generation_config.max_new_tokens == 3


def test_save_and_load_in_bfloat16(host, tmp_path):
    tiny_arrcoc_model(host).save_pretrained(tmp_path / "float32")
    model = AutoModelForImageTextToText.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16)
    model.save_pretrained(tmp_path / "bfloat16")
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path / "bfloat16")
    assert loaded.dtype == torch.bfloat16
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))


def test_base_model_save_and_load(host, tmp_path):
    """A base model's folder gives the base model, and a head without weights of its own where embeddings are tied."""
    model = tiny_arrcoc_model(host, tie_word_embeddings=True)
    model.model.save_pretrained(tmp_path)
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    base, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(base) is type(model.model)
    assert not any(report.values()), report
    with torch.no_grad():
        assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    assert torch.equal(logits(ARRCOC_MODELS[host].from_pretrained(tmp_path), inputs), logits(model, inputs))


def test_base_model_from_the_folder_of_a_head(host, tmp_path):
    model = tiny_arrcoc_model(host, tie_word_embeddings=False)
    model.save_pretrained(tmp_path)
    base, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert type(base) is type(model.model)
    assert not report["missing_keys"]
    assert report["unexpected_keys"] == {"lm_head.weight"}
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    with torch.no_grad():
        assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights(host, tmp_path, tied):
    """Tied, the head is the embedding: one tensor in memory and in the file; untied, both are kept."""
    model = tiny_arrcoc_model(host, tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.get_input_embeddings().weight) == tied
    assert model.get_output_embeddings() is model.lm_head
    model.save_pretrained(tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert ("lm_head.weight" in file.keys()) != tied
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path)
    assert (loaded.lm_head.weight is loaded.get_input_embeddings().weight) == tied
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)
    assert torch.equal(loaded.get_input_embeddings().weight, model.get_input_embeddings().weight)


@pytest.mark.parametrize("tied", [True, False])
def test_resized_embeddings(host, tmp_path, tied):
    """More and fewer token embeddings: the head follows, old tokens keep their logits, the result can be saved."""
    model = tiny_arrcoc_model(host, tie_word_embeddings=tied)
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    before, size = logits(model, inputs), model.config.text_config.vocab_size
    model.resize_token_embeddings(size + 9)
    assert model.config.text_config.vocab_size == size + 9
    assert model.get_input_embeddings().weight.shape[0] == model.lm_head.weight.shape[0] == size + 9
    after = logits(model, inputs)
    assert after.shape[-1] == size + 9
    assert torch.equal(after[..., :size], before)
    model.save_pretrained(tmp_path)
    assert torch.equal(logits(AutoModelForImageTextToText.from_pretrained(tmp_path), inputs), after)
    model.resize_token_embeddings(size)
    assert torch.equal(logits(model, inputs), before)
    generated = model.generate(**inputs, max_new_tokens=3, do_sample=False)
    assert generated.shape[1] > inputs["input_ids"].shape[1]


def test_a_block_can_be_chosen_at_loading(host, tmp_path):
    """Another policy for a saved checkpoint is a matter of its configuration, not of its weights."""
    tiny_arrcoc_model(host).save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path, arrcoc_config={"policy": "uniform"})
    loaded = AutoModelForImageTextToText.from_pretrained(tmp_path, config=config)
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    uniform = tiny_arrcoc_model(host, arrcoc_config={"policy": "uniform"})
    assert torch.equal(logits(loaded, inputs), logits(uniform, inputs))
    assert not torch.equal(logits(loaded, inputs), logits(tiny_arrcoc_model(host), inputs))
