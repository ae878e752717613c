"""What the benchmarks of whole models share: published widths, inputs, clocks, memory and operations."""

import os
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

from arrcoc import ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration


# Published configurations of Qwen3-VL: tower (depth, hidden, intermediate), then language model (layers, hidden,
# intermediate, heads, key-value heads) and whether its embeddings are tied.
WIDTHS: dict[str, tuple[tuple[int, int, int], tuple[int, int, int, int, int], bool]] = {
    "tiny": ((4, 128, 512), (4, 128, 384, 2, 2), True),
    "2B": ((24, 1024, 4096), (28, 2048, 6144, 16, 8), True),
    "4B": ((24, 1024, 4096), (36, 2560, 9728, 32, 8), True),
    "8B": ((27, 1152, 4304), (36, 4096, 12288, 32, 8), False),
}
TEXT_TOKENS = 60
IMAGE, VIDEO, START, END, VOCABULARY = 10, 11, 12, 13, 1000  # a small vocabulary: its projection is one row's work
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
    (tower_layers, hidden, intermediate), (layers, width, mlp, heads, kv_heads), tied = WIDTHS[like]
    tower_layers, layers = max(4, round(tower_layers * depth)), max(1, round(layers * depth))
    head_dim = 128 if like != "tiny" else 64
    config = ArrCocQwen3VLConfig(
        vision_config={
            "depth": tower_layers,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_heads": 16 if like != "tiny" else 2,
            "out_hidden_size": width,
            "deepstack_visual_indexes": [tower_layers // 4, tower_layers // 2, 3 * tower_layers // 4],
        },
        text_config={
            "vocab_size": VOCABULARY,
            "hidden_size": width,
            "intermediate_size": mlp,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": head_dim,
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 5e6,
                "mrope_section": [24, 20, 20] if head_dim == 128 else [12, 10, 10],
                "mrope_interleaved": True,
            },
        },
        image_token_id=IMAGE,
        video_token_id=VIDEO,
        vision_start_token_id=START,
        vision_end_token_id=END,
        tie_word_embeddings=tied,
        arrcoc_config=block,
    )
    with torch.device(device):
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = ArrCocQwen3VLForConditionalGeneration(config)
        torch.set_default_dtype(previous)
    return model


def build_inputs(rows: int, cols: int, budget: int | None, device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """A prompt with one image of `rows x cols` cells at `budget` tokens (`None`: native) and a question."""
    generator = torch.Generator().manual_seed(0)
    tokens = rows * cols if budget is None else budget
    question = torch.randint(20, VOCABULARY, (TEXT_TOKENS,), generator=generator)
    ids = torch.cat([torch.tensor([START]), torch.full((tokens,), IMAGE), torch.tensor([END]), question])[None]
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == IMAGE).long(),
        "pixel_values": torch.rand(rows * cols * 4, 3 * 2 * 16 * 16, generator=generator).to(dtype) * 2 - 1,
        "image_grid_thw": torch.tensor([[1, 2 * rows, 2 * cols]]),
    }
    if budget is not None:
        inputs["image_token_budgets"] = torch.tensor([budget])
        inputs["image_query_ids"] = question[None, :20]
        inputs["image_query_mask"] = torch.ones(1, 20, dtype=torch.long)
        inputs["image_information"] = torch.rand(rows * cols, generator=generator)
    return {name: value.to(device) for name, value in inputs.items()}


def resized_grid(rows: int, cols: int, budget: int) -> tuple[int, int]:
    """The largest grid of the picture's shape with at most `budget` cells."""
    height = max(1, int((budget * rows / cols) ** 0.5))
    return height, max(1, min(cols, budget // height))


def synchronize(device: str) -> None:
    """Wait until the accelerator has done what it was told."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def seconds(device: str) -> float:
    """A clock: time that passes, or on a CPU with a single thread the time on the core, which is the same on an idle
    machine and does not count what others do on a busy one."""
    synchronize(device)
    return time.process_time() if device == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


def reset_peak(device: str) -> None:
    """Start a new measurement of peak memory; on a CPU that of the process, which Linux keeps."""
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats()
    elif Path("/proc/self/clear_refs").exists():
        Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: str) -> int | None:
    """Peak memory since `reset_peak`: of the accelerator, or of the whole process; `None` where neither is known."""
    if device.startswith("cuda"):
        return torch.cuda.max_memory_allocated()
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def count_operations(run: Callable[[], Any]) -> int:
    """Multiplications and additions of a run, attention on a CPU included, forward and backward."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    def attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_backward_flop_count(gradient, query, key, value)

    mapping = {
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def machine() -> dict[str, Any]:
    """What a result depends on besides the code."""
    return {"platform": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
