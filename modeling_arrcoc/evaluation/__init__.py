"""Evaluation: metrics, tasks and the published methods to compare with (`arrcoc.evaluation.peers`).

The metrics are plain functions; `arrcoc.evaluation.evaluate_modules` has them as modules of the library `evaluate`.
"""

from .answers import (
    ANSWER_METRICS,
    anls,
    contains_answer,
    contains_formula,
    exact_match,
    relaxed_accuracy,
    vqa_accuracy,
    vqa_normalize,
)
from .coverage import Coverage, cell_resolution, evidence_coverage, resized_coverage, row_coverage
from .documents import documents_text, read_documents, synthetic_task
from .efficiency import BudgetCalibration, budget_calibration, compression_ratio, token_efficiency
from .intervals import Interval, bootstrap_interval, paired_difference
from .policies import Condition, ModelPolicies, conditions
from .records import read_records
from .run import run_tasks
from .summary import summarize, write_summary
from .tasks import (
    BENCHMARKS,
    LOWER_IS_BETTER,
    Task,
    benchmark_task,
    difficult_items,
    grouped_intervals,
    image_key,
    rows_task,
    tier_of,
)
from .transcripts import edit_distance, normalized_edit_distance, word_overlap, word_scores


__all__ = [
    "ANSWER_METRICS",
    "BENCHMARKS",
    "LOWER_IS_BETTER",
    "BudgetCalibration",
    "Condition",
    "Coverage",
    "Interval",
    "ModelPolicies",
    "Task",
    "anls",
    "benchmark_task",
    "bootstrap_interval",
    "budget_calibration",
    "cell_resolution",
    "compression_ratio",
    "conditions",
    "contains_answer",
    "contains_formula",
    "difficult_items",
    "documents_text",
    "edit_distance",
    "evidence_coverage",
    "exact_match",
    "grouped_intervals",
    "image_key",
    "normalized_edit_distance",
    "paired_difference",
    "read_documents",
    "read_records",
    "relaxed_accuracy",
    "resized_coverage",
    "row_coverage",
    "rows_task",
    "run_tasks",
    "summarize",
    "synthetic_task",
    "tier_of",
    "token_efficiency",
    "vqa_accuracy",
    "vqa_normalize",
    "word_overlap",
    "word_scores",
    "write_summary",
]
