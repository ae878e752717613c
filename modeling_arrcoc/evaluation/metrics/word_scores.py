"""Words shared with a page by set, over those predicted, over the true ones, and F1 (Fox)."""

from collections.abc import Sequence

import arrcoc.evaluation.evaluate_modules as modules
import arrcoc.evaluation.transcripts as transcripts


class WordScores(modules.TextMetric):
    description = "Words shared with a page by set, over those predicted, over the true ones, and F1 (Fox)."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return max((transcripts.word_scores(prediction, text) for text in references), key=lambda scores: scores["f1"])
