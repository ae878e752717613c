"""Rows as a PyTorch data set: images opened on access, budgets drawn anew each epoch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers.utils import logging

from .budgets import BudgetAugmentation, with_budget
from .reading import BAD_ROW_POLICIES
from .rows import Row


logger = logging.get_logger(__name__)


class RowDataset(Dataset[Row]):
    """Rows with their images decoded, for `torch.utils.data.DataLoader` and the Trainer, with `ArrCocCollator`.

    The epoch lies in shared memory, so that workers that live on from epoch to epoch see it change.

    Args:
        rows (`Sequence[Row]`): the samples; any sequence, also one that makes its rows on access.
        budgets (`BudgetAugmentation`, *optional*): draws each sample's budget anew in each epoch; without it rows keep
            theirs.
        bad_images (`str`): what to do with a row whose image is missing or broken: `"skip"` counts it, warns and takes
            the next row that is sound in its place; `"raise"` stops.

    Raises:
        ValueError: There are no rows, or `bad_images` is neither of the two.
    """

    def __init__(
        self, rows: Sequence[Row], budgets: BudgetAugmentation | None = None, bad_images: str = "skip"
    ) -> None:
        if not len(rows):
            raise ValueError("a data set needs at least one row")
        if bad_images not in BAD_ROW_POLICIES:
            raise ValueError(f"bad_images must be one of {BAD_ROW_POLICIES}, found {bad_images!r}")
        self.rows = rows
        self.budgets = budgets
        self.bad_images = bad_images
        self._epoch = torch.zeros(1, dtype=torch.long).share_memory_()
        self._bad = torch.zeros(len(rows), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def epoch(self) -> int:
        """Number of the epoch that is being read."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch, from 0; accelerate's data loaders call this."""
        self._epoch.fill_(epoch)

    @property
    def bad_rows(self) -> list[str]:
        """Ids of the rows whose images were found missing or broken, by this process or its workers."""
        return [self.rows[index].id for index in self._bad.nonzero().flatten().tolist()]

    def image_budgets(self, epoch: int) -> list[list[Any]]:
        """`(samples,)` for each sample the `token_budget` of each of its images in an epoch."""
        if self.budgets is None:
            return [row.image_budgets for row in self.rows]
        drawn = self.budgets.draw(epoch, range(len(self.rows)))
        return [[budget] * len(row.images) for budget, row in zip(drawn, self.rows, strict=True)]

    def __getitem__(self, index: int) -> Row:
        """The row, decoded, with its budget of this epoch.

        Raises:
            IndexError: There is no such row.
            ValueError: An image is missing or broken and `bad_images="raise"`, or those of all rows are.
        """
        size = len(self.rows)
        if not 0 <= index < size:
            raise IndexError(f"row {index} of {size}")
        for step in range(size):
            place = (index + step) % size
            if self._bad[place]:
                continue
            try:
                row = self.rows[place].decoded()
            except ValueError as error:
                if self.bad_images == "raise":
                    raise
                self._bad[place] = True
                logger.warning(f"{error}; {int(self._bad.sum())} bad rows so far")
                continue
            if self.budgets is None or not row.images:
                return row
            return with_budget(row, self.budgets.draw(self.epoch, [index])[0])
        raise ValueError(f"the images of all {size} rows are missing or broken")
