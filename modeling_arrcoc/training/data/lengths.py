"""Sequence lengths of rows, known before any image is decoded."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from arrcoc.processing import resolve_token_budgets

from .prompts import completion_text, prompt_text
from .rows import Row


logger = logging.get_logger(__name__)

_BATCH = 1000  # texts that the tokenizer takes at a time


@dataclass(frozen=True)
class SampleLengths:
    """What decides the length of each sample's sequence.

    Args:
        text (`NDArray`): `(samples,)` tokens of prompt and answer without images.
        cells (`tuple[tuple[int, ...], ...]`): native visual tokens of each image of each sample.
        questions (`tuple[str, ...]`): question of each sample, which the `"auto"` budgets read.
        auto_strategy (`str`): what plain `"auto"` stands for; its adjustment by the image is left out.
        tiers (`tuple[int, ...]`), calibrated_budgets (`Mapping`, *optional*): of the processor.
    """

    text: NDArray[np.int64]
    cells: tuple[tuple[int, ...], ...]
    questions: tuple[str, ...]
    auto_strategy: str
    tiers: tuple[int, ...]
    calibrated_budgets: Mapping[str, int | float | None] | None = None

    def tokens(self, budgets: Sequence[Sequence[Any]]) -> NDArray[np.int64]:
        """Tokens of each sample.

        Args:
            budgets: `(samples,)` for each sample the `token_budget` of each of its images.

        Returns:
            `(samples,)` text and visual tokens together.
        """
        visual = [
            sum(self._image_tokens(budget, native, index) for budget, native in zip(entries, cells, strict=True))
            for index, (entries, cells) in enumerate(zip(budgets, self.cells, strict=True))
        ]
        return self.text + np.array(visual, np.int64)

    def _image_tokens(self, budget: Any, native: int, index: int) -> int:
        if budget is None:
            return native
        if type(budget) is int:
            return min(budget, native)
        if budget == "auto":
            budget = f"auto:{self.auto_strategy}"
        found = resolve_token_budgets(
            [budget],
            [native],
            [self.questions[index]],
            tiers=self.tiers,
            calibrated_budgets=self.calibrated_budgets,
        )
        return found[0]  # type: ignore[index]


def measure_lengths(rows: Sequence[Row], processor: Any) -> SampleLengths:
    """Measure rows from their texts and the headers of their images.

    Args:
        rows (`Sequence[Row]`): the samples.
        processor (`ArrCocProcessor`): of the model.

    Returns:
        `SampleLengths`; an image without a readable header counts as one token (the data set will not deliver it).
    """
    text: list[int] = []
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        prompts = [prompt_text(row, processor) for row in part]
        whole = [prompt + completion_text(row, prompt, processor) for row, prompt in zip(part, prompts, strict=True)]
        encoded = processor.tokenizer(whole, add_special_tokens=False)["input_ids"]
        text += [len(ids) - len(row.images) for ids, row in zip(encoded, part, strict=True)]
    return SampleLengths(
        text=np.array(text, np.int64),
        cells=tuple(_native_cells(row, processor) for row in rows),
        questions=tuple(row.question for row in rows),
        auto_strategy=processor.auto_strategy,
        tiers=tuple(processor.tiers),
        calibrated_budgets=processor.calibrated_budgets,
    )


def _native_cells(row: Row, processor: Any) -> tuple[int, ...]:
    if not row.images:
        return ()
    try:
        sizes = [(height, width) for width, height in row.image_sizes()]
        counts = processor._get_num_multimodal_tokens(image_sizes=sizes, token_budget=None).num_image_tokens
    except ValueError as error:
        logger.warning(f"row {row.id!r}: {error}")
        return (1,) * len(row.images)
    return tuple(int(count) for count in counts)
