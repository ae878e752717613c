"""The page while it is drawn: an image, and every word and region placed on it."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image, ImageDraw

from .dice import Dice
from .document import Box, Point
from .fonts import Glyph, GlyphSet
from .records import Record, Run, Runs


Color = tuple[int, int, int]
BLACK: Color = (0, 0, 0)
WHITE: Color = (255, 255, 255)


@dataclass(frozen=True)
class Placed:
    """A word before augmentation: text, ink box, and edges of its characters on the middle line."""

    text: str
    box: Box
    edges: tuple[Point, ...]


class Canvas:
    """A page of one document.

    Args:
        size: (width, height) in pixels.
        gray: draw in grey levels, three times cheaper; colours become their brightness.
        paper: colour of the page.

    Attributes:
        words: words placed so far.
        regions: rectangles registered so far (bars, checkboxes, shapes).
        records: facts for questions.
        styles: names of the styles used.
    """

    def __init__(self, size: tuple[int, int], gray: bool, paper: Color = WHITE) -> None:
        self.width, self.height = size
        self.gray = gray
        self.image = Image.new("L" if gray else "RGB", size, self._ink(paper))
        self.draw = ImageDraw.Draw(self.image)
        self.words: list[Placed] = []
        self.regions: list[Box] = []
        self.records: list[Record] = []
        self.styles: set[str] = set()

    def _ink(self, color: Color) -> int | Color:
        return (color[0] * 299 + color[1] * 587 + color[2] * 114) // 1000 if self.gray else color

    def write(
        self,
        x: float,
        y: float,
        text: str,
        glyphs: GlyphSet,
        color: Color = BLACK,
        align: str = "left",
        shake: float = 0.0,
        dice: Dice | None = None,
    ) -> Run:
        """Print one line of text.

        Args:
            x: left edge, middle or right edge, as ``align`` says.
            y: upper edge of the line.
            text: words with single blanks between them.
            glyphs: face and size.
            color: ink.
            align: "left", "center" or "right".
            shake: characters move up and down by about this many pixels (needs ``dice``).
            dice: randomness for ``shake``.

        Returns:
            Indices of the words. Empty, and nothing printed, if the line would not lie wholly on the page.
        """
        total = glyphs.width(text)
        x -= {"left": 0.0, "center": total / 2, "right": total}[align]
        if not text or x < 1 or y < 0 or x + total > self.width - 1 or y + glyphs.height > self.height:
            return ()
        self.styles.add(glyphs.style.name)
        ink, bitmap = self._ink(color), self.draw.bitmap
        base = y + glyphs.ascent
        middle = base - 0.35 * glyphs.size
        drift = dice.jitter(shake) * 0.03 if dice and shake else 0.0
        first, start = len(self.words), x
        for word in text.split():
            edges: list[Point] = [(x, middle)]
            left, top, right, bottom = self.width, self.height, 0, 0
            for sign in word:
                glyph: Glyph = glyphs.glyph(sign)
                if glyph.mask is not None:
                    rise = drift * (x - start) + dice.jitter(shake) if dice and shake else 0.0
                    at_x, at_y = round(x) + glyph.left, round(base + rise) + glyph.top
                    bitmap((at_x, at_y), glyph.mask, ink)
                    left, top = min(left, at_x), min(top, at_y)
                    right, bottom = max(right, at_x + glyph.width), max(bottom, at_y + glyph.height)
                x += glyph.advance
                edges.append((x, middle))
            box = (max(left, 0), max(top, 0), min(right, self.width), min(bottom, self.height))
            self.words.append(Placed(word, box, tuple(edges)))
            x += glyphs.glyph(" ").advance
        return tuple(range(first, len(self.words)))

    def write_turned(self, x: int, y: int, text: str, glyphs: GlyphSet, color: Color = BLACK) -> Run:
        """Print one word from top to bottom, its upper right corner at (x, y), as archives stamp numbers."""
        width = int(glyphs.width(text)) + 2
        if x - glyphs.height < 0 or x > self.width or y < 0 or y + width > self.height or " " in text:
            return ()
        self.styles.add(glyphs.style.name)
        strip = Image.new("L", (width, glyphs.height))
        pen, edges = 1.0, []
        drawer = ImageDraw.Draw(strip)
        middle = x - glyphs.ascent + 0.35 * glyphs.size
        for sign in text:
            glyph = glyphs.glyph(sign)
            edges.append((middle, y + pen))
            if glyph.mask is not None:
                drawer.bitmap((round(pen) + glyph.left, glyphs.ascent + glyph.top), glyph.mask, 255)
            pen += glyph.advance
        edges.append((middle, y + pen))
        turned = strip.transpose(Image.Transpose.ROTATE_270)
        bounds = turned.getbbox()
        if bounds is None:
            return ()
        corner = x - glyphs.height
        self.draw.bitmap((corner, y), turned, self._ink(color))
        box = (corner + bounds[0], y + bounds[1], corner + bounds[2], y + bounds[3])
        self.words.append(Placed(text, box, tuple(edges)))
        return (len(self.words) - 1,)

    def paragraph(
        self,
        x: float,
        y: float,
        width: float,
        text: str,
        glyphs: GlyphSet,
        color: Color = BLACK,
        leading: float = 1.2,
        align: str = "left",
        bottom: float | None = None,
        shake: float = 0.0,
        dice: Dice | None = None,
    ) -> tuple[Runs, float]:
        """Print wrapped text; lines that would cross ``bottom`` (page edge by default) are left out.

        Returns:
            Words of the lines that were printed and the y below the last of them.
        """
        step = max(round(glyphs.height * leading), glyphs.height)
        limit = self.height if bottom is None else min(bottom, self.height)
        place = {"left": x, "center": x + width / 2, "right": x + width}[align]
        runs = []
        for line in glyphs.wrap(text, width):
            if y + glyphs.height > limit:
                break
            run = self.write(place, y, line, glyphs, color, align, shake, dice)
            if run:
                runs.append(run)
            y += step
        return tuple(runs), y

    def text_of(self, runs: Runs) -> str:
        """Printed words of some lines, single blanks between them."""
        return " ".join(self.words[index].text for run in runs for index in run)

    def box_of(self, run: Run) -> Box:
        """Ink box of a line."""
        boxes = [self.words[index].box for index in run]
        return (boxes[0][0], min(box[1] for box in boxes), boxes[-1][2], max(box[3] for box in boxes))

    def region(self, x0: float, y0: float, x1: float, y1: float) -> int:
        """Remember a rectangle (clipped to the page) and return its index."""
        clipped = (max(x0, 0.0), max(y0, 0.0), min(x1, self.width), min(y1, self.height))
        self.regions.append(clipped)
        return len(self.regions) - 1

    def rule(
        self, x0: float, y0: float, x1: float, y1: float, color: Color = BLACK, width: int = 1, dash: int = 0
    ) -> None:
        """Draw a horizontal or vertical line; ``dash`` > 0 makes dots (1) or dashes of that many pixels."""
        ink = self._ink(color)
        if not dash:
            self.draw.line((x0, y0, x1, y1), fill=ink, width=width)
            return
        along, end = (x0, x1) if y0 == y1 else (y0, y1)
        step = 3 if dash == 1 else round(dash * 1.7) + 1
        while along < end:
            stop = min(along + dash - 1, end)
            segment = (along, y0, stop, y0) if y0 == y1 else (x0, along, x0, stop)
            self.draw.line(segment, fill=ink, width=width)
            along += step

    def frame(
        self,
        x0: float,
        y0: float,
        x1: float,
        y1: float,
        outline: Color | None = BLACK,
        fill: Color | None = None,
        width: int = 1,
        radius: int = 0,
    ) -> None:
        """Draw a rectangle; does nothing if it is empty."""
        if x1 <= x0 or y1 <= y0:
            return
        line = None if outline is None else self._ink(outline)
        area = None if fill is None else self._ink(fill)
        if radius:
            self.draw.rounded_rectangle((x0, y0, x1, y1), radius, area, line, width)
        else:
            self.draw.rectangle((x0, y0, x1, y1), area, line, width)

    def polygon(self, points: list[Point], color: Color, outline: Color | None = None) -> None:
        """Fill a polygon."""
        self.draw.polygon(points, self._ink(color), None if outline is None else self._ink(outline))

    def ellipse(self, box: Box, fill: Color | None, outline: Color | None = None, width: int = 1) -> None:
        """Draw an ellipse."""
        area = None if fill is None else self._ink(fill)
        self.draw.ellipse(box, area, None if outline is None else self._ink(outline), width)

    def stroke(self, points: list[Point], color: Color, width: int = 1) -> None:
        """Draw a polyline."""
        self.draw.line(points, fill=self._ink(color), width=width, joint="curve")

    def pie(self, box: Box, start: float, end: float, color: Color, outline: Color | None = None) -> None:
        """Fill a sector; angles in degrees clockwise from three o'clock."""
        self.draw.pieslice(box, start, end, self._ink(color), None if outline is None else self._ink(outline))

    def paste(self, picture: Image.Image, x: int, y: int) -> None:
        """Put a picture on the page."""
        self.image.paste(picture.convert(self.image.mode), (x, y))
