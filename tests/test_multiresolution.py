"""Pictures, positions and windows of leaves, against loops over cells and pixels and against the stock towers."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from transformers.vision_utils import (
    get_vision_interpolation_indices_and_weights,
    get_vision_position_ids,
    get_vision_window_index,
)

from arrcoc import ArrCocConfig, allocate
from arrcoc.allocation import uniform_allocation
from arrcoc.multiresolution import (
    bilinear_taps,
    cells_to_patches,
    draw_leaves,
    drawing_gains,
    drawing_losses,
    patch_positions,
    patches_to_cells,
    sequence_ends,
    window_order,
)
from arrcoc.quadtree import build_quadtree


GRIDS = torch.tensor([[5, 7], [1, 1], [4, 8], [9, 3]])
SIDE = 8  # pixels a side of a cell in these tests


def random_cells(grids: torch.Tensor, seed: int = 0) -> torch.Tensor:
    return torch.rand(int(grids.prod(1).sum()), 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def random_allocation(policy: str, seed: int = 0, **config):
    cells = random_cells(GRIDS, seed)
    generator = torch.Generator().manual_seed(seed)
    relevance = torch.rand(len(cells), generator=generator) + 0.1
    budgets = (torch.rand(len(GRIDS), generator=generator) * GRIDS.prod(1)).long() + 1
    options = ArrCocConfig(policy=policy, region_size=4, tiers=[2, 6, 12], **config)
    losses = drawing_losses(cells, GRIDS)
    return cells, allocate(losses, relevance, GRIDS, budgets, options, gains=drawing_gains)


def picture(cells: torch.Tensor, index: int) -> torch.Tensor:
    """Image `index` of `GRIDS` as one picture, `(3, rows * SIDE, cols * SIDE)`."""
    start = int(GRIDS[:index].prod(1).sum())
    rows, cols = GRIDS[index].tolist()
    tiles = cells[start : start + rows * cols].view(rows, cols, 3, SIDE, SIDE)
    return tiles.permute(2, 0, 3, 1, 4).reshape(3, rows * SIDE, cols * SIDE)


def test_patches_and_cells_are_inverse_and_in_place():
    picture = torch.arange(3 * 8 * 12, dtype=torch.float32).view(3, 8, 12)  # two by three cells of 4 px, 2 px patches
    patches = []
    for cell_y in range(2):
        for cell_x in range(3):
            for y in (0, 2):
                for x in (0, 2):
                    top, left = cell_y * 4 + y, cell_x * 4 + x
                    patches.append(picture[:, top : top + 2, left : left + 2].flatten())
    patches = torch.stack(patches)
    cells = patches_to_cells(patches, channels=3, patch_size=2, merge_size=2)
    assert torch.equal(cells[4], picture[:, 4:8, 4:8])
    assert torch.equal(cells_to_patches(cells, 2), patches)


@pytest.mark.parametrize("policy", ["lod", "foveated", "tiers", "uniform", "random", "topk"])
@pytest.mark.parametrize("seed", range(3))
def test_a_leaf_is_its_box_filtered_down_to_a_cell(policy, seed):
    cells, allocation = random_allocation(policy, seed)
    drawn = draw_leaves(cells, allocation)
    image = torch.repeat_interleave(torch.arange(len(GRIDS)), allocation.budgets)
    assert len(drawn) == len(allocation.boxes)
    for leaf, (top, left, bottom, right) in enumerate((allocation.boxes * SIDE).tolist()):
        whole = picture(cells, int(image[leaf]))[:, top:bottom, left:right]
        expected = F.avg_pool2d(whole, (whole.shape[1] // SIDE, whole.shape[2] // SIDE))
        torch.testing.assert_close(drawn[leaf], expected, rtol=0, atol=1e-6)


def windowed_allocation(seed: int):
    """Pairs with windows anywhere, and leaves of other sizes."""
    cells, allocation = random_allocation("foveated", seed, context_share=0.2, pair_worth=0.9)
    is_pair = (allocation.sizes == torch.tensor([2, 1])).all(1)
    windows = torch.randint(SIDE + 1, (len(is_pair),), generator=torch.Generator().manual_seed(seed)) / SIDE
    return cells, replace(allocation, windows=torch.where(is_pair, windows, -1.0))


@pytest.mark.parametrize("seed", range(3))
def test_a_window_is_cut_out_and_lies_where_it_was(seed):
    cells, allocation = windowed_allocation(seed)
    assert (allocation.windows >= 0).sum() > 3
    cells.requires_grad_()
    drawn, positions = draw_leaves(cells, allocation), patch_positions(allocation, 2).view(-1, 4, 2)
    image = torch.repeat_interleave(torch.arange(len(GRIDS)), allocation.budgets)
    expected, whole = [], draw_leaves(cells, replace(allocation, windows=None))
    for leaf, (top, left, _, right) in enumerate(allocation.boxes.tolist()):
        window = float(allocation.windows[leaf])
        if window < 0:
            expected.append(whole[leaf])
            continue
        first = top * SIDE + round(window * SIDE)
        expected.append(picture(cells, int(image[leaf]))[:, first : first + SIDE, left * SIDE : right * SIDE])
        rows = [2 * (top + window) + row for row in (0, 0, 1, 1)]
        assert positions[leaf].tolist() == [[row, 2 * left + col] for row, col in zip(rows, (0, 1, 0, 1), strict=True)]
    expected = torch.stack(expected)
    torch.testing.assert_close(drawn, expected)
    weights = torch.rand_like(drawn)
    found = (torch.autograd.grad((values * weights).sum(), cells)[0] for values in (drawn, expected))
    torch.testing.assert_close(*found)


def test_gradients_reach_every_pixel_evenly():
    cells, allocation = random_allocation("lod")
    cells.requires_grad_()
    draw_leaves(cells, allocation).sum().backward()
    area = allocation.sizes.prod(1)[allocation.cell_to_leaf]
    expected = (1 / area)[:, None, None, None].expand_as(cells)
    torch.testing.assert_close(cells.grad, expected)


def test_drawing_gains_are_the_energy_that_drawing_a_node_whole_loses():
    """By definition, on a grid without clipped nodes: the children against the enlarged drawing of their parent."""
    grids = torch.tensor([[4, 8]])
    cells = random_cells(grids)
    weights = torch.rand(len(cells), generator=torch.Generator().manual_seed(1)) + 0.1
    gains = drawing_gains(build_quadtree(grids), drawing_losses(cells, grids), weights)
    tiles = cells.view(4, 8, 3, SIDE, SIDE)
    whole = tiles.permute(2, 0, 3, 1, 4).reshape(3, 4 * SIDE, 8 * SIDE).mean(0, keepdim=True)  # gray
    for level, found in enumerate(gains[:2], start=1):
        finer, coarser = F.avg_pool2d(whole, 2 ** (level - 1)), F.avg_pool2d(whole, 2**level)
        error = (finer - F.interpolate(coarser[None], scale_factor=2)[0]).square().mean(0)
        expected = []
        for y in range(4 // 2**level):
            for x in range(8 // 2**level):
                gain = 0.0
                for child_y in (2 * y, 2 * y + 1):
                    for child_x in (2 * x, 2 * x + 1):
                        side = 2 ** (level - 1)
                        rows, cols = (
                            slice(child_y * side, (child_y + 1) * side),
                            slice(child_x * side, (child_x + 1) * side),
                        )
                        mass = weights.view(4, 8)[rows, cols].sum()
                        square = error[child_y * SIDE : (child_y + 1) * SIDE, child_x * SIDE : (child_x + 1) * SIDE]
                        gain += mass * square.mean()
                expected.append(gain)
        torch.testing.assert_close(found, torch.stack(expected))


def test_blank_nodes_gain_exactly_nothing():
    cells = torch.full((int(GRIDS.prod(1).sum()), 3, SIDE, SIDE), 0.3)
    losses = drawing_losses(cells, GRIDS)
    assert torch.equal(losses, torch.zeros(len(cells), 4))
    for gain in drawing_gains(build_quadtree(GRIDS), losses, torch.rand(len(cells)) + 0.1):
        assert torch.equal(gain, torch.zeros_like(gain))


@pytest.mark.parametrize("side", [8, 14])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_losses_do_not_depend_on_the_batch(side, dtype):
    cells = torch.rand(int(GRIDS.prod(1).sum()), 3, side, side).to(dtype)
    losses = drawing_losses(cells, GRIDS)
    assert losses.dtype == torch.float32
    start = 0
    for grid in GRIDS:
        end = start + int(grid.prod())
        alone = drawing_losses(cells[start:end], grid[None])
        assert torch.equal(losses[start:end, : alone.shape[1]], alone)
        start = end


def test_what_a_relevant_cell_loses_is_what_its_node_loses():
    """The loss of a level is that of the node drawn, whichever of its cells has the detail."""
    cells = torch.zeros(16, 3, SIDE, SIDE)
    cells[5] = torch.rand(3, SIDE, SIDE)
    losses = drawing_losses(cells, torch.tensor([[4, 4]])).view(4, 4, 2)
    assert (losses[..., 0] > 0).nonzero().tolist() == [[1, 1]]
    assert (losses[..., 1] > 0).nonzero().tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    assert losses[:2, :2, 1].unique().numel() == 1


@pytest.mark.parametrize("merge_size", [2])
def test_full_detail_is_the_stock_tower_s_input(merge_size):
    allocation = uniform_allocation(GRIDS, GRIDS.prod(1))
    grid_thw = torch.cat([torch.ones(len(GRIDS), 1, dtype=torch.long), GRIDS * merge_size], 1)
    positions = patch_positions(allocation, merge_size)
    assert torch.equal(positions, get_vision_position_ids(grid_thw, merge_size).float())

    sizes = torch.repeat_interleave(GRIDS * merge_size, GRIDS.prod(1) * merge_size**2, dim=0).float()
    indices, weights = bilinear_taps(positions, sizes, side=16)
    stock_indices, stock_weights = get_vision_interpolation_indices_and_weights(
        grid_thw, num_grid_per_side=16, align_corners=True, spatial_merge_size=merge_size
    )
    table = torch.randn(16 * 16, 5, generator=torch.Generator().manual_seed(0))
    read = (table[indices] * weights[..., None]).sum(1)
    torch.testing.assert_close(read, (table[stock_indices] * stock_weights[..., None]).sum(1), rtol=0, atol=1e-5)
    torch.testing.assert_close(weights.sum(1), torch.ones(len(weights)))

    order, ends = window_order(allocation, window=4, merge_size=merge_size)
    stock_order, stock_ends = get_vision_window_index(grid_thw, merge_size, window_size=4 * merge_size, patch_size=1)
    assert torch.equal(order, stock_order)
    assert torch.equal(ends, stock_ends)
    assert ends.dtype == torch.int32

    ends = sequence_ends(allocation, merge_size)
    assert torch.equal(ends, F.pad((GRIDS.prod(1) * merge_size**2).cumsum(0), (1, 0)).int())


def test_a_patch_lies_at_the_centre_of_what_it_shows():
    """A leaf of 4 x 2 cells whose top-left cell is (0, 6), in native patches of half a cell."""
    allocation = uniform_allocation(torch.tensor([[4, 8]]), torch.tensor([4]))
    assert allocation.boxes[3].tolist() == [0, 6, 4, 8]
    positions = patch_positions(allocation, merge_size=2).view(4, 4, 2)
    assert positions[3].tolist() == [[1.5, 12.5], [1.5, 14.5], [5.5, 12.5], [5.5, 14.5]]


def test_leaves_fall_into_the_windows_of_their_centres():
    _, allocation = random_allocation("lod", seed=4)
    order, ends = window_order(allocation, window=2, merge_size=2)
    image = torch.repeat_interleave(torch.arange(len(GRIDS)), allocation.budgets)
    windows: dict[tuple[int, int, int], list[int]] = {}
    for leaf, (y, x) in enumerate(allocation.centers.tolist()):
        windows.setdefault((int(image[leaf]), int(y // 2), int(x // 2)), []).append(leaf)
    members = [windows[key] for key in sorted(windows)]
    assert order.tolist() == [leaf for window in members for leaf in window]
    lengths = torch.tensor([0] + [4 * len(window) for window in members])
    assert torch.equal(ends, lengths.cumsum(0).int())


@pytest.mark.parametrize("policy", ["lod", "uniform"])
def test_matched_positions_keep_patches_about_one_apart(policy):
    _, allocation = random_allocation(policy, seed=2, position_scale="matched")
    expected = (GRIDS.prod(1) / allocation.budgets).sqrt()
    torch.testing.assert_close(allocation.position_scale, expected)
    native = patch_positions(random_allocation(policy, seed=2)[1], 2)
    scale = torch.repeat_interleave(expected, allocation.budgets * 4)[:, None]
    torch.testing.assert_close(patch_positions(allocation, 2), (native + 0.5) / scale - 0.5)
