"""Fixtures of the training tests: tiny models, processors and rows with evidence."""

from functools import cache
from typing import Any

import pytest
from PIL import Image, ImageDraw

from arrcoc.training import ArrCocTrainer, ArrCocTrainingArguments
from arrcoc.training.data import ArrCocCollator, Row, RowDataset
from tests.helpers.tiny_models import tiny_arrcoc_model
from tests.helpers.tiny_processors import CELL_SIZE, HOSTS, tiny_processor


QUIET: dict[str, Any] = {"report_to": [], "disable_tqdm": True, "use_cpu": True, "save_strategy": "no"}
BUDGET = 6
MODEL_INPUTS = {
    "input_ids",
    "attention_mask",
    "mm_token_type_ids",
    "pixel_values",
    "image_grid_thw",
    "image_token_budgets",
    "image_query_ids",
    "image_query_mask",
    "image_information",
}
# All that can be learned, in both stages.
LEARNED: dict[str, dict[str, Any]] = {
    "features": {"stage": "features"},
    "pixels": {"stage": "pixels", "cell_encoder": "scout"},
}
for _block in LEARNED.values():
    _block |= {
        "relevance": "learned",
        "scout_dim": 16,
        "scout_depth": 1,
        "compressor": "experts",
        "adapter": "quality",
    }


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=LEARNED)
def stage(request: pytest.FixtureRequest) -> str:
    return request.param


def make_model(host: str, stage: str = "features", **block: Any) -> Any:
    """A tiny model whose block learns all that it can; `block` changes options."""
    return tiny_arrcoc_model(host, arrcoc_config={**LEARNED[stage], **block}, tie_word_embeddings=False)


@cache
def shared_processor(host: str) -> Any:
    return tiny_processor(host, token_budget=BUDGET)


def picture(host: str, rows: int, columns: int, seed: int) -> Image.Image:
    """Paper of `rows` x `columns` cells with a disc in one of them, whose place and colour follow from `seed`."""
    side = CELL_SIZE[host]
    image = Image.new("RGB", (columns * side, rows * side), "white")
    x, y = seed % columns * side, seed % rows * side
    color = ("red", "green", "blue", "black")[seed % 4]
    ImageDraw.Draw(image).ellipse((x + 4, y + 4, x + side - 4, y + side - 4), color)
    return image


def make_rows(host: str, count: int = 4, text_only: tuple[int, ...] = ()) -> list[Row]:
    """Rows with one image and evidence each; those numbered in `text_only` have neither."""
    side, rows = CELL_SIZE[host], []
    for number in range(count):
        height, width = 4 + number % 2, 4
        x, y = number % width * side, number % height * side
        answer = ("red", "green", "blue", "black")[number % 4]
        images: dict[str, Any] = {}
        if number not in text_only:
            box = (float(x), float(y), float(x + side), float(y + side))
            images = {"images": (picture(host, height, width, number),), "evidence": ((box,),)}
        rows.append(Row(id=f"row{number}", question=f"Disc {number}?", answers=(answer,), task="color", **images))
    return rows


def batch_of(host: str, rows: list[Row]) -> dict[str, Any]:
    return ArrCocCollator(shared_processor(host))(rows)


def make_arguments(folder: Any, **options: Any) -> ArrCocTrainingArguments:
    defaults = {"max_steps": 2, "per_device_train_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-3}
    return ArrCocTrainingArguments(str(folder), **{**QUIET, **defaults, **options})


def make_trainer(model: Any, host: str, folder: Any, rows: list[Row] | None = None, **options: Any) -> ArrCocTrainer:
    """A trainer of a tiny model on the rows of `make_rows`, which it also evaluates on."""
    rows = make_rows(host) if rows is None else rows
    processor = shared_processor(host)
    callbacks = options.pop("callbacks", None)
    return ArrCocTrainer(
        model,
        make_arguments(folder, **options),
        data_collator=ArrCocCollator(processor),
        train_dataset=RowDataset(rows),
        eval_dataset=RowDataset(rows),
        callbacks=callbacks,
    )


def losses(trainer: Any, name: str = "loss") -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry and "loss" in entry]


def weights(model: Any) -> dict[str, Any]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def moved(model: Any, before: dict[str, Any]) -> set[str]:
    """Names of the parameters that differ from `before`."""
    return {name for name, parameter in model.named_parameters() if not parameter.equal(before[name])}
