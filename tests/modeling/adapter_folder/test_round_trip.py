"""The block saved without its host, and loaded onto a stock checkpoint."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageTextToText

import arrcoc.adapter_folder
from arrcoc.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, load_arrcoc_model
from arrcoc.configuration_arrcoc import ArrCocConfig
from arrcoc.host_statistics import HostStatistics
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import ARRCOC_MODELS, tiny_arrcoc_model, tiny_config_dict
from tests.modeling.adapter_folder.folders import (
    BLOCK,
    LEARNED,
    ROWS,
    UNTIED,
    assert_same_block,
    edit_config,
    inputs_of,
    logits,
    perturb,
    save,
    trained,
)


def settings(model) -> dict:
    return {
        name: value for name, value in vars(model.config.arrcoc_config).items() if name in ArrCocConfig().to_dict()
    }


def test_what_a_folder_holds(host, stock, tmp_path):
    """Weights of the block under their names in it, its options, and the base by name; nothing of the host."""
    model = ARRCOC_MODELS[host].from_pretrained(stock)
    model.load_arrcoc(save(trained(host), tmp_path / "first"))
    folder = save(model, tmp_path / "saved")
    assert {path.name for path in folder.iterdir()} == {CONFIG_FILE, WEIGHTS_FILE}
    assert load_file(folder / WEIGHTS_FILE).keys() == model.model.arrcoc.state_dict().keys()
    config = json.loads((folder / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == str(stock)
    assert config["model_type"] == host
    vision = tiny_config_dict(host)["vision_config"]
    assert config["widths"] == {
        "hidden_size": 64,
        "deepstack_layers": len(vision.get("deepstack_visual_indexes", [])),
        "in_channels": 3,
        "temporal_patch_size": 2,
        "patch_size": vision["patch_size"],
        "spatial_merge_size": 2,
    }
    own = set(ArrCocConfig.__annotations__) - {"base_config_key", "model_type"}
    assert set(config["arrcoc_config"]) == own and config["arrcoc_config"].items() >= BLOCK.items()


@pytest.mark.parametrize("block", LEARNED.values(), ids=LEARNED)
def test_round_trip_onto_a_stock_checkpoint(host, stock, block, tmp_path):
    model, inputs = trained(host, block), inputs_of(host)
    loaded = ARRCOC_MODELS[host].from_pretrained(stock)
    assert loaded.model.arrcoc is None
    before = logits(loaded, inputs)
    loaded.load_arrcoc(save(model, tmp_path))
    assert_same_block(loaded, model)
    assert settings(loaded) == settings(model)
    expected = logits(model, inputs)
    assert torch.equal(logits(loaded, inputs), expected) and not torch.equal(before, expected)
    assert not any(module.training for module in loaded.modules())
    options = {"max_new_tokens": 3, "do_sample": False}
    assert torch.equal(loaded.generate(**inputs, **options), model.generate(**inputs, **options))


def test_base_model(host, stock, tmp_path):
    """A base model and a head share their folders."""
    model, inputs = trained(host), inputs_of(host)
    base = type(model.model).from_pretrained(stock)
    base.load_arrcoc(save(model.model, tmp_path / "base"))
    with torch.no_grad():
        assert torch.equal(base(**inputs).last_hidden_state, model.model(**inputs).last_hidden_state)
    head = ARRCOC_MODELS[host].from_pretrained(stock)
    head.load_arrcoc(save(base, tmp_path / "again"))
    assert torch.equal(logits(head, inputs), logits(model, inputs))
    assert head.config.arrcoc_config is head.model.config.arrcoc_config


@pytest.mark.parametrize("saved_dtype", [torch.float32, torch.bfloat16], ids=str)
def test_precision_is_the_models(host, stock, saved_dtype, tmp_path):
    """Also for a folder of another precision; relevance stays in float32 in all of them."""
    whole = trained(host)
    whole.model.arrcoc.to(saved_dtype)
    whole.save_pretrained(tmp_path / "whole")
    folder = save(whole, tmp_path / "block")
    for dtype in (torch.float32, torch.bfloat16):
        model = ARRCOC_MODELS[host].from_pretrained(stock, dtype=dtype)
        model.load_arrcoc(folder)
        expected = ARRCOC_MODELS[host].from_pretrained(tmp_path / "whole", dtype=dtype)
        assert_same_block(model, expected)
        assert {parameter.dtype for parameter in model.model.arrcoc.relevance.parameters()} == {torch.float32}
        assert {parameter.dtype for parameter in model.model.arrcoc.adapter.parameters()} == {dtype}
        inputs = inputs_of(host, dtype)
        assert torch.equal(logits(model, inputs), logits(expected, inputs))


def test_a_block_without_learned_parts(host, stock, tmp_path):
    """Its folder is the configuration alone, and replaces what is learned."""
    block = {"policy": "tiers", "tiers": [2, 4], "region_size": 4, "query_scorer": "cosine"}
    plain, model, inputs = tiny_arrcoc_model(host, arrcoc_config=block, **UNTIED), trained(host), inputs_of(host)
    folder = save(plain, tmp_path)
    assert [path.name for path in folder.iterdir()] == [CONFIG_FILE]
    model.load_arrcoc(folder)
    assert model.model.arrcoc is None
    assert not [name for name in model.state_dict() if "arrcoc" in name]
    assert torch.equal(logits(model, inputs), logits(plain, inputs))


def test_a_loaded_block_is_part_of_the_checkpoint(host, stock, saved, tmp_path):
    model, inputs = ARRCOC_MODELS[host].from_pretrained(stock), inputs_of(host)
    model.load_arrcoc(saved)
    model.save_pretrained(tmp_path / "whole")
    loaded, report = AutoModelForImageTextToText.from_pretrained(tmp_path / "whole", output_loading_info=True)
    assert not any(report.values()), report
    assert torch.equal(logits(loaded, inputs), logits(trained(host), inputs))


def test_base_and_folder_in_one_go(host, stock, saved, tmp_path):
    inputs, expected = inputs_of(host), trained(host)
    with pytest.raises(ValueError, match="names no base checkpoint; expected `base_model_name_or_path`"):
        load_arrcoc_model(saved)
    named = load_arrcoc_model(saved, stock, is_trainable=False)
    assert type(named) is ARRCOC_MODELS[host]
    assert torch.equal(logits(named, inputs), logits(expected, inputs))
    assert not any(parameter.requires_grad for parameter in named.model.arrcoc.parameters())
    by_folder = load_arrcoc_model(save(named, tmp_path / "again"), dtype=torch.bfloat16)
    assert by_folder.dtype == torch.bfloat16
    assert all(parameter.requires_grad for parameter in by_folder.model.arrcoc.parameters())
    assert_same_block(by_folder, expected.to(torch.bfloat16))
    edit_config(saved, model_type="llama")
    with pytest.raises(ValueError, match="hosts of model type 'llama'"):
        load_arrcoc_model(saved, stock)


def test_training_goes_on(host, stock, saved):
    """In the mode of the model, with gradients, and without a trace in its random numbers."""
    model = ARRCOC_MODELS[host].from_pretrained(stock).train()
    state = torch.get_rng_state()
    model.load_arrcoc(saved)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.model.arrcoc.modules())
    inputs = inputs_of(host)
    model(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(parameter.grad is not None for parameter in model.model.arrcoc.parameters())


def test_saving_into_a_folder_with_files(host, saved):
    """Refused, unless asked for; then other files stay, and weights that are no longer wanted do not."""
    plain, model = tiny_arrcoc_model(host, **UNTIED), trained(host)
    statistics = HostStatistics.measure(model, [random_inputs(host, ROWS)], samples=4)
    statistics.save_pretrained(saved)
    files = {path.name: path.read_bytes() for path in saved.iterdir()}
    with pytest.raises(FileExistsError, match="found files in .*saved, expected an empty folder; `overwrite=True`"):
        plain.save_arrcoc(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == files
    perturb(model).save_arrcoc(saved, overwrite=True)
    other = trained(host)
    other.load_arrcoc(saved)
    assert_same_block(other, model)
    plain.save_arrcoc(saved, overwrite=True)
    assert {path.name for path in saved.iterdir()} == files.keys() - {WEIGHTS_FILE}
    other.load_arrcoc(saved)
    assert other.model.arrcoc is None
    HostStatistics.from_pretrained(saved, other)


@pytest.mark.parametrize("written", [0, 1])
def test_a_failure_leaves_nothing_half_written(host, saved, written, monkeypatch, tmp_path):
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    write, calls = Path.write_bytes, []

    def fail(path, content):
        calls.append(path)
        if len(calls) > written:
            write(path, content[:10])
            raise OSError("no space left on device")
        return write(path, content)

    model = perturb(trained(host))
    for folder, left in ((saved, before), (tmp_path / "new", {})):
        calls.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Path, "write_bytes", fail)
            with pytest.raises(OSError, match="no space left"):
                model.save_arrcoc(folder, overwrite=True)
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == left
    model.save_arrcoc(tmp_path / "new")  # the folder that is left is empty


def test_a_save_that_ends_between_its_files_is_noticed(host, saved, monkeypatch, tmp_path):
    """New weights beside the old configuration are refused; in a new folder the configuration is missing."""
    model, replace = perturb(trained(host)), arrcoc.adapter_folder.os.replace

    def fail(source, target):
        if Path(target).name == CONFIG_FILE:
            raise OSError("killed")
        replace(source, target)

    monkeypatch.setattr(arrcoc.adapter_folder.os, "replace", fail)
    for folder, message in (
        (saved, "was saved with another arrcoc_config.json"),
        (tmp_path / "new", "found no arrcoc"),
    ):
        with pytest.raises(OSError, match="killed"):
            model.save_arrcoc(folder, overwrite=True)
        with pytest.raises(ValueError, match=message):
            model.load_arrcoc(folder)
