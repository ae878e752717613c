"""What the benchmarks of whole models share, beside what `arrcoc bench` measures with."""

import json
import os
import platform
import sys
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from arrcoc import ArrCocQwen3VLForConditionalGeneration
from arrcoc.evaluation.intervals import bootstrap_interval
from arrcoc.evaluation.random_weights import IMAGE, TEXT_TOKENS, random_config, random_inputs, random_model
from arrcoc.evaluation.random_weights import WIDTHS as PUBLISHED
from arrcoc.evaluation.records import write_text
from arrcoc.evaluation.timing import count_operations, machine, peak_bytes, reset_peak, seconds, timed_parts


__all__ = [
    "IMAGE",
    "TEXT_TOKENS",
    "WIDTHS",
    "build_inputs",
    "build_model",
    "count_operations",
    "interval",
    "keep_freed_memory",
    "machine",
    "peak_bytes",
    "publish",
    "reset_peak",
    "seconds",
    "timed_parts",
]

WIDTHS = {name.removeprefix("Qwen3-VL-"): name for name in PUBLISHED}
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def keep_freed_memory() -> None:
    """Start the script again with memory that glibc keeps, where it may give it back: page faults are up to half of
    the time on a small virtual machine."""
    if platform.system() == "Linux" and any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.environ.update(MALLOC)
        os.execv(sys.executable, [sys.executable, *sys.argv])


def build_model(
    like: str, device: str, dtype: torch.dtype, block: dict[str, Any], depth: float = 1.0
) -> ArrCocQwen3VLForConditionalGeneration:
    """A model of published widths with random weights; its vocabulary is small.

    Args:
        like (`str`): one of `WIDTHS`.
        block (`dict`): options of `ArrCocConfig`.
        depth (`float`): share of the layers, of tower and language model alike.
    """
    return random_model(WIDTHS[like], device, dtype, block, depth)


def build_inputs(rows: int, cols: int, budget: int | None, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A prompt with one image of `rows x cols` cells at `budget` tokens (`None`: native) and a question; the same for
    all widths."""
    return random_inputs(random_config("tiny"), (rows, cols), budget, device=device, dtype=dtype)


def interval(values: Sequence[float], groups: Sequence[Hashable] | None = None) -> dict[str, float]:
    """A mean with its 95 % interval, as a benchmark writes it; `groups` as in `bootstrap_interval`."""
    found = bootstrap_interval(values, groups)
    return {"mean": found.mean, "low": found.low, "high": found.high, "items": len(values)}


def publish(result: dict[str, Any], page: str, json_file: Path | None, page_file: Path | None) -> None:
    """Print a result as JSON, and write it and its page to files where they are wanted."""
    text = json.dumps(result, indent=2)
    print(text)
    if json_file:
        write_text(json_file, text + "\n")
    if page_file:
        write_text(page_file, page)
