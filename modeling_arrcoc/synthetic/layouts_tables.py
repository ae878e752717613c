"""Tables of every look, as pages of their own and as parts of forms and invoices."""

from __future__ import annotations

from dataclasses import dataclass, replace

from . import templates, values
from .canvas import Color
from .decorations import page_marks
from .dice import Dice
from .fonts import GlyphSet
from .records import Grid, Runs, as_runs
from .sheet import Layout, Sheet, any_case, subject


_NUMERIC = {"amount", "integer", "percent", "decimal", "measure"}


@dataclass(frozen=True)
class GridLook:
    """Lines and colours of a table.

    Args:
        rows: line between rows: "", "solid" or "dots".
        columns: lines between columns.
        outer: frame around the table.
        header: "plain", "shade", "dark" or "rule".
        zebra: every second row tinted.
    """

    rows: str
    columns: bool
    outer: bool
    header: str
    zebra: bool = False


GRID = GridLook("solid", True, True, "plain")
GRID_SHADED = GridLook("solid", True, True, "shade")
RULES = GridLook("solid", False, False, "rule")
SPARSE = GridLook("", False, False, "rule")
DOTTED = GridLook("dots", False, False, "plain")
ZEBRA = GridLook("", False, False, "dark", True)
COLUMNS = GridLook("", True, True, "rule")
PLAIN = GridLook("", False, False, "plain")


@dataclass(frozen=True)
class TableData:
    """Texts of a table: the first header belongs to the row names."""

    name: str
    headers: list[str]
    rows: list[str]
    cells: list[list[str]]
    numeric: list[bool]


def random_table(sheet: Sheet, rows: int, columns: int) -> TableData:
    """Row names and columns of random types; a few cells stay empty."""
    dice, words = sheet.dice, sheet.words
    kinds = dice.sample(templates.TABLE_HEADERS, columns)
    names = dict.fromkeys(_row_name(sheet) for _ in range(rows))
    headers = [_column_name(sheet, header) for header, _ in kinds]
    numeric = [kind in _NUMERIC for _, kind in kinds]
    blank = 0.06 if dice.chance(0.5) else 0.0
    columns_of = [values.column(kind, len(names), dice, words) for _, kind in kinds]
    cells = [["" if dice.chance(blank) else text for text in row] for row in zip(*columns_of, strict=True)]
    first = dice.pick(templates.ROW_HEADERS)
    return TableData("row", [any_case(dice, first), *headers], list(names), cells, numeric)


def _row_name(sheet: Sheet) -> str:
    dice, words = sheet.dice, sheet.words
    draw = dice.integer(0, 5)
    if draw == 0:
        return words.place(dice)
    if draw == 1:
        return values.product(dice, words).capitalize()
    if draw == 2:
        return f"{words.brand(dice)} {dice.pick(words.industries)}"
    if draw == 3:
        return words.surname(dice)
    return words.phrase(dice, dice.integer(1, 2)).title() if draw == 4 else values.code(dice)


def _column_name(sheet: Sheet, header: str) -> str:
    dice = sheet.dice
    if dice.chance(0.35):
        header = f"{sheet.words.noun(dice).capitalize()} {header}"
    return header.upper() if sheet.theme.key_case == "upper" else header


def draw_table(
    sheet: Sheet, data: TableData, look: GridLook, scale: float = 1.0, fill: bool = False, spare: int = 0
) -> bool:
    """Print a table at the cursor over the sheet's width; columns and rows that do not fit are left out.

    Args:
        sheet: where to print.
        data: texts.
        look: lines and colours.
        scale: letter size relative to the sheet's.
        fill: stretch the columns to the full width.
        spare: empty rows below, as far as there is room, as printed forms have.

    Returns:
        False, with nothing printed, if not even the header and one row fit.
    """
    dice = sheet.dice
    look = look if sheet.dark or look.header != "dark" else replace(look, header="shade")
    header_role = "heading" if dice.chance(0.6) else "label"
    while True:  # smaller letters until two columns fit
        head, body = sheet.glyphs(header_role, scale), sheet.glyphs("value", scale)
        pad = max(4, round(body.size * 0.45))
        rows = [body.fit(name, sheet.width * 0.5) or name[:4] for name in data.rows]
        widths = _column_widths(data, rows, head, body, pad, sheet.width)
        if len(widths) > 1 or body.size == sheet.least:
            break
        scale *= 0.8
    row_height = max(head.height, body.height) + (
        dice.integer(2, 8) if look.rows or look.zebra else dice.integer(0, 4)
    )
    count = min(len(rows), int((sheet.room - row_height) // row_height))
    if len(widths) < 2 or count < 1:
        return False
    if fill or dice.chance(0.6):
        share = (sheet.width - sum(widths)) / len(widths)
        widths = [width + share for width in widths]
    edges = [float(sheet.left)]
    for width in widths:
        edges.append(edges[-1] + width)
    top = sheet.y
    spare = min(spare, int((sheet.room - row_height) // row_height) - count)
    _paint(sheet, look, edges, top, row_height, count + spare)
    printed = _Printer(sheet, edges, pad, [False, *data.numeric])
    color: Color = (255, 255, 255) if look.header == "dark" else sheet.theme.ink
    header_runs = printed.row(data.headers, top, row_height, head, color)
    row_runs, cell_runs, y = [], [], top
    for index in range(count):
        y += row_height
        runs = printed.row([rows[index], *data.cells[index]], y, row_height, body, sheet.theme.pen)
        row_runs.append(runs[0])
        cell_runs.append(tuple(runs[1:]))
    shown = len(widths) - 1
    sheet.canvas.records.append(
        Grid(
            data.name,
            tuple(data.headers[1 : shown + 1]),
            tuple(header_runs[1:]),
            tuple(rows[:count]),
            tuple(row_runs),
            tuple(tuple(row[:shown]) for row in data.cells[:count]),
            tuple(cell_runs),
            tuple(data.numeric[:shown]),
        )
    )
    sheet.y = y + row_height * (1 + spare) + body.size * 0.5
    return True


def _column_widths(
    data: TableData, rows: list[str], head: GlyphSet, body: GlyphSet, pad: int, width: float
) -> list[float]:
    """Widths in pixels of the leading columns that fit into ``width``."""
    widths: list[float] = []
    for column, header in enumerate(data.headers):
        texts = rows if column == 0 else [row[column - 1] for row in data.cells]
        need = max([head.width(header), *(body.width(text) for text in texts)]) + 2 * pad
        if sum(widths) + need > width:
            break
        widths.append(need)
    return widths


class _Printer:
    """Prints the texts of one table row into its columns."""

    def __init__(self, sheet: Sheet, edges: list[float], pad: int, right: list[bool]) -> None:
        self._sheet, self._edges, self._pad = sheet, edges, pad
        center = sheet.dice.chance(0.2)
        self._align = ["left", *("center" if center else "right" if flush else "left" for flush in right[1:])]

    def row(self, texts: list[str], y: float, height: int, glyphs: GlyphSet, color: Color) -> list[Runs]:
        runs: list[Runs] = []
        for column, text in enumerate(texts[: len(self._edges) - 1]):
            x0, x1 = self._edges[column] + self._pad, self._edges[column + 1] - self._pad
            align = self._align[column]
            x = {"left": x0, "center": (x0 + x1) / 2, "right": x1}[align]
            run = self._sheet.canvas.write(x, y + (height - glyphs.height) // 2, text, glyphs, color, align)
            runs.append(as_runs(run))
        return runs


def _paint(sheet: Sheet, look: GridLook, edges: list[float], top: float, height: int, count: int) -> None:
    canvas, ink = sheet.canvas, sheet.theme.ink
    left, right, bottom = round(edges[0]), round(edges[-1]), round(top + height * (count + 1))
    y = round(top + height)
    if look.header == "shade":
        canvas.frame(left, round(top), right, y, None, (222, 222, 222))
    elif look.header == "dark":
        canvas.frame(left, round(top), right, y, None, sheet.theme.accent)
    elif look.header == "rule":
        canvas.rule(left, round(top), right, round(top), ink, 2)
        canvas.rule(left, y, right, y, ink)
        canvas.rule(left, bottom, right, bottom, ink, 2)
    if look.zebra:
        for row in range(1, count + 1, 2):
            canvas.frame(
                left, round(top + height * row), right, round(top + height * (row + 1)), None, (232, 236, 240)
            )
    if look.rows:
        for row in range(1, count + 1):
            at = round(top + height * row)
            canvas.rule(left, at, right, at, ink, 1, 1 if look.rows == "dots" else 0)
    if look.columns:
        for edge in edges[1:-1]:
            canvas.rule(round(edge), round(top), round(edge), bottom, ink)
    if look.outer:
        canvas.frame(left, round(top), right, bottom, ink, None, sheet.dice.pick((1, 1, 2)))


def data_grid(sheet: Sheet, rows: int) -> bool:
    """A small table as part of another page."""
    dice: Dice = sheet.dice
    look = dice.pick((GRID, GRID_SHADED, GRID, RULES, SPARSE, DOTTED))
    return draw_table(
        sheet, random_table(sheet, rows, dice.integer(2, 5)), look, spare=dice.weighted((0, 2, 5), (3, 1, 1))
    )


def _page(sheet: Sheet, looks: tuple[GridLook, ...]) -> None:
    """One or more titled tables on a page."""
    dice = sheet.dice
    page_marks(sheet)
    first = True
    while sheet.room > sheet.glyphs().height * 4:
        topic = f"{dice.pick(templates.TABLE_TITLES)} {subject(sheet)}"
        if first and dice.chance(0.9):
            sheet.title(any_case(dice, topic), dice.pick(("left", "center")), dice.uniform(1.0, 1.5))
        elif not first:
            sheet.heading(topic, "title", 1.0)
        rows = dice.integer(3, 30) if dice.chance(0.7) else 40
        if not draw_table(
            sheet, random_table(sheet, rows, dice.integer(2, 8)), dice.pick(looks), dice.uniform(0.9, 1.2)
        ):
            break
        first = False
        if dice.chance(0.5):
            note = sheet.glyphs("label", 0.8)
            text = f"Note: {values.sentence(dice, sheet.words)}"
            sheet.canvas.paragraph(
                sheet.left, sheet.y, sheet.width, text, note, sheet.theme.ink, 1.0, bottom=sheet.bottom
            )
            sheet.y += note.height * 3
        if dice.chance(0.4):
            break


def _grid(sheet: Sheet) -> None:
    _page(sheet, (GRID, GRID_SHADED))


def _rules(sheet: Sheet) -> None:
    _page(sheet, (RULES, SPARSE, DOTTED, PLAIN))


def _zebra(sheet: Sheet) -> None:
    _page(sheet, (ZEBRA,))


def _vertical(sheet: Sheet) -> None:
    _page(sheet, (COLUMNS,))


TABLES = (
    Layout("table-grid", _grid),
    Layout("table-rules", _rules),
    Layout("table-zebra", _zebra),
    Layout("table-columns", _vertical, heldout=True),
)
