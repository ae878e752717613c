"""A small host and small pictures to try training on, made from nothing in seconds.

A picture of 4 x 4 cells shows one coloured mark beside two grey ones; it is asked for its colour. The host is a
Qwen3-VL of 2.4 million random weights, saved as a stock checkpoint is.

    python examples/tiny_marks.py --out runs/tiny    # runs/tiny/host, runs/tiny/data/{train,validation}.jsonl
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from reference.model import build_model
from reference.tokenizer import CELL, build_processor
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration


SIDE, GREY_MARKS = 4, 2
# Of initial weights: at their usual size a model as narrow as this one hardly tells one input from another.
SCALE = 4.0
COLORS = {"red": "#d02020", "green": "#109030", "blue": "#2040e0", "orange": "#f09000"}
SHAPES = ("disc", "box", "cross", "wedge")


def draw_mark(canvas: ImageDraw.ImageDraw, shape: str, box: tuple[int, int, int, int], fill: str) -> None:
    left, top, right, bottom = box
    third = (right - left) // 3
    if shape == "disc":
        canvas.ellipse(box, fill)
    elif shape == "box":
        canvas.rectangle(box, fill)
    elif shape == "cross":
        canvas.rectangle((left + third, top, right - third, bottom), fill)
        canvas.rectangle((left, top + third, right, bottom - third), fill)
    else:
        canvas.polygon([(left, bottom), (right, bottom), ((left + right) // 2, top)], fill)


def draw_picture(dice: np.random.Generator, side: int) -> tuple[Image.Image, list[int], str]:
    """A picture of `side` x `side` cells; the box of its coloured mark in pixels, and its colour."""
    picture = Image.new("RGB", (side * CELL, side * CELL), "white")
    canvas = ImageDraw.Draw(picture)
    color = str(dice.choice(list(COLORS)))
    boxes = []  # edges on odd pixels, which half the resolution cannot show
    for number, cell in enumerate(dice.permutation(side**2)[: 1 + GREY_MARKS].tolist()):
        x, y = cell % side * CELL, cell // side * CELL
        boxes.append([x, y, x + CELL, y + CELL])
        fill = COLORS[color] if number == 0 else "#a0a0a0"
        draw_mark(canvas, str(dice.choice(SHAPES)), (x + 5, y + 5, x + CELL - 5, y + CELL - 5), fill)
    return picture, boxes[0], color


def write_rows(folder: Path, name: str, count: int, seed: int, side: int = SIDE) -> Path:
    """Write `count` pictures, and a line with question, answer and evidence for each."""
    dice = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True, exist_ok=True)
    lines = []
    for number in range(count):
        picture, box, color = draw_picture(dice, side)
        picture.save(folder / name / f"{number}.png")
        row = {
            "id": f"{name}-{number}",
            "image": f"{name}/{number}.png",
            "question": "Which color?",
            "answers": [color],
            "evidence": [box],
            "task": "color",
        }
        lines.append(json.dumps(row))
    path = folder / f"{name}.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def write_host(folder: Path, size: str = "small") -> Path:
    """Write a stock checkpoint with random weights, see `SIZES` of the reference model."""
    torch.manual_seed(0)
    processor = build_processor()
    config = build_model(size, processor.tokenizer).config.to_dict()
    parts = {name: config[name] for name in ("vision_config", "text_config", "tie_word_embeddings")}
    tokens = {name: value for name, value in config.items() if name.endswith("_token_id")}
    model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(**parts, **tokens))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(SCALE)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--rows", type=int, default=2000, help="pictures to train on (2000)")
    parser.add_argument("--size", default="small", help="size of the host (small)")
    options = parser.parse_args()
    write_host(options.out / "host", options.size)
    write_rows(options.out / "data", "train", options.rows, seed=0)
    write_rows(options.out / "data", "validation", 128, seed=1)


if __name__ == "__main__":
    main()
