"""Folders that do not fit, or are damaged, are refused, and the model stays as it was."""

import hashlib
import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from arrcoc.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from tests.helpers.tiny_models import ARRCOC_MODELS, tiny_arrcoc_model, tiny_config_dict
from tests.helpers.tiny_processors import HOSTS
from tests.modeling.adapter_folder.folders import edit_config, refused, trained


def edit_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the weights by others that belong to the configuration."""
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    edit_config(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest())


def test_the_other_host_is_refused(host, saved):
    (other,) = set(HOSTS) - {host}
    refused(trained(other), saved, f"saved is for hosts of model type '{host}'; expected '{other}'")


def test_a_host_of_other_widths_is_refused(host, saved):
    text = tiny_config_dict(host)["text_config"] | {"hidden_size": 32, "num_attention_heads": 2}
    vision = tiny_config_dict(host)["vision_config"] | {"out_hidden_size": 32}
    model = tiny_arrcoc_model(host, text_config=text, vision_config=vision)
    refused(model, saved, "host of other widths; hidden_size: found 64, expected 32$")
    edit_config(saved, widths={"hidden_size": 32})
    refused(model, saved, "other widths; deepstack_layers: found nothing, expected [02], in_channels: found nothing")


def test_wrong_tensors_are_named(host, saved):
    model, tensors = trained(host), load_file(saved / WEIGHTS_FILE)
    names = sorted(tensors)[:2]
    edit_weights(saved, {name: tensor for name, tensor in tensors.items() if name not in names})
    refused(model, saved, f"missing tensors: {names[0]}, {names[1]}$")
    edit_weights(saved, tensors | {"router.weight": torch.ones(1)})
    refused(model, saved, "unexpected tensors: router.weight$")
    name, tensor = next((name, tensor) for name, tensor in tensors.items() if tensor.ndim == 2)
    rows, columns = tensor.shape
    edit_weights(saved, tensors | {name: tensor[:, 1:].contiguous()})
    refused(
        model,
        saved,
        rf"{name}: found float32 of shape \[{rows}, {columns - 1}\], expected float32 of shape \[{rows}, {columns}\]$",
    )
    edit_weights(saved, tensors | {name: tensor.to(torch.int8)})
    refused(model, saved, rf"{name}: found int8 of shape \[{rows}, {columns}\], expected float32")
    edit_weights(saved, tensors)
    model.load_arrcoc(saved)


def test_damaged_and_missing_files_are_refused(host, saved):
    model, weights, config = trained(host), saved / WEIGHTS_FILE, saved / CONFIG_FILE
    good, text = weights.read_bytes(), config.read_text()
    for bad in (b"", good[:1000], good[:-1]):
        weights.write_bytes(bad)
        refused(model, saved, "arrcoc_model.safetensors in .*saved is damaged")
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    refused(model, saved, "is damaged, or was saved with another.* found SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}$")
    weights.unlink()
    refused(model, saved, "found no arrcoc_model.safetensors in .*saved; expected a folder of `save_arrcoc`")
    weights.write_bytes(good)
    edit_config(saved, weights_sha256=None)
    refused(model, saved, "missing tensors: ")
    for bad, message in (
        (text[:100], "arrcoc_config.json is damaged: "),
        ("[]", r"is damaged: found list, expected \['arrcoc_config', 'base_model_name_or_path'"),
        ('{"model_type": "x"}', r"is damaged: found \['model_type'\], expected"),
        (text.replace('"seed"', '"sead"'), r"no valid configuration: unknown ARR-COC options \['sead'\]"),
        (text.replace('"seed": 0', '"seed": "x"'), "(?s)no valid configuration: .*expected int, got str"),
        (text.replace('"seed": 0', '"seed": -1'), "no valid configuration: `seed` is -1"),
    ):
        config.write_text(bad)
        refused(model, saved, message)
    config.unlink()
    refused(model, saved, "found no arrcoc_config.json in .*saved; expected a folder of `save_arrcoc`")
    refused(model, saved / "nowhere", "found no arrcoc_config.json in .*nowhere")


def test_a_configuration_without_its_parts_names_the_tensors_of_them(host, saved):
    config = json.loads((saved / CONFIG_FILE).read_text())
    edit_config(saved, arrcoc_config=config["arrcoc_config"] | {"adapter": "none"})
    refused(trained(host), saved, "unexpected tensors: adapter.blocks.0.film.weight, ")


def test_an_offloaded_tower_is_refused(host, stock, saved, tmp_path):
    where = {"model.visual": "disk", "model.language_model": "cpu", "lm_head": "cpu"}
    model = ARRCOC_MODELS[host].from_pretrained(stock, device_map=where, offload_folder=tmp_path / "offload")
    refused(model, saved, "found a vision tower that is offloaded")
