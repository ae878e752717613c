"""Read rows from JSON lines, Parquet files, folders and `datasets` objects; bad ones are counted and named."""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from transformers.utils import logging

from .rows import Row, StoredImage, image_size, row_from_dict


logger = logging.get_logger(__name__)

BAD_ROW_POLICIES = ("skip", "raise")
_SHOWN = 10  # bad rows that the warning spells out


@dataclass(frozen=True)
class BadRow:
    """A row that could not be used.

    Args:
        source (`str`): file or data set.
        line (`int`): its line, or its number where the source has no lines, from 1.
        reason (`str`): what is wrong.
    """

    source: str
    line: int
    reason: str

    def __str__(self) -> str:
        return f"{self.source}:{self.line}: {self.reason}"


class Rows(list[Row]):
    """Rows that were read, with those that were not in `bad`."""

    def __init__(self, rows: Iterable[Row] = (), bad: Iterable[BadRow] = ()):
        super().__init__(rows)
        self.bad = list(bad)


def read_rows(
    source: Any,
    image_root: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    bad_rows: str = "skip",
    check_images: bool = False,
    require_answers: bool = True,
) -> Rows:
    """Read rows; images are opened later, when they are needed.

    Args:
        source: A `.jsonl` or `.parquet` file, a folder with such files or one that `datasets` saved, a
            `datasets.Dataset`, or a list of these.
        image_root (path, *optional*): folder that paths of images are relative to; by default that of the file.
        columns (`Mapping[str, str]`, *optional*): for fields of `row_from_dict`, the names they have in the source.
        bad_rows (`str`): `"skip"` counts bad rows, reports them in one warning and goes on; `"raise"` stops at the
            first.
        check_images (`bool`): whether rows whose images are missing or have no readable header are bad rows now,
            rather than when they are decoded.
        require_answers (`bool`): whether a row without answers is a bad row.

    Returns:
        `Rows`, a list of `Row` with the bad ones in `.bad`.

    Raises:
        FileNotFoundError: A path does not exist, or a folder holds no rows.
        ValueError: A row is bad and `bad_rows="raise"`, or all are, or a source has no known form.
    """
    rows = Rows()
    for part in source if isinstance(source, list | tuple) else [source]:
        name, records, folder = _open_source(part)
        root = folder if image_root is None else image_root
        parse = partial(_parse, Path(name).stem, root, columns, require_answers)
        found = collect_rows(name, records, parse, bad_rows, check_images)
        rows.extend(found)
        rows.bad.extend(found.bad)
    return rows


def _parse(
    name: str,
    image_root: str | os.PathLike | None,
    columns: Mapping[str, str] | None,
    require_answers: bool,
    record: Any,
    line: int,
) -> list[Row]:
    if not isinstance(record, Mapping):
        raise ValueError(f"expected an object with fields, found {type(record).__name__}")
    return [row_from_dict(record, f"{name}_{line}", image_root, columns, require_answers)]


def collect_rows(
    name: str,
    records: Iterable[tuple[int, Any]],
    parse: Callable[[Any, int], list[Row]],
    bad_rows: str = "skip",
    check_images: bool = False,
) -> Rows:
    """Turn records into rows and keep account of the bad ones.

    Args:
        name (`str`): of the source, for messages.
        records: (line, record) pairs; a record that is an exception stands for a line that could not be read.
        parse: makes rows of a record and its line; the errors that malformed records cause mark a bad one.
        bad_rows (`str`): `"skip"` or `"raise"`.
        check_images (`bool`): whether the headers of the images are read.

    Raises:
        ValueError: A row is bad and `bad_rows="raise"`, or all are.
    """
    if bad_rows not in BAD_ROW_POLICIES:
        raise ValueError(f"bad_rows must be one of {BAD_ROW_POLICIES}, found {bad_rows!r}")
    rows = Rows()
    for line, record in records:
        try:
            if isinstance(record, Exception):
                raise ValueError(str(record))
            found = parse(record, line)
            if check_images:
                for image in (image for row in found for image in row.images):
                    image_size(image)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"field {error} is missing" if isinstance(error, KeyError) else str(error)
            bad = BadRow(name, line, reason)
            if bad_rows == "raise":
                raise ValueError(str(bad)) from error
            rows.bad.append(bad)
        else:
            rows.extend(found)
    if rows.bad:
        shown = "".join(f"\n  {bad}" for bad in rows.bad[:_SHOWN])
        more = f"\n  and {len(rows.bad) - _SHOWN} more" if len(rows.bad) > _SHOWN else ""
        summary = f"{name}: {len(rows.bad)} bad rows, {len(rows)} good ones:{shown}{more}"
        if not rows:
            raise ValueError(summary)
        logger.warning(summary)
    return rows


def _open_source(source: Any) -> tuple[str, Iterator[tuple[int, Any]], Path | None]:
    """Name of a source, its numbered records, and the folder that its images are relative to."""
    if not isinstance(source, str | os.PathLike):
        if not hasattr(source, "features") or not hasattr(source, "select_columns"):
            raise ValueError(
                "rows are read from .jsonl and .parquet files, folders and datasets.Dataset objects (one split), "
                f"found {type(source).__name__}"
            )
        return "dataset", _dataset_records(source), None
    path = Path(source)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if path.is_dir():
        return _open_folder(path)
    if path.suffix == ".jsonl":
        return str(path), _json_lines(path), path.parent
    if path.suffix == ".parquet":
        from datasets import Dataset

        return str(path), _dataset_records(Dataset.from_parquet(str(path))), path.parent
    raise ValueError(f"rows are read from .jsonl and .parquet files, found {path}")


def _open_folder(folder: Path) -> tuple[str, Iterator[tuple[int, Any]], Path | None]:
    if (folder / "dataset_info.json").exists():
        from datasets import load_from_disk

        return str(folder), _dataset_records(load_from_disk(str(folder))), folder
    files = sorted(path for path in folder.iterdir() if path.suffix in (".jsonl", ".parquet"))
    if len(files) == 1:
        return _open_source(files[0])
    raise FileNotFoundError(
        f"{folder} must hold one .jsonl or .parquet file, or what `save_to_disk` of a datasets.Dataset writes; found "
        f"{', '.join(path.name for path in files) or 'none'} (name the files one by one if there are several)"
    )


def _json_lines(path: Path) -> Iterator[tuple[int, Any]]:
    with open(path, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError as error:  # broken JSON, or bytes that are no UTF-8
                yield number, ValueError(f"not a line of JSON: {error}")


def _dataset_records(dataset: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """Records of a `datasets.Dataset` with `StoredImage`s in place of encoded images."""
    stored = {
        column: _undecoded(dataset.select_columns([column]), column)
        for column in dataset.column_names
        if column in ("image", "images") and not _is_text(dataset.features[column])
    }
    counts = {column: _image_counts(images, column) for column, images in stored.items()}
    texts = dataset.remove_columns(list(stored))
    for index in range(len(dataset)):
        record: dict[str, Any] = dict(texts[index]) if texts.column_names else {}
        for column, images in stored.items():
            count = counts[column][index]
            if isinstance(count, bool):
                record[column] = StoredImage(images, index, column) if count else None
            else:
                record[column] = [StoredImage(images, index, column, position) for position in range(count)]
        yield index + 1, record


def _is_text(feature: Any) -> bool:
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "dtype", None) in ("string", "large_string")


def _undecoded(dataset: Any, column: str) -> Any:
    from datasets import Image

    feature = dataset.features[column]
    if isinstance(feature, Image):
        return dataset.cast_column(column, Image(decode=False))
    if isinstance(getattr(feature, "feature", None), Image):
        return dataset.cast_column(column, type(feature)(Image(decode=False)))
    return dataset


def _image_counts(dataset: Any, column: str) -> Sequence[int | bool]:
    """For each row the number of images of a list column, or whether a plain column has one; no image is read."""
    import pyarrow as pa
    import pyarrow.compute as pc

    counts: list[int | bool] = []
    for batch in dataset.with_format("arrow").iter(batch_size=1000):
        values = batch[column]
        if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
            counts += pc.fill_null(pc.list_value_length(values), 0).to_pylist()
        else:
            counts += values.is_valid().to_pylist()
    return counts
