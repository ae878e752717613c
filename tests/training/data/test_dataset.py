"""Rows behind a data loader: decoding, budgets by epoch, broken images, workers, synthetic documents."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from arrcoc.synthetic import DocumentStream
from arrcoc.training.data import (
    ArrCocBatchSampler,
    ArrCocCollator,
    BudgetAugmentation,
    RowDataset,
    SyntheticRows,
    SyntheticRowStream,
    suggested_budget,
)
from tests.helpers.tiny_processors import tiny_processor
from tests.training.data.helpers import make_rows, save_picture


def keep(rows):
    """A collator that hands the rows on."""
    return [(row.id, row.token_budget) for row in rows]


@pytest.fixture
def files(tmp_path):
    """Rows with files, two of which are broken."""
    rows = make_rows(6, images=lambda number: (save_picture(tmp_path / f"{number}.png", seed=number),))
    (tmp_path / "2.png").write_text("no picture")
    (tmp_path / "3.png").unlink()
    return rows


def test_rows_are_decoded_and_keep_their_budget(tmp_path):
    rows = make_rows(2, images=lambda number: (save_picture(tmp_path / f"{number}.png"),), token_budget=7)
    dataset = RowDataset(rows)
    assert len(dataset) == 2
    assert dataset[1].images[0].mode == "RGB"
    assert dataset[1].token_budget == 7
    assert dataset.image_budgets(0) == [[7], [7]]
    with pytest.raises(ValueError, match="at least one row"):
        RowDataset([])
    with pytest.raises(ValueError, match="bad_images must be one of"):
        RowDataset(rows, bad_images="ignore")


def test_budgets_are_drawn_anew_each_epoch():
    augmentation = BudgetAugmentation((2, 3, 4, 5), (1, 1, 1, 1), seed=5)
    rows = make_rows(20, suggested_budget=256) + make_rows(1, images=())
    dataset = RowDataset(rows, augmentation)
    seen = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        seen.append([row.token_budget for row in dataset])
        assert seen[-1] == [*augmentation.draw(epoch, range(20)), None]
        assert dataset.image_budgets(epoch) == [[budget] for budget in seen[-1][:-1]] + [[]]
    assert seen[0] != seen[1] != seen[2]
    assert {suggested_budget(row) for row in dataset} == {256}


def test_broken_images_are_replaced_and_counted(files):
    dataset = RowDataset(files, BudgetAugmentation((2, 3, 4, 5), (1, 1, 1, 1)))
    assert [row.id for row in dataset] == ["r0", "r1", "r4", "r4", "r4", "r5"]
    assert dataset.bad_rows == ["r2", "r3"]
    drawn = dataset.budgets.draw(0, range(6))
    assert [row.token_budget for row in dataset] == drawn  # of the place, as the sampler planned
    with pytest.raises(ValueError, match="row 'r2'"):
        list(RowDataset(files, bad_images="raise"))
    with pytest.raises(ValueError, match="all 2 rows are missing or broken"):
        RowDataset(files[2:4])[0]


@pytest.mark.parametrize("persistent", [False, True])
def test_workers_see_epochs_and_report_bad_rows(files, persistent):
    dataset = RowDataset(files, BudgetAugmentation((2, 3, 4, 5), (1, 1, 1, 1)))
    sampler = ArrCocBatchSampler(dataset, batch_size=2)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=2, collate_fn=keep, persistent_workers=persistent)
    for epoch in range(3):
        sampler.set_epoch(epoch)
        expected = [keep([dataset[index] for index in batch]) for batch in sampler]
        assert list(loader) == expected
    assert dataset.bad_rows == ["r2", "r3"]


def test_synthetic_rows():
    rows = SyntheticRows(DocumentStream(first=3, count=2, size=320), questions=2)
    assert len(rows) == 4
    assert [row.id.split("_")[1] for row in rows] == ["3", "3", "4", "4"]
    assert rows[0].question != rows[1].question
    np.testing.assert_array_equal(np.asarray(rows[0].images[0]), np.asarray(rows[1].images[0]))
    assert rows[-1].id == rows[3].id
    assert [row.id for row in rows[1:3]] == [rows[1].id, rows[2].id]
    assert all(row.sizes == ((320, 320),) and row.difficulty for row in rows)
    with pytest.raises(IndexError):
        rows[4]
    with pytest.raises(ValueError, match="a count"):
        SyntheticRows(DocumentStream())
    with pytest.raises(ValueError, match="questions must be"):
        SyntheticRows(DocumentStream(count=1), questions=0)
    batch = ArrCocCollator(tiny_processor("qwen3_vl"))([RowDataset(rows, BudgetAugmentation())[1]])
    assert batch["image_token_budgets"].tolist() in ([64], [100])  # 100 cells: larger budgets are clipped


def test_synthetic_stream_is_shared_among_workers():
    stream = SyntheticRowStream(DocumentStream(count=4, size=320))
    alone = [row.id for row in stream]
    shared = [identifier for batch in DataLoader(stream, 1, num_workers=2, collate_fn=keep) for identifier, _ in batch]
    assert sorted(shared) == sorted(alone)
    assert len(set(alone)) == len(alone) > 4


def test_collating_in_workers():
    dataset = RowDataset(make_rows(4), BudgetAugmentation((2, 3), (1, 1)))
    collator = ArrCocCollator(tiny_processor("qwen3_vl"))
    sampler = ArrCocBatchSampler(dataset, batch_size=2)
    for batch, indices in zip(
        DataLoader(dataset, batch_sampler=sampler, collate_fn=collator, num_workers=1), sampler, strict=True
    ):
        expected = collator([dataset[index] for index in indices])
        assert batch["row_ids"] == expected["row_ids"]
        assert torch.equal(batch["input_ids"], expected["input_ids"])
        assert torch.equal(batch["pixel_values"], expected["pixel_values"])
