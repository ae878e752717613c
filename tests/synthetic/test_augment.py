"""Damage to pages, and boxes that follow it."""

import numpy as np
import pytest

from arrcoc.synthetic.augment import augment, invert, look_of, move_box, move_words
from arrcoc.synthetic.canvas import Canvas, Placed
from arrcoc.synthetic.dice import Dice
from arrcoc.synthetic.document import KINDS


def marked_page(gray: bool) -> Canvas:
    """A white page with a few black squares, each registered as a region."""
    canvas = Canvas((400, 300), gray)
    for x, y in ((60, 50), (300, 60), (70, 220), (320, 230), (200, 140)):
        canvas.frame(x, y, x + 23, y + 19, None, (0, 0, 0))
        canvas.region(x, y, x + 24, y + 20)
    return canvas


@pytest.mark.parametrize("gray", [True, False])
@pytest.mark.parametrize("look", ["clean", "scan", "copy", "photo"])
def test_boxes_follow_the_picture(look, gray):
    for seed in range(25):
        canvas = marked_page(gray)
        result = augment(canvas, look, Dice(seed))
        assert result.image.mode == "RGB" and result.image.size == (400, 300)
        assert 0 <= result.damage <= 1
        pixels = np.asarray(result.image.convert("L")).astype(float)
        for box in result.regions:
            assert box is not None
            x0, y0, x1, y1 = (round(edge) for edge in box)
            inner = pixels[y0 + 4 : y1 - 4, x0 + 4 : x1 - 4].mean()
            around = np.concatenate(
                [pixels[y0 - 8 : y0 - 4, x0:x1].ravel(), pixels[y1 + 4 : y1 + 8, x0:x1].ravel()]
            ).mean()
            assert around - inner > 50


def test_the_drawn_page_is_not_changed():
    canvas = marked_page(True)
    before = canvas.image.tobytes()
    for look in ("clean", "scan", "copy", "photo"):
        augment(canvas, look, Dice(2))
    assert canvas.image.tobytes() == before


def test_inverse_of_an_affine_map():
    matrix = (0.98, 0.1, 7.0, -0.12, 1.02, -3.0)
    forward = np.array([[*matrix[:3]], [*matrix[3:]], [0, 0, 1]])
    backward = np.array([[*invert(matrix)[:3]], [*invert(matrix)[3:]], [0, 0, 1]])
    assert np.allclose(forward @ backward, np.eye(3))


def test_moved_boxes_are_the_bounds_of_their_corners():
    matrix = (0.9, 0.2, 5.0, -0.1, 1.1, 8.0)
    box = (20.0, 30.0, 60.0, 50.0)
    corners = [(0.9 * x + 0.2 * y + 5, -0.1 * x + 1.1 * y + 8) for x in (20, 60) for y in (30, 50)]
    xs, ys = zip(*corners, strict=True)
    assert move_box(box, matrix, (200, 200)) == pytest.approx((min(xs), min(ys), max(xs), max(ys)))


def test_boxes_that_leave_the_picture_are_dropped():
    shift = (1.0, 0.0, 90.0, 0.0, 1.0, 0.0)
    assert move_box((0.0, 10.0, 5.0, 20.0), shift, (100, 100)) == (90.0, 10.0, 95.0, 20.0)
    assert move_box((0.0, 10.0, 12.0, 20.0), shift, (100, 100)) == (90.0, 10.0, 100.0, 20.0)
    assert move_box((0.0, 10.0, 20.0, 20.0), shift, (100, 100)) is None
    words = [Placed("in", (0, 0, 5, 5), ((0, 2), (2, 2), (5, 2))), Placed("out", (9, 0, 20, 5), ((9, 2),) * 4)]
    kept, lost = move_words(words, shift, (100, 100))
    assert kept == Placed("in", (90, 0, 95, 5), ((90, 2), (92, 2), (95, 2))) and lost is None


def test_every_kind_has_a_look():
    assert {look_of(kind, Dice(seed)) for kind in KINDS for seed in range(30)} == {"clean", "scan", "copy", "photo"}
