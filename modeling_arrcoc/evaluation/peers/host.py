"""What published methods ask of a host: attention and keys of its tower, question embeddings, first-layer projections.

All of it is read off the stock modules: inputs of a module are caught by a hook, its own projections applied again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import apply_rotary_pos_emb_vision

from arrcoc.allocation import uniform_allocation

from .selection import HAWK_HEAD_WEIGHTS, hawk_scores, image_mask, pad_images


QUERY_ROWS = 512  # patches whose attention is computed at once


def received_attention(query: Tensor, key: Tensor, lengths: list[int], scaling: float) -> Tensor:
    """How much attention each patch receives from all patches of its sequence, averaged over heads.

    Args:
        query, key (`Tensor` of shape `(patches, heads, head_dim)`): of all sequences, one after another.
        lengths (`list[int]`): patches of each sequence; none sees another's.
        scaling (`float`): factor of the logits.

    Returns:
        `Tensor` of shape `(patches,)`, float32, with `s_j = sum_q mean_h softmax(q_hq . k_h)_j`.
    """
    received = []
    for queries, keys in zip(query.float().split(lengths), key.float().split(lengths), strict=True):
        keys = keys.permute(1, 2, 0)  # (heads, head_dim, patches)
        chunks = [
            (rows.transpose(0, 1) @ keys * scaling).softmax(-1).mean(0).sum(0) for rows in queries.split(QUERY_ROWS)
        ]
        received.append(torch.stack(chunks).sum(0))
    return torch.cat(received)


@dataclass
class EncodedCells:
    """Images that the stock tower encoded in full, and what methods may ask about their cells.

    All tensors are padded to the image of most cells, see [`selection`]; those that cost something are computed when
    first asked for.

    Attributes:
        model: the ARR-COC model with a language-modelling head.
        encoded: the stock output for all cells.
        grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
        budgets (`Tensor` of shape `(images,)`): tokens to keep.
        order (`Tensor` of shape `(cells,)`, *optional*): the order in which the tower holds the cells, where it sorts
            them into windows.
        last_attention (`dict`): what the tower's last attention over whole images was called with.
        inputs (`Mapping[str, Tensor]`): the processor's output.
    """

    model: Any
    encoded: BaseModelOutputWithPooling
    grids: Tensor
    budgets: Tensor
    order: Tensor | None
    last_attention: dict[str, Any]
    inputs: Mapping[str, Any]

    def with_budgets(self, budgets: Tensor) -> "EncodedCells":
        """The same cells under other budgets; what methods ask of them is computed again when asked for.

        Raises:
            ValueError: if a budget lies outside 1 to an image's cells.
        """
        return replace(self, budgets=checked_budgets(budgets, self.grids))

    @cached_property
    def counts(self) -> list[int]:
        return self.grids.prod(1).tolist()

    @cached_property
    def mask(self) -> Tensor:
        """True on the cells of each image, `(images, cells)`."""
        return image_mask(self.grids.prod(1))

    @cached_property
    def features(self) -> Tensor:
        """Visual tokens, `(images, cells, dim)`."""
        return pad_images(torch.cat(tuple(self.encoded.pooler_output)), self.counts)

    def _cells(self, patches: Tensor) -> Tensor:
        """Means over each cell's patches: `(patches, ...)` in the tower's order to padded `(images, cells, ...)`."""
        cells = patches.float().unflatten(0, (sum(self.counts), -1)).mean(1)
        if self.order is not None:
            cells = torch.empty_like(cells).index_copy_(0, self.order, cells)
        return pad_images(cells, self.counts)

    @cached_property
    def tower_features(self) -> Tensor:
        """The tower's features before the merger, `(images, cells, tower_dim)`."""
        return self._cells(self.encoded.last_hidden_state)

    @cached_property
    def _tower_queries_and_keys(self) -> tuple[Tensor, Tensor]:
        """Rotated, `(patches, heads, head_dim)` each."""
        attention, hidden = self.last_attention["module"], self.last_attention["hidden_states"]
        query, key, _ = attention.qkv(hidden).unflatten(-1, (3, attention.num_heads, -1)).unbind(1)
        return apply_rotary_pos_emb_vision(query, key, *self.last_attention["position_embeddings"])

    @cached_property
    def attention(self) -> Tensor:
        """Attention that each cell receives in the tower's last layer over whole images, `(images, cells)`."""
        scaling = self.last_attention["module"].scaling
        lengths = self.last_attention["cu_seqlens"].diff().tolist()
        return self._cells(received_attention(*self._tower_queries_and_keys, lengths, scaling))

    @cached_property
    def keys(self) -> Tensor:
        """Keys of the same layer, averaged over heads and patches, `(images, cells, head_dim)`."""
        return self._cells(self._tower_queries_and_keys[1].float().mean(1))

    @cached_property
    def question_mask(self) -> Tensor:
        """1 on the tokens of the question about each image, `(images, tokens)`."""
        return self._question_input("image_query_mask").to(self.features.device)

    @cached_property
    def question(self) -> Tensor:
        """Embeddings of the question about each image, `(images, tokens, dim)`."""
        embed = self.model.get_input_embeddings()
        return embed(self._question_input("image_query_ids").to(embed.weight.device)).to(self.features.device)

    def _question_input(self, name: str) -> Tensor:
        if self.inputs.get(name) is None:
            raise ValueError(f"this method reads the question, but `{name}` is missing; the processor returns it")
        return self.inputs[name]

    @cached_property
    def hawk(self) -> Tensor:
        """HAWK's scores, `(images, cells)`, with the published head weights where the host has these heads."""
        layer = self.model.model.language_model.layers[0]
        attention = layer.self_attn

        def heads(hidden: Tensor, projection: nn.Module, norm: nn.Module | None) -> Tensor:
            states = projection(layer.input_layernorm(hidden)).unflatten(-1, (-1, attention.head_dim))
            return states if norm is None else norm(states)

        # Qwen3 normalises queries and keys, Qwen2.5 does not.
        query = heads(self.question.to(self.features), attention.q_proj, getattr(attention, "q_norm", None))
        key = heads(self.features, attention.k_proj, getattr(attention, "k_norm", None))
        is_published = len(HAWK_HEAD_WEIGHTS) == query.shape[2] and not hasattr(attention, "q_norm")
        weights = HAWK_HEAD_WEIGHTS if is_published else None
        return hawk_scores(query, key, self.question_mask, self.mask, weights)


def checked_budgets(budgets: Tensor, grids: Tensor) -> Tensor:
    """Budgets of images as integers on the device of their grids.

    Raises:
        ValueError: if there is not one an image, or one lies outside 1 to the image's cells.
    """
    budgets, counts = budgets.to(grids), grids.prod(1)
    if len(budgets) != len(grids) or ((budgets < 1) | (budgets > counts)).any():
        raise ValueError(
            f"found token budgets {budgets.tolist()}; expected one an image, from 1 to the native counts "
            f"{counts.tolist()}"
        )
    return budgets


@torch.no_grad()
def encode_cells(model: Any, inputs: Mapping[str, Any], budgets: Tensor) -> EncodedCells:
    """Encode all cells of the images by the stock tower.

    Args:
        model: an ARR-COC model with a language-modelling head.
        inputs: the processor's output, with `pixel_values` and `image_grid_thw`.
        budgets (`Tensor` of shape `(images,)`): tokens to keep.

    Raises:
        ValueError: if there are no images, or a budget lies outside 1 to an image's cells.
    """
    if inputs.get("pixel_values") is None or inputs.get("image_grid_thw") is None:
        raise ValueError(
            "found no images: `pixel_values` and `image_grid_thw` are missing; the processor returns them"
        )
    base = model.model
    vision = base.config.vision_config
    grids = (inputs["image_grid_thw"][:, 1:] // vision.spatial_merge_size).to(model.device)
    budgets = checked_budgets(budgets, grids)
    # Qwen2.5-VL attends to whole images in some of its layers, and holds cells in the order of its windows.
    whole = getattr(vision, "fullatt_block_indexes", None)
    windows = {} if whole is None else base._tower_inputs(uniform_allocation(grids, grids.prod(1)))
    attention = base.visual.blocks[vision.depth - 1 if whole is None else max(whole)].attn
    caught: dict[str, Any] = {}

    def catch(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        caught.update(keywords, hidden_states=arguments[0], module=module)

    handle = attention.register_forward_pre_hook(catch, with_kwargs=True)
    try:
        encoded = base.get_image_features(
            inputs["pixel_values"].to(model.device),
            inputs["image_grid_thw"].to(model.device),
            return_dict=True,
            **windows,
        )
    finally:
        handle.remove()
    return EncodedCells(model, encoded, grids, budgets, windows.get("image_window_index"), caught, inputs)
