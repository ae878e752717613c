import pytest
import torch
from torch import Tensor

from arrcoc import ArrCocConfig, allocate
from arrcoc.pooling import pool_leaves


def loop(features: Tensor, weights: Tensor, cell_to_leaf: Tensor, leaves: int) -> Tensor:
    """Weighted mean of the cells of each leaf, one leaf at a time."""
    pooled = []
    for leaf in range(leaves):
        cells = (cell_to_leaf == leaf).nonzero()[:, 0]
        mass, total = torch.zeros(()), torch.zeros(features.shape[1])
        for cell in cells:
            mass, total = mass + weights[cell], total + weights[cell] * features[cell]
        pooled.append(total / mass)
    return torch.stack(pooled)


def random_cells(cells: int, dim: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(cells, dim, generator=generator), torch.rand(cells, generator=generator) * 0.95 + 0.05


@pytest.mark.parametrize("policy", ["lod", "foveated", "uniform", "topk"])
def test_pooling_and_its_gradients_are_the_loop(policy: str) -> None:
    features, weights = random_cells(52, 6)
    grids, budgets = torch.tensor([[5, 8], [3, 4]]), torch.tensor([11, 12])
    cell_to_leaf = allocate(features, weights, grids, budgets, ArrCocConfig(policy=policy)).cell_to_leaf
    upstream = torch.randn(23, 6, generator=torch.Generator().manual_seed(1))
    results = []
    for function in (pool_leaves, loop):
        x, w = features.clone().requires_grad_(), weights.clone().requires_grad_()
        pooled = function(x, w, cell_to_leaf, 23)
        pooled.backward(upstream)
        assert x.grad is not None and w.grad is not None
        results.append((pooled.detach(), x.grad, w.grad))
    for found, expected in zip(*results, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    dropped = cell_to_leaf < 0
    assert dropped.any() == (policy == "topk")
    assert torch.equal(results[0][1][dropped], torch.zeros(int(dropped.sum()), 6))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_leaf_of_one_cell_is_that_cell(dtype: torch.dtype) -> None:
    features, weights = random_cells(1000, 16)
    features = (features * torch.logspace(-8, 4, 16)).to(dtype)
    for scale in (1e-30, 1e-3, 1.0, 1e20):
        pooled = pool_leaves(features, weights * scale, torch.arange(1000), 1000)
        assert pooled.dtype == dtype
        assert torch.equal(pooled, features)


def test_kept_cells_stay_as_they_are_where_others_are_dropped() -> None:
    features, weights = random_cells(6, 3)
    pooled = pool_leaves(features, weights, torch.tensor([-1, 0, 1, -1, -1, 2]), 3)
    assert torch.equal(pooled, features[[1, 2, 5]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sums_are_taken_in_float32(dtype: torch.dtype) -> None:
    # The mean of 4,096 cells: summed in half precision it would stop growing long before the end.
    features, weights = random_cells(4096, 5)
    features = (features + 3).to(dtype)
    pooled = pool_leaves(features, weights.to(dtype), torch.zeros(4096, dtype=torch.long), 1)
    w = weights.to(dtype).double()[:, None]
    expected = (features.double() * w).sum(0, keepdim=True) / w.sum()
    assert torch.equal(pooled, expected.to(dtype))


def test_equal_weights_are_the_plain_mean() -> None:
    features, _ = random_cells(4 * 6, 3)
    grids, budgets = torch.tensor([[4, 6]]), torch.tensor([6])
    allocation = allocate(features, torch.ones(24), grids, budgets, ArrCocConfig(policy="uniform"))
    pooled = pool_leaves(features, allocation.relevance, allocation.cell_to_leaf, 6)
    expected = torch.nn.functional.avg_pool2d(features.view(4, 6, 3).permute(2, 0, 1), 2).flatten(1).T
    torch.testing.assert_close(pooled, expected)


def test_only_the_proportion_of_weights_matters() -> None:
    features, weights = random_cells(20, 4)
    cell_to_leaf = torch.arange(20) // 5
    expected = pool_leaves(features, weights, cell_to_leaf, 4)
    assert torch.equal(pool_leaves(features, weights / 1024, cell_to_leaf, 4), expected)
