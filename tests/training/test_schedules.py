"""Numbers by optimizer step."""

import math

import pytest

from arrcoc.training import Schedule, parse_schedule
from arrcoc.training.schedules import constant, cosine, linear, piecewise


def test_constant():
    assert [constant(0.3)(step) for step in (0, 1, 10**9)] == [0.3] * 3


def test_linear_passes_its_ends_and_its_middle():
    schedule = linear(0.001, 0.05, 50_000)
    assert schedule(0) == 0.001
    assert schedule(25_000) == pytest.approx(0.0255)
    assert schedule(50_000) == schedule(10**6) == 0.05


def test_delay_keeps_the_start():
    schedule = linear(1.0, 0.0, 10, delay=5)
    assert [schedule(step) for step in (0, 5, 10, 15)] == [1.0, 1.0, 0.5, 0.0]


def test_cosine_is_flat_at_both_ends():
    schedule = cosine(0.0, 2.0, 100)
    assert schedule(50) == pytest.approx(1.0)
    assert schedule(25) == pytest.approx(1 - math.cos(math.pi / 4))
    assert schedule(1) - schedule(0) < 0.01 > schedule(100) - schedule(99)


def test_piecewise():
    assert [piecewise([(0, 1), (10, 3), (20, 0)])(step) for step in (0, 5, 10, 15, 30)] == [1, 2, 3, 1.5, 0]
    assert [piecewise([(0, 1), (10, 3)], "steps")(step) for step in (0, 9, 10, 11)] == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("description", "expected"),
    [
        (0.5, constant(0.5)),
        (1, constant(1.0)),
        ({"kind": "linear", "start": 0, "end": 1, "steps": 4}, linear(0, 1, 4)),
        ({"kind": "cosine", "start": 0, "end": 1, "steps": 4, "delay": 2}, cosine(0, 1, 4, 2)),
        ({"kind": "piecewise", "points": [[0, 1], [3, 2]]}, piecewise([(0, 1), (3, 2)])),
        (constant(2.0), constant(2.0)),
    ],
    ids=str,
)
def test_parse(description, expected):
    assert parse_schedule(description) == expected


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("fast", "'fast'"),
        (True, "True"),
        ({"kind": "wave"}, "wave"),
        ({"kind": "linear", "start": 0, "to": 1}, "'to'"),
        ({"kind": "piecewise", "points": []}, "at least one"),
        ({"kind": "piecewise", "points": [[5, 1], [5, 2]]}, "ascending"),
        (float("nan"), "finite"),
    ],
    ids=str,
)
def test_what_is_no_schedule_is_refused(description, message):
    with pytest.raises(ValueError, match=message):
        parse_schedule(description)


def test_unknown_interpolation_is_refused():
    with pytest.raises(ValueError, match="spline"):
        Schedule(((0, 1.0),), "spline")
