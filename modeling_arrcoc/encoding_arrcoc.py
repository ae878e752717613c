"""How a host's images become exactly the budgeted number of visual tokens, written once for all hosts."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .allocation import allocate, uniform_allocation
from .block import ArrCocBlock
from .layers import Initialized
from .multiresolution import (
    cells_to_patches,
    draw_leaves,
    drawing_gains,
    patch_positions,
    patches_to_cells,
    sequence_ends,
)
from .outputs import Allocation, ArrCocImageFeatures
from .pooling import pool_leaves
from .quadtree import QuadTree, split_gains
from .relaxation import Relaxation, relaxed_allocation
from .relevance import attention_scores, balance_maps, cosine_scores, normalize_per_image, salience_map


# The mixins have no base of their own; to a type checker they are models.
Host: Any = PreTrainedModel if TYPE_CHECKING else object


def change_image_features(
    encoded: BaseModelOutputWithPooling, allocation: Allocation, change: Callable[[Tensor, int], Tensor]
) -> ArrCocImageFeatures:
    """Make tokens of what the tower put out, in all of its layers.

    Args:
        encoded: the stock output.
        allocation ([`Allocation`]): the leaves of the images.
        change (`Callable`): from the packed features of all images, of shape `(cells or leaves, dim)`, and the number
            of the layer (0 for the output, 1, 2, ... for DeepStack) to tokens of shape `(leaves, dim)`.
    """
    counts = allocation.budgets.tolist()

    def tokens(features: list[Tensor], layer: int) -> list[Tensor]:
        return list(change(torch.cat(tuple(features)), layer).split(counts))

    deepstack = getattr(encoded, "deepstack_features", None)
    return ArrCocImageFeatures(
        last_hidden_state=encoded.last_hidden_state,
        pooler_output=tokens(encoded.pooler_output, 0),
        hidden_states=encoded.hidden_states,
        attentions=encoded.attentions,
        deepstack_features=deepstack and [tokens(features, layer) for layer, features in enumerate(deepstack, 1)],
        allocation=allocation,
    )


class ArrCocImageEncoder(Host):
    """The part of a base model that encodes images; a mixin that stands before a stock `...Model`.

    What is learned is in `arrcoc`, which exists only where the configuration asks for it.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        block = ArrCocBlock(config.arrcoc_config, config.vision_config, config.text_config.hidden_size)
        self.arrcoc = block if any(True for _ in block.parameters()) else None
        # Small parts whose output is a choice; the rest of a model may be loaded in any precision.
        self._keep_in_fp32_modules_strict = {
            f"arrcoc.{part}" for part in ("scout", "relevance") if getattr(block, part) is not None
        }
        self.post_init()

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, Initialized):
            module.initialize()

    @can_return_tuple
    def get_image_features(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor | None = None,
        image_token_budgets: Tensor | None = None,
        image_query_ids: Tensor | None = None,
        image_query_mask: Tensor | None = None,
        image_information: Tensor | None = None,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images, compressed to their budgets if these are given.

        Args:
            pixel_values (`Tensor` of shape `(patches, channels * frames * patch_size**2)`): patches of all images.
            image_grid_thw (`Tensor` of shape `(images, 3)`): frames, rows and columns of each image, in patches.
            image_token_budgets (`Tensor` of shape `(images,)`, *optional*): visual tokens of each image; `None` is
                native.
            image_query_ids, image_query_mask (`Tensor` of shape `(images, tokens)`, *optional*): the question about
                each image and a mask that is 0 on padding. Without them the question has no say.
            image_information (`Tensor` of shape `(cells,)`, *optional*): how much information each cell carries, in
                [0, 1], as measured by the processor. Without it all cells carry the same.

        Returns:
            The stock output, or [`ArrCocImageFeatures`] where budgets were given.

        Raises:
            ValueError: if the numbers of images, budgets, questions or cells disagree.
        """
        if image_token_budgets is None:
            return super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
        if image_grid_thw is None:
            raise ValueError("`image_token_budgets` need `image_grid_thw`; the processor returns them")
        grids = image_grid_thw[:, 1:] // self.config.vision_config.spatial_merge_size
        budgets = image_token_budgets.to(grids)
        scoring = {"query_ids": image_query_ids, "query_mask": image_query_mask, "information": image_information}
        if self.config.arrcoc_config.stage == "features":
            encoded = super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
            images = self._compress_features(encoded, grids, budgets, scoring)
        elif torch.equal(budgets, grids.prod(1)):  # the stock path, bit for bit
            encoded = super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
            return ArrCocImageFeatures(**encoded, allocation=uniform_allocation(grids, budgets))
        else:
            images = self._encode_compressed(pixel_values, grids, budgets, scoring, **kwargs)
        block, allocation = self.arrcoc, images.allocation
        if block is None or allocation is None or (block.compressors is None and block.adapter is None):
            return images
        return change_image_features(images, allocation, lambda tokens, layer: block.refine(tokens, allocation, layer))

    def _compress_features(
        self, encoded: BaseModelOutputWithPooling, grids: Tensor, budgets: Tensor, scoring: dict[str, Tensor | None]
    ) -> ArrCocImageFeatures:
        """Stage `features`: pool what the tower made of all cells."""
        cells = torch.cat(tuple(encoded.pooler_output))  # (cells, dim)
        grids, budgets = grids.to(cells.device), budgets.to(cells.device)
        whole = uniform_allocation(grids, grids.prod(1))
        scores = self._relevance(grids, cells, cells, whole, **scoring)
        return self._pool_features(encoded, *self._allocate(cells, scores, grids, budgets, split_gains))

    def _pool_features(
        self, encoded: BaseModelOutputWithPooling, allocation: Allocation, relaxation: Relaxation | None = None
    ) -> ArrCocImageFeatures:
        """Draw each leaf as one token, in the tower's output and in its DeepStack features alike.

        Args:
            encoded: the stock output for all cells.
            allocation ([`Allocation`]): their leaves.
            relaxation ([`Relaxation`], *optional*): the mixture behind the leaves, in training.
        """

        def pool(cells: Tensor, layer: int) -> Tensor:
            if relaxation is not None:
                cells = relaxation.features(cells, allocation.relevance)
            if self.arrcoc is not None:
                return self.arrcoc.pool(cells, allocation, layer)
            return pool_leaves(cells, allocation.relevance, allocation.cell_to_leaf, len(allocation.boxes))

        return change_image_features(encoded, allocation, pool)

    def _encode_compressed(
        self, pixel_values: Tensor, grids: Tensor, budgets: Tensor, scoring: dict[str, Tensor | None], **kwargs: Any
    ) -> ArrCocImageFeatures:
        """Stage `pixels`: run the tower on the leaves alone."""
        block, vision = self.config.arrcoc_config, self.config.vision_config
        channels = vision.in_channels * vision.temporal_patch_size
        cells = patches_to_cells(pixel_values, channels, vision.patch_size, vision.spatial_merge_size)
        glance, glance_features = None, None
        if block.cell_encoder == "glance":
            sides = -(-grids // 2**block.glance_level)
            glance = uniform_allocation(grids, sides.prod(1), "matched")  # as if the picture had been resized
            with torch.no_grad():
                glance_features = torch.cat(tuple(self._encode_leaves(cells, glance, **kwargs).pooler_output))
        salient = cells
        if block.salience_weight:
            salient = F.avg_pool2d(cells.float(), cells.shape[-1] // 4).flatten(1)  # (cells, 16 * channels)
        scouted = None if self.arrcoc is None or self.arrcoc.scout is None else self.arrcoc.scout(pixel_values, grids)
        scores = self._relevance(grids, salient, glance_features, glance, scouted=scouted, **scoring)
        allocation, relaxation = self._allocate(cells, scores, grids, budgets, drawing_gains)
        if relaxation is not None:
            cells = relaxation.pictures(cells)
            if relaxation.kind == "soft":
                encoded = self._encode_leaves(cells, uniform_allocation(grids, grids.prod(1)), **kwargs)
                return self._pool_features(encoded, allocation)
        return ArrCocImageFeatures(**self._encode_leaves(cells, allocation, **kwargs), allocation=allocation)

    def _allocate(
        self,
        features: Tensor,
        scores: tuple[Tensor, dict[str, Tensor], dict[str, Tensor]],
        grids: Tensor,
        budgets: Tensor,
        gains: Callable[[QuadTree, Tensor, Tensor], list[Tensor]],
    ) -> tuple[Allocation, Relaxation | None]:
        """Choose leaves by the `scores` of `_relevance`; where these are trained, with the mixture behind them."""
        (relevance, maps, balance), block = scores, self.config.arrcoc_config
        relaxation = None
        if self.training and relevance.requires_grad and block.policy == "lod":
            allocation, relaxation = relaxed_allocation(features, relevance, grids, budgets, block, gains)
        else:
            allocation = allocate(features, relevance, grids, budgets, block, gains)
        return replace(allocation, maps=maps, balance=balance), relaxation

    def _encode_leaves(self, cells: Tensor, allocation: Allocation, **kwargs: Any) -> BaseModelOutputWithPooling:
        """Run the stock tower on leaves.

        Args:
            cells (`Tensor` of shape `(cells, channels, side, side)`): pictures of the cells.
            allocation ([`Allocation`]): their leaves.

        Returns:
            The stock output, with one token a leaf.
        """
        merge_size = self.config.vision_config.spatial_merge_size
        side = torch.full_like(allocation.budgets, merge_size)
        return super().get_image_features(
            cells_to_patches(draw_leaves(cells, allocation), merge_size),
            torch.stack([torch.ones_like(side), side, side * allocation.budgets], 1),
            image_position_ids=patch_positions(allocation, merge_size),
            image_cu_seqlens=sequence_ends(allocation, merge_size),
            return_dict=True,
            **self._tower_inputs(allocation),
            **kwargs,
        )

    def _tower_inputs(self, allocation: Allocation) -> dict[str, Tensor]:
        """What the host's tower must be told about leaves besides positions and sequence ends; by argument name."""
        return {}

    def _relevance(
        self,
        grids: Tensor,
        salient: Tensor,
        asked: Tensor | None,
        asked_leaves: Allocation | None,
        query_ids: Tensor | None,
        query_mask: Tensor | None,
        information: Tensor | None,
        scouted: Tensor | None = None,
    ) -> tuple[Tensor, dict[str, Tensor], dict[str, Tensor]]:
        """Score the cells and balance the maps.

        Args:
            grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
            salient (`Tensor` of shape `(cells, ...)`): features that training-free salience is measured on.
            asked (`Tensor` of shape `(leaves, dim)`, *optional*): features in the language model's space that the
                question is compared with.
            asked_leaves ([`Allocation`], *optional*): their leaves.
            query_ids, query_mask, information: as in `get_image_features`.
            scouted (`Tensor` of shape `(cells, dim)`, *optional*): features of the scout, for learned relevance.

        Returns:
            `tuple[Tensor, dict, dict]`: relevance and the maps it was balanced from, each of shape `(cells,)`, and
            the balances, each of shape `(images,)`. Learned ones carry a gradient, which ends here: it reaches neither
            the tower nor the language model's embeddings.
        """
        block, device = self.config.arrcoc_config, salient.device
        if query_ids is not None and len(query_ids) != len(grids):
            raise ValueError(f"found {len(query_ids)} rows of `image_query_ids` for {len(grids)} images")
        if information is not None and len(information) != len(salient):
            raise ValueError(f"found `image_information` of {len(information)} cells for images of {len(salient)}")

        has_question = query_ids is not None
        if query_ids is None:
            query_ids = torch.zeros(len(grids), 0, dtype=torch.long, device=device)
        query_mask = torch.ones_like(query_ids) if query_mask is None else query_mask
        weights, maps = block.map_weights, {}
        with torch.no_grad():
            if information is not None and weights["information"] > 0:
                maps["information"] = information.to(device, torch.float32)
            if block.salience_weight:
                maps["salience"] = salience_map(salient, grids)
            can_ask = weights["query"] > 0 and block.query_scorer != "none"
            if has_question and asked is not None and asked_leaves is not None and can_ask:
                image = torch.arange(len(grids), device=device).repeat_interleave(asked_leaves.budgets)  # (leaves,)
                scores = self._query_scores(asked, query_ids, query_mask, image).to(device)
                maps["query"] = normalize_per_image(scores, image, len(grids))[asked_leaves.cell_to_leaf]  # (cells,)
            if self.arrcoc is None or self.arrcoc.relevance is None:
                return balance_maps(maps, weights, block.relevance_floor, grids), maps, {}
            cells = scouted
            if asked is not None and asked_leaves is not None:
                cells = asked[asked_leaves.cell_to_leaf]  # (cells, dim)
            question = self.get_input_embeddings()(query_ids).to(device)  # (images, tokens, dim)
        return self.arrcoc.relevance(cells, grids, question, query_mask.to(device), maps)

    def _query_scores(self, cells: Tensor, query_ids: Tensor, query_mask: Tensor, image: Tensor) -> Tensor:
        """How much each cell is asked for, of shape `(cells,)`, by the configured parameter-free scorer."""
        question = self.get_input_embeddings()(query_ids)  # (images, tokens, dim)
        if self.config.arrcoc_config.query_scorer == "cosine":
            return cosine_scores(cells.to(question.device), question, query_mask.to(question.device), image)
        layer = self.language_model.layers[0]
        attention = layer.self_attn

        def heads(hidden: Tensor, projection: nn.Module, norm: nn.Module | None) -> Tensor:
            states = projection(layer.input_layernorm(hidden)).unflatten(-1, (-1, attention.head_dim))
            return states if norm is None else norm(states)

        # Qwen3 normalises queries and keys, Qwen2.5 does not.
        query = heads(question, attention.q_proj, getattr(attention, "q_norm", None))  # (images, tokens, heads, dim)
        key = heads(cells.to(question), attention.k_proj, getattr(attention, "k_norm", None))  # (cells, heads, dim)
        return attention_scores(query, key, query_mask.to(query.device), image.to(query.device))
