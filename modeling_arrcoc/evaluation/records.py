"""A run's files: its settings, one line of JSON an item, and a summary; they survive being killed at any moment.

- `header.json`: settings; a run is continued with the same ones alone.
- `items-00000.jsonl`: items of the first process, each line on disk before the next item begins.
- `summary.json`: figures, written whole when all items are there.
"""

import json
import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any


HEADER, SUMMARY, ITEMS = "header.json", "summary.json", "items-*.jsonl"
KEY = ("task", "row", "policy", "budget")

Record = dict[str, Any]


def record_key(record: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells an item's record from all others of a run: task, number of the row, policy and budget."""
    return tuple(record[name] for name in KEY)


def write_text(path: Path, text: str) -> None:
    """Write a file so that `path` always holds all of it or what was there before."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.absolute().parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all."""
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")


def read_json(path: Path) -> Any:
    """Read a file of a run.

    Raises:
        FileNotFoundError: if it does not exist.
        ValueError: if it is no JSON.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no run: {path.name} is missing; `arrcoc eval` writes it")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is no JSON: {error}") from None


def differences(found: Any, expected: Any, name: str = "") -> list[str]:
    """Where two values of JSON differ, as texts `name: found ..., now ...`."""
    if isinstance(found, dict) and isinstance(expected, dict):
        names = dict.fromkeys((*found, *expected))
        return [
            text
            for key in names
            for text in differences(found.get(key), expected.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if found == expected else [f"{name}: found {found!r:.200}, now {expected!r:.200}"]


def open_run(folder: Path, settings: Mapping[str, Any]) -> None:
    """Begin a run, or check that one that was begun has the same settings.

    Args:
        folder (`Path`): of the run; made if it does not exist.
        settings (`Mapping`): all that items depend on, as values of JSON.

    Raises:
        ValueError: if the folder holds a run with other settings, or files but no run; the message names them.
    """
    settings = json.loads(json.dumps(settings))  # tuples become lists, as in the file
    path = folder / HEADER
    if path.exists():
        if other := differences(read_json(path), settings):
            raise ValueError(f"{folder} holds a run with other settings ({'; '.join(other)}); give another folder")
        return
    if folder.exists() and any(not child.name.startswith(f".{HEADER}-") for child in folder.iterdir()):
        raise ValueError(f"{folder} holds files but no run; give another folder")
    folder.mkdir(parents=True, exist_ok=True)
    write_json(path, settings)


def read_records(folder: Path) -> list[Record]:
    """All items of a run, in the order of task, row, and first appearance of policy and budget.

    A last line that was torn by a kill is no item; it is written again when the run is continued.

    Raises:
        ValueError: if another line is damaged, or an item is found twice.
    """
    records: dict[tuple[Any, ...], Record] = {}
    for path in sorted(folder.glob(ITEMS)):
        for number, line in _whole_lines(path):
            try:
                record = json.loads(line)
                key = record_key(record)
            except (ValueError, KeyError, TypeError) as error:
                raise ValueError(f"{path}:{number} is damaged: {error}") from None
            if key in records:
                raise ValueError(f"{path}:{number}: the item {key} is found twice; two processes wrote one run")
            records[key] = record
    return sorted(records.values(), key=lambda record: (record["task"], record["row"]))


def _whole_lines(path: Path) -> Iterator[tuple[int, str]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            yield number, line.decode("utf-8")


class ItemLog:
    """Appends items to a file of a run; a context manager.

    Args:
        folder (`Path`): of the run.
        process (`int`): number of the process: each writes a file of its own.
    """

    def __init__(self, folder: Path, process: int = 0) -> None:
        self.path = folder / ITEMS.replace("*", f"{process:05d}")

    def __enter__(self) -> "ItemLog":
        if self.path.exists():
            whole = sum(len(line.encode()) for _, line in _whole_lines(self.path))
            if whole < self.path.stat().st_size:
                os.truncate(self.path, whole)  # the line that a kill tore
        self.file = self.path.open("a", encoding="utf-8")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.file.close()

    def append(self, record: Mapping[str, Any]) -> None:
        """Write an item; it is on disk when this returns."""
        self.file.write(json.dumps(record, ensure_ascii=False) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
