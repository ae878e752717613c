"""A tiny host in training, whose parts a test can break."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc.training import ArrCocTrainer, ArrCocTrainingArguments
from arrcoc.training.data import ArrCocCollator, Row
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import CELL_SIZE, HOSTS, tiny_processor


COLOURS = ("red", "green", "blue", "white", "black", "yellow", "purple", "gray")


def picture(host: str, number: int, rows: int = 5, columns: int = 4) -> Image.Image:
    """A picture of one colour with a stripe of noise, so that pictures differ and no cell is like another."""
    image = Image.new("RGB", (columns * CELL_SIZE[host], rows * CELL_SIZE[host]), COLOURS[number % len(COLOURS)])
    noise = np.random.default_rng(number).integers(0, 256, (CELL_SIZE[host], image.width, 3)).astype(np.uint8)
    image.paste(Image.fromarray(noise), (0, number % rows * CELL_SIZE[host]))
    return image


def make_rows(host: str, count: int = 8) -> list[Row]:
    """Rows with an image each, of two tasks."""
    return [
        Row(
            id=f"row {number}",
            question="Which colour?",
            answers=(COLOURS[number % len(COLOURS)],),
            images=(picture(host, number),),
            task=("colour", "count")[number % 2],
        )
        for number in range(count)
    ]


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make_trainer(tmp_path: Path) -> Callable[..., ArrCocTrainer]:
    """A trainer of a tiny host: `make_trainer(monitor, ..., host=..., arrcoc_config=..., **arguments)`."""

    def make(
        *monitors: Any,
        host: str = "qwen3_vl",
        arrcoc_config: dict | None = None,
        rows: list[Row] | None = None,
        **arguments: Any,
    ) -> ArrCocTrainer:
        options: dict[str, Any] = {
            "max_steps": 3,
            "per_device_train_batch_size": 2,
            "learning_rate": 1e-5,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "use_cpu": True,
            "output_dir": str(tmp_path / "run"),
        }
        model = tiny_arrcoc_model(host, arrcoc_config=arrcoc_config or {"adapter": "quality"})
        processor = tiny_processor(host, token_budget=8)
        return ArrCocTrainer(
            model,
            ArrCocTrainingArguments(**options | arguments),
            data_collator=ArrCocCollator(processor),
            train_dataset=make_rows(host) if rows is None else rows,
            eval_dataset=make_rows(host, 2) if "eval_strategy" in arguments else None,
            processing_class=processor,
            callbacks=list(monitors),
        )

    return make


def logged(trainer: ArrCocTrainer, name: str) -> list[float]:
    """What was logged under a name."""
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def perturbed(parameter: torch.Tensor, scale: float) -> None:
    """Change a parameter in place."""
    with torch.no_grad():
        parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)), alpha=scale)
