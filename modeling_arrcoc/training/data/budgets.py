"""Budgets of training: all of them in one run, and what each question should need."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arrcoc.processing import TIERS, question_type_budget, snap_to_tier

from .rows import Row


BUDGET_SHARES = (0.15, 0.25, 0.35, 0.20, 0.05)

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class BudgetAugmentation:
    """Draws the budget of each sample anew in each epoch, so that one run trains all budgets.

    A draw depends on the seed, the epoch and the index alone: it is the same in every worker, process and resumed
    run.

    Args:
        budgets (`tuple`): tokens an image (ints) or shares of the native count (floats in (0, 1]).
        shares (`tuple[float, ...]`): how often each is drawn; scaled to a sum of 1.
        seed (`int`): another seed, other draws.

    Raises:
        ValueError: A budget is neither, or the shares do not fit the budgets.
    """

    budgets: tuple[int | float, ...] = TIERS
    shares: tuple[float, ...] = BUDGET_SHARES
    seed: int = 0

    def __post_init__(self) -> None:
        for budget in self.budgets:
            whole = type(budget) is int and budget >= 1
            if not whole and not (type(budget) is float and 0 < budget <= 1):
                raise ValueError(f"budgets must be tokens (ints) or shares in (0, 1] (floats), found {budget!r}")
        if len(self.shares) != len(self.budgets) or min(self.shares, default=0) < 0 or sum(self.shares) <= 0:
            raise ValueError(
                f"shares must be one non-negative number for each of the {len(self.budgets)} budgets with a positive "
                f"sum, found {self.shares!r}"
            )

    def draw(self, epoch: int, indices: ArrayLike) -> list[int | float]:
        """Budgets of samples in an epoch.

        Args:
            epoch (`int`): from 0.
            indices: `(samples,)` numbers of the samples.
        """
        edges = np.cumsum(self.shares) / sum(self.shares)
        drawn = np.searchsorted(edges[:-1], uniform(self.seed, epoch, indices), side="right")
        return [self.budgets[number] for number in drawn.tolist()]


def uniform(seed: int, epoch: int, indices: ArrayLike) -> NDArray[np.float64]:
    """Random numbers that depend on their arguments alone (SplitMix64, Steele, Lea & Flood 2014).

    Args:
        seed (`int`): of the run.
        epoch (`int`): from 0.
        indices: `(samples,)` non-negative numbers of samples.

    Returns:
        `(samples,)` in [0, 1).
    """
    state = np.asarray(indices, np.uint64)
    with np.errstate(over="ignore"):  # arithmetic modulo 2^64
        for part in (epoch, seed):
            state = _mix(state + (np.uint64(part) + np.uint64(1)) * _GOLDEN)
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(state: NDArray[np.uint64]) -> NDArray[np.uint64]:
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return state ^ (state >> np.uint64(31))


def suggested_budget(row: Row, tiers: Sequence[int] = TIERS) -> int:
    """The tier that a row's question should need: its own suggestion, its budget, or that of the kind of question.

    Args:
        row (`Row`): the row.
        tiers (`Sequence[int]`): allowed budgets in ascending order.

    Returns:
        One of `tiers`.
    """
    if row.suggested_budget is not None:
        tokens = row.suggested_budget
    elif type(row.token_budget) is int:
        tokens = row.token_budget
    else:
        tokens = question_type_budget(row.question)
    return snap_to_tier(tokens, tiers)


def with_budget(row: Row, budget: int | float) -> Row:
    """The row with a drawn budget; what its data set asked for stays as the suggestion."""
    return replace(row, token_budget=budget, suggested_budget=suggested_budget(row))
