"""The README's Python example, run as printed on a stand-in for the checkpoint that it names."""

import re
import shutil
from pathlib import Path

import pytest

import arrcoc
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import write_stock_processor_folder


ROOT = Path(__file__).parents[1]
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), flags=re.DOTALL)


def test_there_is_one_example_of_at_most_fifteen_lines():
    (example,) = EXAMPLES
    assert len([line for line in example.splitlines() if line.strip()]) <= 15


def test_example_runs_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    folder = tmp_path / "Qwen" / "Qwen3-VL-2B-Instruct"  # a path relative to where the example runs, and a Hub name
    tiny_stock_model("qwen3_vl").save_pretrained(folder)
    write_stock_processor_folder(folder, "qwen3_vl")
    shutil.copy(ROOT / "modeling_arrcoc" / "assets" / "demo_document.png", tmp_path / "invoice.png")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(EXAMPLES[0], names)
    assert isinstance(names["model"], arrcoc.ArrCocQwen3VLForConditionalGeneration)
    assert (names["inputs"]["input_ids"] == names["model"].config.image_token_id).sum() == 256
    assert capsys.readouterr().out.endswith("visual tokens: [256]\n")
