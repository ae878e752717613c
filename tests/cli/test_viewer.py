from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from arrcoc.cli.viewer import (
    DROPPED_COLOR,
    LEVEL_COLORS,
    PAPER,
    TINT,
    display_levels,
    draw_allocation,
    draw_detail,
    draw_map,
    draw_maps,
    draw_report,
    fit_cell_size,
    heat_colors,
    level_color,
    level_counts,
)
from arrcoc.outputs import Allocation


CELL = 20


def make_allocation(grid: tuple[int, int], boxes: list[tuple[int, int, int, int]], maps: bool = True) -> Allocation:
    """An allocation of one image whose leaves are `boxes`; cells outside all of them are dropped."""
    cell_to_leaf = torch.full(grid, -1)
    for leaf, (top, left, bottom, right) in enumerate(boxes):
        cell_to_leaf[top:bottom, left:right] = leaf
    cells = grid[0] * grid[1]
    ramp = torch.linspace(0, 1, cells)
    return Allocation(
        grids=torch.tensor([grid]),
        budgets=torch.tensor([len(boxes)]),
        cell_to_leaf=cell_to_leaf.flatten(),
        boxes=torch.tensor(boxes).reshape(-1, 4),
        relevance=ramp.clamp(min=0.05),
        position_scale=torch.ones(1),
        maps={"information": ramp, "salience": ramp.flip(0), "query": ramp.square()} if maps else {},
    )


@pytest.fixture
def mixed() -> Allocation:
    """4 x 8 cells: one leaf of 4 x 4, two of 2 x 2, four cells, one half of 1 x 2, one dropped pair."""
    boxes = [
        (0, 0, 4, 4),
        (0, 4, 2, 6),
        (0, 6, 2, 8),
        (2, 4, 3, 5),
        (2, 5, 3, 6),
        (3, 4, 4, 5),
        (3, 5, 4, 6),
        (2, 6, 3, 8),
    ]
    return make_allocation((4, 8), boxes)


def tinted(level: int) -> np.ndarray:
    """Colour of a leaf's inside over white paper."""
    return 255 + (np.array(level_color(level)) - 255) * round(255 * TINT) / 255


@pytest.mark.parametrize(
    ("size", "level"),
    [((1, 1), 0), ((1, 2), 1), ((2, 2), 1), ((2, 3), 2), ((4, 4), 2), ((1, 17), 3), ((8, 8), 3), ((8, 9), 4)],
)
def test_display_level_is_the_smallest_that_holds_the_leaf(size, level):
    assert display_levels([size]) == [level]


def test_palette_has_distinct_colors_and_covers_every_level():
    assert len(set(LEVEL_COLORS)) == len(LEVEL_COLORS)
    assert level_color(0) == LEVEL_COLORS[0]
    assert level_color(50) == LEVEL_COLORS[-1]


def test_level_counts(mixed):
    assert level_counts(mixed) == {0: 4, 1: 3, 2: 1}


def test_leaves_are_tinted_in_the_color_of_their_level(mixed):
    drawing = np.asarray(draw_allocation(Image.new("RGB", (100, 50), "white"), mixed, cell_size=CELL), dtype=float)
    assert drawing.shape == (4 * CELL, 8 * CELL, 3)
    for (top, left, bottom, right), level in zip(mixed.boxes.tolist(), [2, 1, 1, 0, 0, 0, 0, 1], strict=True):
        inside = drawing[top * CELL + 4 : bottom * CELL - 4, left * CELL + 4 : right * CELL - 4]
        assert np.abs(inside - tinted(level)).max() <= 1
        outline = drawing[top * CELL, left * CELL : right * CELL]
        assert np.abs(outline - level_color(level)).max() <= 0.1 * 255  # nearly opaque


def test_image_shows_through_the_tint(mixed):
    image = Image.new("RGB", (160, 80), "white")
    image.paste("black", (0, 0, 80, 80))
    drawing = np.asarray(draw_allocation(image, mixed, cell_size=CELL), dtype=float)
    dark, light = drawing[40, 40], drawing[10, 90]
    assert dark.mean() < 60 < 180 < light.mean()


def test_dropped_cells_are_darkened(mixed):
    drawing = np.asarray(draw_allocation(Image.new("RGB", (100, 50), "white"), mixed, cell_size=CELL), dtype=float)
    dropped = drawing[3 * CELL + 2 : 4 * CELL - 2, 6 * CELL + 2 : 8 * CELL - 2]
    expected = 255 + (np.array(DROPPED_COLOR) - 255) * 200 / 255
    assert np.abs(dropped - expected).max() <= 1


def test_index_selects_the_image_of_a_batch(mixed):
    cell = make_allocation((1, 1), [(0, 0, 1, 1)])
    batch = Allocation(
        grids=torch.cat([cell.grids, mixed.grids]),
        budgets=torch.cat([cell.budgets, mixed.budgets]),
        cell_to_leaf=torch.cat([cell.cell_to_leaf, torch.where(mixed.cell_to_leaf < 0, -1, mixed.cell_to_leaf + 1)]),
        boxes=torch.cat([cell.boxes, mixed.boxes]),
        relevance=torch.cat([cell.relevance, mixed.relevance]),
        position_scale=torch.ones(2),
        maps={name: torch.cat([cell.maps[name], mixed.maps[name]]) for name in mixed.maps},
    )
    image = Image.new("RGB", (64, 64), "white")
    assert level_counts(batch, 0) == {0: 1}
    assert level_counts(batch, 1) == level_counts(mixed)
    assert draw_allocation(image, batch, 1).tobytes() == draw_allocation(image, mixed).tobytes()
    assert draw_maps(image, batch, 1).tobytes() == draw_maps(image, mixed).tobytes()
    with pytest.raises(IndexError, match="holds 2 images"):
        draw_allocation(image, batch, 2)


def test_detail_is_lost_with_the_level(mixed):
    checks = (np.indices((128, 256)).sum(0) // 4 % 2 * 255).astype(np.uint8)
    detail = np.asarray(draw_detail(Image.fromarray(checks), mixed, cell_size=32).convert("L"), dtype=float)
    spread = {
        level: detail[top * 32 + 8 : bottom * 32 - 8, left * 32 + 8 : right * 32 - 8].std()
        for (top, left, bottom, right), level in zip(mixed.boxes.tolist(), [2, 1, 1, 0, 0, 0, 0, 1], strict=True)
    }
    assert spread[0] > 110
    assert spread[0] > spread[1] > spread[2]


def test_full_detail_is_the_image_itself():
    grid = (3, 5)
    allocation = make_allocation(grid, [(y, x, y + 1, x + 1) for y in range(3) for x in range(5)])
    pixels = np.random.default_rng(0).integers(0, 256, (96, 160, 3), dtype=np.uint8)
    drawn = draw_detail(Image.fromarray(pixels), allocation, cell_size=32)
    assert np.array_equal(np.asarray(drawn), pixels)


def test_a_cell_within_a_leaf_is_shown_over_it():
    """Sharp in the detail, in its own colour in the drawing."""
    allocation = replace(
        make_allocation((4, 4), [(0, 0, 4, 4)]),
        budgets=torch.tensor([2]),
        boxes=torch.tensor([[0, 0, 4, 4], [1, 1, 2, 2]]),
        cell_to_leaf=(torch.arange(16) == 5).long(),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    detail = np.asarray(draw_detail(Image.fromarray(pixels), allocation, cell_size=32))
    assert np.array_equal(detail[32:64, 32:64], pixels[32:64, 32:64])
    assert detail[:32].std() < pixels[:32].std() / 3
    drawing = np.asarray(draw_allocation(Image.new("RGB", (128, 128), "white"), allocation, cell_size=32))
    inside, around = drawing[40:56, 40:56].reshape(-1, 3), drawing[72:88, 72:88].reshape(-1, 3)
    assert (inside == inside[0]).all() and (around == around[0]).all() and (inside[0] != around[0]).any()


def test_of_a_pair_its_window_is_shown_sharp():
    """The rest of it as the leaf around it, which is counted as the only one that is not a single cell."""
    allocation = replace(
        make_allocation((4, 4), [(0, 0, 4, 4)]),
        budgets=torch.tensor([2]),
        boxes=torch.tensor([[0, 0, 4, 4], [1, 1, 3, 2]]),
        cell_to_leaf=((torch.arange(16) == 5) | (torch.arange(16) == 9)).long(),
        windows=torch.tensor([-1.0, 0.25]),
    )
    assert level_counts(allocation) == {0: 1, 2: 1}
    pixels = np.random.default_rng(0).integers(0, 256, (128, 128, 3), dtype=np.uint8)
    detail = np.asarray(draw_detail(Image.fromarray(pixels), allocation, cell_size=32))
    assert np.array_equal(detail[40:72, 32:64], pixels[40:72, 32:64])
    for beyond in (slice(32, 40), slice(72, 96)):
        assert detail[beyond, 32:64].std() < pixels[beyond, 32:64].std() / 2


def test_heat_colors_run_from_dark_to_light():
    colors = heat_colors(np.linspace(-0.5, 1.5, 201)[None]).astype(int)
    lightness = colors.sum(-1)[0]
    assert (np.diff(lightness) >= -1).all() and lightness[-1] > 2 * lightness[0]
    assert tuple(colors[0, 0]) == (68, 1, 84) and tuple(colors[0, -1]) == (253, 231, 37)


def test_map_is_drawn_cell_by_cell():
    values = np.array([[0.0, 1.0], [0.5, 0.25]])
    drawing = np.asarray(draw_map(Image.new("RGB", (64, 64), "white"), values, (40, 40)))
    for row in range(2):
        for col in range(2):
            assert (drawing[row * 20 : row * 20 + 20, col * 20 : col * 20 + 20] == heat_colors(values)[row, col]).all()


def test_report_holds_all_panels(mixed):
    image = Image.new("RGB", (256, 128), "white")
    with_maps = draw_report(image, mixed, "Where is the total?")
    without = draw_report(image, make_allocation((4, 8), mixed.boxes.tolist(), maps=False))
    assert with_maps.mode == "RGB"
    assert with_maps.width * with_maps.height > without.width * without.height
    colors = {color for _, color in with_maps.getcolors(1 << 24)}
    assert PAPER in colors and all(level_color(level) in colors for level in (0, 1, 2))  # the legend's frames


@pytest.mark.parametrize("grid", [(1, 1), (1, 94), (94, 1), (2, 120), (128, 128)])
def test_report_of_odd_grids_has_a_readable_size(grid):
    rows, cols = grid
    allocation = make_allocation(grid, [(0, 0, rows, cols)])
    report = draw_report(Image.new("L", (300, 300), 200), allocation, "one " * 200)
    assert 300 <= report.width <= 4000 and 200 <= report.height <= 4000


def test_cell_size_fits_the_box():
    assert fit_cell_size((42, 32), 900, 900) == 21
    assert fit_cell_size((1, 1), 900, 900) == 64
    assert fit_cell_size((2000, 3), 900, 900) == 1
