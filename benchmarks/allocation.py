"""Time the allocation of visual tokens, and what pooling and scoring cost beside the vision tower.

    python benchmarks/allocation.py                            # under two minutes on one core
    python benchmarks/allocation.py --json allocation.json --seconds 5
    python benchmarks/allocation.py --tower-grid 48 50 --tower-dtype float32     # minutes a run

One thread; medians of interleaved runs after a warm-up, of the time that the thread was on a core: on an idle machine
that is the time that passes. Memory that glibc gives back to the kernel is paid for in page faults, up to half of the
time on a small virtual machine: where the variables that forbid it are not set, the script starts itself again with
them.
"""

import argparse
import json
import math
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import __version__ as transformers_version
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionConfig, Qwen3VLVisionModel

from arrcoc import ArrCocConfig, allocate
from arrcoc.allocation import POLICIES
from arrcoc.multiresolution import drawing_gains
from arrcoc.pooling import pool_leaves
from arrcoc.relevance import attention_scores, balance_maps, normalize_per_image, salience_map


MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33), "OMP_NUM_THREADS": "1"}

# Qwen3-VL-2B: the vision tower; width, heads and key heads of the language model; width of a head.
TOWER: dict[str, Any] = {
    "depth": 24,
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_heads": 16,
    "out_hidden_size": 2048,
    "deepstack_visual_indexes": [5, 11, 17],
}
HOST_DIM, HEADS, KEY_HEADS, HEAD_DIM = 2048, 16, 8, 128

IMAGES = {"48 x 50 cells to 240": ((48, 50), 240, 3.0), "128 x 128 cells to 1,600": ((128, 128), 1600, 25.0)}
GROWTH = [(25, 40), (32, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256)]
BATCH = 8


def image_batch(grid: tuple[int, int], budget: int, images: int, dim: int) -> dict[str, Any]:
    """Arguments of `allocate` for equal grids of random cells."""
    cells = grid[0] * grid[1] * images
    generator = torch.Generator().manual_seed(0)
    return {
        "features": torch.randn(cells, dim, generator=generator),
        "relevance": torch.rand(cells, generator=generator) * 0.95 + 0.05,
        "grids": torch.tensor([grid] * images),
        "budgets": torch.tensor([budget] * images),
    }


def allocation_case(
    grid: tuple[int, int], budget: int, images: int = 1, dim: int = 64, policy: str = "lod"
) -> Callable[[], Any]:
    inputs, config = image_batch(grid, budget, images, dim), ArrCocConfig(policy=policy)
    return lambda: allocate(**inputs, config=config)


def pixels_case(grid: tuple[int, int], budget: int) -> Callable[[], Any]:
    """Allocation as stage `pixels` does it: the distortion is that of drawing, on pictures of 32 x 32 pixels."""
    inputs = image_batch(grid, budget, 1, 1)
    inputs["features"] = torch.randn(grid[0] * grid[1], 6, 32, 32)  # three colours of two equal frames
    return lambda: allocate(**inputs, config=ArrCocConfig(), gains=drawing_gains)


def measure(cases: dict[str, Callable[[], Any]], seconds: float, least: int = 5) -> dict[str, float]:
    """Median milliseconds of each case, the cases taking turns for `seconds` and at least `least` rounds."""
    for case in cases.values():  # warm-up
        case()
    times: dict[str, list[float]] = {name: [] for name in cases}
    end = time.perf_counter() + seconds
    rounds = 0
    while rounds < least or time.perf_counter() < end:
        for name, case in cases.items():
            start = time.thread_time()
            case()
            times[name].append(1e3 * (time.thread_time() - start))
        rounds += 1
    return {name: statistics.median(values) for name, values in times.items()}


def slope(sizes: list[float], times: list[float]) -> float:
    """Exponent of the power law that fits best."""
    xs, ys = [math.log(size) for size in sizes], [math.log(value) for value in times]
    x_mean, y_mean = statistics.mean(xs), statistics.mean(ys)
    covariance = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return covariance / sum((x - x_mean) ** 2 for x in xs)


class Report:
    """Prints results as they come and keeps them for `--json`."""

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []

    def section(self, title: str) -> None:
        print(f"\n{title}")

    def add(self, name: str, value: float, unit: str, target: float | None = None) -> None:
        self.rows.append({"name": name, "value": value, "unit": unit, "target": target})
        verdict = "" if target is None else f"   target {target:g} {unit}: {'met' if value <= target else 'MISSED'}"
        print(f"  {name:<62}{value:>10.2f} {unit:<3}{verdict}", flush=True)


def time_images(report: Report, dim: int, seconds: float) -> None:
    """One image and a batch of eight, of both sizes."""
    report.section(f"Allocation (lod), cell features of width {dim}")
    for name, (grid, budget, limit) in IMAGES.items():
        eight = f"{name}, batch of {BATCH}"
        times = measure(
            {
                name: allocation_case(grid, budget, dim=dim),
                eight: allocation_case(grid, budget, images=BATCH, dim=dim),
            },
            seconds,
        )
        report.add(name, times[name], "ms", limit)
        report.add(eight, times[eight], "ms")
        report.add(f"{eight}, times one image", times[eight] / times[name], "x", BATCH)


def time_pixels(report: Report, seconds: float) -> None:
    report.section("Allocation (lod) in stage pixels")
    for name, (grid, budget, limit) in IMAGES.items():
        report.add(name, measure({name: pixels_case(grid, budget)}, seconds)[name], "ms", limit)


def time_policies(report: Report, seconds: float) -> None:
    report.section("Policies, cell features of width 64")
    for name, (grid, budget, _) in IMAGES.items():
        times = measure({policy: allocation_case(grid, budget, policy=policy) for policy in POLICIES}, seconds)
        for policy in POLICIES:
            report.add(f"{policy}, {name}", times[policy], "ms")


def time_growth(report: Report, seconds: float) -> None:
    """Time against the number of cells: the exponent that fits, next to that of n log n over the same sizes."""
    report.section("Growth (lod), a tenth of the cells as budget, cell features of width 64")
    cases = {f"{h} x {w} = {h * w:,} cells": allocation_case((h, w), h * w // 10) for h, w in GROWTH}
    times = measure(cases, seconds)
    sizes = [float(h * w) for h, w in GROWTH]
    for name, value in times.items():
        report.add(name, value, "ms")
    for label, start in (("all sizes", 0), ("the four largest", -4)):
        reference = slope(sizes[start:], [size * math.log(size) for size in sizes[start:]])
        report.add(f"exponent, {label}", slope(sizes[start:], list(times.values())[start:]), "", reference)


def time_beside_tower(report: Report, grid: tuple[int, int], dtype: torch.dtype, seconds: float) -> None:
    """Scoring, allocation and pooling at the widths of Qwen3-VL-2B, next to its vision tower, for one image."""
    cells, budget = grid[0] * grid[1], max(1, grid[0] * grid[1] // 10)
    report.section(f"Beside the tower of Qwen3-VL-2B, {grid[0]} x {grid[1]} cells to {budget}, {dtype}")
    config = Qwen3VLVisionConfig(**TOWER)
    tower = Qwen3VLVisionModel._from_config(config, dtype=dtype).eval()
    merge, patch_dim = config.spatial_merge_size, 3 * config.temporal_patch_size * config.patch_size**2
    pixels = torch.randn(cells * merge**2, patch_dim, dtype=dtype)
    grid_thw = torch.tensor([[1, grid[0] * merge, grid[1] * merge]])

    inputs = image_batch(grid, budget, 1, HOST_DIM)
    features, grids = inputs.pop("features").to(dtype), inputs["grids"]
    layers = [features] + [torch.randn_like(features) for _ in TOWER["deepstack_visual_indexes"]]
    question = torch.randn(1, 20, HOST_DIM, dtype=dtype)
    mask, image = torch.ones(1, 20), torch.zeros(cells, dtype=torch.long)
    norm = nn.RMSNorm(HOST_DIM, dtype=dtype)
    to_query = nn.Linear(HOST_DIM, HEADS * HEAD_DIM, bias=False, dtype=dtype)
    to_key = nn.Linear(HOST_DIM, KEY_HEADS * HEAD_DIM, bias=False, dtype=dtype)
    information = torch.rand(cells)
    block = ArrCocConfig()
    allocation = allocate(features, **inputs, config=block)

    def score() -> Tensor:
        query = to_query(norm(question)).unflatten(-1, (HEADS, HEAD_DIM))
        key = to_key(norm(features)).unflatten(-1, (KEY_HEADS, HEAD_DIM))
        scores = normalize_per_image(attention_scores(query, key, mask, image), image, 1)
        weights = {"information": 1.0, "query": 1.0}
        return balance_maps({"information": information, "query": scores}, weights, block.relevance_floor, grids)

    def pool() -> list[Tensor]:
        return [pool_leaves(layer, allocation.relevance, allocation.cell_to_leaf, budget) for layer in layers]

    with torch.no_grad():
        times = measure({"tower, forward": lambda: tower(pixels, grid_thw)}, seconds, least=3)
        times |= measure(
            {
                "scoring by attention": score,
                "salience (off by default)": lambda: salience_map(features, grids),
                "allocation (lod)": lambda: allocate(features, **inputs, config=block),
                f"pooling of {len(layers)} feature maps": pool,
            },
            seconds,
        )
    whole = times["tower, forward"]
    for name, value in times.items():
        report.add(name, value, "ms")
    both = times["scoring by attention"] + times[f"pooling of {len(layers)} feature maps"]
    report.add("pooling and scoring, share of the tower", 100 * both / whole, "%", 5.0)
    report.add("with allocation, share of the tower", 100 * (both + times["allocation (lod)"]) / whole, "%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, too")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each group of cases (default: 2)")
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 2048], help="widths of cell features")
    parser.add_argument(
        "--tower-grid", type=int, nargs=2, default=[12, 12], metavar=("ROWS", "COLS"), help="cells; 0 0: no tower"
    )
    parser.add_argument("--tower-dtype", choices=["bfloat16", "float32"], default="bfloat16")
    arguments = parser.parse_args()

    torch.set_num_threads(1)
    environment = {
        "machine": platform.machine(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers_version,
        "cpu": torch.backends.cpu.get_cpu_capability(),
    }
    print(", ".join(f"{name} {value}" for name, value in environment.items()) + ", one thread, medians")
    report = Report()
    for dim in arguments.widths:
        time_images(report, dim, arguments.seconds)
    time_pixels(report, arguments.seconds)
    time_policies(report, arguments.seconds)
    time_growth(report, 2 * arguments.seconds)
    if all(arguments.tower_grid):
        dtype = getattr(torch, arguments.tower_dtype)
        time_beside_tower(report, tuple(arguments.tower_grid), dtype, 2 * arguments.seconds)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"environment": environment, "results": report.rows}, file, indent=2)


if __name__ == "__main__":
    if any(name not in os.environ for name in MALLOC):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**MALLOC, **os.environ})
    main()
