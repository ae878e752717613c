"""Share of predictions that contain an answer (OCRBench)."""

from collections.abc import Sequence

import arrcoc.evaluation.answers as answers
import arrcoc.evaluation.evaluate_modules as modules


class ContainsAnswer(modules.TextMetric):
    description = "Share of predictions that contain an answer (OCRBench)."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"contains_answer": answers.contains_answer(prediction, references)}
