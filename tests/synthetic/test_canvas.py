"""The page: words, boxes, and lines that do not fit."""

import numpy as np
import pytest

from arrcoc.synthetic import bundled_face
from arrcoc.synthetic.canvas import Canvas
from arrcoc.synthetic.dice import Dice
from arrcoc.synthetic.fonts import TRANSFORMS, GlyphSet, Style, glyph_set


@pytest.fixture(params=TRANSFORMS, ids=lambda transform: transform.name)
def glyphs(request) -> GlyphSet:
    return glyph_set(Style(bundled_face(), request.param), 18)


def test_word_boxes_hold_exactly_the_ink(glyphs):
    canvas = Canvas((500, 60), gray=True)
    run = canvas.write(20, 10, "Total Amount 12.50", glyphs)
    assert canvas.text_of((run,)) == "Total Amount 12.50"
    dark = np.asarray(canvas.image) < 250
    covered = np.zeros_like(dark)
    for index in run:
        x0, y0, x1, y1 = (int(edge) for edge in canvas.words[index].box)
        covered[y0:y1, x0:x1] = True
        patch = dark[y0:y1, x0:x1]
        assert patch[0].any() and patch[-1].any() and patch[:, :2].any() and patch[:, -2:].any()
    assert not (dark & ~covered).any()
    assert canvas.box_of(run)[0] == canvas.words[run[0]].box[0]


@pytest.mark.parametrize("size", [12, 20, 36])
def test_character_edges_are_pillows_advances(size):
    glyphs = glyph_set(Style(bundled_face(), TRANSFORMS[0]), size)
    canvas = Canvas((700, 80), gray=True)
    text = "Willow 20 mm"
    run = canvas.write(15, 10, text, glyphs)
    edges = [edge for index in run for edge in canvas.words[index].edges[:-1]]
    starts = [position for position, sign in enumerate(text) if sign != " "]
    assert [x for x, _ in edges] == pytest.approx([15 + glyphs._font.getlength(text[:n]) for n in starts], abs=0.5)
    assert len({y for _, y in edges}) == 1
    for index in run:
        _, top, _, bottom = canvas.words[index].box
        assert top < edges[0][1] < bottom


@pytest.mark.parametrize(("align", "x"), [("left", 100), ("center", 200), ("right", 300)])
def test_alignment(glyphs, align, x):
    canvas = Canvas((400, 60), gray=False)
    box = canvas.box_of(canvas.write(x, 10, "Hamburg", glyphs, align=align))
    anchor = {"left": box[0], "center": (box[0] + box[2]) / 2, "right": box[2]}[align]
    assert anchor == pytest.approx(x, abs=6)


def test_lines_that_leave_the_page_are_not_printed(glyphs):
    canvas = Canvas((120, 60), gray=True)
    before = canvas.image.tobytes()
    for x, y, text in ((90, 5, "wide word"), (-20, 5, "left"), (5, 50, "low"), (5, 5, "")):
        assert canvas.write(x, y, text, glyphs) == ()
    assert canvas.image.tobytes() == before and not canvas.words


def test_paragraph_stops_at_the_bottom(glyphs):
    canvas = Canvas((260, 400), gray=True)
    runs, y = canvas.paragraph(10, 10, 240, "seven words on some lines of text " * 20, glyphs, bottom=200)
    assert len(runs) > 3 and y <= 200 + glyphs.height
    assert max(canvas.box_of(run)[3] for run in runs) <= 200
    assert all(canvas.box_of(run)[2] <= 252 for run in runs)


def test_shaken_writing_keeps_its_boxes_on_the_ink():
    glyphs = glyph_set(Style(bundled_face(), TRANSFORMS[0]), 20)
    canvas = Canvas((300, 60), gray=True)
    (index,) = canvas.write(20, 15, "unsteady", glyphs, shake=2.0, dice=Dice(3))
    ys, xs = np.nonzero(np.asarray(canvas.image) < 250)
    x0, y0, x1, y1 = canvas.words[index].box
    assert (x0, y0) == pytest.approx((xs.min(), ys.min()), abs=1)
    assert (x1, y1) == pytest.approx((xs.max() + 1, ys.max() + 1), abs=1)


def test_turned_words_read_downwards():
    glyphs = glyph_set(Style(bundled_face(), TRANSFORMS[0]), 20)
    canvas = Canvas((80, 300), gray=True)
    (index,) = canvas.write_turned(60, 20, "620915734", glyphs)
    word = canvas.words[index]
    ys, xs = np.nonzero(np.asarray(canvas.image) < 200)
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == pytest.approx(word.box, abs=2)
    assert len({x for x, _ in word.edges}) == 1
    assert [y for _, y in word.edges] == sorted(y for _, y in word.edges)
