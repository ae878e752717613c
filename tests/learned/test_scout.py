"""The scout against a plain picture-by-picture reference, and its price."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from arrcoc.layers import ConvBlock, Float32Module, Linear, from_canvas, to_canvas
from arrcoc.quadtree import packed_grid
from arrcoc.scorers import LearnedRelevance
from arrcoc.scout import Scout


GRIDS = torch.tensor([(3, 5), (1, 1), (4, 2)])
CHANNELS, FRAMES, PATCH, MERGE, DIM = 3, 2, 4, 2, 16


def small_scout(depth: int = 2) -> Scout:
    torch.manual_seed(0)
    return Scout(DIM, depth, CHANNELS, FRAMES, PATCH, MERGE)


def random_patches(grids: torch.Tensor, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(int(grids.prod(1).sum()) * MERGE**2, CHANNELS * FRAMES * PATCH**2, generator=generator)


def naive_block(block: ConvBlock, picture: torch.Tensor) -> torch.Tensor:
    """One image `(rows, cols, dim)`: the depthwise convolution by sliding a window over a zero border."""
    rows, cols, dim = picture.shape
    height, width = block.depthwise.kernel_size
    padded = F.pad(picture, (0, 0, width // 2, width // 2, height // 2, height // 2))
    out = torch.empty_like(picture)
    for y in range(rows):
        for x in range(cols):
            window = padded[y : y + height, x : x + width].permute(2, 0, 1)  # (dim, height, width)
            around = (window * block.depthwise.weight[:, 0]).sum((1, 2)) + block.depthwise.bias
            out[y, x] = picture[y, x] + block.contract(F.gelu(block.expand(block.norm(around))))
    return out


def naive_scout(scout: Scout, patches: torch.Tensor, grids: torch.Tensor) -> torch.Tensor:
    """Image by image on pictures of patches; the first of the frames is what is seen."""
    found, start = [], 0
    for rows, cols in grids.tolist():
        count = rows * cols * MERGE**2
        own = patches[start : start + count].view(rows, cols, MERGE, MERGE, CHANNELS, FRAMES, PATCH, PATCH)
        start += count
        picture = own[:, :, :, :, :, 0].permute(0, 2, 1, 3, 4, 5, 6).reshape(rows * MERGE, cols * MERGE, -1)
        values = scout.embed(picture)
        for block in scout.blocks:
            values = naive_block(block, values)
        cells = values.view(rows, MERGE, cols, MERGE, DIM).transpose(1, 2).reshape(rows * cols, -1)
        found.append(scout.merge_contract(F.gelu(scout.merge_expand(scout.merge_norm(cells)))))
    return torch.cat(found)


def test_canvas():
    grid = packed_grid(*GRIDS.unbind(1))
    values = torch.randn(len(grid.image), 3)
    canvas = to_canvas(values, grid)
    assert canvas.shape == (3, 4, 5, 3)
    assert torch.equal(from_canvas(canvas, grid), values)
    assert torch.equal(canvas[0, :3, :5].flatten(0, 1), values[:15])
    assert torch.equal(canvas[2, :4, :2].flatten(0, 1), values[16:])
    assert canvas[0, 3:].abs().max() == canvas[1, 1:].abs().max() == canvas[1, 0, 1:].abs().max() == 0
    assert canvas[2, :, 2:].abs().max() == 0


@pytest.mark.parametrize("kernel", [(5, 5), (1, 5)])
def test_conv_block(kernel):
    torch.manual_seed(0)
    block, grid = ConvBlock(DIM, kernel), packed_grid(*GRIDS.unbind(1))
    values = torch.randn(len(grid.image), DIM)
    pictures = [
        part.view(rows, cols, DIM)
        for part, (rows, cols) in zip(values.split([15, 1, 8]), GRIDS.tolist(), strict=False)
    ]
    expected = torch.cat([naive_block(block, picture).flatten(0, 1) for picture in pictures])
    torch.testing.assert_close(block(values, grid), expected)


def test_scout_and_its_gradients():
    scout, patches = small_scout(), random_patches(GRIDS)
    found, expected = scout(patches, GRIDS), naive_scout(scout, patches, GRIDS)
    assert found.shape == (24, DIM)
    torch.testing.assert_close(found, expected)
    probe = torch.randn_like(found)
    parameters = list(scout.parameters())
    ours, theirs = (torch.autograd.grad((out * probe).sum(), parameters) for out in (found, expected))
    for found_gradient, expected_gradient in zip(ours, theirs, strict=True):
        torch.testing.assert_close(found_gradient, expected_gradient, rtol=1e-4, atol=1e-4)
        assert found_gradient.abs().max() > 0


def test_images_do_not_see_each_other():
    scout, patches = small_scout(), random_patches(GRIDS)
    together = scout(patches, GRIDS)
    counts = GRIDS.prod(1).tolist()
    alone = [
        scout(part, grid[None])
        for part, grid in zip(patches.split([count * MERGE**2 for count in counts]), GRIDS, strict=True)
    ]
    torch.testing.assert_close(together, torch.cat(alone))


def test_the_view_of_a_cell_is_local():
    scout, grids = small_scout(depth=2), torch.tensor([(1, 12)])
    patches = random_patches(grids).requires_grad_()
    scout(patches, grids)[0].sum().backward()
    seen = patches.grad.abs().sum(1).view(12, -1).sum(1) > 0  # (cells,)
    assert seen.tolist() == [True] * 3 + [False] * 9  # two cells to the side, one for each block


def test_weights_stay_in_float32():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.scout, self.other = small_scout(), nn.Linear(2, 2)

    model = Model()
    before = {name: value.clone() for name, value in model.scout.state_dict().items()}
    for cast in (lambda: model.to(torch.bfloat16), model.half, lambda: model.to("cpu", torch.float16)):
        cast()
        assert model.other.weight.dtype != torch.float32
        assert all(torch.equal(value, before[name]) for name, value in model.scout.state_dict().items())
    with torch.device("meta"):
        part = type("Part", (Float32Module,), {})()
        part.layer = Linear(2, 2)
    assert part.to_empty(device="cpu").layer.weight.device.type == "cpu"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_patches_say_the_precision(dtype):
    """Products are in the precision of the patches; weights, their gradients and the features are float32."""
    scout, patches = small_scout(), random_patches(GRIDS)
    products = []
    scout.blocks[0].expand.register_forward_hook(lambda *args: products.append(args[2].dtype))
    low, full = scout(patches.to(dtype), GRIDS), scout(patches, GRIDS)
    assert products == [dtype, torch.float32] and low.dtype == torch.float32
    assert 0 < (low - full).norm() / full.norm() < 0.02
    low.sum().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all() for p in scout.parameters())


def test_autocast_changes_features_little():
    scout, patches = small_scout(), random_patches(GRIDS)
    with torch.autocast("cpu", torch.bfloat16):
        low = scout(patches, GRIDS)
    full = scout(patches, GRIDS)
    assert (low.float() - full).norm() / full.norm() < 0.02


def tower_operations(patches: int, depth: int, hidden: int, intermediate: int) -> int:
    """Multiplications and additions of a Qwen3-VL tower's blocks: projections, MLP and attention."""
    weights = 4 * hidden**2 + 2 * hidden * intermediate
    return depth * (2 * patches * weights + 2 * 2 * patches**2 * hidden)


@pytest.mark.parametrize("is_axial", [False, True])
@pytest.mark.parametrize("cells", [256, 2400])
def test_operations_are_a_small_share_of_the_towers(cells, is_axial):
    """Scout and learned relevance at their default size beside the tower of Qwen3-VL-8B (27 x 1152 x 4304)."""
    weights = {"information": 1.0, "salience": 1.0, "query": 1.0}
    with torch.device("meta"):
        scout = Scout(192, 4, channels=3, frames=2, patch_size=16, merge_size=2)
        relevance = LearnedRelevance(192, 192, 4096, weights, 0.05, is_axial)
    price = scout.operations(cells) + relevance.operations(cells, tokens=64)
    assert price < 0.01 * tower_operations(4 * cells, depth=27, hidden=1152, intermediate=4304)


@pytest.mark.parametrize("is_axial", [False, True])
def test_operations_are_those_that_are_executed(is_axial):
    scout, grids = small_scout(), torch.tensor([(6, 7)])
    relevance = LearnedRelevance(DIM, DIM, 24, {"information": 1.0, "salience": 1.0, "query": 1.0}, 0.05, is_axial)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        scout(random_patches(grids), grids)
    assert counter.get_total_flops() == scout.operations(42)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        relevance(torch.randn(42, DIM), grids, torch.randn(1, 9, 24), torch.ones(1, 9))
    # The counter passes over attention on CPU.
    assert counter.get_total_flops() == pytest.approx(relevance.operations(42, 9), rel=0.05)
