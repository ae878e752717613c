"""Time the allocation of visual tokens, and what pooling and scoring cost beside the vision tower.

    python benchmarks/allocation.py                            # two minutes on one core
    python benchmarks/allocation.py --json allocation.json --seconds 5
    python benchmarks/allocation.py --tower-grid 48 50 --tower-dtype float32     # minutes a run

One thread; medians of interleaved runs after a warm-up, of the time that the thread was on a core: on an idle machine
that is the time that passes. Memory that glibc gives back to the kernel is paid for in page faults, up to half of the
time on a small virtual machine: where the variables that forbid it are not set, the script starts itself again with
them.

Allocation measures distortion on something small that is prepared once an image, whatever is asked: a sketch of the
cell features (stage `features`) or the losses of drawing at each level (stage `pixels`). Preparation and allocation
are timed, and their sum.
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
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import __version__ as transformers_version
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLVisionConfig, Qwen3VLVisionModel

from arrcoc import Allocation, ArrCocConfig, allocate
from arrcoc.allocation import POLICIES
from arrcoc.multiresolution import drawing_gains, drawing_losses
from arrcoc.pooling import pool_leaves
from arrcoc.quadtree import SKETCH_WIDTH, sketch_features
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


Cases = dict[str, Callable[[], Any]]


def features_cases(grid: tuple[int, int], budget: int, images: int, dtype: torch.dtype) -> Cases:
    """Preparation and allocation as stage `features` does them."""
    inputs = image_batch(grid, budget, images, HOST_DIM)
    features = inputs["features"].to(dtype)
    inputs["features"] = sketch_features(features)
    return {
        "preparation": lambda: sketch_features(features),
        "allocation": lambda: allocate(**inputs, config=ArrCocConfig()),
    }


def pixels_cases(grid: tuple[int, int], budget: int, images: int, dtype: torch.dtype) -> Cases:
    """Preparation and allocation as stage `pixels` does them, with pictures of 32 x 32 pixels."""
    inputs = image_batch(grid, budget, images, 1)
    cells, grids = len(inputs["features"]), inputs["grids"]
    pictures = torch.rand(cells, 6, 32, 32, dtype=dtype)  # three colours of two equal frames
    inputs["features"] = drawing_losses(pictures[:, ::2], grids)
    return {
        "preparation": lambda: drawing_losses(pictures[:, ::2], grids),
        "allocation": lambda: allocate(**inputs, config=ArrCocConfig(), gains=drawing_gains),
    }


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


def time_images(report: Report, title: str, cases: Callable[..., Cases], dtype: torch.dtype, seconds: float) -> None:
    """One image and a batch of eight, of both sizes."""
    report.section(f"Allocation (lod), {title}, {str(dtype).removeprefix('torch.')}")
    for name, (grid, budget, limit) in IMAGES.items():
        for part, target in (("preparation", None), ("allocation", limit), ("sum", limit)):
            if part == "preparation":
                one, eight = (measure(cases(grid, budget, images, dtype), seconds, least=3) for images in (1, BATCH))
                one, eight = ({**times, "sum": sum(times.values())} for times in (one, eight))
            report.add(f"{name}: {part}", one[part], "ms", target)
            report.add(f"{name}: {part}, batch of {BATCH}", eight[part], "ms")
            ratio = BATCH if target else None
            report.add(f"{name}: {part}, batch of {BATCH}, times one image", eight[part] / one[part], "x", ratio)


def cell_features(kind: str, rows: int, cols: int, dim: int, generator: torch.Generator) -> Tensor:
    """Made-up cell features of shape `(rows * cols, dim)`."""
    cells = rows * cols
    noise = torch.randn(cells, dim, generator=generator)
    if kind == "random":
        return noise
    if kind == "text on blank paper":
        blocks = torch.rand(1, 1, rows // 4 + 1, cols // 4 + 1, generator=generator) > 0.7
        is_text = F.interpolate(blocks.float(), (rows, cols)).flatten()[:, None]
        return is_text * noise + torch.randn(dim, generator=generator)
    coarse = torch.randn(1, 64, rows // 6 + 2, cols // 6 + 2, generator=generator)
    smooth = F.interpolate(coarse, (rows, cols), mode="bicubic")[0].flatten(1).T  # (cells, 64)
    field = smooth @ torch.randn(64, dim, generator=generator) / 8 + 0.2 * noise
    if kind == "smooth, six channels 50 times larger":
        field[:, torch.randperm(dim, generator=generator)[:6]] *= 50
    return field


def distortion(features: Tensor, allocation: Allocation) -> float:
    """Relevance-weighted squared distance of the cells from the means of their leaves."""
    cells, leaf, weights = features.double(), allocation.cell_to_leaf, allocation.relevance.double()[:, None]
    mass = weights.new_zeros(len(allocation.boxes), 1).index_add(0, leaf, weights)
    total = cells.new_zeros(len(mass), cells.shape[1]).index_add(0, leaf, weights * cells)
    return float((weights * (cells - (total / mass)[leaf]).square()).sum())


def compare_sketches(report: Report, grid: tuple[int, int], budgets: tuple[int, ...], seeds: int = 4) -> None:
    """How much more distortion leaves have that were chosen by sketches, not by all channels."""
    report.section(f"Distortion of leaves chosen by a sketch of {HOST_DIM:,} channels, beyond that by all of them")
    kinds = ("random", "smooth", "smooth, six channels 50 times larger", "text on blank paper")
    for kind in kinds:
        excess: dict[int, list[float]] = {SKETCH_WIDTH // 2: [], SKETCH_WIDTH: [], 2 * SKETCH_WIDTH: []}
        for seed in range(seeds):
            generator = torch.Generator().manual_seed(seed)
            features = cell_features(kind, *grid, HOST_DIM, generator).bfloat16()
            relevance = torch.rand(len(features), generator=generator) * 0.95 + 0.05
            for budget in budgets:
                where = relevance, torch.tensor([grid]), torch.tensor([budget]), ArrCocConfig()
                exact = distortion(features, allocate(features, *where))
                for width, found in excess.items():
                    chosen = allocate(sketch_features(features, width), *where)
                    found.append(100 * (distortion(features, chosen) / exact - 1))
        for width, found in excess.items():
            report.add(f"{kind}: width {width}, mean", statistics.mean(found), "%")
            report.add(f"{kind}: width {width}, highest", max(found), "%")


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
    sketch = sketch_features(features)
    allocation = allocate(sketch, **inputs, config=block)

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
                "sketch": lambda: sketch_features(features),
                "allocation (lod)": lambda: allocate(sketch, **inputs, config=block),
                f"pooling of {len(layers)} feature maps": pool,
            },
            seconds,
        )
    whole = times["tower, forward"]
    for name, value in times.items():
        report.add(name, value, "ms")
    both = times["scoring by attention"] + times[f"pooling of {len(layers)} feature maps"]
    report.add("pooling and scoring, share of the tower", 100 * both / whole, "%", 5.0)
    report.add("sketch, share of the tower", 100 * times["sketch"] / whole, "%")
    chosen = both + times["sketch"] + times["allocation (lod)"]
    report.add("with sketch and allocation, share of the tower", 100 * chosen / whole, "%")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", metavar="FILE", help="write the results to a file, too")
    parser.add_argument("--seconds", type=float, default=2.0, help="time for each group of cases (default: 2)")
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
    for dtype in (torch.float32, torch.bfloat16):
        time_images(report, f"cell features of width {HOST_DIM}", features_cases, dtype, arguments.seconds)
    time_images(report, "stage pixels", pixels_cases, torch.float32, arguments.seconds)
    compare_sketches(report, (48, 50), (240, 600))
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
