"""Tiny tokenizers, image processors and stock checkpoint folders of both hosts, built from nothing.

Everything here has the shape of the published Qwen2.5-VL and Qwen3-VL checkpoints (special tokens, chat format, file
layout) at a size that costs milliseconds: a byte-level vocabulary without merges, and an image processor whose lower
bound of four cells lets small test images have small grids.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import pre_tokenizers
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer, Qwen2VLImageProcessorPil
from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD
from transformers.models.qwen2_5_vl.processing_qwen2_5_vl import Qwen2_5_VLProcessor
from transformers.models.qwen3_vl.processing_qwen3_vl import Qwen3VLProcessor

from arrcoc.processing import ArrCocProcessor


HOSTS = ("qwen3_vl", "qwen2_5_vl")
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
VOCAB_SIZE = 256 + len(SPECIAL_TOKENS)  # bytes first, special tokens after them in the order above
TOKEN_IDS = {token: 256 + i for i, token in enumerate(SPECIAL_TOKENS)}

PATCH_SIZE = {"qwen3_vl": 16, "qwen2_5_vl": 14}
MERGE_SIZE = 2
CELL_SIZE = {host: PATCH_SIZE[host] * MERGE_SIZE for host in HOSTS}  # pixels a side of one visual token
MIN_CELLS, MAX_CELLS = 4, 4096

_DEFAULT_SYSTEM = """\
{%- if messages[0].role != 'system' -%}
    {{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' -}}
{%- endif -%}
"""
_TURNS = """\
{%- set count = namespace(images=0, videos=0) -%}
{%- for message in messages -%}
    {{- '<|im_start|>' + message.role + '\\n' -}}
    {%- if message.content is string -%}
        {{- message.content -}}
    {%- else -%}
        {%- for part in message.content -%}
            {%- if part.type == 'image' -%}
                {%- set count.images = count.images + 1 -%}
                {%- if add_vision_id -%}{{- 'Picture ' ~ count.images ~ ': ' -}}{%- endif -%}
                {{- '<|vision_start|><|image_pad|><|vision_end|>' -}}
            {%- elif part.type == 'video' -%}
                {%- set count.videos = count.videos + 1 -%}
                {%- if add_vision_id -%}{{- 'Video ' ~ count.videos ~ ': ' -}}{%- endif -%}
                {{- '<|vision_start|><|video_pad|><|vision_end|>' -}}
            {%- elif part.type == 'text' -%}
                {{- part.text -}}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
CHAT_TEMPLATES = {"qwen3_vl": _TURNS, "qwen2_5_vl": _DEFAULT_SYSTEM + _TURNS}


class StockQwen3VLProcessor(Qwen3VLProcessor):
    """The stock processor without its video processor, which needs torchvision: the reference of identity tests."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


class StockQwen2_5_VLProcessor(Qwen2_5_VLProcessor):
    """The stock processor without its video processor, which needs torchvision: the reference of identity tests."""

    def __init__(self, image_processor=None, tokenizer=None, chat_template=None, **kwargs):
        super().__init__(image_processor, tokenizer, chat_template=chat_template, **kwargs)


def tiny_tokenizer(padding_side: str = "left") -> PreTrainedTokenizerBase:
    """A byte-level tokenizer of Qwen's class: 256 byte tokens and Qwen's special tokens, every text is encodable.

    Args:
        padding_side: `"left"` as in the published processors, or `"right"`.

    Returns:
        A tokenizer with `VOCAB_SIZE` entries; `<|endoftext|>` pads, `<|im_end|>` ends a sequence.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={symbol: i for i, symbol in enumerate(alphabet)} | TOKEN_IDS,
        merges=[],
        eos_token="<|im_end|>",
        padding_side=padding_side,
        model_max_length=131072,
    )
    tokenizer.add_special_tokens({"additional_special_tokens": list(SPECIAL_TOKENS)})
    return tokenizer


def tiny_image_processor(host: str, **kwargs: Any) -> Qwen2VLImageProcessorPil:
    """The Pillow image processor of a host, with size limits that let a small image keep its size.

    An image of `MIN_CELLS` to `MAX_CELLS` cells whose sides are multiples of `CELL_SIZE[host]` is not resized.

    Args:
        host: `"qwen3_vl"` (16 px patches, mean and std 0.5) or `"qwen2_5_vl"` (14 px patches, CLIP's mean and std).
        **kwargs: Settings of the image processor to change.
    """
    return Qwen2VLImageProcessorPil(**{**_image_settings(host), **kwargs})


def tiny_processor(host: str, **kwargs: Any) -> ArrCocProcessor:
    """An `ArrCocProcessor` with the tiny tokenizer, image processor and chat template of a host.

    Args:
        host: `"qwen3_vl"` or `"qwen2_5_vl"`.
        **kwargs: Constructor arguments such as `token_budget` or `auto_strategy`.
    """
    kwargs.setdefault("image_processor", tiny_image_processor(host))
    kwargs.setdefault("tokenizer", tiny_tokenizer())
    return ArrCocProcessor(chat_template=CHAT_TEMPLATES[host], **kwargs)


def stock_processor(host: str, **kwargs: Any) -> StockQwen3VLProcessor | StockQwen2_5_VLProcessor:
    """The stock processor of a host on the same tiny parts, for comparison with `tiny_processor`."""
    kwargs.setdefault("image_processor", tiny_image_processor(host))
    kwargs.setdefault("tokenizer", tiny_tokenizer())
    cls = StockQwen3VLProcessor if host == "qwen3_vl" else StockQwen2_5_VLProcessor
    return cls(chat_template=CHAT_TEMPLATES[host], **kwargs)


def write_stock_processor_folder(path: str | Path, host: str, image_processor_type: str | None = None) -> Path:
    """Write the processor files of a published checkpoint: tokenizer, chat template and preprocessor configs.

    Args:
        path: Folder to write to; created if missing. A `config.json` already there is kept.
        host: `"qwen3_vl"` or `"qwen2_5_vl"`.
        image_processor_type: Class name in preprocessor_config.json; the published ones are `"Qwen2VLImageProcessor"`
            (Qwen2.5-VL, the default for it) and `"Qwen2VLImageProcessorFast"` (Qwen3-VL, the default for it).

    Returns:
        The folder.
    """
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = CHAT_TEMPLATES[host]
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    (folder / "chat_template.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATES[host]}, indent=2))

    settings: dict[str, Any] = _image_settings(host)
    if host == "qwen2_5_vl":  # published with the older names of the size limits
        size = settings.pop("size")
        settings |= {"min_pixels": size["shortest_edge"], "max_pixels": size["longest_edge"]}
    default_type = "Qwen2VLImageProcessorFast" if host == "qwen3_vl" else "Qwen2VLImageProcessor"
    settings["image_processor_type"] = image_processor_type or default_type
    settings["processor_class"] = "Qwen3VLProcessor" if host == "qwen3_vl" else "Qwen2_5_VLProcessor"
    (folder / "preprocessor_config.json").write_text(json.dumps(settings, indent=2))
    if host == "qwen3_vl":
        video_settings = settings | {"video_processor_type": "Qwen3VLVideoProcessor"}
        del video_settings["image_processor_type"]
        (folder / "video_preprocessor_config.json").write_text(json.dumps(video_settings, indent=2))
    return folder


def _image_settings(host: str) -> dict[str, Any]:
    if host not in HOSTS:
        raise ValueError(f"host must be one of {HOSTS}, got {host!r}")
    area = CELL_SIZE[host] ** 2
    return {
        "patch_size": PATCH_SIZE[host],
        "temporal_patch_size": 2,
        "merge_size": MERGE_SIZE,
        "size": {"shortest_edge": MIN_CELLS * area, "longest_edge": MAX_CELLS * area},
        "image_mean": [0.5, 0.5, 0.5] if host == "qwen3_vl" else list(OPENAI_CLIP_MEAN),
        "image_std": [0.5, 0.5, 0.5] if host == "qwen3_vl" else list(OPENAI_CLIP_STD),
    }
