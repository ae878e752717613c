"""What steps the weights of a stage: AdamW, or Muon for its matrices."""

from collections.abc import Sequence

import torch
from torch import nn


DECAY = 0.05  # of matrices; all else does not decay


def build_optimizers(model: nn.Module, rates: dict[str, float], muon: bool = False) -> list[torch.optim.Optimizer]:
    """Optimizers with the rates of a stage, each group with its highest rate as "peak".

    Args:
        model: parameters that no prefix names are frozen.
        rates: learning rate of each part of the model, by a prefix of its parameters' names; the longest prefix holds.
        muon: matrices learn by Muon (Jordan et al. 2024), with steps of AdamW's size (Liu et al. 2025,
            arXiv:2502.16982), and not by AdamW.
    """
    groups: dict[tuple[bool, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        prefixes = [prefix for prefix in rates if name.startswith(prefix)]
        rate = rates[max(prefixes, key=len)] if prefixes else 0.0
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            groups.setdefault((parameter.ndim > 1, rate), []).append(parameter)

    def options(matrices: Sequence[bool]) -> list[dict]:
        return [
            {"params": values, "lr": rate, "peak": rate, "weight_decay": DECAY if is_matrix else 0.0}
            for (is_matrix, rate), values in groups.items()
            if is_matrix in matrices
        ]

    if not muon:
        return [torch.optim.AdamW(options((True, False)), betas=(0.9, 0.98))]
    return [
        torch.optim.Muon(options((True,)), adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(options((False,)), betas=(0.9, 0.98)),
    ]
