"""A page with its theme (faces, sizes, inks and habits that one document keeps) and the layouts' common helpers."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

from . import templates, values, wordlists
from .canvas import BLACK, Canvas, Color
from .dice import Dice
from .fonts import GlyphSet, Style, glyph_set
from .records import Entry, Heading, Runs
from .vocabulary import Lexicon


SMALLEST, LARGEST = 10, 40  # letter sizes in pixels
CLEAR = 16  # least size of the letters of clear pages
_SIZES = (10, 11, 12, 13, 14, 15, 16, 18, 20, 22, 24, 26, 28, 32, 36, 40)  # few, so that drawn glyphs are found again
_TYPED = re.compile(r"mono|courier|typewriter|fixed", re.I)
_HEAVY = re.compile(r"bold|heavy|black", re.I)
_SLANTED = re.compile(r"italic|oblique|slant", re.I)
_INKS: tuple[Color, ...] = ((0, 0, 0), (0, 0, 0), (25, 25, 30), (45, 45, 45), (70, 70, 75))
_PENS: tuple[Color, ...] = ((20, 30, 120), (10, 10, 10), (30, 50, 150), (40, 40, 45), (90, 20, 30))
_ACCENTS: tuple[Color, ...] = (
    (20, 60, 120),
    (140, 20, 30),
    (10, 100, 70),
    (90, 50, 130),
    (200, 90, 10),
    (40, 40, 40),
    (0, 110, 140),
    (120, 80, 40),
)


@dataclass(frozen=True)
class Theme:
    """What a document keeps from top to bottom.

    Args:
        label: style of printed labels and fixed text.
        value: style of filled-in values.
        heading: style of titles.
        size: letter size of labels in pixels.
        value_size: letter size of values.
        ink: colour of printed text.
        pen: colour of values.
        accent: colour of bars, logos and lines.
        shake: how unsteadily values are written, in pixels (handwriting, worn typewriters).
        key_case: "upper", "title", "sentence" or "lower".
        colon: what follows a label.
        rule: line under values: "", "solid", "thick", "dots" or "dashes".
    """

    label: Style
    value: Style
    heading: Style
    size: int
    value_size: int
    ink: Color
    pen: Color
    accent: Color
    shake: float
    key_case: str
    colon: str
    rule: str


def letter_size(wanted: float) -> int:
    """The nearest size that is used, within the allowed ones."""
    return min(_SIZES, key=lambda size: abs(size - wanted))


@lru_cache(maxsize=16)
def _sorts(styles: tuple[Style, ...]) -> tuple[tuple[Style, ...], ...]:
    """Styles for running text, typed values, handwriting and headings."""
    upright = tuple(style for style in styles if not _SLANTED.search(style.name)) or styles
    light = tuple(style for style in upright if not _HEAVY.search(style.name)) or upright
    typed = tuple(style for style in light if _TYPED.search(style.name)) or light
    slanted = tuple(style for style in styles if _SLANTED.search(style.name)) or styles
    heavy = tuple(style for style in upright if _HEAVY.search(style.name)) or upright
    return light, typed, slanted, heavy


def draw_theme(
    dice: Dice,
    styles: tuple[Style, ...],
    width: int,
    height: int,
    ems: tuple[int, int] = (26, 62),
    least: int = SMALLEST,
) -> Theme:
    """Choose faces, inks and habits for a page; its width in pixels holds ``ems`` (least, most) letter sizes."""
    light, typed, slanted, heavy = _sorts(styles)
    label = dice.pick(heavy if dice.chance(0.15) else typed if dice.chance(0.25) else light)
    habit = dice.weighted(("same", "typed", "other", "hand"), (3.5, 3, 2, 1.5))
    value = {"same": label, "typed": dice.pick(typed), "other": dice.pick(light), "hand": dice.pick(slanted)}[habit]
    size = round(width / dice.uniform(*ems)) if dice.chance(0.85) else dice.integer(SMALLEST, width // 24)
    size = letter_size(max(least, min(size, 28, height // 18)))
    grow = dice.pick((1.0, 1.0, 1.1, 1.2)) * (1.15 if habit == "hand" else 1.0)
    ink = dice.pick(_INKS)
    return Theme(
        label=label,
        value=value,
        heading=label if dice.chance(0.3) else dice.pick(heavy),
        size=size,
        value_size=letter_size(size * grow),
        ink=ink,
        pen=dice.pick(_PENS) if habit == "hand" else ink if dice.chance(0.8) else (20, 30, 90),
        accent=dice.pick(_ACCENTS),
        shake=size * 0.05 if habit == "hand" else 0.5 if habit == "typed" and dice.chance(0.4) else 0.0,
        key_case=dice.weighted(("upper", "title", "sentence", "lower"), (4, 5, 1.5, 0.5)),
        colon=dice.weighted((":", "", " :", "."), (6, 4, 1, 0.3)),
        rule=dice.weighted(("solid", "", "dots", "dashes", "thick"), (5, 4, 2, 1, 1)),
    )


class Sheet:
    """A page that layouts draw on: canvas, randomness, vocabulary, theme and the printable area.

    Args:
        canvas: the page.
        dice: the document's randomness.
        words: vocabulary of the split.
        theme: faces and habits.
        margin: blank border in pixels.
        dark: areas may be dark with light letters; copies lose those.
        least: least size of letters in pixels.
    """

    def __init__(
        self,
        canvas: Canvas,
        dice: Dice,
        words: Lexicon,
        theme: Theme,
        margin: int,
        dark: bool = True,
        least: int = SMALLEST,
    ) -> None:
        self.dark, self.least = dark, least
        self.canvas, self.dice, self.words, self.theme = canvas, dice, words, theme
        self.left, self.top = margin, margin
        self.right, self.bottom = canvas.width - margin, canvas.height - margin
        self.y = float(margin)
        self._keys: set[str] = set()
        # Some pages are about few things: "Sender Name", "Sender Phone" … share a word and are easily confused.
        self._family = words.phrase(dice, 1).title() if dice.chance(0.15) else ""

    @property
    def width(self) -> int:
        """Printable width in pixels."""
        return self.right - self.left

    @property
    def room(self) -> float:
        """Height left below the cursor in pixels."""
        return self.bottom - self.y

    def glyphs(self, role: str = "label", scale: float = 1.0) -> GlyphSet:
        """Glyphs for "label", "value" or "heading" text, scaled and kept within the allowed letter sizes."""
        theme = self.theme
        style = {"label": theme.label, "value": theme.value, "heading": theme.heading}[role]
        size = theme.value_size if role == "value" else theme.size
        return glyph_set(style, letter_size(max(self.least, size * scale)))

    def new_key(self, kind: str | None = None) -> tuple[str, str]:
        """A label as it is printed (case, punctuation), different from those before, and the type of its value."""
        for _ in range(6):
            key, found = self.words.key(self.dice, kind)
            if self._family and self.dice.chance(0.35) and len(key.split()) < 4:
                key = f"{self._family} {key}"
            if key.lower() not in self._keys:
                break
        self._keys.add(key.lower())
        if self.dice.chance(0.05) and len(key) < 24:
            key += self.dice.pick(templates.KEY_NOTES)
        return self.dress(key), found

    def dress(self, key: str) -> str:
        """Print form of a label: abbreviations, case, numbering and colon of the theme."""
        dice, theme = self.dice, self.theme
        if dice.chance(0.3):
            for long, short in (
                ("Number", "No."),
                (" No", " #"),
                ("Number", "#"),
                ("Telephone", "Tel."),
                (" and ", " & "),
            ):
                if key.endswith(long) and dice.chance(0.6):
                    key = key[: -len(long)] + short
                    break
        case = theme.key_case if dice.chance(0.92) else dice.pick(("upper", "title"))
        if case == "upper":
            key = key.upper()
        elif case == "sentence":
            key = key[0] + key[1:].lower()
        elif case == "lower":
            key = key.lower()
        if dice.chance(0.02):
            key = f"*{key}"
        elif dice.chance(0.02):
            key = f"{dice.integer(1, 12)}. {key}"
        return key + (theme.colon if not key.endswith((".", "#")) else theme.colon.strip("."))

    def value(self, kind: str) -> str:
        """A value of the given type; whole pages now and then shout."""
        text = values.value(kind, self.dice, self.words)
        return text.upper() if self.theme.key_case == "upper" and self.dice.chance(0.25) else text

    def write_value(
        self, x: float, y: float, width: float, text: str, bottom: float | None = None
    ) -> tuple[Runs, float]:
        """Print a value in the theme's pen, wrapped to ``width``; all lines or nothing.

        Returns:
            Words of the lines and the y below them; no words if the value does not fit.
        """
        glyphs, theme = self.glyphs("value"), self.theme
        lines = glyphs.wrap(text, width)
        limit = self.bottom if bottom is None else bottom
        if not lines or y + len(lines) * glyphs.height > limit or any(glyphs.width(line) > width for line in lines):
            return (), y
        return self.canvas.paragraph(x, y, width, text, glyphs, theme.pen, 1.0, "left", limit, theme.shake, self.dice)

    def underline(self, x0: float, x1: float, y: float) -> None:
        """The theme's line under a value."""
        rule, canvas, color = self.theme.rule, self.canvas, self.theme.ink
        if rule and x1 > x0:
            width, dash = {"solid": (1, 0), "thick": (2, 0), "dots": (1, 1), "dashes": (1, 4)}[rule]
            canvas.rule(round(x0), round(y), round(x1), round(y), color, width, dash)

    def entry(self, key: str, key_runs: Runs, value: str, value_runs: Runs, role: str = "") -> None:
        """Record a label and its value, if both were printed."""
        if value_runs and (key_runs or not key):
            self.canvas.records.append(Entry(key, key_runs, value, value_runs, role))

    def heading(self, text: str, noun: str = "heading", scale: float = 1.15, align: str = "left") -> bool:
        """Print a heading over the whole width at the cursor, remember it, and move on. False if there is no room."""
        glyphs = self.glyphs("heading", scale)
        text = glyphs.fit(text, self.width)
        x = {"left": self.left, "center": (self.left + self.right) / 2, "right": self.right}[align]
        run = self.canvas.write(x, self.y, text, glyphs, self.theme.ink, align) if text else ()
        if run:
            self.canvas.records.append(Heading(text, (run,), noun))
            self.y += glyphs.height * 1.25
        return bool(run)

    def title(self, text: str, align: str = "center", scale: float | None = None, frame: str = "") -> bool:
        """Print the title of the page in up to two lines, with a frame "", "under", "box" or "bar"."""
        dice, canvas, theme = self.dice, self.canvas, self.theme
        frame = "box" if frame == "bar" and not self.dark else frame
        glyphs = self.glyphs("heading", scale or dice.uniform(1.1, 2.0))
        while glyphs.size > self.least and not self._fits_title(text, glyphs):
            glyphs = glyph_set(glyphs.style, letter_size(max(self.least, glyphs.size * 0.85 - 1)))
        pad, width = self._title_room(glyphs)
        height = len(glyphs.wrap(text, width)) * glyphs.height
        inset = pad if frame in ("bar", "box") else 0
        if not self._fits_title(text, glyphs) or height + 2 * inset > self.room:
            return False
        if frame == "bar":
            canvas.frame(self.left, self.y, self.right, self.y + height + 2 * pad, None, theme.accent)
        elif frame == "box":
            canvas.frame(self.left, self.y, self.right, self.y + height + 2 * pad, theme.ink)
        top = self.y + inset
        color = (255, 255, 255) if frame == "bar" else theme.ink
        runs, _ = canvas.paragraph(self.left + pad, top, width, text, glyphs, color, 1.0, align)
        if frame == "under":
            for run in runs:
                x0, _, x1, y1 = canvas.box_of(run)
                canvas.rule(x0, y1 + 2, x1, y1 + 2, theme.ink)
        canvas.records.append(Entry("", (), canvas.text_of(runs), runs, "title"))
        self.y = top + height + pad + glyphs.size * dice.uniform(0.3, 1.0)
        return True

    def _title_room(self, glyphs: GlyphSet) -> tuple[int, int]:
        """Border and width in pixels of a title in its frame."""
        pad = round(glyphs.size * 0.3)
        return pad, self.width - 2 * pad

    def _fits_title(self, text: str, glyphs: GlyphSet) -> bool:
        """Whether a title takes two lines at most, none of which is too long."""
        width = self._title_room(glyphs)[1]
        lines = glyphs.wrap(text, width)
        return len(lines) <= 2 and all(glyphs.width(line) <= width for line in lines)


LayoutFunction = Callable[[Sheet], None]


@dataclass(frozen=True)
class Layout:
    """A way to arrange a kind of document.

    Args:
        name: unique name, recorded in the document.
        draw: fills a sheet.
        heldout: kept out of training.
    """

    name: str
    draw: LayoutFunction
    heldout: bool = False


def subject(sheet: Sheet) -> str:
    """A made-up topic of one to three words in title case."""
    return sheet.words.phrase(sheet.dice, sheet.dice.integer(1, 3)).title()


def any_case(dice: Dice, text: str) -> str:
    """The text as it is, or in capitals."""
    return text.upper() if dice.chance(0.45) else text


def form_title(sheet: Sheet) -> str:
    """Title of a form: a fixed name, mostly with a topic in front."""
    dice = sheet.dice
    name = dice.pick(wordlists.FORM_TITLES)
    text = name if dice.chance(0.35) else f"{subject(sheet)} {name}"
    return any_case(dice, text)


__all__ = ["BLACK", "Layout", "Sheet", "Theme", "any_case", "draw_theme", "form_title", "subject"]
