"""Rows from files, folders and `datasets` objects, and the account of bad ones."""

import json
import logging
import pickle

import numpy as np
import pytest
from transformers.utils import logging as transformers_logging

from arrcoc.training.data import Row, StoredImage, read_rows
from tests.training.data.helpers import picture, save_picture, write_lines


GOOD = {"image": "a.png", "question": "What?", "answers": ["A"]}


@pytest.fixture
def folder(tmp_path):
    save_picture(tmp_path / "a.png")
    return tmp_path


@pytest.fixture
def warnings_seen():
    """Texts that the library warns with."""
    seen: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: seen.append(record.getMessage())
    logger = transformers_logging.get_logger("arrcoc.training.data.reading")
    logger.addHandler(handler)
    yield seen
    logger.removeHandler(handler)


def test_json_lines(folder):
    path = write_lines(folder / "rows.jsonl", [GOOD | {"id": "x"}, "", GOOD | {"image": None}])
    rows = read_rows(path)
    assert rows.bad == []
    assert [row.id for row in rows] == ["x", "rows_3"]
    assert rows[0].images == (folder / "a.png",)
    assert rows[0].decoded().images[0].size == (96, 64)
    assert rows[1].images == ()
    assert read_rows(path, image_root="/other")[0].images[0].as_posix() == "/other/a.png"


def test_bad_rows_are_counted_and_named(folder, warnings_seen):
    path = write_lines(
        folder / "rows.jsonl", [GOOD, '{"question": ', GOOD | {"answers": []}, "[1]", GOOD, GOOD | {"question": 3}]
    )
    rows = read_rows(path)
    assert len(rows) == 2
    assert [(bad.source, bad.line) for bad in rows.bad] == [(str(path), line) for line in (2, 3, 4, 6)]
    assert "not a line of JSON" in rows.bad[0].reason
    assert "expected an object with fields, found list" in rows.bad[2].reason
    (warning,) = warnings_seen
    assert "4 bad rows, 2 good ones" in warning
    assert f"{path}:3: answers" in warning
    with pytest.raises(ValueError, match=f"{path}:2: not a line of JSON"):
        read_rows(path, bad_rows="raise")
    with pytest.raises(ValueError, match="bad_rows must be one of"):
        read_rows(path, bad_rows="ignore")


def test_long_accounts_are_cut_and_only_bad_rows_are_an_error(folder, warnings_seen):
    bad = [GOOD | {"answers": []}] * 13
    read_rows(write_lines(folder / "some.jsonl", [GOOD, *bad]))
    assert warnings_seen[0].endswith("and 3 more")
    with pytest.raises(ValueError, match="13 bad rows, 0 good ones"):
        read_rows(write_lines(folder / "none.jsonl", bad))


def test_bytes_that_are_no_text(folder):
    path = folder / "rows.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "\xff"}\n')
    assert [bad.line for bad in read_rows(path).bad] == [2]


def test_missing_images_are_bad_rows_when_asked_for(folder):
    (folder / "text.png").write_text("no picture")
    records = [GOOD, GOOD | {"image": "missing.png"}, GOOD | {"image": "text.png"}]
    path = write_lines(folder / "rows.jsonl", records)
    assert read_rows(path).bad == []
    rows = read_rows(path, check_images=True)
    assert len(rows) == 1
    assert [bad.line for bad in rows.bad] == [2, 3]
    assert "missing.png" in rows.bad[0].reason


def test_folders_and_lists(folder):
    with pytest.raises(FileNotFoundError, match="must hold one .jsonl or .parquet file.*found none"):
        read_rows(folder)
    first = write_lines(folder / "one.jsonl", [GOOD])
    assert len(read_rows(folder)) == 1
    second = write_lines(folder / "two.jsonl", [GOOD, GOOD | {"answers": []}])
    with pytest.raises(FileNotFoundError, match="one.jsonl, two.jsonl"):
        read_rows(folder)
    both = read_rows([first, second])
    assert (len(both), len(both.bad)) == (2, 1)
    with pytest.raises(FileNotFoundError, match="does not exist"):
        read_rows(folder / "three.jsonl")
    with pytest.raises(ValueError, match="rows are read from .jsonl and .parquet files, found .*a.png"):
        read_rows(folder / "a.png")
    with pytest.raises(ValueError, match="found dict"):
        read_rows({"question": "Q"})


@pytest.fixture
def stored():
    """A `datasets.Dataset` with encoded images, one row without."""
    datasets = pytest.importorskip("datasets")
    records = [{"image": picture(seed=number), "query": f"Q{number}?", "answers": ["A"]} for number in range(3)]
    return datasets.Dataset.from_list([*records, {"image": None, "query": "text?", "answers": ["B"]}])


@pytest.mark.parametrize("form", ["memory", "parquet", "saved", "shuffled"])
def test_datasets(stored, form, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    order = [0, 1, 2, 3]
    if form == "parquet":
        stored.to_parquet(tmp_path / "rows.parquet")
        source = tmp_path / "rows.parquet"
    elif form == "saved":
        stored.save_to_disk(tmp_path / "saved")
        source = tmp_path / "saved"
    elif form == "shuffled":
        order = [2, 3, 0]
        source = stored.select(order)
    else:
        source = stored
    rows = read_rows(source, columns={"question": "query"})
    assert [row.question for row in rows] == [["Q0?", "Q1?", "Q2?", "text?"][number] for number in order]
    for row, number in zip(rows, order, strict=True):
        assert [type(image) for image in row.images] == ([] if number == 3 else [StoredImage])
        for copy in (row, pickle.loads(pickle.dumps(row))):
            assert copy.image_sizes() == [(96, 64)] * len(row.images)
            for image in copy.decoded().images:
                np.testing.assert_array_equal(np.asarray(image), np.asarray(picture(seed=number)))


def test_datasets_with_lists_of_images_and_paths(folder):
    datasets = pytest.importorskip("datasets")
    lists = datasets.Dataset.from_list(
        [
            {"images": [picture(seed=0), picture(64, 32, seed=1)], "question": "Same?", "answers": ["no"]},
            {"images": [], "question": "2 + 2?", "answers": ["4"]},
        ]
    )
    two, text = read_rows(lists)
    assert two.image_sizes() == [(96, 64), (64, 32)]
    assert text.images == ()
    paths = datasets.Dataset.from_list([{"image": "a.png", "question": "Q?", "answers": ["A"]}])
    (row,) = read_rows(paths, image_root=folder)
    assert row.images == (folder / "a.png",)


def test_broken_bytes(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {"image": datasets.Image(), "question": datasets.Value("string"), "answer": datasets.Value("string")}
    )
    broken = {"image": [{"bytes": b"nothing", "path": None}], "question": ["Q?"], "answer": ["A"]}
    source = datasets.Dataset.from_dict(broken, features=features)
    (row,) = read_rows(source)
    with pytest.raises(ValueError, match="row 'dataset_1': bytes in column 'image' are no image"):
        row.decoded()
    with pytest.raises(ValueError, match="1 bad rows"):
        read_rows(source, check_images=True)


def test_the_command_synth_writes_such_rows(tmp_path):
    from arrcoc.cli.synth import synth

    synth(tmp_path / "out", n=2, size="320", workers=1)
    rows = read_rows(tmp_path / "out" / "train.jsonl", bad_rows="raise", check_images=True)
    assert len(rows) >= 2
    assert all(isinstance(row, Row) and row.sizes == tuple(row.decoded().image_sizes()) for row in rows)
    assert any(row.evidence for row in rows)
