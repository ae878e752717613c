"""The control that few tables contain: the picture itself is made smaller until it has as many tokens."""

import math
from collections.abc import Sequence
from typing import Any

from PIL import Image
from transformers.feature_extraction_utils import BatchFeature
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize

from arrcoc.processing.budgets import resolve_token_budgets
from arrcoc.processing.images import load_image


def resized_grid(grid: tuple[int, int], budget: int) -> tuple[int, int]:
    """The grid that a picture of `grid` rows and columns is resized to, of at most `budget` cells.

    Of all such grids, the one whose coarser axis is finest: a picture keeps its proportions as far as whole cells
    allow. No axis grows.
    """
    rows, cols = grid
    if rows * cols <= budget:
        return grid
    scale = math.sqrt(budget / (rows * cols))  # of a grid of fractional cells and the same proportions

    def fineness(height: int) -> tuple[float, int]:
        width = min(budget // height, cols)
        return min(height / (rows * scale), width / (cols * scale)), height * width

    height = max(range(1, min(rows, budget) + 1), key=fineness)
    return height, min(budget // height, cols)


def native_grids(processor: Any, pictures: Sequence[Image.Image]) -> list[tuple[int, int]]:
    """Rows and columns of cells that the processor makes of pictures at native budget."""
    settings = processor.image_processor
    cell = settings.patch_size * settings.merge_size
    smallest, largest = settings.size["shortest_edge"], settings.size["longest_edge"]
    sizes = [smart_resize(picture.height, picture.width, cell, smallest, largest) for picture in pictures]
    return [(height // cell, width // cell) for height, width in sizes]


def resized_inputs(
    processor: Any, images: Sequence[Any], text: str | list[str], token_budget: Any, **kwargs: Any
) -> BatchFeature:
    """Model inputs of pictures that are resized to their token budgets and read natively.

    Args:
        processor ([`ArrCocProcessor`]): of the model.
        images (`Sequence`): paths or Pillow images, in the order of their placeholders.
        text: prompt or prompts.
        token_budget: as for the processor, but for the `"auto"` forms.
        **kwargs: further arguments of the processor, such as `return_tensors` and `padding`.

    Returns:
        `BatchFeature`: inputs without a budget; the tokens of image `i` are `image_grid_thw[i].prod()` over the
        squared merge size, at most its budget and as near to it as proportions allow.
    """
    settings = processor.image_processor
    cell = settings.patch_size * settings.merge_size
    smallest, largest = settings.size["shortest_edge"], settings.size["longest_edge"]
    pictures = [load_image(image) for image in images]
    grids = native_grids(processor, pictures)
    counts = [rows * cols for rows, cols in grids]
    budgets = resolve_token_budgets(token_budget, counts) or counts
    targets = [resized_grid(grid, budget) for grid, budget in zip(grids, budgets, strict=True)]
    if targets != grids:  # or the processor would enlarge small ones again
        smallest = min(smallest, *(rows * cols * cell**2 for rows, cols in targets))
    for index, (rows, cols) in enumerate(targets):
        picture = pictures[index]
        # One that the processor makes that large by itself is left to it.
        if smart_resize(picture.height, picture.width, cell, smallest, largest) != (rows * cell, cols * cell):
            pictures[index] = picture.resize((cols * cell, rows * cell), Image.Resampling.BICUBIC)
    size = {"shortest_edge": smallest, "longest_edge": largest}
    return processor(images=pictures, text=text, token_budget=None, size=size, **kwargs)
