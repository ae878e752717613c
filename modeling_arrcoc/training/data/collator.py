"""From rows to a batch: model inputs, labels, and what the losses of training read besides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from .budgets import suggested_budget
from .evidence import evidence_cells
from .prompts import completion_text, from_trl, prompt_text
from .rows import Row, row_from_dict


# Entries of a batch that are no arguments of the model.
AUXILIARY_KEYS = ("evidence", "has_evidence", "teacher", "has_teacher", "suggested_budgets", "task", "row_ids")

IGNORED = -100  # label of tokens that are not trained on


@dataclass
class ArrCocCollator:
    """Makes batches for training from rows.

    A sequence is the prompt that the model would answer, followed by the first answer and the end of the turn; the
    two are tokenised apart, exactly as in generation. Labels are the tokens of the answer alone. The processor sees
    the prompt alone, so nothing the allocation reads can depend on the answer.

    Args:
        processor (`ArrCocProcessor`): of the model.
        token_budget (*optional*): budget of images whose row gives none, in any form for one image; by default that
            of the processor.
        max_length (`int`, *optional*): answers are cut so that no sequence is longer; a prompt that is longer by
            itself is an error.
        padding_side (`str`): `"right"` or `"left"`.
        pad_to_multiple_of (`int`, *optional*): of the padded length.
        teacher (`Mapping[str, Tensor]`, *optional*): for ids of rows, the teacher's relevance of the cells of all
            images of the row, `(cells,)`.
        processor_kwargs (`dict`): further keywords of the processor, such as `size`.
    """

    processor: Any
    token_budget: Any = None
    max_length: int | None = None
    padding_side: str = "right"
    pad_to_multiple_of: int | None = None
    teacher: Mapping[str, Tensor] | None = None
    processor_kwargs: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.padding_side not in ("left", "right"):
            raise ValueError(f"padding_side must be 'left' or 'right', found {self.padding_side!r}")

    def __call__(self, rows: Sequence[Row | Mapping[str, Any]]) -> dict[str, Any]:
        """Make a batch.

        Args:
            rows (`Sequence`): `Row`s, rows as they stand in files (`row_from_dict`), or examples of TRL (`from_trl`).

        Returns:
            The outputs of the processor for the prompts, with `input_ids`, `attention_mask` and `mm_token_type_ids`
            `(batch, length)` continued by the answers; `labels` `(batch, length)`; and, no arguments of the model:
                - `evidence` `(cells,)` float32, `has_evidence` `(images,)` bool: evidence on the cells of all images
                  one after another, see `evidence_cells`; zeros where nothing is known.
                - `teacher` `(cells,)` float32, `has_teacher` `(images,)` bool: with a `teacher` only.
                - `suggested_budgets` `(images,)` int64: tokens that each image should need, see `suggested_budget`.
                - `task`, `row_ids`: lists with a text for each row.

        Raises:
            ValueError: A row is malformed, has no answer, an image that cannot be opened, or too long a prompt.
        """
        samples = [_as_row(row, number).decoded() for number, row in enumerate(rows)]
        prompts = [prompt_text(row, self.processor) for row in samples]
        completions = [
            completion_text(row, prompt, self.processor) for row, prompt in zip(samples, prompts, strict=True)
        ]
        inputs = self._process(samples, prompts)
        answers = self.processor.tokenizer(completions, add_special_tokens=False)["input_ids"]
        batch = self._join(samples, inputs, answers)
        for name in inputs.keys() - {"input_ids", "attention_mask", "mm_token_type_ids"}:
            batch[name] = torch.as_tensor(inputs[name])
        return batch | self._auxiliary(samples, batch)

    def _process(self, samples: list[Row], prompts: list[str]) -> Any:
        images = [image for row in samples for image in row.images]
        options = dict(self.processor_kwargs)
        if images:
            default = self.processor.token_budget if self.token_budget is None else self.token_budget
            budgets = [budget for row in samples for budget in row.image_budgets]
            budgets = [default if budget is None else budget for budget in budgets]
            if any(budget is not None for budget in budgets):
                options["token_budget"] = budgets
        return self.processor(images=images or None, text=prompts, padding=False, add_special_tokens=False, **options)

    def _join(self, samples: list[Row], inputs: Any, answers: list[list[int]]) -> dict[str, Any]:
        """Prompts and answers as padded tensors `(batch, length)`."""
        sequences = []
        for row, prompt, answer in zip(samples, inputs["input_ids"], answers, strict=True):
            if self.max_length is not None:
                if len(prompt) >= self.max_length:
                    raise ValueError(
                        f"row {row.id!r}: the prompt has {len(prompt)} tokens and leaves no room for an answer in "
                        f"max_length={self.max_length}; filter such rows (see measure_lengths) or lower their budget"
                    )
                answer = answer[: self.max_length - len(prompt)]
            sequences.append((prompt, answer))
        length = max(len(prompt) + len(answer) for prompt, answer in sequences)
        if self.pad_to_multiple_of is not None:
            length = -(-length // self.pad_to_multiple_of) * self.pad_to_multiple_of
        shape = (len(sequences), length)
        input_ids = torch.full(shape, self.processor.tokenizer.pad_token_id)
        attention_mask = torch.zeros(shape, dtype=torch.long)
        token_types = torch.zeros(shape, dtype=torch.long)
        labels = torch.full(shape, IGNORED)
        for index, (prompt, answer) in enumerate(sequences):
            start = length - len(prompt) - len(answer) if self.padding_side == "left" else 0
            middle, end = start + len(prompt), start + len(prompt) + len(answer)
            input_ids[index, start:end] = torch.tensor(prompt + answer)
            attention_mask[index, start:end] = 1
            token_types[index, start:middle] = torch.tensor(inputs["mm_token_type_ids"][index])
            labels[index, middle:end] = torch.tensor(answer)
        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "mm_token_type_ids": token_types,
            "labels": labels,
        }

    def _auxiliary(self, samples: list[Row], batch: Mapping[str, Any]) -> dict[str, Any]:
        merge = self.processor.image_processor.merge_size
        patches = batch["image_grid_thw"].tolist() if "image_grid_thw" in batch else []
        grids = iter([(rows // merge, columns // merge) for _, rows, columns in patches])
        evidence, has_evidence, teacher, has_teacher, suggested = [], [], [], [], []
        for row in samples:
            known = row.evidence or (None,) * len(row.images)
            cells = 0
            for boxes, size in zip(known, row.image_sizes(), strict=True):
                grid = next(grids)
                evidence.append(evidence_cells(boxes or (), size, grid, row.evidence_mode))
                has_evidence.append(boxes is not None)
                suggested.append(min(suggested_budget(row, self.processor.tiers), grid[0] * grid[1]))
                cells += grid[0] * grid[1]
            taught = None if self.teacher is None else self.teacher.get(row.id)
            if taught is not None and taught.shape != (cells,):
                raise ValueError(
                    f"row {row.id!r}: the teacher saw {tuple(taught.shape)} cells, the images have {cells}; make its "
                    "file with the same image processor"
                )
            teacher.append(torch.zeros(cells) if taught is None else taught.float())
            has_teacher += [taught is not None] * len(row.images)
        found = {
            "evidence": torch.cat(evidence) if evidence else torch.zeros(0),
            "has_evidence": torch.tensor(has_evidence, dtype=torch.bool),
            "suggested_budgets": torch.tensor(suggested, dtype=torch.long),
            "task": [row.task for row in samples],
            "row_ids": [row.id for row in samples],
        }
        if self.teacher is not None:
            found |= {"teacher": torch.cat(teacher), "has_teacher": torch.tensor(has_teacher, dtype=torch.bool)}
        return found


def _as_row(row: Row | Mapping[str, Any], number: int) -> Row:
    if isinstance(row, Row):
        return row
    return from_trl(row) if "prompt" in row and "completion" in row else row_from_dict(row, name=f"row_{number}")
