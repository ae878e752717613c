"""Small pictures, files and rows."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from arrcoc.training.data import Row


def picture(width: int = 96, height: int = 64, seed: int = 0) -> Image.Image:
    """Noise of a size."""
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3)).astype(np.uint8))


def save_picture(path: Path, width: int = 96, height: int = 64, seed: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture(width, height, seed).save(path)
    return path


def write_lines(path: Path, records: list[Any]) -> Path:
    """JSON lines; texts are written as they are."""
    path.write_text("".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in records))
    return path


def write_json(path: Path, content: Any) -> Path:
    path.write_text(json.dumps(content))
    return path


def make_rows(count: int, **fields: Any) -> list[Row]:
    """Rows with a picture each; a field given as a function gets the number of the row."""
    return [
        Row(
            **{
                "id": f"r{number}",
                "question": f"What is number {number}?",
                "answers": (f"It is {number}.",),
                "images": (picture(seed=number),),
            }
            | {name: value(number) if callable(value) else value for name, value in fields.items()}
        )
        for number in range(count)
    ]
