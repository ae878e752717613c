"""Learn where to look from answers alone: find the coloured mark that the question names.

A picture of 8 x 8 cells holds eight marks of eight colours, and as many grey decoys. Each mark carries one of four
hatchings whose lines are one pixel wide, so that they can be told apart in full detail only: drawn at half size every
mark is a plain square. A tiny Qwen3-VL is taught from scratch to name the hatching of the mark of a given colour while it
sees all 64 cells. Then it gets 16 tokens a picture, and the scout has to find out which cells they should show.

    python examples/train_mark.py --out runs/mark                       # all curves, about 20 minutes on two cores
    python examples/train_mark.py --out runs/mark --runs straight_through
"""

import torch
from torch import Tensor

from arrcoc import ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration


SIDE, CELL = 8, 8  # cells a side of a picture, pixels a side of a cell
CELLS, BUDGET = SIDE**2, 16
COLORS = {
    "red": (0.9, 0.1, 0.1),
    "green": (0.1, 0.7, 0.1),
    "blue": (0.15, 0.2, 0.9),
    "yellow": (0.9, 0.85, 0.1),
    "purple": (0.6, 0.1, 0.7),
    "orange": (1.0, 0.5, 0.0),
    "cyan": (0.1, 0.8, 0.9),
    "brown": (0.45, 0.25, 0.1),
}
HATCHINGS = ("rows", "columns", "checks", "weave")
WORDS = ("<pad>", "<image>", "<video>", "<start>", "<end>", "hatching", "of", "?")
VOCABULARY = {word: index for index, word in enumerate((*WORDS, *COLORS, *HATCHINGS))}
FIRST_COLOR, FIRST_HATCHING = VOCABULARY["red"], VOCABULARY["rows"]


def hatchings() -> Tensor:
    """Binary patterns `(hatchings, CELL, CELL)`; every block of 2 x 2 pixels of each has two dark and two light ones."""
    y, x = torch.meshgrid(torch.arange(CELL), torch.arange(CELL), indexing="ij")
    rows, columns = y % 2, x % 2
    weave = torch.where((y // 2 + x // 2) % 2 == 0, rows, columns)
    return torch.stack([rows, columns, (y + x) % 2, weave]).float()


def draw(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Draw pictures.

    Returns:
        Pixels `(count, 3, SIDE * CELL, SIDE * CELL)` in [-1, 1]; cell and hatching of each colour's mark, both
        `(count, colors)`.
    """
    marks = len(COLORS)
    places = torch.rand(count, CELLS, generator=generator).argsort(1)[:, : 2 * marks]  # (count, marks and decoys)
    kinds = torch.randint(len(HATCHINGS), (count, 2 * marks), generator=generator)
    grey = torch.rand(count, marks, 1, generator=generator).expand(-1, -1, 3) * 0.6 + 0.2
    colors = torch.cat([torch.tensor(list(COLORS.values())).expand(count, -1, -1), grey], 1)
    light = 1 - (1 - colors) * 0.3  # lines and gaps: the colour, and a light tint of it
    patterns = hatchings()[kinds][:, :, None]  # (count, marks, 1, CELL, CELL)
    tiles = colors[..., None, None] * patterns + light[..., None, None] * (1 - patterns)
    pictures = torch.full((count, CELLS, 3, CELL, CELL), 0.9)
    pictures[torch.arange(count)[:, None], places] = tiles
    pictures += torch.randn(pictures.shape, generator=generator) * 0.03
    return pictures * 2 - 1, places[:, :marks], kinds[:, :marks]


def batch(count: int, generator: torch.Generator, budget: int | None) -> tuple[dict[str, Tensor], Tensor]:
    """A batch for the model; the native one asks for all colours one after another, the others for one.

    Returns:
        Model inputs, and the cell of the mark that is asked for, `(count,)`.
    """
    cells, places, kinds = draw(count, generator)
    order = torch.rand(count, len(COLORS), generator=generator).argsort(1)  # (count, colors)
    asked = order[:, :1] if budget else order
    hatching, of, end = (torch.full((count, 1), VOCABULARY[word]) for word in ("hatching", "of", "?"))
    questions, answers = [], []
    for color in asked.T:  # (count,)
        questions.append(torch.cat([hatching, of, color[:, None] + FIRST_COLOR, end], 1))
        answers.append(kinds.gather(1, color[:, None]) + FIRST_HATCHING)
    text = torch.cat([part for pair in zip(questions, answers, strict=True) for part in pair], 1)
    silent = torch.full_like(questions[0], -100)
    labels = torch.cat([part for answer in answers for part in (silent, answer)], 1)
    reading = torch.full((count, (budget or CELLS) + 2), -100)
    if not budget:  # a mark's token is to name its colour or its hatching; labels stand one place further on
        colors = torch.arange(len(COLORS)).expand(count, -1) + FIRST_COLOR
        named = torch.where(torch.rand(colors.shape, generator=generator) < 0.5, colors, kinds + FIRST_HATCHING)
        reading.scatter_(1, places + 2, named)
    tokens = budget or CELLS
    image = torch.tensor([VOCABULARY["<start>"], *[VOCABULARY["<image>"]] * tokens, VOCABULARY["<end>"]])
    image = image.expand(count, -1)
    input_ids = torch.cat([image, text], 1)
    inputs = {
        "input_ids": input_ids,
        "attention_mask": torch.ones_like(input_ids),
        "mm_token_type_ids": (input_ids == VOCABULARY["<image>"]).long(),
        "labels": torch.cat([reading, labels], 1),
        "pixel_values": cells.flatten(2).flatten(0, 1),
        "image_grid_thw": torch.tensor([[1, SIDE, SIDE]]).expand(count, -1),
    }
    if budget:
        inputs["image_token_budgets"] = torch.full((count,), budget)
        inputs["image_query_ids"] = questions[0]
        inputs["image_query_mask"] = torch.ones_like(questions[0])
    return inputs, places.gather(1, asked[:, :1])[:, 0]


def build(**block) -> ArrCocQwen3VLForConditionalGeneration:
    """A Qwen3-VL of half a million parameters with an ARR-COC block."""
    torch.manual_seed(0)
    text = {
        "vocab_size": len(VOCABULARY),
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 32,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 1e4,
            "mrope_section": [8, 4, 4],
            "mrope_interleaved": True,
        },
        "pad_token_id": VOCABULARY["<pad>"],
        "bos_token_id": None,
        "eos_token_id": VOCABULARY["<pad>"],
    }
    vision = {
        "depth": 2,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_heads": 1,
        "out_hidden_size": 128,
        "patch_size": CELL,
        "temporal_patch_size": 1,
        "spatial_merge_size": 1,
        "num_position_embeddings": CELLS,
        "deepstack_visual_indexes": [],
    }
    config = ArrCocQwen3VLConfig(
        text_config=text,
        vision_config=vision,
        arrcoc_config={"stage": "pixels", "scout_dim": 64, "scout_depth": 2, **block},
        image_token_id=VOCABULARY["<image>"],
        video_token_id=VOCABULARY["<video>"],
        vision_start_token_id=VOCABULARY["<start>"],
        vision_end_token_id=VOCABULARY["<end>"],
        tie_word_embeddings=True,
    )
    return ArrCocQwen3VLForConditionalGeneration(config)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of questions answered correctly."""
    predicted, expected = logits[:, :-1].argmax(-1), labels[:, 1:]
    after_text = torch.arange(expected.shape[1]) >= int((labels[0] == -100).nonzero()[-1]) - 10**9
    return float((predicted == expected)[(expected != -100) & after_text].float().mean())
