"""The configurations for GPUs: what they train of models of the published sizes, and what launchers make of them.

Models have no weights (the meta device); what cannot be run without GPUs is read by the parsers that would read it.
"""

import argparse
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import DeepSpeedPlugin, FullyShardedDataParallelPlugin
from accelerate.utils.launch import prepare_deepspeed_cmd_env, prepare_multi_gpu_env
from torch import nn
from transformers.quantizers.quantizers_utils import should_convert_module

from arrcoc import ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration
from arrcoc.cli import train as command
from arrcoc.training import apply_phase
from arrcoc.training.components import COMPONENTS, named_components
from arrcoc.training.configuration import RunOptions, read_run
from arrcoc.training.phases import LORA_TARGETS


# peft 0.21 asks for the old name of activation checkpointing.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

CONFIGS = Path(__file__).parents[2] / "examples" / "configs"
# As published: layers, width, intermediate and heads of the language model; of the tower; its tapped layers; whether
# embeddings are tied; parameters of the host.
PUBLISHED: dict[str, Any] = {
    "2B": ((28, 2048, 6144, 16), (24, 1024, 4096), [5, 11, 17], True, 2_127_532_032),
    "4B": ((36, 2560, 9728, 32), (24, 1024, 4096), [5, 11, 17], True, 4_437_815_808),
    "8B": ((36, 4096, 12288, 32), (27, 1152, 4304), [8, 16, 24], False, 8_767_123_696),
}
RUNS = {"2B": "qwen3_vl_2b_lora_24gb.yaml", "4B": "qwen3_vl_2b_lora_24gb.yaml", "8B": "qwen3_vl_8b_8gpu.yaml"}


def model_without_weights(size: str, run: RunOptions) -> Any:
    (layers, width, mlp, heads), (depth, tower, tower_mlp), taps, tied, _ = PUBLISHED[size]
    config = ArrCocQwen3VLConfig(
        text_config={
            "vocab_size": 151936,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20],
                "mrope_interleaved": True,
            },
        },
        vision_config={
            "depth": depth,
            "hidden_size": tower,
            "intermediate_size": tower_mlp,
            "num_heads": 16,
            "out_hidden_size": width,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": taps,
        },
        tie_word_embeddings=tied,
        arrcoc_config=run.block,
    )
    with torch.device("meta"):
        return ArrCocQwen3VLForConditionalGeneration(config)


def expected_component(name: str) -> str:
    """By the plain beginnings of the names, without the expressions that the package sorts them by."""
    for beginning, component in {
        "model.arrcoc.compressors.": "compressor",
        "model.arrcoc.adapter.": "adapter",
        "model.arrcoc.": "allocator",
        "model.visual.merger.": "bridge",
        "model.visual.deepstack_merger_list.": "bridge",
        "model.visual.": "vision",
        "model.language_model.": "llm",
        "lm_head.": "llm",
    }.items():
        if name.startswith(beginning):
            return component
    raise AssertionError(name)


@pytest.mark.parametrize("size", PUBLISHED)
def test_sizes_are_the_published_ones(size):
    model = model_without_weights(size, read_run(CONFIGS / RUNS[size]))
    host = sum(parameter.numel() for name, parameter in model.named_parameters() if ".arrcoc." not in name)
    assert host == PUBLISHED[size][-1]


@pytest.mark.parametrize(
    ("size", "number"), [("2B", 0), ("2B", 2), ("2B", 3), ("8B", 0), ("8B", 1), ("8B", 2), ("8B", 3)]
)
def test_every_parameter_is_trained_or_frozen_as_its_phase_says(size, number):
    """Each belongs to one component; those of the phase learn, all others do not; LoRA is on the language model's
    attention, layer by layer, and nowhere else."""
    run = read_run(CONFIGS / RUNS[size])
    phase = run.phases[number]
    model = model_without_weights(size, run)
    plain = {name: expected_component(name) for name, _ in model.named_parameters()}
    assert {name: component for component, name, _ in named_components(model)} == plain
    assert set(plain.values()) == set(COMPONENTS) - {"lora"}

    model = apply_phase(model, phase)
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert not learning & frozen
    if phase.lora is None:
        assert learning == {name for name, component in plain.items() if component in phase.trains}
        return
    copied = re.compile(r"(arrcoc|merger|deepstack_merger_list\.\d)\.")
    copies = {
        "base_model.model." + copied.sub(r"\1.modules_to_save.default.", name)
        for name, component in plain.items()
        if component in phase.trains
    }
    layers = PUBLISHED[size][0][0]
    adapters = {
        f"base_model.model.model.language_model.layers.{layer}.self_attn.{part}_proj.lora_{side}.default.weight"
        for layer in range(layers)
        for part in "qkvo"
        for side in "AB"
    }
    assert learning == copies | adapters
    assert len(frozen) >= len(plain)  # all of the host and of the block as they were


@pytest.mark.parametrize("size", PUBLISHED)
def test_four_bits_are_for_the_language_model_alone(size, monkeypatch):
    """Tower, block and head keep their precision; every layer that LoRA is put on is quantized."""
    run = read_run(CONFIGS / RUNS["2B"], ["quantization=4bit"])
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: object())
    options = command.four_bits(run)
    assert options.load_in_4bit and options.bnb_4bit_quant_type == "nf4"
    model = model_without_weights(size, run)
    layers = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    quantized = {name for name in layers if should_convert_module(name, options.llm_int8_skip_modules)}
    assert quantized == {name for name in layers if name.startswith("model.language_model.layers.")}
    assert {name for name in layers if re.fullmatch(LORA_TARGETS, name)} <= quantized


def launched(name: str) -> argparse.Namespace:
    """A file for `accelerate launch`, as its own parser reads it; what it would ignore is an error."""
    path = CONFIGS / "accelerate" / name
    config = load_config_from_file(str(path))  # refuses unknown keys
    parser = launch_command_parser()
    options = {action.dest for action in parser._actions}
    assert {key if key.startswith("fsdp") else f"fsdp_{key}" for key in config.fsdp_config} <= options
    assert set(config.deepspeed_config) <= options
    arguments = parser.parse_args(["--config_file", str(path), "--main_process_port", "0", "-m", "arrcoc_cli"])
    return _validate_launch_command(arguments)[0]


def test_fsdp_wraps_layers_that_there_are(monkeypatch):
    arguments = launched("fsdp.yaml")
    for name, value in prepare_multi_gpu_env(arguments).items():
        monkeypatch.setenv(name, value)
    plugin = FullyShardedDataParallelPlugin()
    assert (plugin.fsdp_version, plugin.reshard_after_forward, arguments.num_processes) == (2, True, 8)
    model = model_without_weights("8B", read_run(CONFIGS / RUNS["8B"]))
    plugin.set_auto_wrap_policy(model)
    wrapped = [module for module in model.modules() if type(module).__name__ in plugin.transformer_cls_names_to_wrap]
    assert len(wrapped) == 36 + 27
    assert {type(module).__name__ for module in wrapped} == set(plugin.transformer_cls_names_to_wrap)


def test_deepspeed_shards_weights(monkeypatch):
    arguments = launched("deepspeed_zero3.yaml")
    arguments.deepspeed_fields_from_accelerate_config = ""  # as the launcher adds
    for name, value in prepare_deepspeed_cmd_env(arguments)[1].items():
        monkeypatch.setenv(name, value)
    plugin = DeepSpeedPlugin()
    assert plugin.zero_stage == 3 and plugin.hf_ds_config.is_zero3()
    assert plugin.deepspeed_config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True
    assert not plugin.zero3_init_flag and arguments.num_processes == 8 and arguments.mixed_precision == "bf16"
    assert plugin.deepspeed_config["gradient_accumulation_steps"] == plugin.gradient_clipping == "auto"


def test_two_processes_without_a_gpu():
    arguments = launched("two_cpu_processes.yaml")
    assert arguments.use_cpu and arguments.multi_gpu and arguments.num_processes == 2
    assert prepare_multi_gpu_env(arguments)["ACCELERATE_MIXED_PRECISION"] == "no"


@pytest.mark.parametrize("name", ["fsdp.yaml", "deepspeed_zero3.yaml"])
def test_nothing_in_the_run_is_refused_where_weights_are_sharded(name):
    """What the trainer refuses under FSDP and DeepSpeed is not asked for, with the changes that the file names."""
    path = CONFIGS / RUNS["8B"]
    text = path.read_text()
    part = text[text.index(name) :].split("accelerate launch")[0]
    run = read_run(path, ["monitors={}"] if "monitors={}" in part else [])
    assert all(phase.update_cycle is None for phase in run.phases)
    encoded_twice = {"reconstruction", "contrastive"}
    assert not any(encoded_twice & phase.loss_weights.keys() for phase in run.phases)
    if name.startswith("deepspeed"):
        assert "spike_ratio" not in run.arguments and not run.monitors
