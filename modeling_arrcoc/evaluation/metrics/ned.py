"""Edit distance over the length of the longer text; 0 is perfect."""

from collections.abc import Sequence

import arrcoc.evaluation.evaluate_modules as modules
import arrcoc.evaluation.transcripts as transcripts


class Ned(modules.TextMetric):
    description = "Edit distance over the length of the longer text; 0 is perfect."

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        return {"ned": min(transcripts.normalized_edit_distance(prediction, text) for text in references)}
