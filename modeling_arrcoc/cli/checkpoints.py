"""Find, check and load checkpoint folders of the hosts, stock or wrapped."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from PIL import Image
from safetensors import SafetensorError
from transformers import BatchFeature, PreTrainedModel
from transformers.image_utils import SizeDict

from arrcoc import ArrCocQwen2_5_VLForConditionalGeneration, ArrCocQwen3VLForConditionalGeneration
from arrcoc.pretrained import NAMES, reference_folder
from arrcoc.processing import ArrCocProcessor


# The class that loads a checkpoint of a model type, stock or wrapped.
MODEL_CLASSES: dict[str, type[PreTrainedModel]] = {
    model_type: hosted
    for hosted in (ArrCocQwen3VLForConditionalGeneration, ArrCocQwen2_5_VLForConditionalGeneration)
    for model_type in (hosted.config_class.host_model_type, hosted.config_class.model_type)
}
BUNDLED_FOLDERS = {folder.name: folder for folder in map(reference_folder, NAMES)}
BUNDLED = "arrcoc-tiny"  # the one used where none is named
WEIGHT_PATTERNS = ("model*.safetensors", "pytorch_model*.bin")


def checkpoint_folder(name: str) -> Path:
    """Folder of a checkpoint: a local folder as it is, a bundled one by its name, `owner/name` fetched from the
    Hugging Face Hub.

    Raises:
        FileNotFoundError: if it is none of them.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return folder
    if name in BUNDLED_FOLDERS:
        return BUNDLED_FOLDERS[name]
    if folder.exists() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or folder.parent.is_dir():
        raise FileNotFoundError(f"no checkpoint folder {name}")
    return Path(snapshot_download(name, ignore_patterns=["*.pt", "*.pth", "*.gguf", "*.onnx", "original/*"]))


def model_class(folder: Path) -> type[PreTrainedModel]:
    """The class that loads a checkpoint, chosen by the `model_type` of its config.json.

    Raises:
        FileNotFoundError: if the folder has no config.json, or no weights.
        ValueError: if config.json is no JSON object, or names another architecture.
    """
    try:
        config: Any = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} is no checkpoint: it has no config.json") from None
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'} is no JSON: {error}") from None
    model_type = config.get("model_type") if isinstance(config, dict) else None
    if model_type not in MODEL_CLASSES:
        raise ValueError(
            f"{folder} holds the architecture {model_type!r}; supported are {', '.join(map(repr, MODEL_CLASSES))}"
        )
    if not any(any(folder.glob(pattern)) for pattern in WEIGHT_PATTERNS):
        raise FileNotFoundError(f"{folder} has no weights: expected one of {', '.join(WEIGHT_PATTERNS)}")
    return MODEL_CLASSES[model_type]


def load_model(folder: Path, **block: Any) -> PreTrainedModel:
    """Load a stock or wrapped checkpoint with the class that fits, in the precision it was saved in.

    Args:
        folder (`Path`): the checkpoint.
        **block: options of `ArrCocConfig` to change.

    Raises:
        FileNotFoundError, ValueError: as [`model_class`]; also if weights of the host are damaged or missing, or an
            option is out of range.
    """
    hosted = model_class(folder)
    config = hosted.config_class.from_pretrained(folder)
    config.arrcoc_config = dataclasses.replace(config.arrcoc_config, **block)
    try:
        model, found = hosted.from_pretrained(folder, config=config, dtype="auto", output_loading_info=True)
    except SafetensorError as error:
        raise ValueError(f"the weights in {folder} are damaged: {error}") from None
    if missing := sorted(name for name in found["missing_keys"] if ".arrcoc." not in f".{name}"):
        raise ValueError(f"the weights in {folder} are incomplete: {len(missing)} are missing, such as {missing[0]}")
    return model


def load_processor(
    folder: Path, min_pixels: int | None = None, max_pixels: int | None = None, **settings: Any
) -> ArrCocProcessor:
    """Load the processor of a stock or wrapped checkpoint.

    Args:
        folder (`Path`): the checkpoint.
        min_pixels, max_pixels (`int`, *optional*): least and most pixels that images are resized to before they are
            cut into cells; what it was saved with if not given.
        **settings: other settings to replace what it was saved with.

    Raises:
        ValueError: if the least is more than the most.
    """
    processor = ArrCocProcessor.from_pretrained(folder, **settings)
    if min_pixels is max_pixels is None:
        return processor
    size = processor.image_processor.size
    least = size["shortest_edge"] if min_pixels is None else min_pixels
    most = size["longest_edge"] if max_pixels is None else max_pixels
    if least > most:
        raise ValueError(f"images cannot have at least {least} and at most {most} pixels")
    processor.image_processor.size = SizeDict(shortest_edge=least, longest_edge=most)
    return processor


def chat_inputs(
    processor: ArrCocProcessor, image: Image.Image, question: str, token_budget: int | float | str | None
) -> BatchFeature:
    """Model inputs for one question about one image.

    Args:
        processor: what [`load_processor`] returns.
        image (`PIL.Image.Image`): the image.
        question (`str`): the question.
        token_budget: visual tokens of the image; `None` for the processor's own default.
    """
    content = [{"type": "image", "image": image}, {"type": "text", "text": question}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
        processor_kwargs={} if token_budget is None else {"token_budget": token_budget},
    )
