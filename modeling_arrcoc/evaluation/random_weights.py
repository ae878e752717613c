"""Models of published widths with random weights, and random prompts for them: what is timed without a checkpoint."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from arrcoc import ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration


# Published configurations of Qwen3-VL: tower (depth, hidden, intermediate), then language model (layers, hidden,
# intermediate, heads, key-value heads, width of a head) and whether its embeddings are tied. The last is for trials.
WIDTHS: dict[str, tuple[tuple[int, int, int, int], tuple[int, int, int, int, int, int], bool]] = {
    "Qwen3-VL-2B": ((24, 1024, 4096, 16), (28, 2048, 6144, 16, 8, 128), True),
    "Qwen3-VL-4B": ((24, 1024, 4096, 16), (36, 2560, 9728, 32, 8, 128), True),
    "Qwen3-VL-8B": ((27, 1152, 4304, 16), (36, 4096, 12288, 32, 8, 128), False),
    "tiny": ((4, 128, 512, 2), (4, 128, 384, 2, 2, 64), True),
}
VOCABULARY = 1000  # of random weights: the projection onto a vocabulary is one row's work
IMAGE, VIDEO, START, END = 10, 11, 12, 13  # of its tokens
TEXT_TOKENS = 60  # of a question


def random_config(like: str, block: Mapping[str, Any] | None = None, depth: float = 1.0) -> ArrCocQwen3VLConfig:
    """The configuration of a model of published widths with a small vocabulary.

    Args:
        like (`str`): a key of `WIDTHS`.
        block (`Mapping`, *optional*): options of `ArrCocConfig`.
        depth (`float`): share of the layers, of tower and language model alike.

    Raises:
        ValueError: if there are no such widths.
    """
    if like not in WIDTHS:
        raise ValueError(f"found widths {like!r}; expected one of {', '.join(WIDTHS)}")
    (tower_layers, hidden, intermediate, tower_heads), text, tied = WIDTHS[like]
    layers, width, mlp, heads, kv_heads, head_dim = text
    tower_layers, layers = max(4, round(tower_layers * depth)), max(1, round(layers * depth))
    return ArrCocQwen3VLConfig(
        vision_config={
            "depth": tower_layers,
            "hidden_size": hidden,
            "intermediate_size": intermediate,
            "num_heads": tower_heads,
            "out_hidden_size": width,
            "deepstack_visual_indexes": [layer * tower_layers // 4 for layer in (1, 2, 3)],
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
        arrcoc_config=None if block is None else dict(block),
    )


def random_model(
    like: str, device: str, dtype: torch.dtype, block: Mapping[str, Any] | None = None, depth: float = 1.0
) -> ArrCocQwen3VLForConditionalGeneration:
    """A model of published widths with random weights, in evaluation mode.

    Args:
        like (`str`), block (`Mapping`, *optional*), depth (`float`): as of `random_config`.
        device (`str`), dtype (`torch.dtype`): where its weights are, and of which type.

    Raises:
        ValueError: if there are no such widths.
    """
    config = random_config(like, block, depth)
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(dtype)
        with torch.device(device):
            model = ArrCocQwen3VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(previous)
    model.generation_config.eos_token_id = None
    return model.eval()


def random_inputs(
    config: Any,
    grid: tuple[int, int],
    budget: int | None = None,
    batch: int = 1,
    text_tokens: int = TEXT_TOKENS,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Prompts with one random image each and a question, as the processor returns them.

    Args:
        config: of an ARR-COC model.
        grid (`tuple[int, int]`): rows and columns of cells of each image.
        budget (`int`, *optional*): visual tokens of each image; `None` is native, without ARR-COC's inputs.
        batch (`int`): prompts.
        text_tokens (`int`): length of the question.
        device (`torch.device`), dtype (`torch.dtype`): of the inputs, and of their pixels.
    """
    generator = torch.Generator().manual_seed(0)
    vision = config.vision_config
    rows, cols, merge = *grid, vision.spatial_merge_size
    count = rows * cols if budget is None else budget
    highest = min(VOCABULARY, config.text_config.vocab_size)
    question = torch.randint(20, highest, (batch, text_tokens), generator=generator)
    image = config.image_token_id
    question[question == image] = 20
    placeholders = torch.full((batch, count), image)
    ends = torch.tensor([[config.vision_start_token_id, config.vision_end_token_id]]).expand(batch, 2)
    ids = torch.cat([ends[:, :1], placeholders, ends[:, 1:], question], 1)  # (batch, count + 2 + text_tokens)
    channels = vision.in_channels * vision.temporal_patch_size * vision.patch_size**2
    pixels = torch.rand(batch * rows * cols * merge**2, channels, generator=generator) * 2 - 1
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == image).long(),
        "pixel_values": pixels.to(dtype),
        "image_grid_thw": torch.tensor([[1, rows * merge, cols * merge]]).expand(batch, 3),
    }
    if budget is not None:
        inputs |= {
            "image_token_budgets": torch.full((batch,), budget),
            "image_query_ids": question[:, :20],
            "image_query_mask": torch.ones(batch, min(20, text_tokens), dtype=torch.long),
            "image_information": torch.rand(batch * rows * cols, generator=generator),
        }
    return {name: value.to(device) for name, value in inputs.items()}
