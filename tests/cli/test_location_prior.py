import numpy as np
import pytest

from arrcoc.cli.location_prior import ELSEWHERE, PLACES, location_prior, named_places


GRID = (40, 30)


def peak(question: str, grid: tuple[int, int] = GRID) -> tuple[float, float]:
    """Row and column of the highest cell, as shares of the page."""
    prior = location_prior(question, grid)
    row, col = np.unravel_index(prior.argmax(), prior.shape)
    return (row + 0.5) / grid[0], (col + 0.5) / grid[1]


@pytest.mark.parametrize(
    ("question", "row", "col"),
    [
        ("What is written in the top left corner?", 0.0, 0.0),
        ("Who is in the UPPER-RIGHT?", 0.0, 1.0),
        ("Read the bottom right.", 1.0, 1.0),
        ("What is in the center of the page?", 0.5, 0.5),
        ("What is the total?", 0.65, 0.8),
        ("What is the amount due?", 0.65, 0.8),
    ],
)
def test_peak_lies_where_the_words_point(question, row, col):
    found_row, found_col = peak(question)
    assert abs(found_row - row) < 0.05 and abs(found_col - col) < 0.05


@pytest.mark.parametrize(("question", "rows"), [("the header", slice(0, 3)), ("Read the footer!", slice(-3, None))])
def test_one_axis_leaves_the_other_open(question, rows):
    prior = location_prior(question, GRID)
    assert np.ptp(prior, axis=1).max() < 1e-6
    assert prior[rows].min() > 0.9 and prior[20].max() < 0.2


def test_alternatives_on_one_axis_both_count():
    prior = location_prior("Compare the left with the right.", GRID)
    assert prior[:, 0].min() > 0.9 and prior[:, -1].min() > 0.9 and prior[:, 15].max() < 0.2


def test_no_place_means_no_preference():
    for question in ("", "Who wrote this?", "Is the stopped clock rightful, totally bottomless?"):
        assert named_places(question) == []
        assert (location_prior(question, GRID) == 1).all()


@pytest.mark.parametrize("phrase", PLACES)
@pytest.mark.parametrize("grid", [(1, 1), (1, 50), (48, 50)])
def test_range(phrase, grid):
    prior = location_prior(f"What about the {phrase}?", grid)
    assert prior.shape == grid and prior.dtype == np.float32
    assert prior.max() == pytest.approx(1) and prior.min() >= ELSEWHERE - 1e-6
