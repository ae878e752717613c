"""Average normalised Levenshtein similarity with a threshold of 0.5 (Biten et al., ICCV 2019)."""

from collections.abc import Sequence

import arrcoc.evaluation.answers as answers
import arrcoc.evaluation.evaluate_modules as modules


class Anls(modules.TextMetric):
    description = "Average normalised Levenshtein similarity with a threshold of 0.5 (Biten et al., ICCV 2019)."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"anls": answers.anls(prediction, references)}
