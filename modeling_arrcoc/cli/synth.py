"""`arrcoc synth`: write synthetic documents as pictures and JSON lines."""

import json
import multiprocessing
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..synthetic.dataset import rows
from ..synthetic.generator import Size, check_arguments, generate
from .files import replaced_folder


_PER_FOLDER = 1000
_CHUNK = 16  # documents a worker takes at a time


def parse_size(text: str) -> Size:
    """Size of the pictures: "512" (square), "512x768" (width x height) or "256-1024" (range for both sides).

    Raises:
        ValueError: anything else.
    """
    try:
        if "x" in text:
            width, height = (int(part) for part in text.split("x"))
            return (width, height)
        if "-" in text:
            low, high = (int(part) for part in text.split("-"))
            return range(low, high + 1)
        return int(text)
    except ValueError:
        raise ValueError(f"size must look like 512, 512x768 or 256-1024, found {text!r}") from None


def synth(
    out: Path,
    n: int = 1000,
    seed: int = 0,
    split: str = "train",
    kinds: list[str] | None = None,
    size: str | None = None,
    picture_format: str = "png",
    workers: int = 2,
    clear: bool = False,
) -> None:
    """Write documents as `OUT/<split>.jsonl`, one question a line, and `OUT/images`; OUT appears when all is written.

    Args:
        out: folder to make; must not exist or be empty.
        n: number of documents.
        seed: seed of the first document; the others follow.
        split: `"train"`, `"validation"` or `"heldout"`: which words, layouts and faces to draw from.
        kinds: kinds of documents; all by default.
        size: see `parse_size`; sides of 256 to 1536 pixels by default.
        picture_format: `"png"` or `"jpg"`.
        workers: processes.
        clear: letters of 16 px at least, on pages that are clean or scanned.

    Raises:
        ValueError: an argument out of range.
        FileExistsError: `out` is a file or not empty.
    """
    parsed_size = None if size is None else parse_size(size)
    parsed_kinds = None if kinds is None else tuple(kinds)
    check_arguments(parsed_kinds, parsed_size, split, None)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out} exists and is not an empty folder")
    questions = 0
    with replaced_folder(out) as folder:
        for start in range(0, n, _PER_FOLDER):
            (folder / "images" / f"{start // _PER_FOLDER:04d}").mkdir(parents=True)
        write = partial(_write, folder, seed, parsed_kinds, parsed_size, split, clear, picture_format)
        with open(folder / f"{split}.jsonl", "w", encoding="utf-8") as lines:
            for found in tqdm(_each(write, n, workers), total=n, unit="doc", desc=str(out)):
                questions += len(found)
                lines.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in found)
    print(f"{out}: {n} documents, {questions} questions")


def _each(write: partial[list[dict[str, Any]]], count: int, workers: int) -> Iterator[list[dict[str, Any]]]:
    """Rows of all documents in order, made by this process or by several."""
    if workers == 1:
        yield from map(write, range(count))
        return
    # Fresh processes: the caller may hold threads that a fork would not survive.
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(write, range(count), chunksize=_CHUNK)


def _write(
    folder: Path,
    seed: int,
    kinds: tuple[str, ...] | None,
    size: Size | None,
    split: str,
    clear: bool,
    suffix: str,
    number: int,
) -> list[dict[str, Any]]:
    """Draw document ``number``, save its picture and return its rows."""
    document = generate(seed + number, kinds, size, split, None, clear)
    name = f"images/{number // _PER_FOLDER:04d}/{number:07d}.{suffix}"
    if suffix == "jpg":
        document.image.save(folder / name, quality=92)
    else:
        document.image.save(folder / name, compress_level=1)
    return rows(document, name)
