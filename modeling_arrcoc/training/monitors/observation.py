"""Looking into a model without changing what it computes."""

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


OBSERVED = "arrcoc_observed"

# (attention module, queries (batch, heads, queries, head_dim), keys (batch, key heads, keys, head_dim), mask, scaling)
AttentionObserver = Callable[[nn.Module, Tensor, Tensor, Tensor | None, float], None]


@contextmanager
def observed_attention(model: PreTrainedModel, observer: AttentionObserver) -> Iterator[None]:
    """Show the queries and keys of each attention, as they are multiplied, to `observer`; attention itself is SDPA.

    Args:
        model ([`PreTrainedModel`]): whose attention implementation is set to SDPA within the context.
        observer (`Callable`): called with the attention module, its queries and keys after their rotary embedding, the
            mask and the scaling of their products. `attended_scores` and `attention_rows` compute with them.
    """

    def attend(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
    ) -> tuple[Tensor, None]:
        observer(module, query, key, attention_mask, kwargs.get("scaling") or query.shape[-1] ** -0.5)
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register(OBSERVED, attend)
    AttentionMaskInterface.register(OBSERVED, sdpa_mask)
    config = model.config
    usual = {part: getattr(config, part)._attn_implementation for part in ("text_config", "vision_config")}
    model.set_attn_implementation(dict.fromkeys(usual, OBSERVED))
    try:
        yield
    finally:
        model.set_attn_implementation(usual)


def attention_rows(
    module: nn.Module, query: Tensor, key: Tensor, mask: Tensor | None, scaling: float, rows: Tensor
) -> Tensor:
    """Products of some queries with all keys, scaled, before the softmax; in float32.

    Args:
        module, query, key, mask, scaling: as an observer gets them.
        rows (`Tensor` of shape `(batch, rows)`): which queries.

    Returns:
        `Tensor` of shape `(batch, heads, rows, keys)`: `-inf` where a query does not attend.
    """
    batch, heads, _, dim = query.shape
    key = key.repeat_interleave(heads // key.shape[1], 1)  # (batch, heads, keys, head_dim)
    chosen = query.gather(2, rows[:, None, :, None].expand(batch, heads, rows.shape[1], dim))
    scores = (chosen.float() @ key.float().transpose(2, 3)) * scaling  # (batch, heads, rows, keys)
    if mask is None:
        if not getattr(module, "is_causal", False):
            return scores
        attends = torch.arange(key.shape[2], device=rows.device) <= rows[..., None]  # (batch, rows, keys)
        return scores.masked_fill(~attends[:, None], float("-inf"))
    mask = mask.expand(batch, *mask.shape[1:])
    mask = mask.gather(2, rows[:, None, :, None].expand(batch, mask.shape[1], rows.shape[1], mask.shape[3]))
    return scores.masked_fill(~mask, float("-inf"))


@contextmanager
def undisturbed(model: nn.Module) -> Iterator[None]:
    """Run a model in evaluation mode without gradients, and leave random generators and modes as they were."""
    modes = {module: module.training for module in model.modules()}
    states = random.getstate(), np.random.get_state()
    devices = {parameter.device for parameter in model.parameters() if parameter.device.type not in ("cpu", "meta")}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices, device_type=_kind(devices)):
            model.eval()
            yield
    finally:
        for module, training in modes.items():
            module.training = training
        random.setstate(states[0])
        np.random.set_state(states[1])


def _kind(devices: set[torch.device]) -> str:
    return next(iter(devices)).type if devices else "cuda"


def host_of(model: Any) -> PreTrainedModel:
    """The host inside a peft model; the model itself if it is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model
