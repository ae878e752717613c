"""What is printed can be read: words do not cover each other, and no page of text is empty."""

import pytest

from arrcoc.synthetic import fields, generate
from arrcoc.synthetic.canvas import Canvas
from arrcoc.synthetic.dice import Dice
from arrcoc.synthetic.document import Box
from arrcoc.synthetic.fonts import body_styles, bundled_face
from arrcoc.synthetic.sheet import CLEAR, Sheet, draw_theme
from arrcoc.synthetic.vocabulary import lexicon


PAGES = ("form", "receipt", "invoice", "table")


def shared(first: Box, second: Box) -> float:
    """Common area of two boxes, as a share of the smaller one."""
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    areas = [(box[2] - box[0]) * (box[3] - box[1]) for box in (first, second)]
    return max(width, 0) * max(height, 0) / min(areas)


def empty_sheet(seed: int) -> Sheet:
    """A page of 256 px with a theme of the bundled face."""
    dice = Dice(seed, 0)
    theme = draw_theme(dice, body_styles("train", (bundled_face(),)), 256, 256, least=CLEAR)
    return Sheet(Canvas((256, 256), True, (255, 255, 255)), dice, lexicon("train"), theme, 10, least=CLEAR)


@pytest.mark.parametrize("split", ["train", "heldout"])
def test_words_do_not_cover_each_other(split):
    covered = []
    for seed in range(120):
        document = generate(seed, PAGES, 256, split, (bundled_face(),), clear=True)
        assert document.words
        boxes = [word.box for word in document.words]
        pairs = ((a, b) for number, a in enumerate(boxes) for b in boxes[:number])
        if any(shared(*pair) > 0.25 for pair in pairs):
            covered.append(seed)
    assert len(covered) <= 1, covered  # stamps and slanted pages may


@pytest.mark.parametrize("draw", [fields.card, fields.strip])
def test_a_long_label_does_not_run_into_its_value(draw):
    sheet = empty_sheet(0)
    draw(sheet, sheet.left, sheet.y, 160, fields.Pair("Incomprehensibilities", "12"))
    label, value = sheet.canvas.words
    assert (label.text, value.text) == ("Incomprehensibilities", "12")
    assert shared(label.box, value.box) == 0


@pytest.mark.parametrize("align", ["left", "center"])
@pytest.mark.parametrize("frame", ["", "box"])
def test_a_title_is_printed_whole_or_not_at_all(align, frame):
    """Whatever its length: one that was wrapped differently when it was printed stayed there, under what came next."""
    for length in range(2, 60):
        sheet = empty_sheet(length)
        canvas = sheet.canvas
        text = " ".join(["iv" * (1 + length % 7)] * (length // 4 + 1))
        before = sheet.y
        printed = sheet.title(text, align, frame=frame)
        assert printed == bool(canvas.words)
        assert printed == (sheet.y > before)
        if printed:
            assert canvas.text_of(tuple((number,) for number in range(len(canvas.words)))) == text
            assert max(word.box[2] for word in canvas.words) <= sheet.right


@pytest.mark.parametrize("frame", ["", "under", "bar", "box"])
def test_a_title_keeps_to_the_room_that_is_left(frame):
    printed = 0
    for room in range(10, 70):
        sheet = empty_sheet(3)
        sheet.y = float(sheet.bottom - room)
        if sheet.title("TITLE", frame=frame):
            printed += 1
            ink = [y for y in range(sheet.bottom + 1, 256) if sheet.canvas.image.getpixel((128, y)) != 255]
            assert not ink, (room, ink)
    assert 0 < printed < 60
