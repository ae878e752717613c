"""The metrics as modules of the library `evaluate`: scripts in the folder `metrics`, loaded without a network."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import evaluate
from datasets import Features, Value
from datasets import Sequence as ListOf


METRICS_FOLDER = Path(__file__).parent / "metrics"


class TextMetric(evaluate.Metric):
    """Means over items of what a pure function says of a prediction and its references.

    A script of the folder `metrics` holds one subclass of this with `score` and `description`.
    """

    description: ClassVar[str]

    @staticmethod
    def score(prediction: str, references: Sequence[str]) -> dict[str, float]:
        """Scores of one item by name."""
        raise NotImplementedError

    def _info(self) -> Any:
        return evaluate.MetricInfo(
            description=self.description,
            citation="",
            inputs_description="predictions: a text an item; references: a list of accepted texts an item",
            features=Features({"predictions": Value("string"), "references": ListOf(Value("string"))}),
        )

    def _compute(self, predictions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
        scores = [self.score(*pair) for pair in zip(predictions, references, strict=True)]
        return {name: sum(score[name] for score in scores) / len(scores) for name in scores[0]}


def load_metric(name: str) -> Any:
    """A metric of this package as a module of `evaluate`.

    ```python
    load_metric("anls").compute(predictions=["12 May"], references=[["12 May", "May 12"]])  # {'anls': 1.0}
    ```

    Raises:
        ValueError: if there is no such metric.
    """
    names = sorted(path.stem for path in METRICS_FOLDER.glob("*.py"))
    if name not in names:
        raise ValueError(f"found metric {name!r}; expected one of {names}")
    return evaluate.load(str(METRICS_FOLDER / f"{name}.py"))
