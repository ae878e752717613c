"""Adapter-only folders: the block saved without its host, and loaded onto a stock checkpoint."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageTextToText

import arrcoc.adapter_folder
from arrcoc.adapter_folder import CONFIG_FILE, WEIGHTS_FILE, load_arrcoc_model
from arrcoc.configuration_arrcoc import ArrCocConfig
from arrcoc.host_statistics import HostStatistics
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import ARRCOC_MODELS, tiny_arrcoc_model, tiny_config_dict, tiny_stock_model
from tests.helpers.tiny_processors import HOSTS


# peft 0.21 asks for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

ROWS, BUDGETS = [[(4, 6)], [(3, 5), (1, 7)]], [9, 4, 3]
UNTIED = {"tie_word_embeddings": False}
RELEVANCE = {"relevance": "learned", "scout_dim": 16, "scout_depth": 1, "tiers": [2, 3]}
COMPRESSION = {"compressor": "experts", "compressor_dim": 8, "adapter_dim": 8, "adapter_blocks": 1}
LEARNED = {
    "features": {**RELEVANCE, **COMPRESSION, "adapter": "quality"},
    "glance": {**RELEVANCE, **COMPRESSION, "adapter": "prototype", "stage": "pixels", "glance_level": 1},
    "scout": {**RELEVANCE, "stage": "pixels", "cell_encoder": "scout"},
    "relevance": RELEVANCE,
    "compression": {**COMPRESSION, "adapter": "quality", "query_weight": 0.5},
}
BLOCK = LEARNED["features"]
TARGETS = r".*language_model\.layers\.\d+\.self_attn\.q_proj"


def perturb(model, seed: int = 1):
    """Move the block away from its start."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.base_model.arrcoc.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator).to(parameter) * 0.1)
    return model


def trained(host: str, block: dict = BLOCK):
    return perturb(tiny_arrcoc_model(host, arrcoc_config=block, **UNTIED))


def save(model, folder: Path) -> Path:
    model.save_arrcoc(folder)
    return folder


def logits(model, inputs):
    for parameter in model.parameters():  # where loaded weights lie decides which kernels some processors take
        parameter.data = parameter.data.clone()
    with torch.no_grad():
        return model(**inputs).logits


def inputs_of(host: str, dtype: torch.dtype = torch.float32) -> dict[str, torch.Tensor]:
    inputs = random_inputs(host, ROWS, budgets=BUDGETS)
    return inputs | {"pixel_values": inputs["pixel_values"].to(dtype)}


def settings(model) -> dict:
    return {
        name: value for name, value in vars(model.config.arrcoc_config).items() if name in ArrCocConfig().to_dict()
    }


def assert_same_block(model, expected) -> None:
    ours, theirs = model.base_model.arrcoc.state_dict(), expected.base_model.arrcoc.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype for name, value in ours.items())


@pytest.fixture(scope="module")
def stock_folders(tmp_path_factory) -> dict[str, Path]:
    """Stock checkpoints of both hosts, with the weights of `trained`."""
    folder = tmp_path_factory.mktemp("stock")
    for host in HOSTS:
        tiny_stock_model(host, **UNTIED).save_pretrained(folder / host)
    return {host: folder / host for host in HOSTS}


@pytest.fixture
def stock(host, stock_folders) -> Path:
    return stock_folders[host]


@pytest.fixture
def saved(host, tmp_path) -> Path:
    """An adapter-only folder."""
    trained(host).save_arrcoc(tmp_path / "saved")
    return tmp_path / "saved"


def edit_config(folder: Path, **changes) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_weights(folder: Path, tensors: dict[str, torch.Tensor]) -> None:
    """Replace the weights by others that belong to the configuration."""
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    edit_config(folder, weights_sha256=hashlib.sha256((folder / WEIGHTS_FILE).read_bytes()).hexdigest())


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


def refused(model, folder: Path, message: str) -> None:
    """Loading fails with `message`, and leaves the model as it was."""
    block, config = model.base_model.arrcoc, model.config.arrcoc_config
    with pytest.raises(ValueError, match=message):
        model.load_arrcoc(folder)
    assert model.base_model.arrcoc is block and model.config.arrcoc_config is config


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


@pytest.fixture
def peft():
    return pytest.importorskip("peft")


def test_peft_around_the_model(host, stock, saved, peft, tmp_path):
    """The wrapped model saves and loads; LoRA is not part of the folder."""
    model, inputs = ARRCOC_MODELS[host].from_pretrained(stock), inputs_of(host)
    wrapped = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=TARGETS, init_lora_weights=False))
    wrapped.load_arrcoc(saved, is_trainable=False)
    assert wrapped.base_model.model.model.arrcoc is model.model.arrcoc is not None
    trainable = [name for name, parameter in wrapped.named_parameters() if parameter.requires_grad]
    assert trainable and all("lora" in name for name in trainable)
    with wrapped.disable_adapter():
        assert torch.equal(logits(wrapped, inputs), logits(trained(host), inputs))
    wrapped.save_arrcoc(tmp_path / "again")
    assert load_file(tmp_path / "again" / WEIGHTS_FILE).keys() == load_file(saved / WEIGHTS_FILE).keys()
    config = json.loads((tmp_path / "again" / CONFIG_FILE).read_text())
    assert config["base_model_name_or_path"] == str(stock)


@pytest.mark.parametrize("parts", [["arrcoc"], ["arrcoc.adapter", "arrcoc.relevance.balance"]], ids=str)
def test_parts_that_peft_trains(host, stock, parts, peft, tmp_path):
    """The copies in use are saved; onto them nothing is loaded."""
    config = peft.LoraConfig(r=2, target_modules=TARGETS, modules_to_save=parts)
    wrapped, inputs = peft.get_peft_model(trained(host), config), inputs_of(host)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "modules_to_save" in name:
                parameter.mul_(1.5)
    wrapped.eval()
    expected = logits(wrapped, inputs)
    loaded = ARRCOC_MODELS[host].from_pretrained(stock)
    loaded.load_arrcoc(save(wrapped, tmp_path / "copies"))
    assert torch.equal(logits(loaded, inputs), expected)
    with wrapped.disable_adapter():
        wrapped.save_arrcoc(tmp_path / "original")
    loaded.load_arrcoc(tmp_path / "original")
    assert_same_block(loaded, trained(host))
    refused(wrapped.base_model.model, tmp_path / "copies", "block that peft has wrapped")


def test_adapted_layers_of_the_block_are_not_saved_without_what_adapts_them(host, peft, tmp_path):
    config = peft.LoraConfig(r=2, target_modules=r".*arrcoc\.adapter.*transform\.0")
    wrapped = peft.get_peft_model(trained(host), config)
    with pytest.raises(ValueError, match=r"missing tensors: adapter\.blocks\.0\.transform\.0.*unexpected.*lora_A"):
        wrapped.save_arrcoc(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()
    refused(wrapped.base_model.model, tmp_path, "block that peft has wrapped")
    wrapped.merge_and_unload().save_arrcoc(tmp_path / "saved")


def test_an_offloaded_tower_is_refused(host, stock, saved, tmp_path):
    pytest.importorskip("accelerate")
    where = {"model.visual": "disk", "model.language_model": "cpu", "lm_head": "cpu"}
    model = ARRCOC_MODELS[host].from_pretrained(stock, device_map=where, offload_folder=tmp_path / "offload")
    refused(model, saved, "found a vision tower that is offloaded")
