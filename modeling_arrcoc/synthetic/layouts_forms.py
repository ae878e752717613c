"""Forms: ruled lines, columns of labels, grids of boxes, memos, questionnaires."""

from __future__ import annotations

from . import fields, templates, values, wordlists
from .decorations import logo, page_marks, picture, stamp
from .fields import FieldFunction, new_pair
from .layouts_tables import data_grid
from .records import Run
from .sheet import Layout, Sheet, any_case, form_title


def _head(sheet: Sheet) -> None:
    """Organisation, form number, title and instructions, as the page has room."""
    dice, canvas, theme = sheet.dice, sheet.canvas, sheet.theme
    small = sheet.glyphs("label", 0.8)
    if dice.chance(0.3) and sheet.width > 260:
        size = sheet.glyphs().height * 1.6
        logo(canvas, dice, sheet.left, sheet.y, size, theme.accent)
        firm = small.fit(values.company(dice, sheet.words), sheet.width * 0.5)
        canvas.write(sheet.left + size + 8, sheet.y + size / 3, firm, small, theme.ink)
        sheet.y += size + 4
    elif dice.chance(0.35):
        text = f"Form {values.code(dice)}"
        if canvas.write(sheet.right, sheet.y, small.fit(text, sheet.width * 0.4), small, theme.ink, "right"):
            sheet.y += small.height
    if dice.chance(0.9):
        frame = dice.weighted(("", "under", "bar", "box"), (5, 3, 1, 1))
        sheet.title(form_title(sheet), dice.pick(("center", "center", "left")), frame=frame)
    if dice.chance(0.25):
        _note(sheet)
    sheet.y += small.height * dice.uniform(0.1, 0.8)


def _note(sheet: Sheet) -> None:
    small = sheet.glyphs("label", 0.85)
    text = sheet.dice.pick(templates.INSTRUCTIONS)
    runs, below = sheet.canvas.paragraph(
        sheet.left, sheet.y, sheet.width, text, small, sheet.theme.ink, 1.0, bottom=sheet.bottom
    )
    sheet.y = below + small.height * 0.4 if runs else sheet.y


def _foot(sheet: Sheet) -> None:
    """Signatures, page number, stamp and scan marks."""
    dice = sheet.dice
    page_marks(sheet)
    line = sheet.glyphs().height
    if dice.chance(0.5) and sheet.room > 3 * line:
        count = 2 if sheet.width > 300 else 1
        for index in range(count):
            label = dice.pick(templates.SIGNATURE_LABELS)
            kind = "date" if label == "Date" else "name"
            pair = fields.Pair(sheet.dress(label), values.value(kind, dice, sheet.words) if dice.chance(0.6) else "")
            x = sheet.left + index * sheet.width / count
            fields.below_line(sheet, x, sheet.bottom - 3 * line, sheet.width / count - 10, pair)
        sheet.bottom -= 3 * line
    if dice.chance(0.2):
        stamp(sheet)


def _section(sheet: Sheet) -> bool:
    """A section title: plain, underlined or in a bar."""
    dice, canvas, theme = sheet.dice, sheet.canvas, sheet.theme
    text = any_case(dice, dice.pick(templates.SECTIONS))
    top = sheet.y
    if dice.chance(0.35) and sheet.room > sheet.glyphs().height * 3:
        glyphs = sheet.glyphs("heading", 1.0)
        shades = ((200, 200, 200), (225, 225, 225), theme.accent, (30, 30, 30))
        shade = dice.pick(shades) if sheet.dark else (240, 240, 240)
        light = sum(shade) > 380
        canvas.frame(sheet.left, top, sheet.right, top + glyphs.height + 3, theme.ink if light else None, shade)
        color = theme.ink if light else (255, 255, 255)
        center = (sheet.left + sheet.right) / 2
        canvas.write(center, top + 2, glyphs.fit(text, sheet.width), glyphs, color, "center")
        sheet.y += glyphs.height * 1.5
        return True
    return sheet.heading(text, "heading", 1.0)


def _fill(sheet: Sheet, draw: FieldFunction, columns: int = 1, count: int = 60, gap: float = 0.35) -> None:
    """Fields from the cursor to the bottom in one or two columns."""
    dice, step = sheet.dice, sheet.glyphs().height
    width = sheet.width / columns
    inset = sheet.glyphs().size if columns > 1 else 0
    for _ in range(count):
        if sheet.room < step * 1.2:
            return
        spans = columns > 1 and dice.chance(0.25)
        bottoms = []
        for column in range(1 if spans else columns):
            pair = new_pair(
                sheet, sheet.width * 0.6 if spans or columns == 1 else width * 0.55, 3 if spans else 4 - columns
            )
            x = sheet.left + column * width
            bottoms.append(draw(sheet, x, sheet.y, sheet.width if spans else width - inset, pair))
        sheet.y = max(bottoms) + step * gap * dice.uniform(0.5, 1.6)


def _lines(sheet: Sheet) -> None:
    """Labels with underlined blanks."""
    _head(sheet)
    _foot(sheet)
    columns = 2 if sheet.width > 420 and sheet.dice.chance(0.5) else 1
    _fill(sheet, fields.inline, columns, gap=sheet.dice.uniform(0.1, 0.8))


def _columns(sheet: Sheet) -> None:
    """Labels left, values at a fixed column, section titles between."""
    dice = sheet.dice
    _head(sheet)
    _foot(sheet)
    gap = dice.uniform(0.0, 0.7)
    while sheet.room > sheet.glyphs().height * 2:
        _fill(sheet, fields.leader if dice.chance(0.15) else fields.columns, 1, dice.integer(3, 9), gap)
        if sheet.room > sheet.glyphs().height * 4 and dice.chance(0.6):
            _section(sheet)


def _boxes(sheet: Sheet) -> None:
    """Rows of ruled boxes with a small label in each."""
    dice = sheet.dice
    _head(sheet)
    _foot(sheet)
    line = sheet.glyphs("value").height + sheet.glyphs("label", 0.8).height
    widest = 3 if sheet.width > 480 else 2 if sheet.width > 260 else 1
    while sheet.room > line * 1.4:
        count = dice.integer(1, widest)
        height = line + (sheet.glyphs("value").height if count == 1 and dice.chance(0.5) else 0) + dice.integer(4, 10)
        if height > sheet.room:
            return
        cuts = [
            0.0,
            *sorted(dice.uniform(0.25, 0.75) if count == 2 else part / count for part in range(1, count)),
            1.0,
        ]
        for start, end in zip(cuts, cuts[1:], strict=False):
            x, width = sheet.left + start * sheet.width, (end - start) * sheet.width
            pair = new_pair(
                sheet, width * 0.85, int((height - sheet.glyphs("label", 0.8).height) // sheet.glyphs("value").height)
            )
            fields.cell(sheet, round(x), round(sheet.y), round(width), height, pair)
        sheet.y += height
        if dice.chance(0.08) and sheet.room > line * 5:
            data_grid(sheet, dice.integer(2, 5))


def _memo(sheet: Sheet) -> None:
    """To, from, subject, then text or a table."""
    dice, words = sheet.dice, sheet.words
    _head(sheet)
    _foot(sheet)
    draw = fields.columns if dice.chance(0.5) else fields.inline
    makers = (
        ("To", "name"),
        ("From", "name"),
        ("Date", "date"),
        ("Subject", "words"),
        ("Cc", "name"),
        ("Re", "words"),
    )
    for key, kind in makers:
        if sheet.room > sheet.glyphs().height * 2 and dice.chance(0.85):
            pair = fields.Pair(sheet.dress(key), values.value(kind, dice, words), "date" if key == "Date" else "")
            sheet.y = draw(sheet, sheet.left, sheet.y, sheet.width * 0.8, pair) + dice.integer(1, 6)
    sheet.canvas.rule(sheet.left, int(sheet.y), sheet.right, int(sheet.y), sheet.theme.ink, dice.pick((1, 2)))
    sheet.y += sheet.glyphs().height * 0.6
    glyphs = sheet.glyphs("value")
    while sheet.room > glyphs.height * 2:
        draw_what = dice.random()
        if draw_what < 0.5:
            text = " ".join(values.sentence(dice, words) for _ in range(dice.integer(1, 4)))
            _, sheet.y = sheet.canvas.paragraph(
                sheet.left, sheet.y, sheet.width, text, glyphs, sheet.theme.ink, 1.1, bottom=sheet.bottom
            )
            sheet.y += glyphs.height * 0.6
        elif draw_what < 0.65 and sheet.room > glyphs.height * 6:
            data_grid(sheet, dice.integer(2, 6))
        else:
            _fill(sheet, draw, 1, dice.integer(2, 5))


def _questionnaire(sheet: Sheet) -> None:
    """Fields, then questions with checkboxes."""
    dice = sheet.dice
    _head(sheet)
    _foot(sheet)
    while sheet.room > sheet.glyphs().height * 2:
        _fill(sheet, fields.inline if dice.chance(0.6) else fields.stacked, 1, dice.integer(1, 4))
        for _ in range(dice.integer(1, 4)):
            _tick_row(sheet)
        if dice.chance(0.3) and sheet.room > sheet.glyphs().height * 5:
            _section(sheet)


def _tick_row(sheet: Sheet) -> None:
    """A topic with its options as checkboxes, often yes and no."""
    dice, glyphs = sheet.dice, sheet.glyphs()
    if sheet.room < glyphs.height * 2:
        return
    x = float(sheet.left)
    topic: Run = ()
    if dice.chance(0.75):
        text = glyphs.fit(sheet.new_key("words" if dice.chance(0.5) else None)[0], sheet.width * 0.5)
        topic = sheet.canvas.write(x, sheet.y, text, glyphs, sheet.theme.ink)
        x += glyphs.width(text) + glyphs.size if topic else 0
    labels = ["Yes", "No"] if dice.chance(0.4) else dice.sample(wordlists.TICK_LABELS, dice.integer(2, 6))
    single = dice.chance(0.8)
    checked = {dice.integer(0, len(labels) - 1)} if single else {i for i in range(len(labels)) if dice.chance(0.4)}
    sheet.y = fields.ticks(sheet, x, sheet.y, sheet.right - x, labels, checked, topic) + glyphs.height * 0.2


def _mixed(sheet: Sheet) -> None:
    """A page of different parts, as grown forms are."""
    dice = sheet.dice
    _head(sheet)
    _foot(sheet)
    line = sheet.glyphs().height
    while sheet.room > line * 2:
        part = dice.integer(0, 5)
        if part == 0 and sheet.room > line * 6:
            data_grid(sheet, dice.integer(2, 7))
        elif part == 1:
            _tick_row(sheet)
        elif part == 2 and sheet.room > line * 4:
            _section(sheet)
        elif part == 3:
            _fill(sheet, fields.stacked, 2 if sheet.width > 360 else 1, dice.integer(1, 3))
        elif part == 4 and sheet.room > line * 7 and dice.chance(0.15):
            picture(sheet.canvas, dice, sheet.left, sheet.y, sheet.width * 0.4, line * 5)
            sheet.y += line * 5.5
        else:
            draw = dice.pick((fields.inline, fields.columns, fields.leader))
            _fill(
                sheet,
                draw,
                2 if sheet.width > 440 and dice.chance(0.4) else 1,
                dice.integer(2, 6),
                dice.uniform(0.1, 0.6),
            )


def _loose(sheet: Sheet) -> None:
    """Labels at any indent, values somewhere after or under them."""
    _head(sheet)
    _foot(sheet)
    _fill(sheet, fields.loose, 1, gap=sheet.dice.uniform(0.1, 0.6))


def _strips(sheet: Sheet) -> None:
    """A ruled table of two columns: labels left, values right."""
    dice = sheet.dice
    _head(sheet)
    _foot(sheet)
    split, flush = dice.uniform(0.35, 0.55), dice.chance(0.3)
    while sheet.room > sheet.glyphs().height * 1.5:
        pair = new_pair(sheet, sheet.width * (1 - split) * 0.9, 2)
        sheet.y = fields.strip(sheet, sheet.left, sheet.y, sheet.width, pair, split, flush)


def _ledger(sheet: Sheet) -> None:
    """Labels flush right against a column, then shaded cards."""
    dice = sheet.dice
    _head(sheet)
    _foot(sheet)
    while sheet.room > sheet.glyphs().height * 2:
        draw = fields.right_keys if dice.chance(0.6) else fields.card
        _fill(sheet, draw, 1, dice.integer(3, 8), 0.3)


FORMS = (
    Layout("form-lines", _lines),
    Layout("form-columns", _columns),
    Layout("form-boxes", _boxes),
    Layout("form-memo", _memo),
    Layout("form-questionnaire", _questionnaire),
    Layout("form-mixed", _mixed),
    Layout("form-loose", _loose),
    Layout("form-strips", _strips),
    Layout("form-ledger", _ledger, heldout=True),
)
