"""Adapter-only folders: what ARR-COC adds to a stock checkpoint, saved without the host.

A folder holds `arrcoc_config.json` and, where something is learned, `arrcoc_model.safetensors`: a few MB that load
onto any stock checkpoint of the same architecture and widths.
"""

import hashlib
import json
import os
from dataclasses import fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, PreTrainedConfig, PreTrainedModel
from transformers.utils import cached_file

from .block import ArrCocBlock
from .configuration_arrcoc import ArrCocConfig
from .encoding_arrcoc import Host


CONFIG_FILE = "arrcoc_config.json"
WEIGHTS_FILE = "arrcoc_model.safetensors"
KEYS = ("base_model_name_or_path", "model_type", "widths", "weights_sha256", "arrcoc_config")


def weight_widths(config: PreTrainedConfig) -> dict[str, int]:
    """What the shapes of the learned parts follow from, besides the block's own options; by name."""
    vision = config.vision_config
    return {
        "hidden_size": config.text_config.hidden_size,
        "deepstack_layers": len(getattr(vision, "deepstack_visual_indexes", ())),
        "in_channels": vision.in_channels,
        "temporal_patch_size": vision.temporal_patch_size,
        "patch_size": vision.patch_size,
        "spatial_merge_size": vision.spatial_merge_size,
    }


def weights_in_use(block: nn.Module) -> dict[str, Tensor]:
    """Weights and buffers of a block by name; where peft trains copies of parts (`modules_to_save`), those in use."""
    state = block.state_dict()
    for name, module in block.named_modules():
        if not isinstance(getattr(module, "modules_to_save", None), nn.ModuleDict):
            continue
        prefix = f"{name}." if name else ""
        adapters = [] if module.disable_adapters else list(module.active_adapters)
        used = f"{prefix}modules_to_save.{adapters[0]}." if adapters else f"{prefix}original_module."
        copies = {key: state.pop(key) for key in list(state) if key.startswith(prefix)}
        state |= {prefix + key.removeprefix(used): value for key, value in copies.items() if key.startswith(used)}
    return state


def check_tensors(found: dict[str, Tensor], expected: dict[str, Tensor], place: str) -> None:
    """Make sure that tensors are those of a block.

    Floating-point tensors may have any floating-point precision: the model's own is kept.

    Raises:
        ValueError: if tensors are missing, unexpected, or of another shape or kind of dtype; all of them are named.
    """

    def describe(tensor: Tensor) -> str:
        return f"{str(tensor.dtype).removeprefix('torch.')} of shape {list(tensor.shape)}"

    def kind(tensor: Tensor) -> tuple:
        return tensor.shape, "float" if tensor.is_floating_point() else tensor.dtype

    missing, unexpected = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    wrong = [
        f"{name}: found {describe(found[name])}, expected {describe(tensor)}"
        for name, tensor in expected.items()
        if name in found and kind(found[name]) != kind(tensor)
    ]
    problems = [f"missing tensors: {', '.join(missing)}"] if missing else []
    problems += [f"unexpected tensors: {', '.join(unexpected)}"] if unexpected else []
    if problems or wrong:
        raise ValueError(f"{place} does not hold the weights of its configuration; {'; '.join(problems + wrong)}")


def read_description(folder: str | os.PathLike, **hub_options: Any) -> dict[str, Any]:
    """Read `arrcoc_config.json` of an adapter-only folder.

    Raises:
        ValueError: if there is no such file, or it is damaged or incomplete.
    """
    path = _find(folder, CONFIG_FILE, **hub_options)
    try:
        description = json.loads(Path(path).read_bytes())
    except ValueError as error:  # of JSON, or of its encoding
        raise ValueError(f"{path} is damaged: {error}") from None
    found = sorted(description) if isinstance(description, dict) else type(description).__name__
    if not isinstance(description, dict) or not set(KEYS) <= description.keys():
        raise ValueError(f"{path} is damaged: found {found}, expected {sorted(KEYS)}")
    return description


def _find(folder: str | os.PathLike, name: str, **hub_options: Any) -> str:
    try:
        return cached_file(os.fspath(folder), name, **hub_options)
    except OSError as error:
        raise ValueError(f"found no {name} in {folder}; expected a folder of `save_arrcoc`: {error}") from error


class AdapterFolderMixin(Host):
    """A model that saves and loads its ARR-COC block alone; the base model and the head alike."""

    def save_arrcoc(self, save_directory: str | os.PathLike, overwrite: bool = False) -> None:
        """Save the block without its host: its configuration, what it learned, and the name of the base checkpoint.

        Files are written completely before they get their names, `arrcoc_config.json` last: without it a folder does
        not load. Under peft, copies of parts of the block (`modules_to_save`) are saved as the block's own weights;
        what peft adapts elsewhere is saved by peft.

        Args:
            save_directory (`str` or `PathLike`): the folder, which is made if it does not exist.
            overwrite (`bool`, *optional*, defaults to `False`): replace these files in a folder that is not empty; all
                others stay.

        Raises:
            FileExistsError: if the folder is not empty and `overwrite` is not set.
            ValueError: if the block's weights are not those of its configuration, as after adapting its layers.
        """
        folder, base = Path(save_directory), self.base_model
        expected, found = _new_block(base.config.arrcoc_config, base.config), {}
        if base.arrcoc is not None:
            found = {name: tensor.contiguous().cpu() for name, tensor in weights_in_use(base.arrcoc).items()}
        check_tensors(found, expected.state_dict(), "the model")
        weights = save(found, metadata={"format": "pt"}) if found else None
        own = {field.name for field in fields(ArrCocConfig)} - {field.name for field in fields(PreTrainedConfig)}
        description = {
            "base_model_name_or_path": base.config._name_or_path or None,
            "model_type": base.config.host_model_type,
            "widths": weight_widths(base.config),
            "weights_sha256": None if weights is None else hashlib.sha256(weights).hexdigest(),
            "arrcoc_config": {name: getattr(base.config.arrcoc_config, name) for name in sorted(own)},
        }

        if folder.is_dir() and any(folder.iterdir()) and not overwrite:
            raise FileExistsError(f"found files in {folder}, expected an empty folder; `overwrite=True` replaces them")
        folder.mkdir(parents=True, exist_ok=True)
        # Within the folder, which may be a file system of its own: files can be renamed into it from there alone.
        with TemporaryDirectory(dir=folder, prefix=".arrcoc-") as staging:
            files = {} if weights is None else {WEIGHTS_FILE: weights}
            files[CONFIG_FILE] = (json.dumps(description, indent=2) + "\n").encode()
            for name, content in files.items():
                (Path(staging) / name).write_bytes(content)
            for name in files:
                os.replace(Path(staging) / name, folder / name)
        if weights is None:
            (folder / WEIGHTS_FILE).unlink(missing_ok=True)

    def load_arrcoc(
        self, pretrained_name_or_path: str | os.PathLike, is_trainable: bool = True, **hub_options: Any
    ) -> None:
        """Replace the block by that of an adapter-only folder; the model is changed only if all of it fits.

        The block takes over the model's device, precision (parts that stay in float32 do) and mode. Its parameters are
        new objects: load before an optimizer or peft's `modules_to_save` takes hold of the old ones.

        Args:
            pretrained_name_or_path (`str` or `PathLike`): a folder that `save_arrcoc` wrote, or the name of a Hub
                repository with its files.
            is_trainable (`bool`, *optional*, defaults to `True`): whether the block's parameters require gradients.
            **hub_options: for a repository, such as `revision`, `token`, `subfolder` or `local_files_only`.

        Raises:
            ValueError: if files are missing or damaged, or are of another host architecture, other widths or other
                tensors; or if the block that is to be replaced is wrapped by peft, or the tower is offloaded.
        """
        base, source = self.base_model, pretrained_name_or_path
        device = next(base.visual.parameters()).device
        if device.type == "meta":
            raise ValueError("found a vision tower that is offloaded; expected one in memory, beside which to load")
        if base.arrcoc is not None and any(
            hasattr(module, "modules_to_save") or hasattr(module, "base_layer") for module in base.arrcoc.modules()
        ):
            raise ValueError("found a block that peft has wrapped; expected `load_arrcoc` before peft")

        description = read_description(source, **hub_options)
        if description["model_type"] != base.config.host_model_type:
            raise ValueError(
                f"{source} is for hosts of model type {description['model_type']!r}; "
                f"expected {base.config.host_model_type!r}"
            )
        try:
            config = ArrCocConfig(**description["arrcoc_config"])
        except (StrictDataclassError, TypeError, ValueError) as error:
            raise ValueError(f"{source} has no valid configuration: {error}") from error
        found, digest = {}, None
        if description["weights_sha256"] is not None:
            widths = weight_widths(base.config)
            if description["widths"] != widths:
                differences = _differences(description["widths"], widths)
                raise ValueError(f"{source} is for a host of other widths; {differences}")
            content = Path(_find(source, WEIGHTS_FILE, **hub_options)).read_bytes()
            digest = hashlib.sha256(content).hexdigest()
            try:
                found = load(content)
            except SafetensorError as error:
                raise ValueError(f"{WEIGHTS_FILE} in {source} is damaged: {error}") from None
        block = _new_block(config, base.config)
        check_tensors(found, block.state_dict(), str(source))
        if digest != description["weights_sha256"]:
            raise ValueError(
                f"{WEIGHTS_FILE} in {source} is damaged, or was saved with another {CONFIG_FILE}: "
                f"found SHA-256 {digest}, expected {description['weights_sha256']}"
            )
        block.load_state_dict(found)
        # The embeddings' precision is that of the model where its other weights are quantised, too.
        block.to(device, self.get_input_embeddings().weight.dtype).train(base.training).requires_grad_(is_trainable)
        base.arrcoc = block if found else None
        self.config.arrcoc_config = base.config.arrcoc_config = config


def _new_block(config: ArrCocConfig, host_config: PreTrainedConfig) -> ArrCocBlock:
    """A block as a host's base model makes it."""
    with torch.random.fork_rng(devices=[]):  # leaves no trace in the caller's random numbers
        return ArrCocBlock(config, host_config.vision_config, host_config.text_config.hidden_size)


def _differences(found: Any, expected: dict[str, int]) -> str:
    found = found if isinstance(found, dict) else {}
    return ", ".join(
        f"{name}: found {found.get(name, 'nothing')}, expected {expected.get(name, 'nothing')}"
        for name in [*expected, *(found.keys() - expected.keys())]
        if found.get(name) != expected.get(name)
    )


def load_arrcoc_model(
    pretrained_name_or_path: str | os.PathLike,
    base_model_name_or_path: str | os.PathLike | None = None,
    is_trainable: bool = True,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load an adapter-only folder together with its base checkpoint.

    Args:
        pretrained_name_or_path (`str` or `PathLike`): folder or repository, as for `load_arrcoc`.
        base_model_name_or_path (`str` or `PathLike`, *optional*): the stock checkpoint, or one with ARR-COC, whose
            block is replaced; defaults to the one that the folder names.
        is_trainable (`bool`, *optional*, defaults to `True`): as for `load_arrcoc`.
        **kwargs: for `from_pretrained` of the base checkpoint, such as `dtype` or `device_map`.

    Returns:
        The `ArrCoc...ForConditionalGeneration` of the host's architecture, in evaluation mode.

    Raises:
        ValueError: as `load_arrcoc`, or if no base checkpoint is known.
    """
    description = read_description(pretrained_name_or_path)
    checkpoint = base_model_name_or_path or description["base_model_name_or_path"]
    if not checkpoint:
        raise ValueError(f"{pretrained_name_or_path} names no base checkpoint; expected `base_model_name_or_path`")
    model_type = f"arrcoc_{description['model_type']}"
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{pretrained_name_or_path} is for hosts of model type {description['model_type']!r}, "
            "which ARR-COC does not know"
        )
    model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[CONFIG_MAPPING[model_type]]
    model = model_class.from_pretrained(checkpoint, **kwargs)
    model.load_arrcoc(pretrained_name_or_path, is_trainable)
    return model


__all__ = ["AdapterFolderMixin", "load_arrcoc_model"]
