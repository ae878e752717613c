"""Adapter-only folders and LoRA: each saves its own, around the other."""

import json

import pytest
import torch
from safetensors.torch import load_file

from arrcoc.adapter_folder import CONFIG_FILE, WEIGHTS_FILE
from tests.helpers.tiny_models import ARRCOC_MODELS
from tests.modeling.adapter_folder.folders import assert_same_block, inputs_of, logits, refused, save, trained


# peft 0.21 asks for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

TARGETS = r".*language_model\.layers\.\d+\.self_attn\.q_proj"


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
