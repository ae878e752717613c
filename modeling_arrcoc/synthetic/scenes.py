"""Signs on textured backgrounds, and scenes of coloured shapes."""

from __future__ import annotations

import math

from . import templates, values
from .canvas import WHITE, Canvas, Color
from .charts import PALETTE
from .decorations import picture
from .dice import Dice
from .document import Box, Point
from .fonts import GlyphSet, glyph_set
from .records import Lines, Run, Shape
from .sheet import SMALLEST, Layout, Sheet, letter_size
from .textures import texture


FORMS = ("circle", "square", "triangle", "star", "diamond", "hexagon", "cross", "ring", "pentagon")
COLORS: dict[str, Color] = {name: tones[0] for name, tones in PALETTE.items()} | {
    "black": (20, 20, 20),
    "white": (250, 250, 250),
}
_BOARDS: tuple[tuple[Color, Color], ...] = (
    ((20, 90, 50), WHITE),
    ((25, 60, 140), WHITE),
    ((235, 200, 30), (20, 20, 20)),
    ((180, 25, 35), WHITE),
    ((245, 245, 240), (20, 20, 20)),
    ((30, 30, 35), (240, 220, 150)),
    ((240, 240, 235), (150, 20, 30)),
    ((90, 55, 25), (250, 240, 215)),
)


def _sign_line(sheet: Sheet) -> str:
    """One to three words as signs show."""
    dice, words = sheet.dice, sheet.words
    parts = []
    for _ in range(dice.weighted((1, 2, 3), (4, 4, 1))):
        draw = dice.random()
        if draw < 0.25:
            parts.append(dice.pick(templates.SIGN_WORDS))
        elif draw < 0.65:
            parts.append(words.brand(dice))
        elif draw < 0.9:
            parts.append(words.noun(dice))
        else:
            parts.append(values.digits(dice, dice.integer(2, 4)))
    text = " ".join(parts)
    return dice.pick((text.upper(), text.upper(), text.title(), text))


def _overlaps(box: Box, others: list[Box], gap: float) -> bool:
    return any(
        box[0] - gap < other[2] and other[0] - gap < box[2] and box[1] - gap < other[3] and other[1] - gap < box[3]
        for other in others
    )


def _sign_glyphs(sheet: Sheet) -> GlyphSet:
    dice = sheet.dice
    style = sheet.theme.heading if dice.chance(0.6) else sheet.theme.label
    return glyph_set(style, letter_size(dice.uniform(SMALLEST + 2, max(16, sheet.width // 9))))


def _signs(sheet: Sheet, shape: str) -> None:
    """Boards with one to four lines each, scattered on a wall."""
    canvas, dice = sheet.canvas, sheet.dice
    canvas.paste(texture(dice, (canvas.width, canvas.height), dice.integer(30, 210)), 0, 0)
    for _ in range(dice.integer(0, 3)):
        picture(
            canvas,
            dice,
            dice.uniform(0, canvas.width * 0.7),
            dice.uniform(0, canvas.height * 0.7),
            canvas.width * dice.uniform(0.1, 0.3),
            canvas.height * dice.uniform(0.1, 0.3),
        )
    placed: list[Box] = []
    runs: list[Run] = []
    target = dice.integer(1, 5)
    for _ in range(target * 4):
        if len(placed) >= target:
            break
        glyphs = _sign_glyphs(sheet)
        lines = [_sign_line(sheet) for _ in range(dice.weighted((1, 2, 3, 4), (3, 4, 2, 1)))]
        pad = glyphs.size * dice.uniform(0.4, 0.9) * (2.0 if shape == "round" else 1.0)
        width = max(glyphs.width(line) for line in lines) + 2 * pad
        height = len(lines) * glyphs.height * 1.1 + 2 * pad * (0.7 if shape == "board" else 1.0)
        if width > canvas.width - 8 or height > canvas.height - 8:
            continue
        x, y = dice.uniform(4, canvas.width - width - 4), dice.uniform(4, canvas.height - height - 4)
        band = shape == "board" and dice.chance(0.15)  # letters on a plain band, as on shop fronts
        box = (0.0, y, float(canvas.width), y + height) if band else (x, y, x + width, y + height)
        if _overlaps(box, placed, 6):
            continue
        placed.append(box)
        back, ink = dice.pick(_BOARDS)
        if shape == "round":
            canvas.frame(*box, ink, back, 3, int(min(width, height) / 2))
        else:
            edge = ink if dice.chance(0.5) and not band else None
            canvas.frame(*box, edge, back, dice.pick((1, 2, 3)), 0 if band else dice.pick((0, 0, 6)))
        for index, line in enumerate(lines):
            at = y + (height - len(lines) * glyphs.height * 1.1) / 2 + index * glyphs.height * 1.1
            run = canvas.write(x + width / 2, at, line, glyphs, ink, "center")
            if run:
                runs.append(run)
    canvas.records.append(Lines(tuple(runs), False))


def outline(form: str, cx: float, cy: float, radius: float) -> list[Point]:
    """Corner points of a polygonal form around (cx, cy), in pixels."""
    if form == "cross":
        arm = radius * 0.36
        quarter = [(-arm, -radius), (arm, -radius), (arm, -arm), (radius, -arm), (radius, arm), (arm, arm)]
        steps = quarter + [(-x, -y) for x, y in quarter]
        return [(cx + x, cy + y) for x, y in steps]
    corners = {"triangle": 3, "square": 4, "diamond": 4, "pentagon": 5, "hexagon": 6, "star": 10}[form]
    turn = math.pi / 4 if form == "square" else 0.0
    points = []
    for index in range(corners):
        reach = radius * 0.42 if form == "star" and index % 2 else radius
        angle = 2 * math.pi * index / corners - math.pi / 2 + turn
        points.append((cx + reach * math.cos(angle), cy + reach * math.sin(angle)))
    return points


def draw_shape(canvas: Canvas, form: str, color: Color, cx: float, cy: float, radius: float) -> None:
    """Draw one form of about ``radius`` pixels."""
    box = (cx - radius, cy - radius, cx + radius, cy + radius)
    if form == "circle":
        canvas.ellipse(box, color)
    elif form == "ring":
        canvas.ellipse(box, None, color, max(2, int(radius * 0.35)))
    else:
        canvas.polygon(outline(form, cx, cy, radius), color)


def _spots(dice: Dice, canvas: Canvas, arrangement: str) -> list[tuple[float, float, float, bool]]:
    """Centres, radii and "is large" of the shapes of a scene."""
    small = max(8.0, min(canvas.width, canvas.height) * dice.uniform(0.04, 0.06))
    radii = {False: small, True: small * 2.0}
    spots: list[tuple[float, float, float, bool]] = []
    if arrangement != "scatter":
        columns, rows = dice.integer(2, 5), dice.integer(1, 4)
        for row in range(rows):
            for column in range(columns):
                shift = 0.5 * (row % 2) if arrangement == "brick" else 0.0
                x = canvas.width * (column + 0.5 + shift) / (columns + 0.5)
                y = canvas.height * (row + 0.5) / rows
                fits = radii[True] < min(canvas.width / (columns + 0.5), canvas.height / rows) * 0.42
                large = fits and dice.chance(0.5)
                spots.append((x, y, radii[large], large))
        return [spot for spot in spots if dice.chance(0.85)] or spots[:1]
    for _ in range(60):
        if len(spots) >= 9:
            break
        large = dice.chance(0.4)
        radius = radii[large]
        x, y = (
            dice.uniform(radius + 3, canvas.width - radius - 3),
            dice.uniform(radius + 3, canvas.height - radius - 3),
        )
        if all(math.hypot(x - ox, y - oy) > radius + other + 6 for ox, oy, other, _ in spots):
            spots.append((x, y, radius, large))
    return spots[: dice.integer(1, 9)]


def _shapes(sheet: Sheet, arrangement: str) -> None:
    """Coloured shapes on a plain or textured ground."""
    canvas, dice = sheet.canvas, sheet.dice
    ground = dice.random()
    back = dice.pick(("white", "white", "gray", "black", "yellow"))
    tone = COLORS[back]
    if ground < 0.3:
        canvas.paste(texture(dice, (canvas.width, canvas.height), dice.pick((40, 190))), 0, 0)
        names = [name for name in COLORS if name not in ("gray", "brown", "black", "white")]
    else:
        canvas.frame(0, 0, canvas.width, canvas.height, None, tone)
        names = [name for name in COLORS if name != back]
    names = dice.sample(names, dice.integer(2, 5))
    forms = dice.sample(FORMS, dice.integer(2, 5))
    for x, y, radius, large in _spots(dice, canvas, arrangement):
        form, color = dice.pick(forms), dice.pick(names)
        draw_shape(canvas, form, COLORS[color], x, y, radius)
        region = canvas.region(x - radius, y - radius, x + radius, y + radius)
        canvas.records.append(Shape(color, form, "large" if large else "small", region, (x, y)))


SIGNS = (
    Layout("sign-boards", lambda sheet: _signs(sheet, "board")),
    Layout("sign-round", lambda sheet: _signs(sheet, "round"), heldout=True),
)
SCENES = (
    Layout("scene-scatter", lambda sheet: _shapes(sheet, "scatter")),
    Layout("scene-grid", lambda sheet: _shapes(sheet, "grid")),
    Layout("scene-brick", lambda sheet: _shapes(sheet, "brick"), heldout=True),
)
