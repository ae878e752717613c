"""`arrcoc inspect`: show where the visual tokens of an image go, without weights or with a checkpoint's own maps."""

import dataclasses
import json
import warnings
from math import log
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm
from transformers import Qwen2VLImageProcessorPil

from arrcoc.allocation import allocate
from arrcoc.configuration_arrcoc import ArrCocConfig
from arrcoc.outputs import Allocation
from arrcoc.processing.budgets import deepseek_ocr_tokens, reads_image, resolve_token_budgets
from arrcoc.processing.images import load_image
from arrcoc.processing.information import image_compression_ratio, information_map
from arrcoc.relevance import balance_maps, salience_map

from .checkpoints import chat_inputs, checkpoint_folder, load_model, load_processor
from .files import save_picture
from .location_prior import location_prior
from .viewer import MAP_SUBTITLES, display_levels, draw_report, level_counts


# Patch size and limits on the number of pixels of the published image processors; a cell is 2 x 2 patches.
HOSTS: dict[str, dict[str, Any]] = {
    "qwen3_vl": {"patch_size": 16, "size": {"shortest_edge": 65536, "longest_edge": 16777216}},
    "qwen2_5_vl": {"patch_size": 14, "size": {"shortest_edge": 3136, "longest_edge": 12845056}},
}
THUMBNAIL_BLOCK = 4  # pixels averaged along each side; divides the cells of both hosts
PAPER_CONTRAST = 0.02  # standard deviation of lightness below which a cell is as good as blank
COLOR_WEIGHT = 0.3
DEEPSEEK_OCR_MODES = {"Tiny": 512, "Small": 640, "Base": 1024, "Large": 1280}  # pixels a side


def inspect(
    image: Path,
    out: Path,
    question: str = "",
    token_budget: int | float | str = 256,
    host: str = "qwen3_vl",
    model: str | None = None,
    policy: str | None = None,
    as_json: bool = False,
) -> None:
    """Draw where the visual tokens of an image go, and print the counts.

    Args:
        image (`Path`): the image.
        out (`Path`): the picture to write.
        question (`str`): the question.
        token_budget: number of visual tokens, share of the native count, or `"auto"`.
        host (`str`): whose cells to use, a key of [`HOSTS`]; of no account with `model`.
        model (`str`, *optional*): checkpoint folder whose maps to use.
        policy (`str`, *optional*): allocation policy; defaults to the model's.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the image or the checkpoint cannot be read.
    """
    picture = load_image(image)
    with tqdm(total=2, desc="inspecting", delay=2, leave=False, bar_format="{desc}: {elapsed}") as bar:
        if model is None:
            block = ArrCocConfig() if policy is None else ArrCocConfig(policy=policy)
            allocation = allocate_pixels(picture, question, token_budget, host, block)
        else:
            folder = checkpoint_folder(model)
            network = load_model(folder, **({} if policy is None else {"policy": policy})).eval()
            block = network.config.arrcoc_config
            with torch.no_grad():
                inputs = chat_inputs(load_processor(folder), picture, question, token_budget)
                allocation = network.encode_images(**inputs).allocation
        bar.update()
        subtitles = {name: f"{MAP_SUBTITLES[name]}, weight {block.map_weights[name]:g}" for name in allocation.maps}
        if model is None:
            subtitles["query"] = f"place words, weight {block.query_weight:g}"
        save_picture(draw_report(picture, allocation, question, subtitles=subtitles), out)
    native = int(allocation.cells_per_image[0])
    if isinstance(token_budget, int) and token_budget > native:
        warnings.warn(f"the image has only {native} visual tokens, fewer than the budget {token_budget}", stacklevel=2)
    report = {
        "image": str(image),
        "size": list(picture.size),
        "question": question,
        **({"host": host} if model is None else {"model": model}),
        **summarize(allocation),
        "picture": str(out),
    }
    print(json.dumps(report, ensure_ascii=False) if as_json else describe(report))


def resized_pixels(image: Image.Image, host: str) -> np.ndarray:
    """Pixels of an image as the image processor of a host resizes it.

    Args:
        image (`PIL.Image.Image`): an RGB image.
        host (`str`): a key of [`HOSTS`].

    Returns:
        `np.ndarray` of shape `(rows, cols, 3, side, side)`, float32 in [0, 1]: cells of `side x side` pixels.
    """
    processor = Qwen2VLImageProcessorPil(**HOSTS[host])
    outputs = processor(images=[image], do_normalize=False, return_tensors="np")
    _, height, width = outputs["image_grid_thw"][0].tolist()
    patch = processor.patch_size
    patches = outputs["pixel_values"].reshape(height // 2, width // 2, 2, 2, 3, 2, patch, patch)
    patches = patches[:, :, :, :, :, 0]  # (rows, cols, 2, 2, 3, patch, patch); both frames of a picture are the same
    return patches.transpose(0, 1, 4, 2, 5, 3, 6).reshape(height // 2, width // 2, 3, 2 * patch, 2 * patch)


def lightness(pixels: np.ndarray) -> np.ndarray:
    """Gray values of an image.

    Args:
        pixels (`np.ndarray` of shape `(rows, cols, 3, side, side)`): what [`resized_pixels`] returns.

    Returns:
        `np.ndarray` of shape `(rows * side, cols * side)`, float32 in [0, 1], weighted as in ITU-R BT.601.
    """
    rows, cols, _, side, _ = pixels.shape
    gray = np.einsum("rcdyx,d->rycx", pixels, np.array([0.299, 0.587, 0.114], np.float32))
    return gray.reshape(rows * side, cols * side)


def appearance(pixels: np.ndarray) -> np.ndarray:
    """What salience is measured on where there is no vision tower: how each cell looks from afar.

    Args:
        pixels (`np.ndarray` of shape `(rows, cols, 3, side, side)`): what [`resized_pixels`] returns.

    Returns:
        `np.ndarray` of shape `(cells, 6)`, float32: mean and standard deviation of red, green and blue.
    """
    cells = pixels.reshape(-1, *pixels.shape[2:])  # (cells, 3, side, side)
    return np.concatenate([cells.mean((2, 3)), cells.std((2, 3))], axis=1)


def thumbnail_features(pixels: np.ndarray) -> np.ndarray:
    """What distortion is measured on where there is no vision tower: small thumbnails, equal in contrast.

    The lightness of a cell, averaged over blocks of 4 x 4 pixels, less its mean and divided by its standard deviation,
    so that small gray print counts as much as a heading; after it the cell's mean colour, with less weight.

    Args:
        pixels (`np.ndarray` of shape `(rows, cols, 3, side, side)`): what [`resized_pixels`] returns.

    Returns:
        `np.ndarray` of shape `(cells, (side / 4)**2 + 3)`, float32; a cell without contrast is zero before its colour.
    """
    cells = pixels.reshape(-1, *pixels.shape[2:])  # (cells, 3, side, side)
    blocks = cells.shape[-1] // THUMBNAIL_BLOCK
    split = cells.reshape(len(cells), 3, blocks, THUMBNAIL_BLOCK, blocks, THUMBNAIL_BLOCK)
    light = split.mean((1, 3, 5)).reshape(len(cells), -1)  # (cells, blocks**2)
    light = light - light.mean(1, keepdims=True)
    shape = light / (light.std(1, keepdims=True) + PAPER_CONTRAST)
    color = cells.mean((2, 3))  # (cells, 3)
    return np.concatenate([shape / blocks, COLOR_WEIGHT * color], axis=1, dtype=np.float32)


def allocate_pixels(
    image: Image.Image,
    question: str,
    token_budget: int | float | str,
    host: str,
    block: ArrCocConfig,
) -> Allocation:
    """Allocate from the pixels and the question's place words alone.

    Args:
        image (`PIL.Image.Image`): an RGB image.
        question (`str`): the question; see [`~arrcoc.cli.location_prior.location_prior`] for what is read in it.
        token_budget: number of tokens, share of the native count, or `"auto"`.
        host (`str`): a key of [`HOSTS`].
        block ([`ArrCocConfig`]): policy, weights and floor.

    Returns:
        [`~arrcoc.outputs.Allocation`] with the maps `information`, `salience` and `query`.
    """
    pixels = resized_pixels(image, host)
    gray = lightness(pixels)
    grid = pixels.shape[:2]
    ratios = [image_compression_ratio(gray)] if reads_image(token_budget) else None
    budgets = resolve_token_budgets(token_budget, [grid[0] * grid[1]], [question], ratios)

    grids = torch.tensor([grid])
    features = torch.from_numpy(thumbnail_features(pixels))
    maps = {
        "information": torch.from_numpy(information_map(gray, pixels.shape[-1])),
        "salience": salience_map(torch.from_numpy(appearance(pixels)), grids),
        "query": torch.from_numpy(location_prior(question, grid)).flatten(),
    }
    relevance = balance_maps(maps, block.map_weights, block.relevance_floor, grids)
    allocation = allocate(features, relevance, grids, torch.tensor(budgets), block)
    return dataclasses.replace(allocation, maps=maps)


def summarize(allocation: Allocation) -> dict[str, Any]:
    """Counts and leaves of one image as plain values."""
    rows, cols = allocation.grids[0].tolist()
    tokens = int(allocation.budgets[0])
    mode = min(DEEPSEEK_OCR_MODES, key=lambda name: abs(log(deepseek_ocr_tokens(DEEPSEEK_OCR_MODES[name]) / tokens)))
    side = DEEPSEEK_OCR_MODES[mode]
    return {
        "grid": [rows, cols],
        "native_tokens": rows * cols,
        "tokens": tokens,
        "ratio": round(rows * cols / tokens, 3),
        "deepseek_ocr": {"mode": mode, "side": side, "tokens": deepseek_ocr_tokens(side)},
        "leaves_per_level": {str(level): count for level, count in level_counts(allocation).items()},
        "boxes": allocation.drawn.tolist(),
        "levels": display_levels((allocation.drawn[:, 2:] - allocation.drawn[:, :2]).tolist()),
    }


def describe(report: dict[str, Any]) -> str:
    """The report as lines of text."""
    rows, cols = report["grid"]
    deepseek = report["deepseek_ocr"]
    lines = [f"visual tokens {report['tokens']} of {report['native_tokens']} ({report['ratio']:.1f}x fewer)"]
    for level, count in report["leaves_per_level"].items():
        side = 2 ** int(level)
        lines.append(f"  {count:5d} of {'1 cell' if side == 1 else f'up to {side} x {side} cells'}")
    lines += [
        f"grid {rows} x {cols} cells",
        f"DeepSeek-OCR {deepseek['mode']} ({deepseek['side']} px) takes {deepseek['tokens']}",
        f"picture {report['picture']}",
    ]
    return "\n".join(lines)
