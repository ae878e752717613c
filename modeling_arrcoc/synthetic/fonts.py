"""Typefaces, face transforms and cached glyph pictures.

Pillow's own face is always there; DejaVu (with matplotlib) and system faces are used where present. Even a single face
is made to vary: horizontal scaling, slant, weight, letter spacing and fixed pitch are applied to the glyph pictures.
Glyphs are drawn once and pasted from a cache: a paste costs 2 µs, FreeType 6 µs a letter.
"""

from __future__ import annotations

import importlib.util
import io
import os
import re
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from .document import SPLITS


_SYSTEM_FOLDERS = ("/usr/share/fonts", "/usr/local/share/fonts", "/Library/Fonts", "C:/Windows/Fonts")
_MAX_FACES = 48
_CACHED_SETS = 1536
_SHADES = 16
# Faces whose Latin slots hold other signs, or that are not meant for running text, or vanish at small sizes.
_UNFIT = re.compile(
    r"symbol|emoji|dingbat|icon|math|wing|webding|barcode|display|nonuni|siz\w*sym|^cm|awesome|music|light|thin|hairline",
    re.I,
)
_SAMPLE = "AGRaegs0123489&%$#@"
_HELDOUT_FAMILIES_OF_100 = 20


@dataclass(frozen=True)
class Face:
    """A typeface file.

    Args:
        family: family name; the faces of a family are in the same split.
        name: family and style.
        path: the file, or None for the face bundled with Pillow.
    """

    family: str
    name: str
    path: str | None


@dataclass(frozen=True)
class Transform:
    """How glyph pictures of a face are changed.

    Args:
        name: name for records.
        stretch: horizontal scale.
        slant: horizontal shift per unit of height.
        bold: strokes thickened by this share of the size.
        spacing: extra advance in shares of the size.
        pitch: fixed advance in shares of the size, as a typewriter has; 0 for proportional.
        heldout: kept out of training.
    """

    name: str
    stretch: float = 1.0
    slant: float = 0.0
    bold: float = 0.0
    spacing: float = 0.0
    pitch: float = 0.0
    heldout: bool = False


@dataclass(frozen=True)
class Style:
    """A face with a transform."""

    face: Face
    transform: Transform

    @property
    def name(self) -> str:
        """Face and transform in one word, as documents record it."""
        return f"{self.face.name}/{self.transform.name}"


TRANSFORMS = (
    Transform("plain"),
    Transform("bold", bold=0.06),
    Transform("heavy", bold=0.11),
    Transform("narrow", stretch=0.85),
    Transform("narrow-bold", stretch=0.82, bold=0.06),
    Transform("wide", stretch=1.18),
    Transform("wide-bold", stretch=1.15, bold=0.07),
    Transform("italic", slant=0.2),
    Transform("italic-bold", slant=0.18, bold=0.06),
    Transform("spaced", spacing=0.1),
    Transform("fixed", pitch=0.6),
    Transform("fixed-bold", pitch=0.62, bold=0.06),
    Transform("fixed-wide", stretch=1.1, pitch=0.7),
    Transform("tight", stretch=0.78),
    Transform("squeezed-bold", stretch=0.66, bold=0.04),
    Transform("broad", stretch=1.26),
    Transform("broadest-bold", stretch=1.42, bold=0.05),
    Transform("steep-italic", stretch=0.95, slant=0.32),
    Transform("left-slant", slant=-0.2),
    Transform("airy", spacing=0.18),
    Transform("airy-heavy", spacing=0.07, bold=0.1),
    Transform("fixed-tight", stretch=0.88, pitch=0.56),
    Transform("narrow-italic", stretch=0.88, slant=0.26, heldout=True),
    Transform("extra-wide", stretch=1.32, bold=0.03, heldout=True),
    Transform("back-slant", slant=-0.12, heldout=True),
    Transform("fixed-narrow", stretch=0.8, pitch=0.52, heldout=True),
    Transform("spaced-bold", spacing=0.14, bold=0.07, heldout=True),
    Transform("condensed", stretch=0.72, bold=0.03, heldout=True),
)
# Other faces bring weights and slants of their own.
_FOREIGN_TRAINING = ("plain", "plain", "narrow", "wide", "tight", "broad", "airy", "fixed", "fixed-tight")


@lru_cache(maxsize=1)
def _bundled() -> bytes:
    font = ImageFont.load_default(16)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise RuntimeError("Pillow was built without FreeType, found a bitmap font; install a Pillow wheel")
    if not isinstance(font.path, io.BytesIO):
        raise RuntimeError(f"expected Pillow's bundled face in memory, found {font.path!r}")
    return font.path.getvalue()


def bundled_face() -> Face:
    """The face that comes with Pillow."""
    return Face("Pillow", "Pillow Regular", None)


def _font_files() -> list[Path]:
    folders = [Path(folder) for folder in _SYSTEM_FOLDERS]
    spec = importlib.util.find_spec("matplotlib")
    if spec is not None and spec.submodule_search_locations:
        folders.append(Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf")
    files: list[Path] = []
    for folder in folders:
        for root, _, names in os.walk(folder):
            files.extend(Path(root) / name for name in names if name.lower().endswith((".ttf", ".otf")))
    return sorted(files)


def _covers_latin(path: Path) -> bool:
    font = ImageFont.truetype(str(path), 16, layout_engine=ImageFont.Layout.BASIC)
    missing = bytes(font.getmask("\uffff"))
    pictures = {bytes(font.getmask(sign)) for sign in _SAMPLE}
    return len(pictures) == len(_SAMPLE) and missing not in pictures


@lru_cache(maxsize=1)
def available_fonts() -> tuple[Face, ...]:
    """Faces of this machine that print Latin letters, Pillow's first, the others by name; the same at every call."""
    faces: dict[str, Face] = {}
    for path in _font_files():
        if _UNFIT.search(path.stem):
            continue
        try:
            family, style = ImageFont.truetype(str(path), 16).getname()
        except OSError:  # a damaged or exotic file is no face of ours
            continue
        name = f"{family} {style}"
        if family and name not in faces and not _UNFIT.search(name) and _covers_latin(path):
            faces[name] = Face(str(family), name, str(path))
    return (bundled_face(), *(faces[name] for name in sorted(faces)[:_MAX_FACES]))


def _is_heldout(face: Face) -> bool:
    return face.path is not None and zlib.crc32(face.family.encode()) % 100 < _HELDOUT_FAMILIES_OF_100


@lru_cache(maxsize=16)
def styles(split: str, faces: tuple[Face, ...]) -> tuple[Style, ...]:
    """Styles of a split; those of ``heldout`` are disjoint from those of ``train`` and ``validation``.

    Held-out are all styles of some families (chosen by checksum, never Pillow's) and some transforms of every face.

    Raises:
        ValueError: unknown split or no faces.
    """
    if split not in SPLITS or not faces:
        raise ValueError(f"expected a split of {SPLITS} and at least one face, found {split!r} and {len(faces)} faces")
    heldout = split == "heldout"
    found = []
    for face in faces:
        if face.path is not None and (_is_heldout(face) or not heldout):
            if _is_heldout(face) == heldout:
                found += [Style(face, transform) for name in _FOREIGN_TRAINING for transform in _named(name)]
        else:
            found += [Style(face, transform) for transform in TRANSFORMS if transform.heldout == heldout]
    return tuple(found)


def _named(name: str) -> list[Transform]:
    return [transform for transform in TRANSFORMS if transform.name == name]


@dataclass(frozen=True, slots=True)
class Glyph:
    """A character's picture: where to paste it relative to the pen on the base line, and how far the pen moves."""

    mask: Image.Image | None
    left: int
    top: int
    width: int
    height: int
    advance: float


class _Advances(dict[str, float]):
    """Advances by character, filled when first asked for."""

    def __init__(self, glyphs: GlyphSet) -> None:
        super().__init__()
        self._glyphs = glyphs

    def __missing__(self, sign: str) -> float:
        advance = self[sign] = self._glyphs.glyph(sign).advance
        return advance


class GlyphSet:
    """Glyphs of one style at one size.

    Args:
        style: face and transform.
        size: letter size in pixels (the em).
    """

    def __init__(self, style: Style, size: int) -> None:
        self.style = style
        self.size = size
        source = style.face.path or io.BytesIO(_bundled())
        self._font = ImageFont.truetype(source, size, layout_engine=ImageFont.Layout.BASIC)
        self.ascent, self.descent = self._font.getmetrics()
        self.height = self.ascent + self.descent
        self._glyphs: dict[str, Glyph] = {}
        self._advances = _Advances(self)

    def glyph(self, sign: str) -> Glyph:
        """The glyph of one character."""
        found = self._glyphs.get(sign)
        if found is None:
            found = self._glyphs[sign] = self._draw(sign)
        return found

    def width(self, text: str) -> float:
        """Sum of the advances of ``text`` in pixels."""
        return sum(map(self._advances.__getitem__, text))

    def wrap(self, text: str, width: float) -> list[str]:
        """Lines of whole words no wider than ``width``; a word that is wider alone stands alone."""
        lines: list[str] = []
        line, used, blank = "", 0.0, self.width(" ")
        for word in text.split():
            needed = self.width(word)
            if line and used + blank + needed > width:
                lines.append(line)
                line, used = word, needed
            else:
                used += needed + (blank if line else 0.0)
                line = f"{line} {word}" if line else word
        return [*lines, line] if line else lines

    def fit(self, text: str, width: float) -> str:
        """As many leading words of ``text`` as fit, maybe none."""
        lines = self.wrap(text, width)
        return lines[0] if lines and self.width(lines[0]) <= width else ""

    def _draw(self, sign: str) -> Glyph:
        change, size = self.style.transform, self.size
        advance = self._font.getlength(sign) * change.stretch
        x0, y0, x1, y1 = (int(edge) for edge in self._font.getbbox(sign, anchor="ls"))
        if sign == " " or x1 <= x0 or y1 <= y0:
            return Glyph(None, 0, 0, 0, 0, (change.pitch * size) or advance + change.spacing * size)
        x0, x1 = x0 - 1, x1 + 1
        mask = Image.new("L", (x1 - x0, y1 - y0))
        ImageDraw.Draw(mask).text((-x0, -y0), sign, fill=255, font=self._font, anchor="ls")
        stretch = change.stretch
        if change.pitch and advance > change.pitch * size:  # squeeze M and W into the typewriter's cell
            stretch *= change.pitch * size / advance
        left = float(x0)
        if stretch != 1.0:
            mask = mask.resize((max(1, round(mask.width * stretch)), mask.height), Image.Resampling.BILINEAR)
            left = x0 * stretch
        if change.bold:
            mask = _thicken(mask, change.bold * size)
            advance += change.bold * size
        if change.slant:
            mask, shift = _slant(mask, change.slant, y0)
            left += shift
        if change.pitch:
            left += (change.pitch * size - min(advance, change.pitch * size)) / 2
            advance = change.pitch * size
        bounds = mask.getbbox() or (0, 0, *mask.size)
        mask = mask.crop(bounds)
        place = round(left) + bounds[0], y0 + bounds[1]
        return Glyph(mask, *place, mask.width, mask.height, advance + change.spacing * size)


@lru_cache(maxsize=_SHADES)
def _fade(sixteenths: int) -> list[int]:
    return [level * sixteenths // _SHADES for level in range(256)]


def _thicken(mask: Image.Image, amount: float) -> Image.Image:
    """Widen strokes by ``amount`` pixels to the right: whole steps fully, the rest in grey."""
    whole, rest = int(amount), round((amount - int(amount)) * _SHADES)
    result = Image.new("L", (mask.width + whole + 1, mask.height))
    result.paste(mask, (0, 0))
    wide = result
    for step in range(1, whole + 1):
        result = ImageChops.lighter(result, ImageChops.offset(wide, step, 0))
    if rest:
        result = ImageChops.lighter(result, ImageChops.offset(wide, whole + 1, 0).point(_fade(rest)))
    return result


def _slant(mask: Image.Image, slant: float, top: int) -> tuple[Image.Image, float]:
    """Shear a glyph whose upper edge lies ``top`` above (negative) the base line; returns picture and left shift."""
    bottom = top + mask.height
    shifts = (-slant * top, -slant * bottom)
    low = min(shifts)
    width = mask.width + int(max(shifts) - low) + 2
    matrix = (1.0, slant, low + slant * top, 0.0, 1.0, 0.0)
    return mask.transform((width, mask.height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR), low


@lru_cache(maxsize=_CACHED_SETS)
def glyph_set(style: Style, size: int) -> GlyphSet:
    """The (cached) glyphs of a style at a size."""
    return GlyphSet(style, size)


def body_styles(split: str, faces: Sequence[Face] | None = None) -> tuple[Style, ...]:
    """Styles of a split over the given faces, by default all of this machine."""
    return styles(split, tuple(faces) if faces is not None else available_fonts())
