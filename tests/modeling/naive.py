"""Slow, obvious references: what a stock model must be fed to do by hand what an ARR-COC model does."""

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling

from arrcoc import Allocation


ARRCOC_INPUTS = ("image_token_budgets", "image_query_ids", "image_query_mask", "image_information")
IMAGE_INPUTS = ("pixel_values", "image_grid_thw", *ARRCOC_INPUTS)
TEXT_INPUTS = ("input_ids", "attention_mask", "mm_token_type_ids")


def without(inputs: dict[str, Tensor], *names: str) -> dict[str, Tensor]:
    """The inputs that are not named."""
    return {name: value for name, value in inputs.items() if name not in names}


def stock_inputs(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs that a stock model knows."""
    return without(inputs, *ARRCOC_INPUTS)


def collate(singles: list[dict[str, Tensor]], padding_side: str = "left") -> dict[str, Tensor]:
    """Prompts of one row each as one batch; the padding has token id 0."""
    batch = {}
    length = max(single["input_ids"].shape[1] for single in singles)
    for name in TEXT_INPUTS:
        rows = [single[name][0] for single in singles]
        fill = [row.new_zeros(length - len(row)) for row in rows]
        left, right = (fill, rows) if padding_side == "left" else (rows, fill)
        batch[name] = torch.stack([torch.cat(pair) for pair in zip(left, right, strict=True)])
    for name in IMAGE_INPUTS:
        if parts := [single[name] for single in singles if name in single]:
            batch[name] = torch.cat(parts)
    return batch


@dataclass
class Features(BaseModelOutputWithPooling):
    """Encoded images as both hosts take them in `mm_encoder_outputs`."""

    deepstack_features: list[list[Tensor]] | None = None


def naive_pool(cells: Tensor, allocation: Allocation) -> Tensor:
    """Tokens of one image of features `(cells, dim)`: leaf by leaf, the mean of its cells weighted by relevance."""
    columns = int(allocation.grids[0, 1])
    tokens = []
    for leaf, (top, left, bottom, right) in enumerate(allocation.boxes.tolist()):
        box = [y * columns + x for y in range(top, bottom) for x in range(left, right)]
        inside = [cell for cell in box if allocation.cell_to_leaf[cell] == leaf]
        weights = allocation.relevance[inside]
        tokens.append((cells[inside] * weights[:, None]).sum(0) / weights.sum())
    return torch.stack(tokens)


def naive_features(stock: PreTrainedModel, inputs: dict[str, Tensor], allocation: Allocation) -> Features:
    """The stock model's image features, pooled image by image."""
    encoded = stock.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)

    def pool(features: list[Tensor]) -> list[Tensor]:
        return [naive_pool(cells, allocation.image(i)) for i, cells in enumerate(features)]

    deepstack = getattr(encoded, "deepstack_features", None)
    return Features(
        pooler_output=pool(encoded.pooler_output),
        deepstack_features=None if deepstack is None else [pool(layer) for layer in deepstack],
    )


def naive_positions(
    input_ids: Tensor, attention_mask: Tensor, allocation: Allocation, image_token_id: int
) -> tuple[Tensor, Tensor]:
    """Positions `(3, batch, length)`, token by token, and the next text position `(batch,)` of each row.

    Text counts up. An image starts at the count `s`; a leaf has time `s` and `s` plus its box's centre as height and
    width; after the image the count goes on at `s` plus its longer side.
    """
    positions = torch.zeros(3, *input_ids.shape)
    following = torch.zeros(len(input_ids), dtype=torch.long)
    image = 0
    for row, (tokens, mask) in enumerate(zip(input_ids.tolist(), attention_mask.tolist(), strict=True)):
        count, leaf = 0, 0
        for column, (token, attended) in enumerate(zip(tokens, mask, strict=True)):
            if not attended:
                continue
            if token != image_token_id:
                positions[:, row, column] = count
                count += 1
                continue
            top, left, bottom, right = allocation.image(image).boxes[leaf].tolist()
            positions[0, row, column] = count
            positions[1, row, column] = count + (top + bottom - 1) / 2
            positions[2, row, column] = count + (left + right - 1) / 2
            leaf += 1
            if leaf == int(allocation.budgets[image]):
                count += int(allocation.grids[image].max())
                image, leaf = image + 1, 0
        following[row] = count
    return positions, following


def naive_logits(stock: PreTrainedModel, inputs: dict[str, Tensor], allocation: Allocation | None) -> Tensor:
    """Logits `(batch, length, vocabulary)` of a stock model for a prompt whose images were allocated like that."""
    if allocation is None:
        return stock(**stock_inputs(inputs), use_cache=False).logits
    input_ids, attention_mask = inputs["input_ids"], inputs["attention_mask"]
    positions, _ = naive_positions(input_ids, attention_mask, allocation, stock.config.image_token_id)
    return stock(
        input_ids=input_ids,
        attention_mask=attention_mask,
        position_ids=positions,
        mm_encoder_outputs={"image": naive_features(stock, inputs, allocation)},
        use_cache=False,
    ).logits


def naive_greedy(
    stock: PreTrainedModel, inputs: dict[str, Tensor], allocation: Allocation | None, new_tokens: int
) -> tuple[Tensor, Tensor]:
    """Greedy generation that runs the whole prompt again for every token, for prompts padded on the left.

    Returns:
        The new tokens `(batch, new_tokens)` and the logits `(batch, new_tokens, vocabulary)` they were taken from,
        with image and video placeholders at -inf.
    """
    inputs, logits = dict(inputs), []
    for _ in range(new_tokens):
        last = naive_logits(stock, inputs, allocation)[:, -1]  # (batch, vocabulary)
        last[:, [stock.config.image_token_id, stock.config.video_token_id]] = -torch.inf
        logits.append(last)
        chosen = last.argmax(1, keepdim=True)
        grown = {"input_ids": chosen, "attention_mask": torch.ones_like(chosen), "mm_token_type_ids": chosen * 0}
        inputs |= {name: torch.cat([inputs[name], column], 1) for name, column in grown.items()}
    return inputs["input_ids"][:, -new_tokens:], torch.stack(logits, 1)
