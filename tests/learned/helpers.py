"""Blocks with learned parts, and how tests move them away from where they start."""

import torch
from transformers import PreTrainedModel


_SMALL = {"relevance": "learned", "scout_dim": 32, "scout_depth": 2}
LEARNED = {
    "features": {**_SMALL, "stage": "features"},
    "scout": {**_SMALL, "stage": "pixels", "cell_encoder": "scout"},
    "glance": {**_SMALL, "stage": "pixels", "cell_encoder": "glance", "glance_level": 1, "scorer_context": "axial"},
}


def perturb(model: PreTrainedModel, scale: float = 0.1) -> PreTrainedModel:
    """Move learned relevance away from its start, where its scores are zero."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.model.arrcoc.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * scale)
    return model
