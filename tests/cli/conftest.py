from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw

from arrcoc_cli import main
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import HOSTS, write_stock_processor_folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run `arrcoc` in this process; returns exit status, stdout and stderr."""

    def run_command(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        try:
            status = main([str(argument) for argument in arguments])
        except SystemExit as stop:  # argparse: --help, --version and usage errors
            status = stop.code
        captured = capsys.readouterr()
        return status, captured.out, captured.err

    return run_command


@pytest.fixture
def fails(run: Callable[..., tuple[int, str, str]]) -> Callable[..., str]:
    """Run `arrcoc`, expect a mistake of the user, and return its one line of message."""

    def run_and_fail(*arguments: object) -> str:
        status, out, err = run(*arguments)
        assert status == 2 and out == ""
        lines = [line for line in err.splitlines() if line.startswith("arrcoc")]
        assert len(lines) == 1 and "Traceback" not in err
        return lines[0]

    return run_and_fail


@pytest.fixture(scope="session")
def document() -> Path:
    """The document that the package carries."""
    return Path(__file__).parents[2] / "modeling_arrcoc" / "assets" / "demo_document.png"


@pytest.fixture(scope="session", params=HOSTS)
def stock_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A stock checkpoint folder of each host, in bf16, sharded, with a licence."""
    folder = tmp_path_factory.mktemp("stock") / request.param
    tiny_stock_model(request.param).to(torch.bfloat16).save_pretrained(folder, max_shard_size="200KB")
    write_stock_processor_folder(folder, request.param)
    (folder / "LICENSE").write_text("the licence of the weights")
    return folder


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A small image with something in one corner."""
    path = tmp_path / "picture.png"
    image = Image.new("RGB", (320, 256), "white")
    ImageDraw.Draw(image).text((200, 200), "total 42", fill="black", font_size=24)
    image.save(path)
    return path
