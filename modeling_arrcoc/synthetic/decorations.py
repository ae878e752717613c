"""Things on real pages that are not text to be read: logos, bar codes, stamps, signatures, punch holes, pictures."""

from __future__ import annotations

import math

from . import templates, values
from .canvas import Canvas, Color
from .dice import Dice
from .fonts import glyph_set
from .sheet import Sheet
from .textures import texture


def logo(canvas: Canvas, dice: Dice, x: float, y: float, size: float, color: Color) -> None:
    """An emblem of simple shapes in a square of ``size`` pixels."""
    box = (x, y, x + size, y + size)
    kind = dice.integer(0, 4)
    if kind == 0:
        canvas.ellipse(box, color)
        canvas.ellipse((x + size * 0.25, y + size * 0.2, x + size * 0.85, y + size * 0.8), (255, 255, 255))
    elif kind == 1:
        canvas.frame(*box, None, color)
        canvas.polygon(
            [(x + size * 0.2, y + size * 0.8), (x + size / 2, y + size * 0.2), (x + size * 0.8, y + size * 0.8)],
            (255, 255, 255),
        )
    elif kind == 2:
        canvas.polygon(
            [(x + size / 2, y), (x + size, y + size / 2), (x + size / 2, y + size), (x, y + size / 2)], color
        )
    elif kind == 3:
        for step in range(3):
            canvas.frame(
                x + step * size / 3, y + step * size / 5, x + step * size / 3 + size / 4, y + size, None, color
            )
    else:
        for ring in range(3):
            inset = ring * size * 0.16
            canvas.ellipse(
                (x + inset, y + inset, x + size - inset, y + size - inset), None, color, max(1, int(size / 14))
            )


def barcode(canvas: Canvas, dice: Dice, x: float, y: float, width: float, height: float, color: Color) -> None:
    """Vertical bars of random widths."""
    end = x + width
    while x < end - 4:
        bar = dice.integer(1, 3)
        canvas.frame(x, y, x + bar - 1, y + height, None, color)
        x += bar + dice.integer(1, 3)


def scribble(canvas: Canvas, dice: Dice, x: float, y: float, width: float, height: float, color: Color) -> None:
    """A signature: loops that run to the right; it says nothing."""
    loops, phase, points = dice.uniform(3, 7), dice.uniform(0, 6), []
    fall = dice.uniform(0.3, 1.0)
    for step in range(36):
        t = step / 35
        swing = math.sin(phase + t * loops * 6.28) * (1 - fall * t) * height * 0.45
        sway = math.cos(phase * 2 + t * loops * 6.28) * width * 0.06
        points.append((x + t * width + sway, y + height / 2 + swing + math.sin(t * 17 + phase) * height * 0.12))
    canvas.stroke(points, color, 1 if height < 22 else 2)


def signature(sheet: Sheet, x: float, y: float, width: float, height: float) -> None:
    """A signature in pen colour, kept inside the page."""
    canvas = sheet.canvas
    if x + width < canvas.width and y + height < canvas.height and width > 10:
        scribble(canvas, sheet.dice, x, y, width, height, sheet.dice.pick(((15, 20, 90), (10, 10, 10), (50, 50, 60))))


def stamp(sheet: Sheet) -> None:
    """A word in a frame, printed over a free-looking corner of the page in a pale stamp colour."""
    canvas, dice = sheet.canvas, sheet.dice
    glyphs = sheet.glyphs("heading", dice.uniform(1.2, 2.0))
    text = dice.pick(templates.STAMPS)
    width, pad = glyphs.width(text), glyphs.size * 0.3
    x = dice.uniform(sheet.left, max(sheet.left + 1, sheet.right - width - 2 * pad))
    y = sheet.bottom - glyphs.height - 2 * pad
    if sheet.y + 4 > y or width > sheet.width:
        return
    color = dice.pick(((170, 30, 40), (30, 50, 150), (60, 60, 60)))
    if canvas.write(x + pad, y + pad, text, glyphs, color):
        canvas.frame(x, y, x + width + 2 * pad, y + glyphs.height + 2 * pad, color, None, 2, dice.pick((0, 4)))
        sheet.bottom = int(y) - 2


def archive_number(sheet: Sheet) -> None:
    """The number that archives stamp on a page: at the foot, or turned on the right margin."""
    canvas, dice = sheet.canvas, sheet.dice
    glyphs = glyph_set(sheet.theme.heading if dice.chance(0.5) else sheet.theme.value, sheet.theme.value_size)
    text = values.digits(dice, dice.integer(6, 9))
    if dice.chance(0.4) and sheet.left > glyphs.height + 4:
        canvas.write_turned(
            canvas.width - dice.integer(2, 4), int(canvas.height * dice.uniform(0.5, 0.75)), text, glyphs
        )
    elif canvas.height - sheet.bottom > glyphs.height + 2:
        canvas.write(sheet.right, sheet.bottom + 1, text, glyphs, align="right")


def punch_holes(sheet: Sheet) -> None:
    """Dark discs at the left or upper margin, as copied punch holes look."""
    canvas, dice = sheet.canvas, sheet.dice
    radius = min(sheet.left * 0.35, canvas.width * 0.012)
    if radius < 2.5:
        return
    filled = dice.chance(0.7)
    for place in (0.15, 0.5, 0.85) if dice.chance(0.5) else (0.35, 0.65):
        if dice.chance(0.6):
            x, y = sheet.left * 0.45, canvas.height * place
        else:
            x, y = canvas.width * place, sheet.top * 0.45
        canvas.ellipse(
            (x - radius, y - radius, x + radius, y + radius), (15, 15, 15) if filled else None, (20, 20, 20), 1
        )


def scan_edges(sheet: Sheet) -> None:
    """Shadow lines that a copier leaves at the border of a page."""
    canvas, dice = sheet.canvas, sheet.dice
    reach = max(2, sheet.left // 3)
    for side in range(4):
        if not dice.chance(0.35):
            continue
        offset, width = dice.integer(0, reach), dice.pick((1, 1, 2))
        start, end = sorted((dice.random(), dice.random()))
        if side < 2:
            x = offset if side else canvas.width - 1 - offset
            canvas.rule(x, start * canvas.height, x, end * canvas.height, (40, 40, 40), width)
        else:
            y = offset if side == 2 else canvas.height - 1 - offset
            canvas.rule(start * canvas.width, y, end * canvas.width, y, (40, 40, 40), width)


def picture(canvas: Canvas, dice: Dice, x: float, y: float, width: float, height: float) -> None:
    """A photo-like texture with a few blobs."""
    if width < 8 or height < 8:
        return
    size = (int(width), int(height))
    canvas.paste(texture(dice, size, dice.integer(20, 200)), int(x), int(y))
    for _ in range(dice.integer(0, 3)):
        cx, cy = x + dice.random() * width * 0.7, y + dice.random() * height * 0.7
        tone = dice.integer(0, 255)
        canvas.ellipse((cx, cy, cx + width * 0.3, cy + height * 0.3), (tone, dice.integer(0, 255), tone))
    if dice.chance(0.5):
        canvas.frame(x, y, x + width, y + height, (30, 30, 30))


def page_marks(sheet: Sheet) -> None:
    """Marks of scanning and filing, each now and then."""
    dice = sheet.dice
    if dice.chance(0.3):
        archive_number(sheet)
    if dice.chance(0.2):
        punch_holes(sheet)
    if dice.chance(0.3):
        scan_edges(sheet)
    if dice.chance(0.1):  # a note in the margin that nobody can read
        size = sheet.canvas.width * dice.uniform(0.08, 0.2)
        x = dice.uniform(2, max(3, sheet.canvas.width - size - 2))
        scribble(sheet.canvas, dice, x, max(1.0, sheet.top * 0.1), size, max(8.0, sheet.top * 0.8), (40, 40, 60))
