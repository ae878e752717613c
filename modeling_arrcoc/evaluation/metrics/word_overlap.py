"""Share of a page's words that were read, repetitions included."""

from collections.abc import Sequence

import arrcoc.evaluation.evaluate_modules as modules
import arrcoc.evaluation.transcripts as transcripts


class WordOverlap(modules.TextMetric):
    description = "Share of a page's words that were read, repetitions included."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"word_overlap": max(transcripts.word_overlap(prediction, text) for text in references)}
