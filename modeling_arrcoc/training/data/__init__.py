"""Data of training: rows from files and public data sets, mixtures, curricula, budgets, samplers and the collator.

>>> rows = read_rows("train.jsonl")
>>> dataset = RowDataset(rows, budgets=BudgetAugmentation())
>>> collator = ArrCocCollator(processor)
>>> sampler = ArrCocBatchSampler(
...     dataset, "grouped", max_tokens=8192, lengths=measure_lengths(rows, processor)
... )
>>> loader = DataLoader(dataset, batch_sampler=sampler, collate_fn=collator, num_workers=2)
"""

from .budgets import BUDGET_SHARES, BudgetAugmentation, suggested_budget
from .collator import AUXILIARY_KEYS, ArrCocCollator
from .converters import (
    READERS,
    majority_first,
    read_chartqa,
    read_docvqa,
    read_gqa,
    read_infographicvqa,
    read_llava,
    read_stvqa,
    read_textvqa,
    read_vqav2,
)
from .curriculum import (
    DIFFICULTIES,
    DIFFICULTY_SHARES,
    Curriculum,
    combined_weights,
    difficulty_buckets,
    difficulty_scores,
    rescored,
)
from .dataset import RowDataset
from .evidence import evidence_cells
from .lengths import SampleLengths, measure_lengths
from .mixture import (
    MODALITY_WEIGHTS,
    TASK_WEIGHTS,
    ShuffledOrder,
    WeightedOrder,
    modality,
    nested_weights,
    rebalanced,
    task_group,
)
from .prompts import from_trl, to_trl, trl_dataset
from .questions import QUESTION_KINDS, question_kind, questions_per_image
from .reading import BadRow, Rows, read_rows
from .rows import Row, StoredImage, row_from_dict
from .samplers import BATCHINGS, ArrCocBatchSampler, even_batches, grouped_batches, paired_batches, plain_batches
from .sources import read_sources
from .synthetic import SyntheticRows, SyntheticRowStream, synthetic_rows


__all__ = [
    "AUXILIARY_KEYS",
    "BATCHINGS",
    "BUDGET_SHARES",
    "DIFFICULTIES",
    "DIFFICULTY_SHARES",
    "MODALITY_WEIGHTS",
    "QUESTION_KINDS",
    "READERS",
    "TASK_WEIGHTS",
    "ArrCocBatchSampler",
    "ArrCocCollator",
    "BadRow",
    "BudgetAugmentation",
    "Curriculum",
    "Row",
    "RowDataset",
    "Rows",
    "SampleLengths",
    "ShuffledOrder",
    "StoredImage",
    "SyntheticRowStream",
    "SyntheticRows",
    "WeightedOrder",
    "combined_weights",
    "difficulty_buckets",
    "difficulty_scores",
    "even_batches",
    "evidence_cells",
    "from_trl",
    "grouped_batches",
    "majority_first",
    "measure_lengths",
    "modality",
    "nested_weights",
    "paired_batches",
    "plain_batches",
    "question_kind",
    "questions_per_image",
    "read_chartqa",
    "read_docvqa",
    "read_gqa",
    "read_infographicvqa",
    "read_llava",
    "read_rows",
    "read_sources",
    "read_stvqa",
    "read_textvqa",
    "read_vqav2",
    "rebalanced",
    "rescored",
    "row_from_dict",
    "suggested_budget",
    "synthetic_rows",
    "task_group",
    "to_trl",
    "trl_dataset",
]
