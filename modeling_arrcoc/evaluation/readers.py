"""Rows of the benchmarks that have no training set: OCRBench and Fox, from their published files."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from arrcoc.training.data.reading import Rows, collect_rows
from arrcoc.training.data.rows import Row, row_from_dict


_IMAGE_MARK = "<image>"


def read_ocrbench(annotations: str | os.PathLike, images: str | os.PathLike, **options: Any) -> Rows:
    """OCRBench, `OCRBench.json` (Liu et al. 2023); `task` is the type of question.

    Args:
        annotations: The file.
        images: Folder that the paths of images are relative to (`OCRBench_Images`).
        options: `bad_rows` and `check_images` as in `read_rows`.
    """

    def fields(record: Mapping[str, Any]) -> dict[str, Any]:
        return {"image": record["image_path"], "question": record["question"], "answers": record["answers"]} | {
            "task": record["type"]
        }

    return _read(annotations, images, "ocrbench", fields, options)


def read_fox(annotations: str | os.PathLike, images: str | os.PathLike, **options: Any) -> Rows:
    """Pages of the Fox benchmark to be read out, `en_page_ocr.json` or `cn_page_ocr.json` (Liu et al. 2024).

    Args:
        annotations: The file.
        images: Folder of the pages (`en_pdf_png` or `cn_pdf_png`).
        options: `bad_rows` and `check_images` as in `read_rows`.
    """

    def fields(record: Mapping[str, Any]) -> dict[str, Any]:
        asked, told = (turn["value"] for turn in record["conversations"])
        return {"image": record["image"], "question": asked.replace(_IMAGE_MARK, "").strip(), "answers": [told]} | {
            "task": "page_ocr"
        }

    return _read(annotations, images, "fox", fields, options)


def _read(
    annotations: str | os.PathLike,
    images: str | os.PathLike,
    name: str,
    fields: Callable[[Mapping[str, Any]], dict[str, Any]],
    options: Mapping[str, Any],
) -> Rows:
    path = Path(annotations)
    try:
        records = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON file: {error}") from error
    if not isinstance(records, list):
        raise ValueError(f"expected {path} to hold a list of records, found {type(records).__name__}")

    def parse(record: Any, line: int) -> list[Row]:
        return [row_from_dict(fields(record) | {"set": name}, f"{name}_{path.stem}_{line}", images)]

    return collect_rows(str(path), iter(enumerate(records, start=1)), parse, **options)
