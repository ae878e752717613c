"""Ways to print a label and its value; each takes a rectangle's upper left corner and width and returns the new y."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .canvas import WHITE
from .decorations import scribble
from .records import Choice, Run, Runs, as_runs
from .sheet import Sheet
from .vocabulary import words_in


_BLANK_SHARE = 0.1


@dataclass(frozen=True)
class Pair:
    """A label as printed with the value to print."""

    key: str
    value: str
    role: str = ""


def new_pair(sheet: Sheet, width: float, lines: int) -> Pair:
    """A new label with a value that fits ``width`` pixels and ``lines`` lines; blank now and then."""
    pen = sheet.glyphs("value")
    for _ in range(4):
        key, found = sheet.new_key()
        text = "" if sheet.dice.chance(_BLANK_SHARE) else sheet.value(found)
        wrapped = pen.wrap(text, width)
        if len(wrapped) <= lines and all(pen.width(line) <= width for line in wrapped):
            break
    return Pair(key, text, "date" if words_in(key) == ["date"] else "")


def inline(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """Label, then the value on the same line, continued below it; lines under the value."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs(), sheet.glyphs("value")
    line = max(glyphs.height, pen.height)
    key = canvas.write(x, y + line - glyphs.height, pair.key, glyphs, sheet.theme.ink)
    if not key:
        return y + line
    start = x + glyphs.width(pair.key) + glyphs.size * sheet.dice.uniform(0.5, 1.2)
    return _value_beside(sheet, pair, key, x, start, x + width, y, line)


def columns(sheet: Sheet, x: float, y: float, width: float, pair: Pair, split: float = 0.4) -> float:
    """Label at the left edge, value at a fixed column."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs(), sheet.glyphs("value")
    line = max(glyphs.height, pen.height)
    start = x + width * split
    if glyphs.width(pair.key) > width * split - glyphs.size * 0.4:
        return inline(sheet, x, y, width, pair)
    key = canvas.write(x, y + line - glyphs.height, pair.key, glyphs, sheet.theme.ink)
    return _value_beside(sheet, pair, key, x, start, x + width, y, line) if key else y + line


def leader(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """Label, a row of dots, and the value at the right edge."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs(), sheet.glyphs("value")
    line = max(glyphs.height, pen.height)
    if glyphs.width(pair.key) + pen.width(pair.value) + glyphs.size * 2 > width:
        return inline(sheet, x, y, width, pair)
    key = canvas.write(x, y + line - glyphs.height, pair.key, glyphs, sheet.theme.ink)
    value = canvas.write(x + width, y + line - pen.height, pair.value, pen, sheet.theme.pen, "right")
    start, end = x + glyphs.width(pair.key) + 4, x + width - pen.width(pair.value) - 4
    canvas.rule(round(start), round(y + line * 0.8), round(end), round(y + line * 0.8), sheet.theme.ink, 1, 1)
    sheet.entry(pair.key, as_runs(key), pair.value, as_runs(value))
    return y + line


def right_keys(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """Label set flush right against a column, value after it."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs(), sheet.glyphs("value")
    line, middle = max(glyphs.height, pen.height), x + width * 0.45
    if glyphs.width(pair.key) > width * 0.45:
        return inline(sheet, x, y, width, pair)
    key = canvas.write(middle, y + line - glyphs.height, pair.key, glyphs, sheet.theme.ink, "right")
    return _value_beside(sheet, pair, key, x, middle + glyphs.size * 0.8, x + width, y, line) if key else y + line


def loose(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """Label at any indent that leaves it room, value after a gap of any width, or on the next line at any indent."""
    canvas, dice, glyphs, pen = sheet.canvas, sheet.dice, sheet.glyphs(), sheet.glyphs("value")
    line = max(glyphs.height, pen.height)
    spare = width - glyphs.width(pair.key)
    start = x + max(0.0, spare) * dice.uniform(0.0, 0.6)
    key = canvas.write(start, y + line - glyphs.height, pair.key, glyphs, sheet.theme.ink)
    if not key:
        return y + line
    after = start + glyphs.width(pair.key) + glyphs.size * 0.5
    needed = pen.width(pair.value) if pair.value else glyphs.size * 3
    if after + needed <= x + width and dice.chance(0.7):
        after += (x + width - after - needed) * dice.uniform(0.0, 1.0)
        return _value_beside(sheet, pair, key, x, after, x + width, y, line)
    indent = max(0.0, width - needed) * dice.uniform(0.0, 1.0)
    return _value_beside(sheet, pair, key, x, x + indent, x + width, y + line, line)


def strip(
    sheet: Sheet, x: float, y: float, width: float, pair: Pair, split: float = 0.45, flush: bool = False
) -> float:
    """A ruled row of two boxes: label in the left one, value in the right one, flush right or not."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs("label", 0.95), sheet.glyphs("value")
    pad, middle = max(3, glyphs.size // 3), x + width * split
    key_lines = glyphs.wrap(pair.key, middle - x - 2 * pad)
    value_lines = pen.wrap(pair.value, x + width - middle - 2 * pad)
    if any(glyphs.width(line) > middle - x - 2 * pad for line in key_lines):
        return inline(sheet, x, y, width, pair)
    height = max(len(key_lines) * glyphs.height, len(value_lines) * pen.height, pen.height) + pad
    if y + height > sheet.bottom:
        return sheet.bottom + 1
    canvas.frame(x, y, x + width, y + height, sheet.theme.ink)
    canvas.rule(round(middle), round(y), round(middle), round(y + height), sheet.theme.ink)
    key, _ = canvas.paragraph(x + pad, y + pad / 2, middle - x - 2 * pad, pair.key, glyphs, sheet.theme.ink, 1.0)
    end = x + width - pad
    start = end - pen.width(pair.value) if flush and len(value_lines) == 1 else middle + pad
    runs, _ = sheet.write_value(max(start, middle + pad), y + pad / 2, end - middle - pad, pair.value, y + height)
    if len(key) == len(key_lines):
        sheet.entry(pair.key, key, pair.value, runs, pair.role)
    return y + height


def _value_beside(
    sheet: Sheet, pair: Pair, key: Run, x: float, start: float, end: float, y: float, line: int
) -> float:
    pen, bottom = sheet.glyphs("value"), y + line
    if not pair.value:
        sheet.underline(start, end, bottom - 2)
        return bottom
    runs, below = sheet.write_value(start, bottom - pen.height, end - start, pair.value)
    if runs:
        for index in range(len(runs)):
            sheet.underline(start, end, bottom - 1 + index * pen.height)
    else:  # too long for the blank: it goes on below, over the whole width
        runs, below = sheet.write_value(x, bottom, end - x, pair.value)
    sheet.entry(pair.key, (key,), pair.value, runs, pair.role)
    return max(bottom, below) if runs else bottom


def stacked(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """Small label with the value on the next lines."""
    canvas, glyphs = sheet.canvas, sheet.glyphs("label", 0.85)
    key = canvas.write(x, y, glyphs.fit(pair.key, width), glyphs, sheet.theme.ink)
    if not key:
        return y + glyphs.height
    below = y + glyphs.height
    runs, bottom = sheet.write_value(x, below, width, pair.value)
    sheet.entry(canvas.text_of((key,)), (key,), pair.value, runs, pair.role)
    bottom = bottom if runs else below + sheet.glyphs("value").height
    sheet.underline(x, x + width, bottom)
    return bottom + 2


def below_line(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """Value (or a signature) on a line, label under the line."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs("label", 0.85), sheet.glyphs("value")
    line = y + pen.height
    runs: Runs = ()
    if pair.value and sheet.dice.chance(0.8):
        runs, _ = sheet.write_value(x + width * 0.05, y, width * 0.95, pair.value, line + 1)
    elif line + glyphs.height < sheet.bottom:
        scribble(canvas, sheet.dice, x + width * 0.1, y, width * 0.6, pen.height, sheet.theme.pen)
    canvas.rule(round(x), round(line), round(x + width * 0.95), round(line), sheet.theme.ink)
    key = canvas.write(x + width * 0.05, line + 2, glyphs.fit(pair.key, width), glyphs, sheet.theme.ink)
    if key:
        sheet.entry(canvas.text_of((key,)), (key,), pair.value, runs)
    return line + 2 + glyphs.height


def cell(sheet: Sheet, x: float, y: float, width: float, height: float, pair: Pair) -> None:
    """A ruled box with a small label in its corner and the value under it."""
    canvas, glyphs = sheet.canvas, sheet.glyphs("label", 0.8)
    canvas.frame(x, y, x + width, y + height, sheet.theme.ink)
    pad = max(3, glyphs.size // 4)
    key = canvas.write(x + pad, y + 2, glyphs.fit(pair.key, width - 2 * pad), glyphs, sheet.theme.ink)
    if not key:
        return
    indent = pad + sheet.dice.pick((0.0, 0.0, glyphs.size * 0.8))
    runs, _ = sheet.write_value(x + indent, y + 2 + glyphs.height, width - indent - pad, pair.value, y + height)
    sheet.entry(canvas.text_of((key,)), (key,), pair.value, runs, pair.role)


def card(sheet: Sheet, x: float, y: float, width: float, pair: Pair) -> float:
    """A rounded box: label in a shaded left part, value in the right part."""
    canvas, glyphs, pen = sheet.canvas, sheet.glyphs("label", 0.95), sheet.glyphs("value")
    pad, split = max(3, glyphs.size // 3), width * 0.38
    key_lines = glyphs.wrap(pair.key, split - 2 * pad)
    value_lines = pen.wrap(pair.value, width - split - 2 * pad)
    if any(glyphs.width(line) > split - 2 * pad for line in key_lines):
        return inline(sheet, x, y, width, pair)
    height = max(len(key_lines) * glyphs.height, len(value_lines) * pen.height, pen.height) + 2 * pad
    if y + height > sheet.bottom:
        return sheet.bottom + 1
    shade = sheet.dice.pick(((225, 225, 225), (210, 222, 238), (238, 228, 205)))
    canvas.frame(x, y, x + width, y + height, sheet.theme.ink, WHITE, 1, 4)
    canvas.frame(x + 1, y + 2, x + split, y + height - 2, None, shade)
    key, _ = canvas.paragraph(x + pad, y + pad, split - 2 * pad, pair.key, glyphs, sheet.theme.ink, 1.0)
    runs, _ = sheet.write_value(x + split + pad, y + pad, width - split - 2 * pad, pair.value, y + height)
    if len(key) == len(key_lines):
        sheet.entry(pair.key, key, pair.value, runs, pair.role)
    return y + height + pad


def ticks(
    sheet: Sheet, x: float, y: float, width: float, labels: list[str], checked: set[int], topic: Run = ()
) -> float:
    """A row (or rows) of checkboxes with labels; ``topic`` are the words printed before them."""
    canvas, dice, glyphs = sheet.canvas, sheet.dice, sheet.glyphs()
    side = round(glyphs.size * 0.8)
    box_first, mark, start = dice.chance(0.8), dice.integer(0, 2), x
    runs: list[Runs] = []
    regions: list[int] = []
    for index, label in enumerate(labels):
        needed = side + glyphs.width(label) + glyphs.size * 0.5
        if x + needed > start + width and x > start:
            x, y = start, y + glyphs.height * 1.2
        if y + glyphs.height > sheet.bottom or x + needed > start + width:
            break
        at = round(x if box_first else x + glyphs.width(label) + glyphs.size * 0.4)
        top = round(y + (glyphs.height - side) / 2)
        label_x = x + side + glyphs.size * 0.4 if box_first else x
        runs.append(as_runs(canvas.write(label_x, y, label, glyphs, sheet.theme.ink)))
        canvas.frame(at, top, at + side, top + side, sheet.theme.ink, None)
        if index in checked:
            _mark(sheet, at, top, side, mark)
        regions.append(canvas.region(at - 1, top - 1, at + side + 2, top + side + 2))
        x += needed + glyphs.size
    count = len(runs)
    if all(runs) and count:
        marks = tuple(index in checked for index in range(count))
        text = canvas.text_of(as_runs(topic))
        canvas.records.append(Choice(text, as_runs(topic), tuple(labels[:count]), tuple(runs), marks, tuple(regions)))
    return y + glyphs.height * 1.3


def _mark(sheet: Sheet, x: int, y: int, side: int, mark: int) -> None:
    """A cross, a tick or a filled square."""
    canvas, pen = sheet.canvas, sheet.theme.pen
    if mark == 0:
        canvas.stroke([(x - 1, y - 1), (x + side + 1, y + side + 1)], pen, 2)
        canvas.stroke([(x + side + 1, y - 1), (x - 1, y + side + 1)], pen, 2)
    elif mark == 1:
        canvas.stroke([(x, y + side * 0.5), (x + side * 0.4, y + side), (x + side * 1.2, y - side * 0.2)], pen, 2)
    else:
        canvas.frame(x + 2, y + 2, x + side - 2, y + side - 2, None, pen)


FieldFunction = Callable[[Sheet, float, float, float, Pair], float]
