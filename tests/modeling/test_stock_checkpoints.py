"""Stock checkpoint folders load directly: whole and sharded, in any precision, anywhere, with any attention."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText, LlamaConfig, LlamaForCausalLM
from transformers.utils import is_flash_attn_2_available

from arrcoc import ArrCocConfig
from tests.helpers.inputs import native_budgets, random_inputs
from tests.helpers.tiny_models import ARRCOC_CONFIGS, ARRCOC_MODELS, STOCK_MODELS, tiny_arrcoc_model, tiny_stock_model
from tests.helpers.tiny_processors import HOSTS
from tests.modeling.naive import stock_inputs


ROWS, BUDGETS = [[(4, 6)], [(3, 5), (1, 7)]], [9, 4, 3]


def logits(model, inputs):
    with torch.no_grad():
        return model(**inputs).logits


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def stock_folder(host, request, tmp_path):
    """A stock model and its folder."""
    stock = tiny_stock_model(host, tie_word_embeddings=request.param)
    stock.save_pretrained(tmp_path)
    return stock, tmp_path


def test_nothing_is_missing(host, stock_folder):
    stock, folder = stock_folder
    model, report = ARRCOC_MODELS[host].from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    theirs = stock.state_dict()
    assert model.state_dict().keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in model.state_dict().items())
    assert model.config.model_type == ARRCOC_CONFIGS[host].model_type
    assert model.config.arrcoc_config.to_dict() == ArrCocConfig(dtype="float32").to_dict()
    assert model.generation_config.to_dict() == stock.generation_config.to_dict()
    inputs = random_inputs(host, ROWS, budgets=native_budgets(ROWS))
    assert torch.equal(logits(model, inputs), logits(stock, stock_inputs(inputs)))


def test_base_model(host, stock_folder):
    stock, folder = stock_folder
    base_class = type(tiny_arrcoc_model(host).model)
    base, report = base_class.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert report["unexpected_keys"] <= {"lm_head.weight"}
    inputs = random_inputs(host, ROWS, budgets=native_budgets(ROWS))
    with torch.no_grad():
        theirs = stock.model(**stock_inputs(inputs)).last_hidden_state
        assert torch.equal(base(**inputs).last_hidden_state, theirs)


def test_published_names_of_weights(host, tmp_path):
    """The names in the published files, which are older than the names in the models."""
    stock = tiny_stock_model(host, tie_word_embeddings=False)
    names = {"qwen3_vl": {}, "qwen2_5_vl": {"model.visual.": "visual.", "model.language_model.": "model."}}[host]
    published = {}
    for name, value in stock.state_dict().items():
        old = next((old for old in names if name.startswith(old)), "")
        published[names.get(old, "") + name.removeprefix(old)] = value.contiguous()
    save_file(published, tmp_path / "model.safetensors", metadata={"format": "pt"})
    stock.config.save_pretrained(tmp_path)
    model, report = ARRCOC_MODELS[host].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(value, stock.state_dict()[name]) for name, value in model.state_dict().items())


def test_stock_to_arrcoc_and_back(host, stock_folder, tmp_path):
    """What is saved from a stock checkpoint is an ARR-COC checkpoint, and its weights are still the stock model's."""
    stock, folder = stock_folder
    model = ARRCOC_MODELS[host].from_pretrained(
        folder,
        config=ARRCOC_CONFIGS[host].from_pretrained(
            folder, arrcoc_config={"policy": "tiers", "tiers": [2, 4], "region_size": 4}
        ),
    )
    own = tmp_path / "own"
    model.save_pretrained(own)
    inputs = random_inputs(host, ROWS, budgets=[12, 15, 7])
    loaded = AutoModelForImageTextToText.from_pretrained(own)
    assert type(loaded) is ARRCOC_MODELS[host]
    assert loaded.config.arrcoc_config.policy == "tiers"
    assert torch.equal(logits(loaded, inputs), logits(model, inputs))
    config = json.loads((own / "config.json").read_text())
    config["model_type"] = stock.config.model_type
    del config["arrcoc_config"], config["auto_map"]
    (own / "config.json").write_text(json.dumps(config))
    again, report = STOCK_MODELS[host].from_pretrained(own, output_loading_info=True)
    assert not any(report.values()), report
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in stock.state_dict().items())


def test_weights_are_saved_under_the_names_of_the_model(host, stock_folder, tmp_path):
    """Whatever names they had when they were loaded: `Trainer` resumes from files with the names of the model."""
    _, folder = stock_folder
    model = ARRCOC_MODELS[host].from_pretrained(folder)
    model.save_pretrained(tmp_path / "head")
    model.model.save_pretrained(tmp_path / "base")
    for module, name in ((model, "head"), (model.model, "base")):
        tied = {"lm_head.weight"} if module is model and model.config.tie_word_embeddings else set()
        assert load_file(tmp_path / name / "model.safetensors").keys() == module.state_dict().keys() - tied


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, "auto"], ids=str)
def test_precisions(host, tmp_path, dtype):
    tiny_stock_model(host).to(torch.bfloat16).save_pretrained(tmp_path)
    model = ARRCOC_MODELS[host].from_pretrained(tmp_path, dtype=dtype)
    stock = STOCK_MODELS[host].from_pretrained(tmp_path, dtype=dtype)
    assert model.dtype == (torch.float32 if dtype == torch.float32 else torch.bfloat16)
    inputs = random_inputs(host, ROWS, budgets=native_budgets(ROWS))
    assert torch.equal(logits(model, inputs), logits(stock, stock_inputs(inputs)))


def test_shards(host, tmp_path):
    stock = tiny_stock_model(host)
    stock.save_pretrained(tmp_path, max_shard_size="50KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 3
    model, report = ARRCOC_MODELS[host].from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    inputs = random_inputs(host, ROWS, budgets=native_budgets(ROWS))
    assert torch.equal(logits(model, inputs), logits(stock, stock_inputs(inputs)))


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}], ids=str)
def test_device_maps(host, tmp_path, device_map):
    tiny_stock_model(host, tie_word_embeddings=False).save_pretrained(tmp_path)
    model = ARRCOC_MODELS[host].from_pretrained(tmp_path, device_map=device_map)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    expected = tiny_arrcoc_model(host, tie_word_embeddings=False)
    assert torch.equal(logits(model, inputs), logits(expected, inputs))
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), expected.generate(**inputs, **options))


def test_weights_on_disk(host, tmp_path):
    """Tower and half of the language model stay on disk and are read when they are needed."""
    tiny_stock_model(host, tie_word_embeddings=False).save_pretrained(tmp_path / "stock")
    where = {"model.visual": "disk", "model.language_model": "cpu", "lm_head": "disk"}
    where |= {f"model.language_model.layers.{layer}": "disk" for layer in (0, 2)}
    where |= {f"model.language_model.{name}": "cpu" for name in ("embed_tokens", "layers.1", "norm", "rotary_emb")}
    del where["model.language_model"]
    model = ARRCOC_MODELS[host].from_pretrained(
        tmp_path / "stock", device_map=where, offload_folder=tmp_path / "offload"
    )
    assert {parameter.device.type for parameter in model.model.visual.parameters()} == {"meta"}
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    expected = tiny_arrcoc_model(host, tie_word_embeddings=False)
    assert torch.equal(logits(model, inputs), logits(expected, inputs))
    options = {"max_new_tokens": 4, "do_sample": False}
    assert torch.equal(model.generate(**inputs, **options), expected.generate(**inputs, **options))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_attention_implementations(host, tmp_path, attention):
    tiny_stock_model(host).save_pretrained(tmp_path)
    model = ARRCOC_MODELS[host].from_pretrained(tmp_path, attn_implementation=attention)
    stock = STOCK_MODELS[host].from_pretrained(tmp_path, attn_implementation=attention)
    for part in (model.config, model.config.text_config, model.config.vision_config):
        assert part._attn_implementation == attention
    inputs = random_inputs(host, ROWS, budgets=native_budgets(ROWS))
    assert torch.equal(logits(model, inputs), logits(stock, stock_inputs(inputs)))


@pytest.mark.skipif(is_flash_attn_2_available(), reason="flash-attn is installed")
def test_flash_attention_is_refused_without_its_package(host, tmp_path):
    tiny_stock_model(host).save_pretrained(tmp_path)
    with pytest.raises(ImportError, match="FlashAttention2"):
        ARRCOC_MODELS[host].from_pretrained(tmp_path, attn_implementation="flash_attention_2", dtype=torch.bfloat16)


def test_a_text_model_is_refused(host, tmp_path):
    config = LlamaConfig(hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9)
    LlamaForCausalLM(config).save_pretrained(tmp_path)
    for load in (ARRCOC_CONFIGS[host], ARRCOC_MODELS[host]):  # first what would not build a model of default size
        with pytest.raises(ValueError, match=rf"'{ARRCOC_CONFIGS[host].host_model_type}'.*is of type 'llama'"):
            load.from_pretrained(tmp_path)


def test_the_other_host_is_refused(host, tmp_path):
    (other,) = set(HOSTS) - {host}
    for number, model in enumerate((tiny_stock_model(other), tiny_arrcoc_model(other))):
        folder = tmp_path / str(number)
        model.save_pretrained(folder)
        for load in (ARRCOC_CONFIGS[host], ARRCOC_MODELS[host]):
            with pytest.raises(ValueError, match=f"is of type '{model.config.model_type}'"):
                load.from_pretrained(folder)


def test_a_folder_without_weights_is_refused(host, stock_folder):
    _, folder = stock_folder
    (folder / "model.safetensors").unlink()
    with pytest.raises(OSError, match="(?s)no file named.*model.safetensors"):
        ARRCOC_MODELS[host].from_pretrained(folder)


def test_a_damaged_weight_file_is_refused(host, stock_folder):
    _, folder = stock_folder
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(Exception, match="(?i)safetensor|header|metadata"):
        ARRCOC_MODELS[host].from_pretrained(folder)
