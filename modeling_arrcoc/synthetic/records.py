"""What a layout knows about the page it drew: the facts questions are made from.

Words are referred to by their index on the canvas, because their boxes are final only after augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass


Run = tuple[int, ...]  # indices of the words of one line, left to right
Runs = tuple[Run, ...]  # lines of one text


def as_runs(run: Run) -> Runs:
    """A printed line as a text of one line; a line that was not printed as a text of none."""
    return (run,) if run else ()


@dataclass(frozen=True)
class Entry:
    """A label with its value.

    Args:
        key: printed label, or "" where the value has no label (a letter's date).
        key_runs: its words.
        value: printed value.
        value_runs: its words.
        role: "date", "title", "author", "company", "address", "total" or "" for ordinary entries: roles are asked for
            in natural words and must occur once on a page.
    """

    key: str
    key_runs: Runs
    value: str
    value_runs: Runs
    role: str = ""


@dataclass(frozen=True)
class Choice:
    """A group of checkboxes.

    Args:
        topic: what is to be chosen, "" if nothing is printed before the boxes.
        topic_runs: its words.
        labels: text beside every box.
        label_runs: their words.
        checked: whether each is marked.
        regions: canvas regions of the boxes.
    """

    topic: str
    topic_runs: Runs
    labels: tuple[str, ...]
    label_runs: tuple[Runs, ...]
    checked: tuple[bool, ...]
    regions: tuple[int, ...]


@dataclass(frozen=True)
class Grid:
    """A table: header and row names, cell texts and their words; empty cells have text "".

    Args:
        name: what a row is ("item", "row").
        headers: names of the value columns.
        header_runs: their words.
        rows: names of the rows.
        row_runs: their words.
        cells: text by row and value column.
        cell_runs: words by row and value column.
        numeric: whether the numbers of a column may be compared.
    """

    name: str
    headers: tuple[str, ...]
    header_runs: tuple[Runs, ...]
    rows: tuple[str, ...]
    row_runs: tuple[Runs, ...]
    cells: tuple[tuple[str, ...], ...]
    cell_runs: tuple[tuple[Runs, ...], ...]
    numeric: tuple[bool, ...]


@dataclass(frozen=True)
class Chart:
    """A chart: labels along the axis (or of slices) and one value for every label and series.

    Args:
        labels: categories.
        label_runs: their words.
        series: names of the series, one empty name if there is only one.
        series_runs: words of the legend entries, empty where there is no legend.
        colors: colour name of every series (of every label if there is one series).
        values: printed number by label and series.
        value_runs: words of the printed numbers.
        regions: canvas regions of the marks by label and series.
    """

    labels: tuple[str, ...]
    label_runs: tuple[Runs, ...]
    series: tuple[str, ...]
    series_runs: tuple[Runs, ...]
    colors: tuple[str, ...]
    values: tuple[tuple[str, ...], ...]
    value_runs: tuple[tuple[Runs, ...], ...]
    regions: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Lines:
    """Lines of running text in reading order; ``numbered`` where "line n" is meaningful on this page."""

    runs: Runs
    numbered: bool


@dataclass(frozen=True)
class Heading:
    """A section heading or caption that may be searched for."""

    text: str
    runs: Runs
    noun: str


@dataclass(frozen=True)
class Shape:
    """One drawn shape of a scene."""

    color: str
    form: str
    size: str
    region: int
    center: tuple[float, float]


Record = Entry | Choice | Grid | Chart | Lines | Heading | Shape
