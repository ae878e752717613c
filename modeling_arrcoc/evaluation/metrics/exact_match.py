"""Share of predictions that are an answer, without regard to case (GQA)."""

from collections.abc import Sequence

import arrcoc.evaluation.answers as answers
import arrcoc.evaluation.evaluate_modules as modules


class ExactMatch(modules.TextMetric):
    description = "Share of predictions that are an answer, without regard to case (GQA)."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"exact_match": answers.exact_match(prediction, references)}
