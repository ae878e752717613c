"""Prefill: from pixels to the first token, at published widths with random weights.

Compares the stock model at native resolution, ARR-COC in its two stages and a plain resize to as many tokens. All are
run in turn, round by round, so that a busy machine slows all of them alike; figures are medians over the rounds.
Operations are counted in a run of their own and are the limit that times approach on a machine without overheads.

    MALLOC_MMAP_THRESHOLD_=8589934592 MALLOC_TRIM_THRESHOLD_=8589934592 \
        python benchmarks/prefill.py --like 2B --grid 32 32 --rounds 3 --json prefill.json
    python benchmarks/prefill.py --like 8B --grid 48 50 --device cuda --rounds 10
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from tqdm import tqdm

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


def build_model(
    like: str, device: str, dtype: torch.dtype, cell_encoder: str
) -> ArrCocQwen3VLForConditionalGeneration:
    """A model of published widths with random weights; its vocabulary is small, which prefill does not depend on."""
    relevance = "learned" if cell_encoder == "scout" else "free"
    (depth, hidden, intermediate), (layers, width, mlp, heads, kv_heads), tied = WIDTHS[like]
    head_dim = 128 if like != "tiny" else 64
    config = ArrCocQwen3VLConfig(
        vision_config={
            "depth": depth,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_heads": 16 if like != "tiny" else 2,
            "out_hidden_size": width,
            "deepstack_visual_indexes": [depth // 4, depth // 2, 3 * depth // 4],
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
        arrcoc_config={"stage": "pixels", "cell_encoder": cell_encoder, "relevance": relevance},
    )
    with torch.device(device):
        previous = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        model = ArrCocQwen3VLForConditionalGeneration(config)
        torch.set_default_dtype(previous)
    return model.eval()


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


@contextmanager
def timed_parts(model: torch.nn.Module, device: str) -> Iterator[dict[str, float]]:
    """Seconds spent in the tower and in the language model while the context lasts."""
    seconds = {"tower": 0.0, "llm": 0.0}
    handles = []

    def add_hooks(module: torch.nn.Module, name: str) -> None:
        def start(*_: Any) -> None:
            synchronize(device)
            seconds[name] -= time.perf_counter()

        def stop(*_: Any) -> None:
            synchronize(device)
            seconds[name] += time.perf_counter()

        handles.extend([module.register_forward_pre_hook(start), module.register_forward_hook(stop)])

    add_hooks(model.model.visual, "tower")
    add_hooks(model.model.language_model, "llm")
    try:
        yield seconds
    finally:
        for handle in handles:
            handle.remove()


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


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
    """Multiplications and additions of a run, attention on a CPU included."""

    def attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
        return sdpa_flop_count(query, key, value)

    mapping = {torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: attention}
    with FlopCounterMode(display=False, custom_mapping=mapping) as counter:
        run()
    return counter.get_total_flops()


def measure(model: Any, inputs: dict[str, Tensor], stage: str | None, device: str) -> dict[str, Any]:
    """One prefill: seconds in total and by part, peak memory, bytes of the key-value cache."""
    if stage is not None:
        model.config.arrcoc_config.stage = stage
    reset_peak(device)
    with timed_parts(model, device) as parts:
        synchronize(device)
        start = time.perf_counter()
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        synchronize(device)
        total = time.perf_counter() - start
    cache = sum(
        tensor.numel() * tensor.element_size()
        for layer in output.past_key_values.layers
        for tensor in (layer.keys, layer.values)
    )
    rest = total - sum(parts.values())
    return {"seconds": total, **parts, "allocation": rest, "peak_bytes": peak_bytes(device), "kv_bytes": cache}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", choices=WIDTHS, default="2B")
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 32), metavar=("ROWS", "COLS"), help="cells")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.5, 0.25, 0.1, 0.05))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cell-encoder",
        default="glance",
        choices=("glance", "scout", "none"),
        help="of stage pixels; a scout is trained for that stage, and stage features is left out with it",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    (rows, cols), device, dtype = arguments.grid, arguments.device, getattr(torch, arguments.dtype)

    model = build_model(arguments.like, device, dtype, arguments.cell_encoder)
    cases: list[tuple[str, float, dict[str, Tensor], str | None]] = []
    cases.append(("stock", 1.0, build_inputs(rows, cols, None, device, dtype), None))
    for share in arguments.shares:
        budget = max(1, round(share * rows * cols))
        compressed = build_inputs(rows, cols, budget, device, dtype)
        small = resized_grid(rows, cols, budget)
        if arguments.cell_encoder != "scout":
            cases.append(("features", share, compressed, "features"))
        cases.append(("pixels", share, compressed, "pixels"))
        cases.append(("resize", share, build_inputs(*small, None, device, dtype), None))

    results: list[list[dict[str, Any]]] = [[] for _ in cases]
    with torch.inference_mode(), tqdm(total=len(cases) * (arguments.rounds + 1)) as progress:
        operations = []
        for _, _, inputs, stage in cases:  # also warms up
            operations.append(count_operations(lambda: measure(model, inputs, stage, device)))  # noqa: B023
            progress.update()
        for _ in range(arguments.rounds):
            for case, result in zip(cases, results, strict=True):
                result.append(measure(model, case[2], case[3], device))
                progress.update()

    stock = statistics.median(result["seconds"] for result in results[0])
    table = []
    for (name, share, inputs, _), runs, count in zip(cases, results, operations, strict=True):
        row = {"case": name, "share": share, "tokens": int((inputs["input_ids"] == IMAGE).sum()), "operations": count}
        row |= {key: statistics.median(run[key] for run in runs) for key in runs[0] if runs[0][key] is not None}
        row |= {"speedup": stock / row["seconds"], "speedup_limit": operations[0] / count}
        table.append(row)
    print(f"Qwen3-VL-{arguments.like} widths, {rows} x {cols} cells, {TEXT_TOKENS} text tokens, {dtype}, {device}")
    print(f"{'case':9} share tokens  seconds    tower      LLM     rest  speed-up  limit  peak GB  KV MB")
    for row in table:
        print(
            f"{row['case']:9} {row['share']:5.2f} {row['tokens']:6} {row['seconds']:8.3f} {row['tower']:8.3f} "
            f"{row['llm']:8.3f} {row['allocation']:8.3f} {row['speedup']:8.2f}x {row['speedup_limit']:5.1f}x "
            f"{row.get('peak_bytes', 0) / 2**30:8.2f} {row['kv_bytes'] / 2**20:6.1f}"
        )
    if arguments.json:
        machine = {"platform": platform.platform(), "torch": torch.__version__, "threads": torch.get_num_threads()}
        settings = {**vars(arguments), "json": str(arguments.json)}
        arguments.json.write_text(json.dumps({"settings": settings, "machine": machine, "rows": table}, indent=1))


if __name__ == "__main__":
    main()
