"""Prefill: from pixels to the first token, at published widths with random weights.

Compares the stock model at native resolution, ARR-COC in its two stages and a plain resize to as many tokens. All are
run in turn, round by round, so that a busy machine slows all of them alike; figures are medians over the rounds. On a
CPU with one thread it is time on the core. Operations are counted in a run of their own and are the limit that times
approach on a machine without overheads.

    python benchmarks/prefill.py --like 2B --grid 32 32 --rounds 3 --json prefill.json
    python benchmarks/prefill.py --like 8B --grid 48 50 --device cuda --rounds 10
"""

import argparse
import json
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import (
    IMAGE,
    TEXT_TOKENS,
    WIDTHS,
    build_inputs,
    build_model,
    count_operations,
    keep_freed_memory,
    machine,
    peak_bytes,
    reset_peak,
    seconds,
    timed_parts,
)
from torch import Tensor
from tqdm import tqdm

from arrcoc.evaluation.peers import resized_grid


@contextmanager
def timed_choosing(model: Any, device: str) -> Iterator[dict[str, float]]:
    """Seconds for relevance, and from there to the allocation, while the context lasts."""
    spent, ended = {"relevance": 0.0, "allocation": 0.0}, [0.0]
    score, allocate = model.model._relevance, model.model._allocate

    def timed_score(*arguments: Any, **options: Any) -> Any:
        started = seconds(device)
        scores = score(*arguments, **options)
        ended[0] = seconds(device)
        spent["relevance"] += ended[0] - started
        return scores

    def timed_allocate(*arguments: Any, **options: Any) -> Any:
        allocation = allocate(*arguments, **options)
        spent["allocation"] += seconds(device) - ended[0]
        return allocation

    model.model._relevance, model.model._allocate = timed_score, timed_allocate
    try:
        yield spent
    finally:
        del model.model._relevance, model.model._allocate


def measure(model: Any, inputs: dict[str, Tensor], stage: str | None, device: str) -> dict[str, Any]:
    """One prefill: seconds in total and by part, peak memory, bytes of the key-value cache.

    `choosing` is scout, relevance and allocation; `other` what comes besides that, tower and language model: drawing
    the leaves, and what the stock model does too, such as positions and embeddings.
    """
    if stage is not None:
        model.config.arrcoc_config.stage = stage
    reset_peak(device)
    with timed_choosing(model, device) as chosen, timed_parts(model) as parts:
        start = seconds(device)
        output = model(**inputs, use_cache=True, logits_to_keep=1)
        total = seconds(device) - start
    cache = sum(
        tensor.numel() * tensor.element_size()
        for layer in output.past_key_values.layers
        for tensor in (layer.keys, layer.values)
    )
    parts |= chosen
    choosing = parts["scout"] + parts["relevance"] + parts["allocation"]
    other = total - parts["tower"] - parts["llm"] - choosing
    return {
        "seconds": total,
        **parts,
        "choosing": choosing,
        "other": other,
        "peak_bytes": peak_bytes(device),
        "kv_bytes": cache,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", choices=WIDTHS, default="2B")
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 32), metavar=("ROWS", "COLS"), help="cells")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.5, 0.25, 0.1, 0.05))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--cell-encoder",
        default="glance",
        choices=("glance", "scout", "none"),
        help="of stage pixels; a scout is trained for that stage, and stage features is left out with it",
    )
    parser.add_argument("--json", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(arguments.threads)
    (rows, cols), device, dtype = arguments.grid, arguments.device, getattr(torch, arguments.dtype)

    relevance = "learned" if arguments.cell_encoder == "scout" else "free"
    block = {"stage": "pixels", "cell_encoder": arguments.cell_encoder, "relevance": relevance}
    model = build_model(arguments.like, device, dtype, block).eval()
    cases: list[tuple[str, float, dict[str, Tensor], str | None]] = []
    cases.append(("stock", 1.0, build_inputs(rows, cols, None, device, dtype), None))
    for share in arguments.shares:
        budget = max(1, round(share * rows * cols))
        compressed = build_inputs(rows, cols, budget, device, dtype)
        small = resized_grid((rows, cols), budget)
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
    print(
        "case      share tokens  seconds    tower      LLM    scout choosing    other speed-up  limit  peak GB  KV MB"
    )
    for row in table:
        print(
            f"{row['case']:9} {row['share']:5.2f} {row['tokens']:6} {row['seconds']:8.3f} {row['tower']:8.3f} "
            f"{row['llm']:8.3f} {row['scout']:8.3f} {row['choosing']:8.3f} {row['other']:8.3f} "
            f"{row['speedup']:7.2f}x {row['speedup_limit']:5.1f}x "
            f"{row.get('peak_bytes', 0) / 2**30:8.2f} {row['kv_bytes'] / 2**20:6.1f}"
        )
    if arguments.json:
        settings = {**vars(arguments), "json": str(arguments.json)}
        arguments.json.write_text(json.dumps({"settings": settings, "machine": machine(), "rows": table}, indent=1))


if __name__ == "__main__":
    main()
