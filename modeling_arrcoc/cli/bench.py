"""`arrcoc bench`: time to the first token and after it, memory and operations, every policy in turn."""

import json
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from arrcoc.evaluation.random_weights import TEXT_TOKENS, random_model
from arrcoc.evaluation.records import write_json
from arrcoc.evaluation.summary import plain_table
from arrcoc.evaluation.timing import bench as run_bench
from arrcoc.evaluation.timing import build_cases, machine, timed_policies

from .checkpoints import checkpoint_folder, load_model


def bench(
    model: str | None = None,
    like: str | None = None,
    grid: Sequence[int] = (32, 32),
    budgets: Sequence[int | float] = (0.5, 0.25, 0.1, 0.05),
    policies: Sequence[str] | None = None,
    batch_sizes: Sequence[int] = (1,),
    rounds: int = 5,
    new_tokens: int = 16,
    text_tokens: int = TEXT_TOKENS,
    device: str | None = None,
    dtype: str = "bfloat16",
    out: Path | None = None,
    as_json: bool = False,
) -> None:
    """Time a checkpoint, or random weights of published widths, and print medians and ratios.

    Args:
        model (`str`, *optional*): checkpoint folder, wrapped or stock, or its name on the Hub.
        like (`str`, *optional*): widths instead, a key of `arrcoc.evaluation.random_weights.WIDTHS`.
        grid (`Sequence[int]`): rows and columns of cells of an image.
        budgets (`Sequence`): shares of the native tokens, or numbers of tokens.
        policies (`Sequence[str]`, *optional*): all that can be timed if not given.
        batch_sizes (`Sequence[int]`): prompts at a time.
        rounds (`int`): timed runs of each case.
        new_tokens (`int`): tokens to generate.
        text_tokens (`int`): length of the question.
        device (`str`, *optional*): defaults to an accelerator if there is one.
        dtype (`str`): of random weights; a checkpoint has its own.
        out (`Path`, *optional*): file for the figures, as JSON.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the checkpoint cannot be read, not one of `model` and `like` is given, or an option is
            out of range.
    """
    if (model is None) == (like is None):
        raise ValueError("expected one of a checkpoint and widths (--model or --like)")
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    place = device or str(accelerator or "cpu")
    if model is not None:
        network: Any = load_model(checkpoint_folder(model)).to(place).eval()
    else:
        network = random_model(str(like), place, getattr(torch, dtype))
    rows_cols = (grid[0], grid[1])
    chosen = timed_policies(network) if policies is None else list(policies)
    rows: list[dict[str, Any]] = []
    for batch in batch_sizes:
        cases = build_cases(network, rows_cols, budgets, chosen, batch, text_tokens)
        with tqdm(total=len(cases) * (rounds + 1), desc=f"batch {batch}", unit=" runs", leave=False, delay=1) as bar:
            rows += [{"batch": batch} | row for row in run_bench(network, cases, rounds, new_tokens, bar.update)]
    report = {
        "model": model or f"{like}, random weights",
        "grid": list(rows_cols),
        "text_tokens": text_tokens,
        "new_tokens": new_tokens,
        "rounds": rounds,
        "device": str(network.device),
        "dtype": str(network.dtype).removeprefix("torch."),
        "machine": machine() | {"processor": processor(network.device)},
        "rows": rows,
    }
    if out is not None:
        write_json(out, report)
    print(json.dumps(report, ensure_ascii=False) if as_json else describe(report))


def processor(device: torch.device) -> str:
    """Name of what a device is."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor()


def describe(report: dict[str, Any]) -> str:
    """The figures as text; times in milliseconds."""
    rows, cols = report["grid"]
    lines = [
        [
            "policy",
            "batch",
            "tokens",
            "first token",
            "tower",
            "scout",
            "allocation",
            "LLM",
            "speed-up",
            "GFLOP",
            "fewer",
        ]
        + ["tokens/s", "KV MB", "peak GB"]
    ]
    for row in report["rows"]:
        times = [f"{1000 * row[name]:.1f}" for name in ("first_token", "tower", "scout", "allocation", "llm")]
        decode, peak = row["decode_tokens_per_second"], row["peak_bytes"]
        lines.append(
            [row["policy"], str(row["batch"]), str(row["tokens"]), *times, f"{row['speedup']:.2f}x"]
            + [f"{row['operations'] / 1e9:.1f}", f"{row['operations_ratio']:.2f}x", f"{decode:.1f}" if decode else ""]
            + [f"{row['kv_bytes'] / 2**20:.1f}", f"{peak / 2**30:.2f}" if peak else ""]
        )
    head = f"{report['model']}: {rows} x {cols} cells, {report['text_tokens']} text tokens, {report['dtype']}, "
    return f"{head}{report['device']}; medians of {report['rounds']}, milliseconds\n{plain_table(lines)}"
