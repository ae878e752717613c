"""Bar, line and pie charts with titles, labels, legends and (mostly) printed values."""

from __future__ import annotations

import math

from . import templates
from .canvas import WHITE, Color
from .dice import Dice
from .records import Chart, Runs, as_runs
from .sheet import Layout, Sheet, subject


PALETTE: dict[str, tuple[Color, ...]] = {
    "red": ((200, 30, 40), (225, 80, 70)),
    "green": ((40, 140, 60), (110, 160, 50)),
    "blue": ((30, 80, 170), (70, 130, 210)),
    "orange": ((235, 130, 20), (245, 155, 60)),
    "purple": ((120, 50, 150), (150, 90, 180)),
    "yellow": ((240, 205, 40), (235, 215, 90)),
    "gray": ((110, 110, 115), (160, 160, 160)),
    "brown": ((120, 75, 35), (150, 105, 65)),
    "pink": ((240, 130, 170), (230, 150, 190)),
    "cyan": ((0, 160, 180), (60, 185, 200)),
}
_PALE = ("yellow", "pink")


def _head(sheet: Sheet) -> None:
    """Title, subtitle and the note at the foot."""
    dice, canvas, theme = sheet.dice, sheet.canvas, sheet.theme
    small = sheet.glyphs("label", 0.85)
    if dice.chance(0.9):
        text = f"{dice.pick(templates.CHART_TITLES)} {subject(sheet)}"
        if dice.chance(0.6):
            text += f" {dice.pick(templates.CHART_TAILS)}"
        sheet.title(text, dice.pick(("left", "center")), dice.uniform(1.0, 1.6))
    if dice.chance(0.3) and sheet.room > small.height * 12:
        text = f"% of {sheet.words.phrase(dice, 2)}, {dice.integer(1990, 2024)}"
        canvas.write(sheet.left, sheet.y, small.fit(text, sheet.width), small, theme.ink)
        sheet.y += small.height * 1.3
    if dice.chance(0.4) and sheet.room > small.height * 12:
        note = dice.pick(templates.CHART_NOTES)
        note += f" {subject(sheet)}, {dice.integer(1990, 2024)}." if note.endswith("of") else ""
        canvas.write(sheet.left, sheet.bottom - small.height, small.fit(note, sheet.width), small, theme.ink)
        sheet.bottom = int(sheet.bottom - small.height * 1.6)


def _labels(sheet: Sheet, count: int, ordered: bool) -> list[str]:
    """Different short categories: years, months, places or words."""
    dice, words = sheet.dice, sheet.words
    draw = dice.random()
    if ordered or draw < 0.2:
        if dice.chance(0.6):
            start, step = dice.integer(1970, 2014), dice.pick((1, 1, 2, 5))
            return [str(start + step * index) for index in range(count)]
        start = dice.integer(1, 12 - min(count, 11))
        return [
            ("Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec").split()[(start + i - 1) % 12]
            for i in range(min(count, 12))
        ]
    found: dict[str, None] = {}
    while len(found) < count:
        if draw < 0.45:
            found[words.place(dice)] = None
        elif draw < 0.7:
            found[words.phrase(dice, dice.integer(1, 2)).capitalize()] = None
        else:
            found[words.noun(dice).capitalize()] = None
    return list(found)


def _numbers(dice: Dice, count: int, walk: bool) -> tuple[list[float], list[str]]:
    """Values and how they are printed; all different, so that comparisons have one answer."""
    top, decimals, tail = dice.weighted(
        ((99.0, 0, ""), (99.0, 0, "%"), (9.9, 1, ""), (950.0, 0, ""), (60.0, 1, "%")), (3, 3, 2, 2, 1)
    )
    found: list[float] = []
    level = dice.uniform(0.2, 0.8)
    while len(found) < count:
        level = min(max(level + dice.jitter(0.12), 0.08), 1.0) if walk else dice.uniform(0.06, 1.0)
        number = round(top * level, decimals)
        if number not in found:
            found.append(number)
        elif walk:
            level = dice.uniform(0.1, 0.9)
    return found, [f"{number:.{decimals}f}{tail}" for number in found]


def _legend(sheet: Sheet, names: list[str], colors: list[str]) -> list[Runs]:
    """A row of colour keys at the cursor, wrapped."""
    glyphs, canvas = sheet.glyphs("label", 0.95), sheet.canvas
    runs: list[Runs] = []
    x, side = float(sheet.left), round(glyphs.size * 0.8)
    for name, color in zip(names, colors, strict=True):
        width = side + 5 + glyphs.width(name) + glyphs.size
        if x + width > sheet.right and x > sheet.left:
            x, sheet.y = sheet.left, sheet.y + glyphs.height * 1.15
        canvas.frame(x, sheet.y + 2, x + side, sheet.y + 2 + side, None, PALETTE[color][0])
        run = canvas.write(x + side + 5, sheet.y, name, glyphs, sheet.theme.ink)
        runs.append(as_runs(run))
        x += width
    sheet.y += glyphs.height * 1.4
    return runs


def _series(sheet: Sheet, most: int) -> tuple[list[str], list[str]]:
    """Names and colour names of the series; one nameless series in about half of the charts."""
    dice = sheet.dice
    count = 1 if dice.chance(0.5) else dice.integer(2, most)
    colors = dice.sample(tuple(PALETTE), count)
    if count == 1:
        return [""], colors
    names = dict.fromkeys(sheet.words.noun(dice).capitalize() for _ in range(count))
    return list(names), colors[: len(names)]


def _axes(sheet: Sheet, left: float, top: float, right: float, bottom: float, flat: bool) -> None:
    """Axis lines and grid lines."""
    canvas, dice = sheet.canvas, sheet.dice
    if dice.chance(0.5):
        for step in range(1, 5):
            if flat:
                x = round(left + (right - left) * step / 4)
                canvas.rule(x, round(top), x, round(bottom), (205, 205, 205))
            else:
                y = round(bottom - (bottom - top) * step / 4)
                canvas.rule(round(left), y, round(right), y, (205, 205, 205), 1, dice.pick((0, 0, 1)))
    canvas.rule(round(left), round(bottom), round(right), round(bottom), sheet.theme.ink)
    if flat or dice.chance(0.6):
        canvas.rule(round(left), round(top), round(left), round(bottom), sheet.theme.ink)


def _vertical(sheet: Sheet, mark: str) -> None:
    """Upright bars (or lollipops), one group a label."""
    dice, canvas, glyphs = sheet.dice, sheet.canvas, sheet.glyphs("label", 0.95)
    _head(sheet)
    names, colors = _series(sheet, 3)
    legend: list[Runs] = _legend(sheet, names, colors) if names[0] else [()]
    labels = _labels(sheet, dice.integer(3, 8), False)
    while len(labels) > 2 and max(glyphs.width(label) for label in labels) + 6 > sheet.width / len(labels):
        labels = labels[:-1]
    numbers, texts = _numbers(dice, len(labels) * len(names), False)
    top, bottom = sheet.y + glyphs.height * 1.3, sheet.bottom - glyphs.height * 1.4
    _axes(sheet, sheet.left, top, sheet.right, bottom, False)
    slot = sheet.width / len(labels)
    bar = slot * dice.uniform(0.5, 0.8) / len(names)
    label_runs: list[Runs] = []
    value_runs: list[tuple[Runs, ...]] = []
    regions: list[tuple[int, ...]] = []
    for index, label in enumerate(labels):
        center = sheet.left + slot * (index + 0.5)
        run = canvas.write(center, bottom + 3, label, glyphs, sheet.theme.ink, "center")
        label_runs.append(as_runs(run))
        row_runs: list[Runs] = []
        row_regions = []
        for part, color in enumerate(colors):
            number = numbers[index * len(names) + part]
            height = max(2.0, (bottom - top) * number / max(numbers))
            x = center + (part - len(names) / 2) * bar
            if mark == "bar":
                canvas.frame(x, bottom - height, x + bar - 1, bottom, None, PALETTE[color][0])
            else:
                radius = min(bar * 0.3, glyphs.size * 0.6)
                middle = x + bar / 2
                canvas.rule(round(middle), round(bottom - height), round(middle), round(bottom), PALETTE[color][0], 2)
                box = (middle - radius, bottom - height - radius / 2, middle + radius, bottom - height + radius * 1.5)
                canvas.ellipse(box, PALETTE[color][0])
            row_regions.append(canvas.region(x, bottom - height, x + bar, bottom))
            text = texts[index * len(names) + part]
            wide = glyphs.width(text) > bar * 1.25 and len(names) > 1
            gap = 3 if mark == "bar" else round(glyphs.size * 0.4)
            place = bottom - height - glyphs.height - gap + 3
            value = () if wide else canvas.write(x + bar / 2, place, text, glyphs, sheet.theme.ink, "center")
            row_runs.append(as_runs(value))
        value_runs.append(tuple(row_runs))
        regions.append(tuple(row_regions))
    _record(sheet, labels, label_runs, names, legend, colors, texts, value_runs, regions)


def _horizontal(sheet: Sheet, stacked: bool) -> None:
    """Lying bars, labels on the left; parts side by side on one bar if ``stacked``."""
    dice, canvas, glyphs = sheet.dice, sheet.canvas, sheet.glyphs("label", 0.95)
    _head(sheet)
    names, colors = _series(sheet, 3) if stacked else ([""], [dice.pick(tuple(PALETTE))])
    legend: list[Runs] = _legend(sheet, names, colors) if names[0] else [()]
    line = glyphs.height * 1.35
    labels = _labels(sheet, min(dice.integer(3, 12), max(2, int(sheet.room / line))), False)
    widest = max(glyphs.width(label) for label in labels)
    if widest > sheet.width * 0.5:
        labels = [f"{glyphs.fit(label, sheet.width * 0.5)}" or label[:3] for label in labels]
        labels = list(dict.fromkeys(labels))
        widest = max(glyphs.width(label) for label in labels)
    numbers, texts = _numbers(dice, len(labels) * len(names), False)
    left = sheet.left + widest + 8
    step = min(sheet.room / len(labels), glyphs.height * 3.5)
    thick = max(glyphs.height, step * dice.uniform(0.55, 0.8))
    _axes(sheet, left, sheet.y, sheet.right, sheet.y + step * len(labels), True)
    sums = [sum(numbers[i * len(names) : (i + 1) * len(names)]) for i in range(len(labels))]
    scale = (sheet.right - left - glyphs.width("000.0%") - 4) / max(sums)
    label_runs: list[Runs] = []
    value_runs: list[tuple[Runs, ...]] = []
    regions: list[tuple[int, ...]] = []
    for index, label in enumerate(labels):
        y = sheet.y + index * step + (step - thick) / 2
        middle = y + (thick - glyphs.height) / 2
        run = canvas.write(left - 6, middle, label, glyphs, sheet.theme.ink, "right")
        label_runs.append(as_runs(run))
        x, row_runs, row_regions = left + 1, [], []
        for part, color in enumerate(colors):
            length = max(2.0, numbers[index * len(names) + part] * scale)
            canvas.frame(x, y, x + length, y + thick, None, PALETTE[color][0])
            row_regions.append(canvas.region(x, y, x + length, y + thick))
            text = texts[index * len(names) + part]
            inside = len(names) > 1
            ink = sheet.theme.ink if not inside or color in _PALE else WHITE
            room = not inside or glyphs.width(text) + 4 < length
            place = x + length / 2 if inside else x + length + 4
            value = canvas.write(place, middle, text, glyphs, ink, "center" if inside else "left") if room else ()
            row_runs.append(as_runs(value))
            x += length
        value_runs.append(tuple(row_runs))
        regions.append(tuple(row_regions))
    _record(sheet, labels, label_runs, names, legend, colors, texts, value_runs, regions)


def _line_chart(sheet: Sheet, filled: bool) -> None:
    """One to three curves over ordered labels, with a value at every point."""
    dice, canvas, glyphs = sheet.dice, sheet.canvas, sheet.glyphs("label", 0.95)
    _head(sheet)
    names, colors = ([""], [dice.pick(tuple(PALETTE))]) if filled else _series(sheet, 3)
    legend: list[Runs] = _legend(sheet, names, colors) if names[0] else [()]
    labels = _labels(sheet, dice.integer(4, 9), True)
    while len(labels) > 2 and max(glyphs.width(label) for label in labels) + 8 > sheet.width / len(labels):
        labels = labels[:-1]
    numbers, texts = _numbers(dice, len(labels) * len(names), True)
    top, bottom = sheet.y + glyphs.height * 1.5, sheet.bottom - glyphs.height * 1.5
    _axes(sheet, sheet.left, top, sheet.right, bottom, False)
    slot = sheet.width / len(labels)
    centers = [sheet.left + slot * (index + 0.5) for index in range(len(labels))]
    label_runs: list[Runs] = []
    for center, label in zip(centers, labels, strict=True):
        run = canvas.write(center, bottom + 4, label, glyphs, sheet.theme.ink, "center")
        label_runs.append(as_runs(run))
    value_runs: list[list[Runs]] = [[] for _ in labels]
    regions: list[list[int]] = [[] for _ in labels]
    dotted = dice.chance(0.7)
    for part, color in enumerate(colors):
        ys = [bottom - (bottom - top) * numbers[i * len(names) + part] / max(numbers) for i in range(len(labels))]
        points = list(zip(centers, ys, strict=True))
        if filled:
            canvas.polygon([(centers[0], bottom), *points, (centers[-1], bottom)], PALETTE[color][1])
        canvas.stroke(points, PALETTE[color][0], dice.pick((2, 2, 3)))
        for index, (x, y) in enumerate(points):
            if dotted:
                canvas.ellipse((x - 3, y - 3, x + 3, y + 3), PALETTE[color][0])
            regions[index].append(canvas.region(x - 6, y - 6, x + 6, y + 6))
            shown = part == 0 or dice.chance(0.5)
            others = [bottom - (bottom - top) * numbers[index * len(names) + k] / max(numbers) for k in range(part)]
            free = all(abs(y - other) > glyphs.height * 1.6 for other in others)
            text = texts[index * len(names) + part]
            place = y - glyphs.height - 4
            value = canvas.write(x, place, text, glyphs, sheet.theme.ink, "center") if shown and free else ()
            value_runs[index].append(as_runs(value))
    rows, marks = [tuple(row) for row in value_runs], [tuple(row) for row in regions]
    _record(sheet, labels, label_runs, names, legend, colors, texts, rows, marks)


def _pie_chart(sheet: Sheet, hole: float) -> None:
    """Slices with a legend and shares printed in them or beside the names."""
    dice, canvas, glyphs = sheet.dice, sheet.canvas, sheet.glyphs("label", 0.95)
    _head(sheet)
    count = dice.integer(2, 6)
    colors = dice.sample(tuple(PALETTE), count)
    labels = _labels(sheet, count, False)
    colors = colors[: len(labels)]
    shares = [dice.uniform(0.4, 2.0) for _ in labels]
    percents = [max(1, round(100 * share / sum(shares))) for share in shares]
    percents[0] += 100 - sum(percents)
    texts = [f"{percent}%" for percent in percents]
    beside = dice.chance(0.4)
    legend = _legend(sheet, labels, colors) if not beside else []
    below = sheet.room * (0.62 if beside else 1.0)
    radius = max(10.0, min(sheet.width, below) / 2 - 4)
    cx, cy = (sheet.left + sheet.right) / 2, sheet.y + radius
    box = (cx - radius, cy - radius, cx + radius, cy + radius)
    angle = dice.uniform(0, 360)
    value_runs: list[tuple[Runs, ...]] = []
    regions: list[tuple[int, ...]] = []
    for color, percent in zip(colors, percents, strict=True):
        sweep = 360 * percent / 100
        canvas.pie(box, angle, angle + sweep, PALETTE[color][0], WHITE)
        half = math.radians(angle + sweep / 2)
        reach = radius * (0.8 if hole else 0.62)
        x, y = cx + math.cos(half) * reach, cy + math.sin(half) * reach
        regions.append((canvas.region(x - radius * 0.2, y - radius * 0.2, x + radius * 0.2, y + radius * 0.2),))
        value_runs.append(((),))
        angle += sweep
    if hole:
        inner = radius * hole
        canvas.ellipse((cx - inner, cy - inner, cx + inner, cy + inner), WHITE)
    sheet.y = cy + radius + 6
    label_runs: list[Runs] = list(legend)
    if beside:
        label_runs, value_runs = _pie_list(sheet, labels, colors, texts)
    else:
        for index, text in enumerate(texts):
            x0, y0, x1, y1 = canvas.regions[regions[index][0]]
            if glyphs.width(text) < radius * percents[index] / 22:
                ink = sheet.theme.ink if colors[index] in _PALE else WHITE
                run = canvas.write((x0 + x1) / 2, (y0 + y1 - glyphs.height) / 2, text, glyphs, ink, "center")
                value_runs[index] = (as_runs(run),)
    if len(set(percents)) == len(percents):
        _record(sheet, labels, label_runs, [""], [()], colors, texts, value_runs, regions)


def _pie_list(
    sheet: Sheet, labels: list[str], colors: list[str], texts: list[str]
) -> tuple[list[Runs], list[tuple[Runs, ...]]]:
    """Names with shares, one a line, below the pie."""
    canvas, glyphs = sheet.canvas, sheet.glyphs("label", 0.95)
    names: list[Runs] = []
    shares: list[tuple[Runs, ...]] = []
    side = round(glyphs.size * 0.8)
    for label, color, text in zip(labels, colors, texts, strict=True):
        canvas.frame(sheet.left, sheet.y + 2, sheet.left + side, sheet.y + 2 + side, None, PALETTE[color][0])
        run = canvas.write(sheet.left + side + 6, sheet.y, label, glyphs, sheet.theme.ink)
        place = sheet.left + side + 6 + glyphs.width(label) + glyphs.size
        value = canvas.write(place, sheet.y, text, glyphs, sheet.theme.ink)
        names.append(as_runs(run))
        shares.append((as_runs(value),))
        sheet.y += glyphs.height * 1.15
    return names, shares


def _record(
    sheet: Sheet,
    labels: list[str],
    label_runs: list[Runs],
    names: list[str],
    legend: list[Runs],
    colors: list[str],
    texts: list[str],
    value_runs: list[tuple[Runs, ...]],
    regions: list[tuple[int, ...]],
) -> None:
    width = len(names)
    rows = tuple(tuple(texts[index * width : (index + 1) * width]) for index in range(len(labels)))
    sheet.canvas.records.append(
        Chart(
            tuple(labels),
            tuple(label_runs),
            tuple(names),
            tuple(legend),
            tuple(colors),
            rows,
            tuple(value_runs),
            tuple(regions),
        )
    )


BAR_CHARTS = (
    Layout("bar-vertical", lambda sheet: _vertical(sheet, "bar")),
    Layout("bar-horizontal", lambda sheet: _horizontal(sheet, False)),
    Layout("bar-stacked", lambda sheet: _horizontal(sheet, True)),
    Layout("bar-lollipop", lambda sheet: _vertical(sheet, "lollipop"), heldout=True),
)
LINE_CHARTS = (
    Layout("line-curves", lambda sheet: _line_chart(sheet, False)),
    Layout("line-area", lambda sheet: _line_chart(sheet, True), heldout=True),
)
PIE_CHARTS = (
    Layout("pie-full", lambda sheet: _pie_chart(sheet, 0.0)),
    Layout("pie-ring", lambda sheet: _pie_chart(sheet, 0.55), heldout=True),
)
