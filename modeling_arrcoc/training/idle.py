"""An idle image for batches without one: every part of the model then takes part in every step, in every process.

Processes that train together must use the same parameters: one whose batch is text alone, or whose images are all at
their native number of tokens, would wait for gradients for ever, or average over fewer. An idle image is a prompt of
its own without labels: its gradients are zero, and cost a few tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .losses import IGNORED


SIDE, TOKENS = 4, 4  # cells a side, and visual tokens


def all_take_part(inputs: Mapping[str, Any], config: Any) -> bool:
    """Whether a batch has an image with fewer tokens than cells; where budgets are learned, one whose budget is.

    Args:
        inputs (`Mapping`): of the model.
        config ([`PreTrainedConfig`]): of the host.
    """
    if config.arrcoc_config.budget == "learned":
        is_learned = inputs.get("image_budget_is_learned")
        return is_learned is not None and bool(is_learned.any())
    budgets, grids = inputs.get("image_token_budgets"), inputs.get("image_grid_thw")
    if budgets is None or grids is None:
        return False
    return bool((budgets < grids.prod(1) // config.vision_config.spatial_merge_size**2).any())


def with_idle_image(inputs: Mapping[str, Any], config: Any) -> dict[str, Any]:
    """Add a prompt of one compressed image to a batch.

    Args:
        inputs (`Mapping`): what a collator returns: `input_ids`, `attention_mask` and `labels` of shape
            `(batch, length)`, and where there are images the processor's outputs.
        config ([`PreTrainedConfig`]): of the host.

    Returns:
        `dict[str, Any]`: the batch with one more row, at its end, and one more image.
    """
    vision = config.vision_config
    merge = vision.spatial_merge_size
    rows = {name: inputs[name] for name in ("input_ids", "attention_mask", "labels")}
    length = max(rows["input_ids"].shape[1], TOKENS + 2)
    device = rows["input_ids"].device
    ids = torch.full((length,), config.vision_end_token_id, device=device)
    ids[0], ids[1 : TOKENS + 1] = config.vision_start_token_id, config.image_token_id
    place = torch.arange(length, device=device)
    types = ((place > 0) & (place <= TOKENS)).long()
    idle = {
        "input_ids": (ids, config.vision_end_token_id),
        "attention_mask": ((place < TOKENS + 2).long(), 0),
        "labels": (torch.full_like(ids, IGNORED), IGNORED),
        "mm_token_type_ids": (types, 0),
    }
    rows["mm_token_type_ids"] = inputs.get("mm_token_type_ids", torch.zeros_like(rows["input_ids"]))
    added = {
        name: torch.cat(
            [F.pad(rows[name], (0, length - rows[name].shape[1]), value=padding), row[None].to(rows[name])]
        )
        for name, (row, padding) in idle.items()
    }
    images = _with_image(inputs, SIDE * merge, vision, device)
    if config.arrcoc_config.budget == "learned":
        count = len(images["image_grid_thw"])
        given = inputs.get("image_budget_is_learned", torch.zeros(count - 1, dtype=torch.bool, device=device))
        images["image_budget_is_learned"] = torch.cat([given, torch.ones(1, dtype=torch.bool, device=device)])
    return {**inputs, **added, **images}


def _with_image(inputs: Mapping[str, Any], side: int, vision: Any, device: torch.device) -> dict[str, Tensor]:
    """The images of a batch and one more of `side` patches a side; those without a budget get their native one."""
    merge = vision.spatial_merge_size
    width = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    grid = torch.tensor([[1, side, side]], device=device)
    # No two cells alike: where features or distances are equal, derivatives may not be finite.
    pixels = torch.linspace(0, side**2 * width / 7, side**2 * width, device=device).sin().view(side**2, width)
    image = {
        "pixel_values": pixels,
        "image_grid_thw": grid,
        "image_token_budgets": torch.tensor([TOKENS], device=device),
        "image_query_ids": torch.zeros(1, 1, dtype=torch.long, device=device),
        "image_query_mask": torch.ones(1, 1, dtype=torch.long, device=device),
        "image_information": torch.linspace(0, 1, SIDE**2, device=device),
    }
    if inputs.get("pixel_values") is None:
        return image
    grids = inputs["image_grid_thw"]
    cells = grids.prod(1) // merge**2  # (images,)
    native = {
        "image_token_budgets": cells,
        "image_query_ids": torch.zeros(len(grids), 1, dtype=torch.long, device=device),
        "image_query_mask": torch.zeros(len(grids), 1, dtype=torch.long, device=device),
        "image_information": torch.ones(int(cells.sum()), device=device),
    }
    found = {name: inputs[name] if name in inputs else native[name] for name in image}
    columns = found["image_query_ids"].shape[1] - 1
    for name in ("image_query_ids", "image_query_mask"):
        image[name] = F.pad(image[name], (0, columns))
    return {name: torch.cat([found[name], image[name].to(found[name])]) for name in image}


__all__ = ["all_take_part", "with_idle_image"]
