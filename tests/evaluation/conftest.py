"""A tiny checkpoint and small documents for tests of whole runs."""

import json
from pathlib import Path

import pytest

from arrcoc.cli.checkpoints import load_model, load_processor
from arrcoc.synthetic import DocumentStream
from arrcoc.synthetic.dataset import rows
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import write_stock_processor_folder


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wrapped Qwen3-VL with random weights."""
    stock, folder = tmp_path_factory.mktemp("stock"), tmp_path_factory.mktemp("wrapped")
    tiny_stock_model("qwen3_vl").save_pretrained(stock)
    write_stock_processor_folder(stock, "qwen3_vl")
    load_model(stock).save_pretrained(folder)
    load_processor(stock).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def pages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows about four small synthetic pages, two of each, as JSON lines."""
    folder = tmp_path_factory.mktemp("pages")
    lines = []
    for document in DocumentStream(first=5, count=4, size=256):
        path = folder / f"{document.seed}.png"
        document.image.save(path)
        lines += [json.dumps(row) for row in rows(document, path.name)[:2]]
    file = folder / "pages.jsonl"
    file.write_text("\n".join(lines) + "\n")
    return file
