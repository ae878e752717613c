"""Model inputs built directly from random pixels, without a processor."""

import torch
from torch import Tensor

from tests.helpers.tiny_processors import MERGE_SIZE, PATCH_SIZE, TOKEN_IDS


def random_inputs(
    host: str,
    rows: list[list[tuple[int, int]]],
    budgets: list[int] | None = None,
    text_length: int = 5,
    padding_side: str = "left",
    seed: int = 0,
) -> dict[str, Tensor]:
    """A batch of prompts with random images and random text.

    Args:
        host: `"qwen3_vl"` or `"qwen2_5_vl"`.
        rows: for each prompt the grids (rows, columns in cells) of its images; row `i` has `text_length + i` tokens of
            text after its images.
        budgets: tokens of each image of the batch; `None` is native, without any of ARR-COC's inputs.
        padding_side: side on which short rows are padded.
        seed: of pixels, text and questions.

    Returns:
        What the processor returns for such a batch.
    """
    generator = torch.Generator().manual_seed(seed)
    grids = [grid for row in rows for grid in row]
    tokens = [height * width for height, width in grids] if budgets is None else list(budgets)
    patch_dim = 3 * 2 * PATCH_SIZE[host] ** 2
    sequences, image = [], 0
    for index, row in enumerate(rows):
        sequence = torch.randint(0, 256, (3,), generator=generator).tolist()
        for _ in row:
            placeholders = [TOKEN_IDS["<|image_pad|>"]] * tokens[image]
            sequence += [TOKEN_IDS["<|vision_start|>"], *placeholders, TOKEN_IDS["<|vision_end|>"]]
            image += 1
        sequences.append(sequence + torch.randint(0, 256, (text_length + index,), generator=generator).tolist())
    length = max(map(len, sequences))
    input_ids = torch.full((len(rows), length), TOKEN_IDS["<|endoftext|>"])
    attention_mask = torch.zeros_like(input_ids)
    for index, sequence in enumerate(sequences):
        place = slice(length - len(sequence), length) if padding_side == "left" else slice(0, len(sequence))
        input_ids[index, place] = torch.tensor(sequence)
        attention_mask[index, place] = 1
    inputs = {
        "input_ids": input_ids,
        "attention_mask": attention_mask,
        "mm_token_type_ids": (input_ids == TOKEN_IDS["<|image_pad|>"]).long(),
    }
    if grids:
        cells = sum(height * width for height, width in grids)
        patches = cells * MERGE_SIZE**2
        inputs["pixel_values"] = torch.rand(patches, patch_dim, generator=generator) * 2 - 1
        inputs["image_grid_thw"] = torch.tensor([[1, h * MERGE_SIZE, w * MERGE_SIZE] for h, w in grids])
        if budgets is not None:
            inputs["image_token_budgets"] = torch.tensor(budgets)
            inputs["image_query_ids"] = torch.randint(0, 256, (len(grids), 7), generator=generator)
            inputs["image_query_mask"] = torch.ones(len(grids), 7, dtype=torch.long)
            inputs["image_information"] = torch.rand(cells, generator=generator)
    return inputs


def native_budgets(rows: list[list[tuple[int, int]]]) -> list[int]:
    """The number of cells of each image of `rows`."""
    return [height * width for row in rows for height, width in row]
