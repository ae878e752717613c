"""Glyph cache against Pillow's own text drawing."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from arrcoc.synthetic import available_fonts, bundled_face
from arrcoc.synthetic.canvas import Canvas
from arrcoc.synthetic.fonts import TRANSFORMS, GlyphSet, Style, glyph_set, styles


TEXT = "Invoice No. 4711 for Mrs. Quigley, 12% of $90.50"
BY_NAME = {transform.name: transform for transform in TRANSFORMS}


def glyphs(name: str = "plain", size: int = 20) -> GlyphSet:
    return glyph_set(Style(bundled_face(), BY_NAME[name]), size)


@pytest.mark.parametrize("size", [10, 13, 20, 40])
def test_plain_lines_equal_pillows(size):
    found = glyphs(size=size)
    canvas = Canvas((int(found.width(TEXT)) + 20, 60), gray=True)
    assert canvas.write(8, 4, TEXT, found)
    expected = Image.new("L", canvas.image.size, 255)
    ImageDraw.Draw(expected).text((8, 4), TEXT, fill=0, font=found._font)
    difference = np.abs(np.asarray(canvas.image).astype(int) - np.asarray(expected))
    assert difference.max() <= 2


@pytest.mark.parametrize("size", [11, 16, 28])
def test_widths_equal_pillows(size):
    found = glyphs(size=size)
    assert found.width(TEXT) == pytest.approx(found._font.getlength(TEXT), abs=1)


def test_transforms_do_what_they_say():
    plain = glyphs()

    def ink(name: str) -> int:
        return int(np.asarray(glyphs(name).glyph("H").mask).astype(int).sum())

    assert glyphs("wide").width(TEXT) > 1.1 * plain.width(TEXT)
    assert glyphs("condensed").width(TEXT) < 0.85 * plain.width(TEXT)
    assert glyphs("spaced").width("HH") == pytest.approx(plain.width("HH") + 2 * 0.1 * 20)
    assert ink("heavy") > ink("bold") > ink("plain")
    fixed = glyphs("fixed")
    assert len({fixed.glyph(sign).advance for sign in "iMW.7 "}) == 1
    mask = np.asarray(glyphs("italic").glyph("l").mask)
    columns = np.arange(mask.shape[1])
    top, bottom = ((row * columns).sum() / row.sum() for row in (mask[1].astype(float), mask[-2].astype(float)))
    assert top > bottom + 2


def test_glyphs_of_a_pitch_stay_in_their_cells():
    for name in ("fixed", "fixed-narrow", "fixed-bold"):
        found = glyphs(name, 20)
        for sign in "MWmw@":
            glyph = found.glyph(sign)
            assert -2 <= glyph.left and glyph.left + glyph.width <= glyph.advance + 3


def test_wrap_keeps_words_and_width():
    found = glyphs(size=14)
    text = " ".join(["alpha", "be", "gamma", "delta-epsilon", "zeta"] * 6)
    lines = found.wrap(text, 160)
    assert " ".join(lines) == text
    assert len(lines) > 5 and all(found.width(line) <= 160 for line in lines)
    # Greedy: the first word of a line would not have fitted on the line before.
    for line, after in zip(lines, lines[1:], strict=False):
        assert found.width(f"{line} {after.split()[0]}") > 160
    assert found.wrap("incomprehensibilities", 30) == ["incomprehensibilities"]
    assert found.fit("one two three", found.width("one two") + 1) == "one two"
    assert found.fit("incomprehensibilities", 30) == ""


def test_available_fonts_start_with_the_bundled_one():
    faces = available_fonts()
    assert faces == available_fonts() and faces[0] == bundled_face()
    assert len({face.name for face in faces}) == len(faces)


def test_styles_refuse_what_they_do_not_know():
    with pytest.raises(ValueError, match="split"):
        styles("test", (bundled_face(),))
    with pytest.raises(ValueError, match="0 faces"):
        styles("train", ())
