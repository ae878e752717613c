"""`arrcoc calibrate`: let `token_budget="auto"` spend what a validation set says each kind of question needs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from arrcoc.evaluation.calibration import KindCalibration, calibrate_run, processor_budget
from arrcoc.evaluation.policies import ARRCOC, Budget
from arrcoc.evaluation.records import read_json, read_records, write_json
from arrcoc.evaluation.summary import plain_table

from .checkpoints import load_processor, model_class
from .evaluate import evaluate


CALIBRATION = "calibration.json"


def calibrate(
    model: Path,
    data: Sequence[str],
    out: Path,
    budgets: Sequence[Budget] = (0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05),
    keep: float = 0.98,
    confidence: float = 0.95,
    n: int | None = None,
    metric: str | None = None,
    instruction: str = "",
    max_new_tokens: int = 64,
    batch_size: int = 1,
    seed: int = 0,
    resamples: int = 10_000,
    as_json: bool = False,
) -> None:
    """Find the least budget of each kind of question that keeps a share of native accuracy, and save it.

    Answers the questions at native and at all budgets (a run of `arrcoc eval`, continued if it was cut off), then
    writes the budgets into the checkpoint's processor_config.json, where `"auto"` takes them from. Kinds for which
    no budget qualifies are native.

    Args:
        model (`Path`): folder of a wrapped checkpoint.
        data (`Sequence[str]`): validation tasks, as of `arrcoc eval`.
        out (`Path`): folder of the run.
        budgets (`Sequence`): to test besides native, all shares or all numbers of tokens.
        keep (`float`): share of native accuracy to keep.
        confidence (`float`): that it is kept.
        n, metric, instruction, max_new_tokens, batch_size, seed, resamples: as of `arrcoc eval`.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the checkpoint is not wrapped, or data cannot be read.
    """
    from accelerate import PartialState

    hosted = model_class(model)
    path = model / "processor_config.json"
    if read_json(model / "config.json")["model_type"] != hosted.config_class.model_type or not path.exists():
        raise ValueError(f"{model} is no wrapped checkpoint; make one with `arrcoc wrap`")
    tested = [1.0, *(budget for budget in budgets if budget != 1.0)]
    evaluate(
        data,
        out,
        str(model),
        tested,
        [ARRCOC],
        n,
        metric,
        instruction,
        max_new_tokens,
        batch_size,
        seed,
        resamples=resamples,
        quiet=True,
    )
    if not PartialState().is_main_process:
        return
    kinds = calibrate_run(read_records(out), ARRCOC, keep, confidence, resamples)
    found = {kind.kind: processor_budget(kind.budget) for kind in kinds}
    write_json(out / CALIBRATION, {"keep": keep, "confidence": confidence, "kinds": [asdict(kind) for kind in kinds]})
    write_json(path, read_json(path) | {"calibrated_budgets": found, "auto_strategy": "calibrated"})
    load_processor(model)  # it reads what was written
    if as_json:
        print(json.dumps({"model": str(model), "calibrated_budgets": found}, ensure_ascii=False))
    else:
        print(describe(kinds, path))


def describe(kinds: Sequence[KindCalibration], path: Path) -> str:
    """The calibration as text."""
    lines = [["kind", "questions", "images", "native", "budget", "tokens", "score", ""]]
    for kind in kinds:
        last = next((step for step in kind.steps if step.budget == kind.budget), None)
        lines.append(
            [
                kind.kind,
                str(kind.questions),
                str(kind.images),
                f"{kind.native_score:.3f}",
                kind.budget or "native",
                "" if last is None else f"{last.tokens:.1f}",
                "" if last is None else f"{last.score:.3f}",
                kind.reason,
            ]
        )
    return f"{plain_table(lines)}\nsaved in {path}"
