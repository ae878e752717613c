"""What the tests of adapter-only folders share: blocks that are not at their start, and their folders."""

import json
from pathlib import Path

import pytest
import torch

from arrcoc.adapter_folder import CONFIG_FILE
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import tiny_arrcoc_model


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


def assert_same_block(model, expected) -> None:
    ours, theirs = model.base_model.arrcoc.state_dict(), expected.base_model.arrcoc.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) and value.dtype == theirs[name].dtype for name, value in ours.items())


def edit_config(folder: Path, **changes) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def refused(model, folder: Path, message: str) -> None:
    """Loading fails with `message`, and leaves the model as it was."""
    block, config = model.base_model.arrcoc, model.config.arrcoc_config
    with pytest.raises(ValueError, match=message):
        model.load_arrcoc(folder)
    assert model.base_model.arrcoc is block and model.config.arrcoc_config is config
