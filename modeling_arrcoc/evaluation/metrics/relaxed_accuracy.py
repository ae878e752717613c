"""Share of answers within 5 % of a number, or equal to a text (ChartQA)."""

from collections.abc import Sequence

import arrcoc.evaluation.answers as answers
import arrcoc.evaluation.evaluate_modules as modules


class RelaxedAccuracy(modules.TextMetric):
    description = "Share of answers within 5 % of a number, or equal to a text (ChartQA)."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"relaxed_accuracy": answers.relaxed_accuracy(prediction, references)}
