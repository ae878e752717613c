"""Pictures of an allocation, with Pillow alone: leaves over the image, what each can hold, and the relevance maps.

The colours of the levels are those of Okabe & Ito (2008), told apart with every common colour blindness, from warm
(looked at closely) to cool (a glance). Heat maps use viridis.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont


if TYPE_CHECKING:
    from arrcoc.outputs import Allocation

Color = tuple[int, int, int]

LEVEL_COLORS: tuple[Color, ...] = (
    (213, 94, 0),  # vermilion: one cell
    (230, 159, 0),  # orange
    (0, 158, 115),  # bluish green
    (86, 180, 233),  # sky blue
    (0, 114, 178),  # blue
    (204, 121, 167),  # reddish purple: the coarsest levels
)
DROPPED_COLOR: Color = (70, 70, 70)
HEAT_ANCHORS: tuple[Color, ...] = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)
TINT = 0.22  # opacity of a leaf's colour over the image
INK: Color = (32, 33, 36)
MUTED: Color = (95, 99, 104)
PAPER: Color = (255, 255, 255)
MAP_TITLES = {
    "information": "What is there",
    "salience": "What stands out",
    "query": "What is asked for",
    "relevance": "Balanced relevance",
}
MAP_SUBTITLES = {
    "information": "propositional: information",
    "salience": "perspectival: salience",
    "query": "participatory: query coupling",
    "relevance": "decides where leaves are split",
}


def display_levels(sizes: Sequence[tuple[float, float]]) -> list[int]:
    """Level that each leaf is shown as: the smallest `l` such that the leaf has at most `4**l` cells.

    Args:
        sizes: height and width of what is drawn of each leaf, in cells.
    """
    return [((round(height * width) - 1).bit_length() + 1) // 2 for height, width in sizes]


def level_color(level: int) -> Color:
    """Colour of a display level; levels beyond the palette share its last colour."""
    return LEVEL_COLORS[min(level, len(LEVEL_COLORS) - 1)]


def heat_colors(values: np.ndarray) -> np.ndarray:
    """Map values in [0, 1] to viridis.

    Args:
        values (`np.ndarray` of shape `(rows, cols)`): values; those outside [0, 1] are clipped.

    Returns:
        `np.ndarray` of shape `(rows, cols, 3)`, uint8.
    """
    anchors = np.asarray(HEAT_ANCHORS, dtype=np.float64)  # (anchors, 3)
    stops = np.linspace(0.0, 1.0, len(anchors))
    channels = [np.interp(np.clip(values, 0.0, 1.0), stops, anchors[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)  # (rows, cols, 3)


def fit_cell_size(grid: tuple[int, int], max_height: int, max_width: int) -> int:
    """Largest whole number of pixels per cell that keeps a grid of cells inside a box (at least 1, at most 64)."""
    rows, cols = grid
    return max(1, min(64, max_height // rows, max_width // cols))


@dataclass(frozen=True)
class _Leaves:
    """One image's allocation as plain Python values."""

    grid: tuple[int, int]
    boxes: list[tuple[float, float, float, float]]  # what is drawn of each
    levels: list[int]
    dropped: list[tuple[int, int]]


def _read_leaves(allocation: "Allocation", index: int) -> _Leaves:
    single = allocation.image(index)
    rows, cols = single.grids[0].tolist()
    boxes = [tuple(box) for box in single.drawn.tolist()]
    levels = display_levels([(bottom - top, right - left) for top, left, bottom, right in boxes])
    cells = single.cell_to_leaf.tolist()
    dropped = [divmod(cell, cols) for cell, leaf in enumerate(cells) if leaf < 0]
    return _Leaves((rows, cols), boxes, levels, dropped)


def level_counts(allocation: "Allocation", index: int = 0) -> dict[int, int]:
    """Number of leaves at each display level of one image, finest first."""
    levels = _read_leaves(allocation, index).levels
    return {level: levels.count(level) for level in sorted(set(levels))}


def draw_allocation(image: Image.Image, allocation: "Allocation", index: int = 0, cell_size: int = 20) -> Image.Image:
    """Draw the leaves of one image over it: tinted and outlined in the colour of their level, dropped cells darkened.

    Args:
        image (`PIL.Image.Image`): the picture, of any size; it is stretched over the grid.
        allocation ([`~arrcoc.outputs.Allocation`]): where the tokens went.
        index (`int`): which image of the allocation.
        cell_size (`int`): side of a cell in the drawing, in pixels.

    Returns:
        `PIL.Image.Image` (RGB) of `cols * cell_size` by `rows * cell_size` pixels.
    """
    leaves = _read_leaves(allocation, index)
    canvas = _stretch(image, leaves.grid, cell_size)
    tint = Image.new("RGB", canvas.size)
    opacity = Image.new("L", canvas.size, 0)
    paint_tint, paint_opacity = ImageDraw.Draw(tint), ImageDraw.Draw(opacity)
    for box, level in sorted(zip(leaves.boxes, leaves.levels, strict=True), key=lambda leaf: -leaf[1]):
        area = _pixels(box, cell_size)
        paint_tint.rectangle(area, fill=level_color(level))
        line = 2 if level > 0 and cell_size >= 16 else 1
        paint_opacity.rectangle(area, fill=round(255 * TINT), outline=235 if cell_size >= 4 else None, width=line)
    for row, col in leaves.dropped:
        area = _pixels((row, col, row + 1, col + 1), cell_size)
        paint_tint.rectangle(area, fill=DROPPED_COLOR)
        paint_opacity.rectangle(area, fill=200)
    canvas.paste(tint, mask=opacity)
    return canvas


def draw_detail(image: Image.Image, allocation: "Allocation", index: int = 0, cell_size: int = 20) -> Image.Image:
    """Draw one image with each leaf at the resolution of its one token: single cells sharp, coarser leaves blurred.

    A leaf of level `l` is shown as if its pixels had been averaged down by `2**l`, which is what a plain resize to the
    same number of tokens would leave of it. Dropped cells are blank. Arguments and size as for [`draw_allocation`].
    """
    leaves = _read_leaves(allocation, index)
    full = _stretch(image, leaves.grid, 32)
    size = (leaves.grid[1] * cell_size, leaves.grid[0] * cell_size)
    canvas = Image.new("RGB", size, DROPPED_COLOR)
    for level in sorted(set(leaves.levels), reverse=True):  # single cells over the leaves around them
        coarse = full.reduce(2**level).resize(size, Image.Resampling.BICUBIC)
        mask = Image.new("1", size, 0)
        paint = ImageDraw.Draw(mask)
        for box, leaf_level in zip(leaves.boxes, leaves.levels, strict=True):
            if leaf_level == level:
                paint.rectangle(_pixels(box, cell_size), fill=1)
        canvas.paste(coarse, mask=mask)
    return canvas


def draw_map(image: Image.Image, values: np.ndarray, size: tuple[int, int]) -> Image.Image:
    """Draw one map as a heat map in which the image remains visible as lightness.

    Args:
        image (`PIL.Image.Image`): the picture that the map belongs to.
        values (`np.ndarray` of shape `(rows, cols)`): the map, in [0, 1].
        size (`tuple[int, int]`): width and height of the drawing, in pixels.
    """
    heat = Image.fromarray(heat_colors(values)).resize(size, Image.Resampling.NEAREST)
    shade = np.asarray(image.convert("L").resize(size, Image.Resampling.LANCZOS), dtype=np.float64) / 255
    shaded = np.asarray(heat) * (0.45 + 0.55 * shade[..., None])  # (height, width, 3)
    return Image.fromarray(shaded.round().astype(np.uint8))


def draw_maps(
    image: Image.Image,
    allocation: "Allocation",
    index: int = 0,
    size: tuple[int, int] = (256, 256),
    columns: int = 2,
    subtitles: dict[str, str] | None = None,
) -> Image.Image:
    """Draw the maps of one image and the relevance balanced from them, each under its title.

    Args:
        size (`tuple[int, int]`): width and height of each map, in pixels.
        columns (`int`): maps side by side.
        subtitles (`dict[str, str]`, *optional*): second line over a map, where it is not to be [`MAP_SUBTITLES`].
        image, allocation, index: as for [`draw_allocation`].
    """
    single = allocation.image(index)
    under = MAP_SUBTITLES | (subtitles or {})
    captions = {name: (MAP_TITLES.get(name, name), under.get(name, "")) for name in [*single.maps, "relevance"]}
    width = max(_caption_width(*caption) for caption in captions.values())
    panels = [
        _panel(draw_map(image, single.map(name).float().cpu().numpy(), size), *caption, least_width=width)
        for name, caption in captions.items()
    ]
    rows = [_beside(panels[start : start + columns]) for start in range(0, len(panels), columns)]
    return _stack(rows)


def draw_report(
    image: Image.Image,
    allocation: "Allocation",
    question: str = "",
    index: int = 0,
    subtitles: dict[str, str] | None = None,
) -> Image.Image:
    """Draw everything about one image on one sheet: leaves, what they hold, the maps, the question and the counts.

    Arguments as for [`draw_allocation`] and [`draw_maps`]. The panels of very wide images stand one above the other.

    Returns:
        `PIL.Image.Image` (RGB).
    """
    single = allocation.image(index)
    rows, cols = single.grids[0].tolist()
    flat, tall = cols > 2 * rows, rows > 3 * cols
    cell_size = fit_cell_size((rows, cols), 900, 1500 if flat else 900)
    width, height = cols * cell_size, rows * cell_size
    panels = [
        _panel(draw_allocation(image, single, 0, cell_size), "Where the tokens go", "each leaf is one visual token"),
        _panel(draw_detail(image, single, 0, cell_size), "What they can hold", "each leaf at its own resolution"),
    ]
    # Maps are as tall as a very tall panel. Else two fill its width side by side or its height one above the other.
    if tall:
        share = 1.0
    else:
        share = (width - _GAP) / 2 / width if flat else (height - _HEADING - _GAP) / 2 / height
    size = max(1, int(width * share)), max(1, int(height * share))
    maps = draw_maps(image, single, 0, size, columns=4 if tall else 2, subtitles=subtitles)
    body = _stack([*panels, maps]) if flat else _beside([*panels, maps])
    return _sheet(body, question, single)


_GAP = 24
_HEADING = 48
_MARGIN = 32


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _stretch(image: Image.Image, grid: tuple[int, int], cell_size: int) -> Image.Image:
    rows, cols = grid
    return image.convert("RGB").resize((cols * cell_size, rows * cell_size), Image.Resampling.LANCZOS)


def _pixels(box: tuple[float, float, float, float], cell_size: int) -> tuple[int, int, int, int]:
    """Left, top, right, bottom in pixels, all inclusive, of a box in cells."""
    top, left, bottom, right = (round(edge * cell_size) for edge in box)
    return left, top, right - 1, bottom - 1


def _caption_width(title: str, subtitle: str) -> int:
    return int(max(_font(20).getlength(title), _font(14).getlength(subtitle))) + 1


def _panel(picture: Image.Image, title: str, subtitle: str, least_width: int = 0) -> Image.Image:
    width = max(picture.width, _caption_width(title, subtitle), least_width)
    panel = Image.new("RGB", (width, picture.height + _HEADING), PAPER)
    paint = ImageDraw.Draw(panel)
    paint.text((0, 0), title, fill=INK, font=_font(20))
    paint.text((0, 25), subtitle, fill=MUTED, font=_font(14))
    panel.paste(picture, (0, _HEADING))
    paint.rectangle((0, _HEADING, picture.width - 1, panel.height - 1), outline=(218, 220, 224))
    return panel


def _beside(pictures: list[Image.Image]) -> Image.Image:
    width = sum(picture.width for picture in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    left = 0
    for picture in pictures:
        sheet.paste(picture, (left, 0))
        left += picture.width + _GAP
    return sheet


def _stack(pictures: list[Image.Image]) -> Image.Image:
    height = sum(picture.height for picture in pictures) + _GAP * (len(pictures) - 1)
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    top = 0
    for picture in pictures:
        sheet.paste(picture, (0, top))
        top += picture.height + _GAP
    return sheet


def _sheet(body: Image.Image, question: str, single: "Allocation") -> Image.Image:
    rows, cols = single.grids[0].tolist()
    tokens = int(single.budgets[0])
    headline = f"{tokens} of {rows * cols} visual tokens"
    ratio = f"{rows * cols / tokens:.1f}x fewer, {rows} x {cols} cells"
    big, small = _font(30), _font(18)
    width = max(body.width, 640)
    lines = _wrap(question, big, width) if question else []
    legend = _legend(single, width)
    top = 40 * len(lines) + (8 if lines else 0)
    sheet = Image.new("RGB", (width + 2 * _MARGIN, top + 44 + body.height + _GAP + legend.height + 2 * _MARGIN), PAPER)
    paint = ImageDraw.Draw(sheet)
    for number, line in enumerate(lines):
        paint.text((_MARGIN, _MARGIN + 40 * number), line, fill=INK, font=big)
    paint.text((_MARGIN, _MARGIN + top), headline, fill=INK, font=small)
    paint.text((_MARGIN + small.getlength(headline + "   "), _MARGIN + top), ratio, fill=MUTED, font=small)
    sheet.paste(body, (_MARGIN, _MARGIN + top + 44))
    sheet.paste(legend, (_MARGIN, _MARGIN + top + 44 + body.height + _GAP))
    return sheet


def _legend(single: "Allocation", width: int) -> Image.Image:
    """One swatch and count for each level present, wrapped to the width."""
    leaves = _read_leaves(single, 0)
    entries = []
    for level, count in level_counts(single).items():
        cells = "1 cell" if level == 0 else f"up to {2**level} x {2**level} cells"
        entries.append((level_color(level), f"{cells}: {count} token{'s' if count != 1 else ''}"))
    if leaves.dropped:
        entries.append((DROPPED_COLOR, f"dropped: {len(leaves.dropped)} cells"))
    font = _font(18)
    places, left, top = [], 0, 0
    for color, text in entries:
        length = 34 + int(font.getlength(text)) + 28
        if left and left + length > width:
            left, top = 0, top + 30
        places.append((left, top, color, text))
        left += length
    legend = Image.new("RGB", (width, top + 26), PAPER)
    paint = ImageDraw.Draw(legend)
    for left, top, color, text in places:
        tinted = tuple(round(255 + (channel - 255) * 2 * TINT) for channel in color)
        paint.rectangle((left, top + 2, left + 24, top + 22), fill=tinted, outline=color, width=2)
        paint.text((left + 34, top + 1), text, fill=INK, font=font)
    return legend


def _wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    """Break a text into at most three lines of at most `width` pixels; what does not fit ends in dots."""
    lines, line = [], ""
    for word in text.split():
        if line and font.getlength(f"{line} {word}") > width:
            lines.append(line)
            line = word
        else:
            line = f"{line} {word}".strip()
    lines.append(line)
    if len(lines) > 3:
        lines = [*lines[:2], lines[2] + " ..."]
    return lines
