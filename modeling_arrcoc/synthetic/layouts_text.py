"""Letters and dense pages: paragraphs in one or more columns with headings, authors, figures and captions."""

from __future__ import annotations

from . import templates, values
from .decorations import logo, page_marks, picture, signature, stamp
from .records import Heading, Lines, Runs, as_runs
from .sheet import Layout, Sheet, any_case, subject


def _put(
    sheet: Sheet, text: str, role: str = "", align: str = "left", font: str = "label", scale: float = 1.0
) -> Runs:
    """Print wrapped text at the cursor; recorded under ``role`` if all of it fits."""
    glyphs = sheet.glyphs(font, scale)
    lines = glyphs.wrap(text, sheet.width)
    runs, sheet.y = sheet.canvas.paragraph(
        sheet.left, sheet.y, sheet.width, text, glyphs, sheet.theme.ink, 1.0, align, sheet.bottom
    )
    if role and runs and len(runs) == len(lines):
        sheet.entry("", (), text, runs, role)
    return runs


def _prose(sheet: Sheet, sentences: int) -> str:
    return " ".join(values.sentence(sheet.dice, sheet.words) for _ in range(sentences))


def _body(sheet: Sheet, x: float, y: float, width: float, bottom: float, leading: float, part: str = "text") -> Runs:
    """Paragraphs with headings and figures from ``y`` to ``bottom`` in one column; returns the lines of prose."""
    dice, canvas, theme = sheet.dice, sheet.canvas, sheet.theme
    glyphs = sheet.glyphs("label")
    found: list[tuple[int, ...]] = []
    indent = dice.chance(0.5)
    while bottom - y > glyphs.height * 2:
        draw = dice.random()
        if draw < 0.22 and bottom - y > glyphs.height * 4:
            y += glyphs.height * 0.4
            head = sheet.glyphs("heading", dice.pick((1.0, 1.15)))
            text = dice.pick(templates.HEADINGS) if dice.chance(0.4) else subject(sheet)
            text = head.fit(f"{dice.integer(1, 9)}. {text}" if dice.chance(0.4) else any_case(dice, text), width)
            center = dice.chance(0.3)
            run = canvas.write(
                x + width / 2 if center else x, y, text, head, theme.ink, "center" if center else "left"
            )
            if run:
                canvas.records.append(Heading(text, (run,), "section heading"))
            y += head.height * 1.3
        elif draw < 0.3 and part == "text" and bottom - y > width * 0.5 + glyphs.height * 4:
            height = width * dice.uniform(0.25, 0.5)
            picture(canvas, dice, x + width * 0.1, y, width * 0.8, height)
            y += height + 4
            caption = f"{dice.pick(templates.CAPTIONS)} {values.sentence(dice, sheet.words)}"
            small = sheet.glyphs("label", 0.9)
            lines = len(small.wrap(caption, width))
            runs, y = canvas.paragraph(x, y, width, caption, small, theme.ink, 1.0, bottom=bottom)
            if len(runs) == lines:
                canvas.records.append(Heading(caption, runs, "caption"))
            y += glyphs.height * 0.6
        else:
            bullet = dice.chance(0.12)
            text = _prose(sheet, 1 if bullet else dice.integer(2, 7))
            shift = glyphs.size * 1.4 if bullet else 0.0
            if bullet:
                canvas.ellipse((x + 3, y + glyphs.height * 0.4, x + 7, y + glyphs.height * 0.4 + 4), theme.ink)
            runs, y = canvas.paragraph(x + shift, y, width - shift, text, glyphs, theme.ink, leading, bottom=bottom)
            found.extend(runs)
            y += 0 if indent else glyphs.height * dice.pick((0.3, 0.6, 1.0))
    return tuple(found)


def _columns(sheet: Sheet, count: int) -> None:
    """Prose in ``count`` columns down to the bottom."""
    gap = sheet.glyphs().size * 1.2
    width = (sheet.width - gap * (count - 1)) / count
    leading = sheet.dice.pick((1.0, 1.05, 1.2, 1.5))
    top = sheet.y
    lines: Runs = ()
    for column in range(count):
        lines += _body(sheet, sheet.left + column * (width + gap), top, width, sheet.bottom, leading)
    sheet.canvas.records.append(Lines(lines, count == 1))
    sheet.y = sheet.bottom


def _running_head(sheet: Sheet) -> None:
    dice, small = sheet.dice, sheet.glyphs("label", 0.85)
    if dice.chance(0.5):
        text = any_case(dice, subject(sheet))
        sheet.canvas.write(sheet.left, sheet.y, small.fit(text, sheet.width * 0.7), small, sheet.theme.ink)
        sheet.canvas.write(sheet.right, sheet.y, str(dice.integer(1, 400)), small, sheet.theme.ink, "right")
        sheet.y += small.height * 1.6


def _paper_head(sheet: Sheet) -> None:
    """Title, authors, affiliation, date and abstract."""
    dice = sheet.dice
    align = dice.pick(("center", "center", "left"))
    words = " ".join(sheet.words.phrase(dice, 2) for _ in range(dice.integer(1, 3)))
    sheet.title(dice.pick((words.title(), words.capitalize(), words.upper())), align, dice.uniform(1.3, 2.0))
    if dice.chance(0.85):
        _put(sheet, f"{dice.pick(sheet.words.first_names)} {sheet.words.surname(dice)}", "author", align)
        if dice.chance(0.5):
            _put(sheet, f"University of {sheet.words.place(dice)}", "", align, scale=0.9)
    if dice.chance(0.5):
        _put(sheet, values.date(dice), "date", align)
    sheet.y += sheet.glyphs().height * 0.6
    if dice.chance(0.5):
        sheet.heading("Abstract", "section heading", 1.0, align)
        left, right = sheet.left, sheet.right
        sheet.left, sheet.right = int(left + sheet.width * 0.08), int(right - sheet.width * 0.08)
        _put(sheet, _prose(sheet, dice.integer(2, 4)))
        sheet.left, sheet.right = left, right
        sheet.y += sheet.glyphs().height * 0.8


def _page(sheet: Sheet, columns: int) -> None:
    page_marks(sheet)
    if sheet.dice.chance(0.65):
        _paper_head(sheet)
    else:
        _running_head(sheet)
    _columns(sheet, columns)


def _single(sheet: Sheet) -> None:
    _page(sheet, 1)


def _double(sheet: Sheet) -> None:
    _page(sheet, 2 if sheet.width > sheet.glyphs().size * 26 else 1)


def _newspaper(sheet: Sheet) -> None:
    """A big title, a line of date and author, narrow columns."""
    page_marks(sheet)
    sheet.title(sheet.words.phrase(sheet.dice, 3).title(), "center", 2.0)
    sheet.canvas.rule(sheet.left, int(sheet.y), sheet.right, int(sheet.y), sheet.theme.ink, 2)
    sheet.y += 5
    _put(sheet, values.date(sheet.dice), "date", "center")
    sheet.canvas.rule(sheet.left, int(sheet.y) + 2, sheet.right, int(sheet.y) + 2, sheet.theme.ink)
    sheet.y += 8
    _put(sheet, f"{sheet.dice.pick(sheet.words.first_names)} {sheet.words.surname(sheet.dice)}", "author")
    _columns(
        sheet, 3 if sheet.width > sheet.glyphs().size * 36 else 2 if sheet.width > sheet.glyphs().size * 22 else 1
    )


def _letter(sheet: Sheet, align: str, opposite: bool) -> None:
    """Letterhead, date, addressee, subject, prose, sign-off and signature."""
    dice, words, canvas, theme = sheet.dice, sheet.words, sheet.canvas, sheet.theme
    page_marks(sheet)
    if dice.chance(0.35):
        logo(canvas, dice, sheet.left, sheet.y, 36, theme.accent)
        sheet.y += 40
    if dice.chance(0.85):
        _put(sheet, any_case(dice, values.company(dice, words)), "company", align, "heading", dice.uniform(1.1, 1.7))
        _put(sheet, f"{values.street(dice, words)}, {values.town(dice, words)}", "address", align)
        if dice.chance(0.5):
            _put(sheet, f"Phone: {values.phone(dice)}", "", align, scale=0.9)
        if dice.chance(0.5):
            canvas.rule(
                sheet.left, int(sheet.y) + 3, sheet.right, int(sheet.y) + 3, theme.accent, dice.pick((1, 2, 3))
            )
    gap = sheet.glyphs().height
    sheet.y += gap
    _put(sheet, values.date(dice), "date", "right" if opposite or dice.chance(0.3) else "left")
    sheet.y += gap * 0.7
    name = f"{dice.pick(words.first_names)} {words.surname(dice)}"
    for text in (name, values.company(dice, words), values.street(dice, words)):
        _put(sheet, text)
    sheet.y += gap * 0.7
    if dice.chance(0.6):
        key = sheet.dress(dice.pick(("Re", "Subject", "Reference")))
        glyphs = sheet.glyphs("heading", 1.0)
        topic = subject(sheet)
        run = canvas.write(sheet.left, sheet.y, key, glyphs, theme.ink)
        runs, sheet.y = sheet.write_value(
            sheet.left + glyphs.width(key) + glyphs.size, sheet.y, sheet.width - glyphs.width(key) - glyphs.size, topic
        )
        sheet.entry(key, as_runs(run), topic, runs)
        sheet.y += gap * 0.7
    _put(sheet, f"{dice.pick(templates.GREETINGS)} {name.split()[-1]},")
    sheet.y += gap * 0.5
    if dice.chance(0.15):
        stamp(sheet)
    end = sheet.bottom - gap * 5 if sheet.room > gap * 12 else sheet.bottom
    lines = _body(sheet, sheet.left, sheet.y, sheet.width, end, dice.pick((1.0, 1.15, 1.3)), "letter")
    canvas.records.append(Lines(lines, False))
    if end < sheet.bottom:
        sheet.y = end + gap * 0.5
        shift = sheet.width * 0.5 if opposite else 0
        sheet.left += int(shift)
        _put(sheet, dice.pick(templates.SIGN_OFFS))
        signature(sheet, sheet.left + 4, sheet.y, sheet.width * 0.3, gap * 1.6)
        sheet.y += gap * 1.7
        _put(sheet, f"{dice.pick(words.first_names)} {words.surname(dice)}", "author")
        sheet.left -= int(shift)


def _block_letter(sheet: Sheet) -> None:
    _letter(sheet, "left", False)


def _centered_letter(sheet: Sheet) -> None:
    _letter(sheet, "center", sheet.dice.chance(0.3))


def _right_letter(sheet: Sheet) -> None:
    _letter(sheet, "right", True)


PAGES = (
    Layout("page-single", _single),
    Layout("page-double", _double),
    Layout("page-newspaper", _newspaper, heldout=True),
)
LETTERS = (
    Layout("letter-block", _block_letter),
    Layout("letter-centered", _centered_letter),
    Layout("letter-right", _right_letter, heldout=True),
)
