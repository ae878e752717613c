"""The least budget that a kind of question can do with, found on a validation set and stated with confidence."""

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from statistics import fmean

from arrcoc.processing.budgets import QUESTION_TYPES, question_type

from .intervals import bootstrap_interval
from .policies import ARRCOC, NATIVE
from .records import Record
from .summary import share_of


@dataclass(frozen=True)
class Step:
    """One budget that was tested.

    Attributes:
        budget (`str`): as in the run.
        tokens (`float`): mean visual tokens of a question.
        score (`float`): mean score.
        margin (`float`): lower bound of the mean of `score - keep * native score`; the budget holds from 0 on.
    """

    budget: str
    tokens: float
    score: float
    margin: float


@dataclass(frozen=True)
class KindCalibration:
    """What was found for a kind of question.

    Attributes:
        kind (`str`): see `arrcoc.processing.budgets.question_type`.
        questions, images (`int`): that it was found on.
        native_score (`float`): mean score at native budget.
        budget (`str`, *optional*): the least budget that holds; `None` for native.
        steps (`tuple[Step, ...]`): budgets that were tested, from the largest down to the first that did not hold.
        reason (`str`): why it is native; empty if it is not.
    """

    kind: str
    questions: int
    images: int
    native_score: float
    budget: str | None
    steps: tuple[Step, ...]
    reason: str = ""


def least_images(keep: float, confidence: float) -> int:
    """Images below which no outcome can show that a share `keep` is kept.

    Even if not one of `n` was lost, a true loss of `1 - keep` would have shown nothing with probability `keep**n`.

    Raises:
        ValueError: if one of the two lies outside (0, 1).
    """
    if not 0 < keep < 1 or not 0.5 < confidence < 1:
        raise ValueError(f"expected keep in (0, 1) and confidence in (0.5, 1), found {keep} and {confidence}")
    return math.ceil(math.log(1 - confidence) / math.log(keep))


def calibrate_kind(
    kind: str,
    native: Sequence[float],
    scores: Sequence[tuple[str, float, Sequence[float]]],
    images: Sequence[Hashable],
    keep: float = 0.98,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> KindCalibration:
    """The least budget that keeps a share of the native score.

    Budgets are tested from the largest down, and the first that fails ends the search: tests in a fixed order need no
    correction for their number (Maurer, Hothorn & Lehmacher, 1995). A budget holds if the one-sided lower bound of the
    mean of `score - keep * native score`, by a bootstrap over images, is not negative.

    Args:
        kind (`str`): of question.
        native (`Sequence[float]`): score of each question at native budget.
        scores (`Sequence`): (budget, mean tokens, scores of the same questions), from the largest budget down.
        images (`Sequence[Hashable]`): image of each question.
        keep (`float`): share of the native score, in (0, 1).
        confidence (`float`): of each budget that is returned, in (0.5, 1).
        resamples (`int`): of the bootstrap.
    """
    needed, found = least_images(keep, confidence), len(set(images))
    mean = fmean(native) if native else 0.0
    if found < needed:
        reason = f"{found} images, at least {needed} can show that {keep:g} is kept"
        return KindCalibration(kind, len(native), found, mean, None, (), reason)
    if bootstrap_interval(native, images, 2 * confidence - 1, resamples).low <= 0:
        return KindCalibration(kind, len(native), found, mean, None, (), "no native score to keep")
    steps: list[Step] = []
    for budget, tokens, values in scores:
        margins = [value - keep * full for value, full in zip(values, native, strict=True)]
        low = bootstrap_interval(margins, images, 2 * confidence - 1, resamples).low
        steps.append(Step(budget, tokens, fmean(values), low))
        if low < 0:
            break
    holding = [step.budget for step in steps if step.margin >= 0]
    reason = "" if holding else f"the largest budget tested, {steps[0].budget}, fails" if steps else "no budget tested"
    return KindCalibration(kind, len(native), found, mean, holding[-1] if holding else None, tuple(steps), reason)


def calibrate_run(
    records: Sequence[Record],
    policy: str = ARRCOC,
    keep: float = 0.98,
    confidence: float = 0.95,
    resamples: int = 10_000,
) -> list[KindCalibration]:
    """Calibrate every kind of question on the items of a run.

    Args:
        records (`Sequence`): items of a run with the share 1.0 and other budgets.
        policy (`str`): whose scores.
        keep, confidence, resamples: as of `calibrate_kind`.

    Raises:
        ValueError: if the run has no native items or no others.
    """
    by_budget: dict[str, dict[tuple[str, int], Record]] = defaultdict(dict)
    for record in records:
        if record["policy"] in (policy, NATIVE) and record["budget"][0].isdigit():
            by_budget[NATIVE if record["policy"] == NATIVE else record["budget"]][record["task"], record["row"]] = (
                record
            )
    native = by_budget.pop(NATIVE, {})
    if not native or not by_budget:
        raise ValueError(f"a calibration needs the budget 1.0 and others of {policy}, found {sorted(by_budget)}")
    shares = {"." in budget for budget in by_budget}
    if len(shares) > 1:
        raise ValueError(f"budgets must all be shares or all be numbers of tokens, found {sorted(by_budget)}")
    kinds: dict[str, list[tuple[str, int]]] = {kind: [] for kind in QUESTION_TYPES.values()}
    for key, record in native.items():
        kinds[question_type(record["question"])].append(key)
    found = []
    for kind, keys in kinds.items():
        scores = [
            (
                budget,
                fmean(by_budget[budget][key]["tokens"] or 0.0 for key in keys) if keys else 0.0,
                [by_budget[budget][key]["score"] for key in keys],
            )
            for budget in sorted(by_budget, key=share_of)
        ]
        images = [(key[0], native[key]["image"]) for key in keys]
        own = [native[key]["score"] for key in keys]
        found.append(calibrate_kind(kind, own, scores, images, keep, confidence, resamples))
    return found


def processor_budget(budget: str | None) -> int | float | None:
    """A budget of a run as the processor takes it."""
    if budget is None:
        return None
    return float(budget) if "." in budget else int(budget)
