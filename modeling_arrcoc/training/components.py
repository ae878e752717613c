"""The parts of a model that are trained at rates of their own, and which parameter belongs to which."""

import re
from collections.abc import Iterator
from typing import Any

from torch import nn


# Allocator: scout, relevance and budget router. Bridge: mergers and the last vision blocks.
COMPONENTS = ("allocator", "compressor", "adapter", "bridge", "vision", "llm", "lora")
# What a batch without a compressed image would leave without a gradient.
VISUAL_COMPONENTS = ("allocator", "compressor", "adapter", "bridge", "vision")

# Rates relative to `learning_rate`, from parts that start from nothing to the host's own weights.
RATE_FACTORS = {
    "allocator": 1.0,
    "compressor": 1.0,
    "adapter": 1.0,
    "bridge": 0.1,
    "vision": 0.01,
    "llm": 0.01,
    "lora": 1.0,
}
# Where they differ from those of the arguments.
BETAS = {"allocator": (0.9, 0.95), "compressor": (0.9, 0.95), "adapter": (0.9, 0.95), "bridge": (0.9, 0.98)}
MAX_GRAD_NORMS = {"bridge": 0.5, "vision": 0.3}

_BLOCK_PARTS = {
    "compressors": "compressor",
    "decoder": "compressor",
    "reconstruction": "compressor",
    "adapter": "adapter",
}
_WRAPPERS = re.compile(
    r"(?<![^.])(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|base_layer|original_module"
    r"|modules_to_save\.[^.]+)\."
)


def plain_name(name: str) -> str:
    """A parameter's name without what DDP, FSDP, compilation and peft put into it around the host's own names."""
    return _WRAPPERS.sub("", name).removeprefix("base_model.model.")


def component_of(name: str, vision_depth: int, bridge_vision_blocks: int = 0) -> str:
    """The component that a parameter belongs to.

    Args:
        name (`str`): of the parameter, in the model or in a wrapper of it.
        vision_depth (`int`): blocks of the vision tower.
        bridge_vision_blocks (`int`): how many of them, from the last, count to the bridge.

    Returns:
        `str`: one of `COMPONENTS`.
    """
    if re.search(r"(?:^|\.)lora_", name):
        return "lora"
    name = plain_name(name)
    if part := re.search(r"(?:^|\.)arrcoc\.(\w+)", name):
        return _BLOCK_PARTS.get(part[1], "allocator")
    if not re.search(r"(?:^|\.)visual\.", name):
        return "llm"
    if re.search(r"visual\.(?:merger|deepstack_merger_list)\.", name):
        return "bridge"
    block = re.search(r"visual\.blocks\.(\d+)\.", name)
    return "bridge" if block and int(block[1]) >= vision_depth - bridge_vision_blocks else "vision"


def named_components(model: nn.Module, bridge_vision_blocks: int = 0) -> Iterator[tuple[str, str, nn.Parameter]]:
    """Component, name and parameter of all parameters of a model, which may be wrapped."""
    depth = host_config(model).vision_config.depth
    for name, parameter in model.named_parameters():
        yield component_of(name, depth, bridge_vision_blocks), name, parameter


def host_config(model: nn.Module) -> Any:
    """The configuration of the host inside a model, which may be wrapped."""
    for module in model.modules():
        config = getattr(module, "config", None)
        if hasattr(config, "vision_config") and hasattr(config, "text_config"):
            return config
    raise ValueError(f"found no host with ARR-COC in a {type(model).__name__}")


__all__ = ["COMPONENTS", "component_of", "named_components"]
