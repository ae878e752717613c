"""Allocations and weights for tests of what is learned about compressed tokens."""

import torch
from torch import Tensor, nn

from arrcoc import Allocation, ArrCocConfig, allocate


GRIDS = [(9, 13), (5, 3), (1, 7), (8, 8)]
BUDGETS = [30, 15, 3, 9]  # the second image is native
DIM = 32


def random_cells(
    policy: str = "lod", dtype: torch.dtype = torch.float32, seed: int = 0, **config: object
) -> tuple[Tensor, Allocation]:
    """Features of the cells of four images, of shape `(cells, DIM)`, and their allocation."""
    generator = torch.Generator().manual_seed(seed)
    grids, budgets = torch.tensor(GRIDS), torch.tensor(BUDGETS)
    cells = int(grids.prod(1).sum())
    features = torch.randn(cells, DIM, generator=generator).to(dtype)
    relevance = torch.rand(cells, generator=generator) * 0.9 + 0.1
    return features, allocate(features, relevance, grids, budgets, ArrCocConfig(policy=policy, **config))


def perturb(module: nn.Module, scale: float = 0.3, seed: int = 0) -> nn.Module:
    """Move every parameter away from its start, as training would."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator).to(parameter)
            parameter.add_(noise * scale)
    return module


def gradients_after(module: nn.Module, loss, steps: int) -> dict[str, float]:
    """Largest gradient of each parameter after steps of gradient descent on `loss()`."""
    for _ in range(steps + 1):
        module.zero_grad()
        loss().backward()
        found = {
            name: 0.0 if parameter.grad is None else float(parameter.grad.abs().max())
            for name, parameter in module.named_parameters()
        }
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.grad is not None:
                    parameter -= 0.1 * parameter.grad
    return found
