"""What steps the weights of a stage: AdamW, or Muon for its matrices."""

import torch
from torch import nn


DECAY = 0.05  # of matrices; all else does not decay


def build_optimizers(
    model: nn.Module, rates: dict[str, float], muon: tuple[str, ...] = ()
) -> list[torch.optim.Optimizer]:
    """Optimizers with the rates of a stage, each group with its highest rate as "peak".

    Args:
        model: parameters that no prefix names are frozen.
        rates: learning rate of each part of the model, by a prefix of its parameters' names; the longest prefix holds.
        muon: prefixes of the parameters whose matrices learn by Muon (Jordan et al. 2024), with steps of AdamW's size
            (Liu et al. 2025, arXiv:2502.16982), and not by AdamW.
    """
    groups: dict[type, dict[tuple[bool, float], list[nn.Parameter]]] = {torch.optim.Muon: {}, torch.optim.AdamW: {}}
    for name, parameter in model.named_parameters():
        prefixes = [prefix for prefix in rates if name.startswith(prefix)]
        rate = rates[max(prefixes, key=len)] if prefixes else 0.0
        parameter.requires_grad_(rate > 0)
        if rate > 0:
            is_matrix = parameter.ndim == 2
            kind = torch.optim.Muon if is_matrix and name.startswith(muon) else torch.optim.AdamW
            groups[kind].setdefault((parameter.ndim > 1, rate), []).append(parameter)

    def options(kind: type) -> list[dict]:
        return [
            {"params": values, "lr": rate, "peak": rate, "weight_decay": DECAY if decays else 0.0}
            for (decays, rate), values in groups[kind].items()
        ]

    optimizers: list[torch.optim.Optimizer] = []
    if groups[torch.optim.Muon]:
        optimizers.append(torch.optim.Muon(options(torch.optim.Muon), adjust_lr_fn="match_rms_adamw"))
    if groups[torch.optim.AdamW]:
        optimizers.append(torch.optim.AdamW(options(torch.optim.AdamW), betas=(0.9, 0.98)))
    return optimizers
