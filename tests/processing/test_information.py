"""The measures on drawn pictures: the three that plain entropy gets wrong, and everyday ones."""

import math
import time

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from arrcoc.processing import information
from arrcoc.processing.information import (
    MAX_RATIO,
    MIN_RATIO,
    coherence,
    compression_ratio,
    edge_density,
    extractability,
    image_compression_ratio,
    information_components,
    information_map,
    semantic_density,
    shannon_entropy,
    spatial_necessity,
)


SIDE = 256
SYLLABLES = "ka re mi to lu sen dor pra gil vat um bel thi os wex fan jo quil zed hap".split()


def draw_noise(rng):
    return rng.integers(0, 225, (SIDE, SIDE)) / 255


def draw_text(word, size=14, ink=0.0, paper=1.0):
    """A page of words, each drawn by a call of `word()`."""
    page = Image.new("L", (SIDE, SIDE), 255)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(size)
    for y in range(4, SIDE - size, round(1.5 * size)):
        x = 6.0
        while x + draw.textlength(text := word(), font) < SIDE - 6:
            draw.text((x, y), text, 0, font)
            x += draw.textlength(text + " ", font)
    return ink + (paper - ink) * np.asarray(page) / 255


def draw_page(rng, **kwargs):
    return draw_text(lambda: "".join(rng.choice(SYLLABLES, rng.integers(1, 4))), **kwargs)


def draw_puzzle(rng, piece=16):
    """Square pieces in 74 tones, shuffled: what a piece is tells nothing about the next one."""
    across = SIDE // piece
    tones = np.linspace(0, 1, 74)[rng.permutation(np.arange(across**2) % 74)]
    return np.kron(tones.reshape(across, across), np.ones((piece, piece)))


def draw_shading():
    return np.linspace(0, 1, SIDE)[None] * np.linspace(0.3, 1, SIDE)[:, None]


def draw_chart():
    chart = Image.new("L", (SIDE, SIDE), 255)
    draw = ImageDraw.Draw(chart)
    for i, height in enumerate((80, 150, 120, 200, 60)):
        draw.rectangle((30 + 44 * i, 240 - height, 60 + 44 * i, 240), 120)
        draw.text((35 + 44 * i, 242), f"20{i + 11}", 0)
    draw.line((20, 240, 250, 240), 0)
    draw.line((20, 10, 20, 240), 0)
    return np.asarray(chart) / 255


@pytest.fixture
def pictures():
    rng = np.random.default_rng(0)
    pictures = {
        "noise": draw_noise(rng),
        "repeated": draw_text(lambda: "hello"),
        "puzzle": draw_puzzle(rng),
        "blank": np.ones((SIDE, SIDE)),
        "paper": np.clip(0.96 + rng.normal(0, 2 / 255, (SIDE, SIDE)), 0, 1),
        "shading": draw_shading(),
        "chart": draw_chart(),
        "page": draw_page(rng),
    }
    return {name: pixels.astype(np.float32) for name, pixels in pictures.items()}


def measure(function, pictures):
    return {name: float(function(pixels[None])[0]) for name, pixels in pictures.items()}


def test_entropies_of_the_three_pictures(pictures):
    bits = measure(shannon_entropy, pictures)
    assert bits["noise"] == pytest.approx(7.8, abs=0.1)
    assert bits["repeated"] == pytest.approx(2.1, abs=0.3)
    assert bits["puzzle"] == pytest.approx(6.2, abs=0.1)
    assert bits["blank"] == 0


def test_entropy_agrees_with_its_definition():
    rng = np.random.default_rng(1)
    for levels in (1, 2, 7, 256):
        tile = rng.integers(0, levels, (16, 24)) / 255
        shares = [np.mean(tile == value) for value in np.unique(tile)]
        expected = -sum(share * math.log2(share) for share in shares)
        assert shannon_entropy(tile[None])[0] == pytest.approx(expected)
    half = np.repeat([0.0, 1.0], 8).reshape(1, 4, 4)
    assert shannon_entropy(half, bins=2)[0] == pytest.approx(1)
    assert shannon_entropy(np.concatenate([half, 0 * half])).tolist() == pytest.approx([1, 0])  # tiles stay apart


def test_plain_entropy_orders_the_three_wrongly_and_the_measures_rightly(pictures):
    bits = measure(shannon_entropy, pictures)
    ratio = {name: image_compression_ratio(pixels) for name, pixels in pictures.items()}
    # by entropy noise would deserve the most tokens and readable words the least
    assert bits["noise"] > bits["puzzle"] > bits["repeated"]
    assert ratio["noise"] > ratio["repeated"] > ratio["puzzle"]
    assert ratio["noise"] == pytest.approx(MAX_RATIO, rel=0.01)
    assert 10 < ratio["repeated"] < 18
    assert ratio["puzzle"] < 2


def test_noise_is_unreadable_and_words_are_readable(pictures):
    readable = measure(extractability, pictures)
    assert readable["noise"] < 0.02 and readable["blank"] == 0 and readable["shading"] < 0.01
    assert readable["repeated"] > 0.6 and readable["page"] > 0.6
    assert readable["page"] > readable["chart"] > readable["shading"]
    assert edge_density(pictures["noise"][None])[0] > 0.8  # it is full of edges: that is not what tells


def test_rules_and_frames_are_less_readable_than_strokes(pictures):
    stripes = np.tile((np.arange(SIDE) // 8 % 2).astype(np.float32), (SIDE, 1))
    assert edge_density(stripes[None])[0] > 0.5
    assert extractability(stripes[None])[0] == 0


def test_repetition_is_redundant(pictures):
    density = measure(semantic_density, pictures)
    assert density["repeated"] < 0.1 < 0.4 < density["page"]
    assert density["noise"] < 0.02 and density["blank"] == 0 and density["shading"] < 0.2
    assert density["puzzle"] > 0.5


def test_autocorrelation_agrees_with_explicit_shifts():
    tile = draw_page(np.random.default_rng(2))[:40, :56]
    centered = tile - tile.mean()
    height, width = tile.shape
    energy = (centered**2).sum() + tile.size * information._PAPER_VARIANCE
    best = 0.0
    for dy in range(0, height // 2 + 1):
        for dx in range(-(width // 2), width // 2 + 1):
            if dy < height / 8 and abs(dx) < width / 8:
                continue
            a = centered[dy:, max(dx, 0) : width + min(dx, 0)]
            b = centered[: height - dy, max(-dx, 0) : width + min(-dx, 0)]
            best = max(best, (a * b).sum() / (a.size / tile.size) / energy)
    structure = min(1.0, 2 * coherence(tile[None])[0])
    assert semantic_density(tile[None])[0] == pytest.approx(structure * (1 - min(best, 1)), abs=1e-9)


def test_place_matters_in_puzzles_only(pictures):
    needed = measure(spatial_necessity, pictures)
    maze = np.kron(np.random.default_rng(3).integers(0, 2, (32, 32)), np.ones((8, 8)))
    assert needed["puzzle"] > 0.9 and spatial_necessity(maze[None])[0] > 0.9
    for name in ("noise", "blank", "paper", "shading"):
        assert needed[name] < 0.01
    for name in ("repeated", "page", "chart"):
        assert needed[name] < 0.3
    rows_only = np.repeat(np.random.default_rng(4).random((SIDE, 1)), SIDE, 1)
    assert spatial_necessity(rows_only[None])[0] == pytest.approx(0, abs=1e-6)


def test_everyday_pictures_are_ordered_sensibly(pictures):
    ratio = {name: image_compression_ratio(pixels) for name, pixels in pictures.items()}
    assert ratio["blank"] == ratio["paper"] == pytest.approx(MAX_RATIO, rel=1e-3)
    assert ratio["shading"] > ratio["chart"] > ratio["page"] > ratio["puzzle"]


@pytest.mark.parametrize("sigma", [1, 2, 3])
def test_paper_and_scanner_noise_is_no_information(sigma):
    rng = np.random.default_rng(sigma)
    paper = np.clip(0.93 + rng.normal(0, sigma / 255, (SIDE, SIDE)), 0, 1).astype(np.float32)
    assert shannon_entropy(paper[None])[0] > 1.5  # plain entropy takes it for content
    assert information_map(paper, 32).max() < 0.02
    page = draw_page(rng).astype(np.float32)
    scanned = np.clip(page + rng.normal(0, sigma / 255, page.shape), 0, 1).astype(np.float32)
    assert np.abs(information_map(scanned, 32) - information_map(page, 32)).mean() < 0.03


def test_compression_ratio_is_monotone_and_bounded():
    grid = np.linspace(0, 1, 6)
    entropy, readable, density, needed = (axis.ravel() for axis in np.meshgrid(8 * grid, grid, grid, grid))
    ratio = compression_ratio(entropy, readable, density, needed)
    assert ratio.min() == pytest.approx(MIN_RATIO) and ratio.max() == pytest.approx(MAX_RATIO)
    for axis, values in enumerate((entropy, readable, density, needed)):
        higher = [entropy, readable, density, needed]
        higher[axis] = values * 1.1
        assert (compression_ratio(*higher) <= ratio + 1e-9).all()
    assert compression_ratio(*np.array([[0.0], [1], [1], [1]]))[0] == MAX_RATIO  # no bits, no information


def test_image_ratio_of_other_sizes(pictures):
    page = pictures["page"]
    assert image_compression_ratio(np.tile(page, (3, 2))) == pytest.approx(image_compression_ratio(page), rel=1e-4)
    half = np.concatenate([page, np.ones_like(page)])
    asked = (1 / image_compression_ratio(page) + 1 / MAX_RATIO) / 2
    assert image_compression_ratio(half) == pytest.approx(1 / asked, rel=1e-4)
    for shape in ((28, 28), (32, 2000), (300, 70)):
        assert MIN_RATIO <= image_compression_ratio(np.random.default_rng(0).random(shape)) <= MAX_RATIO


def test_map_ranks_cells_by_content(pictures):
    values = {name: information_map(pixels, 32).mean() for name, pixels in pictures.items()}
    assert values["blank"] == 0 and values["paper"] < 0.01 and values["noise"] < 0.02
    assert values["page"] > values["chart"] > values["shading"] > values["noise"]
    assert values["puzzle"] > values["chart"]
    pieces = draw_puzzle(np.random.default_rng(5), piece=32).astype(np.float32)
    assert information_map(pieces, 32).mean() > 0.1  # every cell is flat, what matters is where it lies


@pytest.mark.parametrize("cell_size", [28, 32])
@pytest.mark.parametrize("grid", [(1, 1), (1, 5), (7, 1), (4, 6)])
def test_map_agrees_with_a_loop_over_cells(cell_size, grid):
    rng = np.random.default_rng(0)
    tile = np.concatenate([draw_page(rng), draw_puzzle(rng), draw_noise(rng)], 1)
    rows, cols = grid
    pixels = tile[: rows * cell_size, : cols * cell_size]
    pixels = np.pad(pixels, [(0, rows * cell_size - len(pixels)), (0, 0)], "reflect")
    expected = slow_components(pixels, cell_size)
    components = information_components(pixels.astype(np.float32), cell_size)
    assert components.keys() == expected.keys()
    for name, values in components.items():
        assert values.shape == (rows * cols,) and values.dtype == np.float32
        np.testing.assert_allclose(values, expected[name], atol=2e-4, err_msg=name)
    content = 0.6 * expected["text_likeness"] + 0.2 * expected["edge_density"] + 0.2 * expected["entropy"]
    score = information_map(pixels.astype(np.float32), cell_size)
    np.testing.assert_allclose(score, content + (1 - content) * 0.5 * expected["necessity"], atol=3e-4)


def slow_components(pixels, size):
    """The definitions of the docstrings, cell by cell."""
    rows, cols = len(pixels) // size, pixels.shape[1] // size
    cells = {
        (r, c): pixels[r * size : (r + 1) * size, c * size : (c + 1) * size] for r in range(rows) for c in range(cols)
    }
    paper = (4 / 255) ** 2
    result = {name: [] for name in ("text_likeness", "edge_density", "entropy", "necessity")}
    for (r, c), cell in cells.items():
        differences = [np.abs(np.diff(cell, axis=1)), np.abs(np.diff(cell, axis=0))]
        square = sum((d**2).mean() for d in differences)
        edges = [np.maximum(d - 0.05, 0).mean() for d in differences]
        crowding = sum(d.mean() ** 2 for d in differences) / square if square else 0
        agreeing = max(cell.var() - square / 4 - 0.1 * cell.var(), 0) / 0.9
        structure = min(2 * agreeing / (cell.var() + paper), 1)
        geometric = math.sqrt(edges[0] * edges[1])
        result["text_likeness"].append(geometric / (geometric + 0.03) * min(max(2 - 3 * crowding, 0), 1))
        result["edge_density"].append(sum(edges) / (sum(edges) + 0.06) * structure)
        bits = shannon_entropy(cell[None, ::2, ::2].astype(np.float32), 16)[0]
        result["entropy"].append(min(bits, 0.5 * math.log2(1 + 12 * 15**2 * agreeing)) / 4)

        blocks = cell.reshape(4, size // 4, 4, size // 4).mean((1, 3))
        second = [(np.diff(blocks, 2, axis=axis) ** 2).mean() for axis in (0, 1)]
        inside = min(math.sqrt(second[0] * second[1]) / (6 * (cell.var() + paper)), 1) * structure
        near = [cells[y, x] for y in range(r - 1, r + 2) for x in range(c - 1, c + 2) if (y, x) in cells]
        vertical = [cells.get((r + step, c), cell).mean() for step in (-1, 0, 1)]
        horizontal = [cells.get((r, c + step), cell).mean() for step in (-1, 0, 1)]
        product = abs(np.diff(vertical, 2)[0] * np.diff(horizontal, 2)[0])
        among = min(product / (6 * (np.stack(near).var() + paper)), 1)
        result["necessity"].append(max(inside, among))
    return {name: np.array(values) for name, values in result.items()}


def test_map_is_local():
    rng = np.random.default_rng(0)
    pixels = draw_page(rng).astype(np.float32)
    before = information_map(pixels, 32).reshape(8, 8)
    pixels[3 * 32 : 4 * 32, 5 * 32 : 6 * 32] = rng.random((32, 32))
    changed = information_map(pixels, 32).reshape(8, 8) != before
    assert changed[3, 5]
    changed[2:5, 4:7] = False
    assert not changed.any()


def test_map_of_a_large_page_is_fast():
    pixels = np.tile(draw_page(np.random.default_rng(0)), (6, 7))[:1536, :1600].astype(np.float32)
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        values = information_map(pixels, 32)
        best = min(best, time.perf_counter() - start)
    assert values.shape == (48 * 50,) and values.min() >= 0 and values.max() <= 1
    assert best < 0.2  # 0.02 s on one core of a current machine


def test_values_stay_in_range_on_extreme_pixels():
    checker = (np.indices((64, 64)).sum(0) % 2).astype(np.float32)
    for pixels in (checker, np.eye(64, dtype=np.float32), np.zeros((64, 64), np.float32)):
        for values in information_components(pixels, 32).values():
            assert np.isfinite(values).all() and values.min() >= 0 and values.max() <= 1


@pytest.mark.parametrize("shape, cell_size", [((64, 65), 32), ((0, 32), 32), ((2, 64, 64), 32), ((60, 60), 30)])
def test_map_rejects_pixels_that_are_no_grid(shape, cell_size):
    with pytest.raises(ValueError, match="cell_size|pixels must be"):
        information_map(np.zeros(shape, np.float32), cell_size)


def test_measures_reject_a_flat_array():
    with pytest.raises(ValueError, match=r"tiles must be \(tiles, height, width\).*\(64, 64\)"):
        extractability(np.zeros((64, 64)))
