"""Agreement with the annotators by the ten-answer formula (VQAv2, TextVQA)."""

from collections.abc import Sequence

import arrcoc.evaluation.answers as answers
import arrcoc.evaluation.evaluate_modules as modules


class VqaAccuracy(modules.TextMetric):
    description = "Agreement with the annotators by the ten-answer formula (VQAv2, TextVQA)."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"vqa_accuracy": answers.vqa_accuracy(prediction, references)}
