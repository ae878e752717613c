"""Rows from a list of sources as a configuration file names them."""

from collections.abc import Mapping
from typing import Any

from .converters import READERS
from .reading import Rows, read_rows


def read_sources(source: Any, **options: Any) -> Rows:
    """Read rows from files of the project's own form and from published data sets.

    Args:
        source: What `read_rows` takes; or a mapping with `reader`, a name in `READERS`, and the arguments of that
            reader, such as `{"reader": "docvqa", "annotations": "train_v1.0.json", "images": "docvqa"}`; or a list of
            these.
        options: Keywords of `read_rows`; `bad_rows`, `check_images` and `require_answers` hold for the readers too,
            where the mapping does not give them.

    Returns:
        `Rows` of all sources, one after another.

    Raises:
        ValueError: A mapping names no known reader, or arguments that the reader does not take.
        FileNotFoundError, ValueError: As `read_rows`.
    """
    rows = Rows()
    for part in source if isinstance(source, list | tuple) else [source]:
        found = _published(part, options) if isinstance(part, Mapping) else read_rows(part, **options)
        rows.extend(found)
        rows.bad.extend(found.bad)
    return rows


def _published(source: Mapping[str, Any], options: Mapping[str, Any]) -> Rows:
    arguments: dict[str, Any] = dict(source)
    name = arguments.pop("reader", None)
    if name not in READERS:
        raise ValueError(f"reader must be one of {sorted(READERS)}, found {name!r} in {dict(source)!r}")
    shared = {key: options[key] for key in ("bad_rows", "check_images", "require_answers") if key in options}
    try:
        return READERS[name](**(shared | arguments))
    except TypeError as error:
        raise ValueError(f"{error}, found {dict(source)!r}") from error
