"""What visual tokens buy: compression, score a token, and whether budgets were chosen as a sweep says they should."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


def compression_ratio(native_tokens: Sequence[int], tokens: Sequence[int]) -> float:
    """Visual tokens at native budget over visual tokens used, of all images together.

    Raises:
        ValueError: if the numbers of images differ, there are none, or one has no tokens.
    """
    if len(native_tokens) != len(tokens) or not tokens or min(tokens) < 1:
        raise ValueError(f"expected tokens of the same images, at least 1 each, found {native_tokens} and {tokens}")
    return sum(native_tokens) / sum(tokens)


def token_efficiency(score: float, native_score: float, native_tokens: float, tokens: float) -> float:
    """Share of the native score that is kept over the share of tokens that is kept; 1 at native budget.

    Raises:
        ValueError: if `native_score` or a number of tokens is not positive.
    """
    if native_score <= 0 or native_tokens <= 0 or tokens <= 0:
        raise ValueError(
            f"expected a positive native score and positive tokens, found {native_score}, {native_tokens}, {tokens}"
        )
    return (score / native_score) / (tokens / native_tokens)


@dataclass(frozen=True)
class BudgetCalibration:
    """How budgets that were chosen for items compare with what the items needed in a sweep.

    Attributes:
        items (`int`): items that some budget of the sweep answers; the shares below are of these.
        unanswered (`int`): items that no budget answers.
        under, exact, over (`float`): shares of items with less than they needed, the sweep's step that they needed,
            and more.
        log2_ratio (`float`): mean of log2(chosen / needed): 1 is twice too much.
        correlation (`float`): Spearman's rank correlation of chosen and needed budgets; 0 if one of them is constant.
    """

    items: int
    unanswered: int
    under: float
    exact: float
    over: float
    log2_ratio: float
    correlation: float


def budget_calibration(
    chosen: Sequence[float], budgets: Sequence[float], scores: Sequence[Sequence[float]], target: float = 0.5
) -> BudgetCalibration:
    """Compare chosen budgets with the least ones that suffice.

    An item needs the smallest budget of the sweep from which on every budget scores at least `target`: one lucky
    answer at a low budget does not count.

    Args:
        chosen (`Sequence[float]` of length `items`): tokens that were chosen.
        budgets (`Sequence[float]` of length `steps`): tokens of the sweep, ascending.
        scores (`Sequence[Sequence[float]]` of shape `(items, steps)`): score of each item at each budget.
        target (`float`): score of an answered item.

    Returns:
        [`BudgetCalibration`]; a chosen budget between two of the sweep counts as the lower one.

    Raises:
        ValueError: if shapes disagree, budgets do not ascend, or no item is answered.
    """
    table, steps = np.asarray(scores, np.float64), np.asarray(budgets, np.float64)
    if table.shape != (len(chosen), len(steps)) or (np.diff(steps) <= 0).any() or steps[0] <= 0:
        raise ValueError(
            f"expected scores of shape (items, steps) for {len(chosen)} chosen budgets and ascending steps, found "
            f"{table.shape} for the steps {list(budgets)}"
        )
    enough = np.logical_and.accumulate((table >= target)[:, ::-1], axis=1).sum(1)  # steps that suffice, from the top
    answered = enough > 0
    if not answered.any():
        raise ValueError(f"no item reaches a score of {target} at the largest budget")
    needed = len(steps) - enough[answered]
    tokens = np.asarray(chosen, np.float64)[answered]
    taken = np.searchsorted(steps, tokens, side="right") - 1
    ranks = [np.unique(values, return_inverse=True) for values in (tokens, steps[needed])]
    return BudgetCalibration(
        items=int(answered.sum()),
        unanswered=int((~answered).sum()),
        under=float((taken < needed).mean()),
        exact=float((taken == needed).mean()),
        over=float((taken > needed).mean()),
        log2_ratio=float(np.log2(tokens / steps[needed]).mean()),
        correlation=_spearman(*(_mean_ranks(inverse) for _, inverse in ranks)),
    )


def _mean_ranks(order: np.ndarray) -> np.ndarray:
    """Ranks of values given by their numbers in ascending order, equal ones sharing their mean rank."""
    counts = np.bincount(order)
    return (counts.cumsum() - (counts - 1) / 2)[order]


def _spearman(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    norm = np.sqrt((first**2).sum() * (second**2).sum())
    return float((first * second).sum() / norm) if norm > 0 else 0.0
