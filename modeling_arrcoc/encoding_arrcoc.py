"""How a host's images become exactly the budgeted number of visual tokens, written once for all hosts."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .allocation import allocate, uniform_allocation
from .block import ArrCocBlock
from .depth import keep_layers
from .layers import Initialized
from .multiresolution import (
    cells_to_patches,
    draw_leaves,
    drawing_gains,
    drawing_losses,
    patch_positions,
    patches_to_cells,
    sequence_ends,
)
from .outputs import Allocation, ArrCocImageFeatures, change_image_features
from .pairs import print_of_rows
from .pooling import pool_leaves
from .quadtree import QuadTree, sketch_features, split_gains
from .relaxation import Relaxation, relaxed_allocation
from .relevance import (
    attention_scores,
    balance_maps,
    cosine_scores,
    normalize_per_image,
    salience_map,
    spread_relevance,
)
from .router import BudgetChoice, TierFade, choose_budgets, learned_budgets


# The mixins have no base of their own; to a type checker they are models.
Host: Any = PreTrainedModel if TYPE_CHECKING else object


class ArrCocImageEncoder(Host):
    """The part of a base model that encodes images; a mixin that stands before a stock `...Model`.

    What is learned is in `arrcoc`, which exists only where the configuration asks for it.

    Attributes:
        depth_strength (`float`): how much of a DeepStack row that a leaf does not keep is taken away, in [0, 1]. It is
            1, and not saved; training may raise it from 0 in steps, so that depth is learned after place.
    """

    depth_strength: float = 1.0

    def __init__(self, config: PreTrainedConfig):
        super().__init__(config)
        block = ArrCocBlock(config.arrcoc_config, config.vision_config, config.text_config.hidden_size)
        self.arrcoc = block if any(True for _ in block.parameters()) else None
        # Small parts whose output is a choice; the rest of a model may be loaded in any precision.
        self._keep_in_fp32_modules_strict = {
            f"arrcoc.{part}" for part in ("scout", "relevance", "router", "depth") if getattr(block, part) is not None
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
        image_budget_is_learned: Tensor | None = None,
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
            image_budget_is_learned (`Tensor` of shape `(images,)`, *optional*): true where the model chooses how many
                tokens it spends, at most the image's budget. Without it all budgets are spent.

        Returns:
            The stock output, or [`ArrCocImageFeatures`] where budgets were given.

        Raises:
            ValueError: if the numbers of images, budgets, questions or cells disagree, or a budget is to be learned
                that the model has no router for.
        """
        if image_token_budgets is None:
            if image_budget_is_learned is not None:
                raise ValueError("`image_budget_is_learned` needs `image_token_budgets`; the processor returns them")
            return super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
        if image_grid_thw is None:
            raise ValueError("`image_token_budgets` need `image_grid_thw`; the processor returns them")
        grids = image_grid_thw[:, 1:] // self.config.vision_config.spatial_merge_size
        budgets = image_token_budgets.to(grids)
        scoring = {"query_ids": image_query_ids, "query_mask": image_query_mask, "information": image_information}
        router = None if self.arrcoc is None else self.arrcoc.router
        is_learned = learned_budgets(image_budget_is_learned, budgets, router)
        if self.config.arrcoc_config.stage == "features":
            encoded = super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
            images = self._compress_features(encoded, grids, budgets, is_learned, scoring)
        elif is_learned is None and torch.equal(budgets, grids.prod(1)):
            images = self._encode_native(pixel_values, grids, BudgetChoice(budgets), **kwargs)
        else:
            images = self._encode_compressed(pixel_values, grids, budgets, is_learned, scoring, **kwargs)
        return self._refine(images)

    def _refine(self, images: ArrCocImageFeatures) -> ArrCocImageFeatures:
        """What changes tokens once there is one a leaf."""
        block, allocation, config = self.arrcoc, images.allocation, self.config.arrcoc_config
        if allocation is None:
            return images
        took_stock_path = config.stage == "pixels" and torch.equal(allocation.budgets, allocation.cells_per_image)
        if block is not None and (block.compressors is not None or block.adapter is not None) and not took_stock_path:
            images = change_image_features(
                images, allocation, lambda tokens, layer: block.refine(tokens, allocation, layer)
            )
        if config.semantic_depth != "all":
            images = keep_layers(images, allocation, None if block is None else block.depth, self.depth_strength)
        return images

    def _encode_native(
        self, pixel_values: Tensor, grids: Tensor, choice: BudgetChoice, **kwargs: Any
    ) -> ArrCocImageFeatures:
        """The stock path, bit for bit."""
        merge_size = self.config.vision_config.spatial_merge_size
        patches = torch.cat([torch.ones_like(grids[:, :1]), grids * merge_size], 1)  # (images, 3)
        encoded = super().get_image_features(pixel_values, patches, return_dict=True, **kwargs)
        return ArrCocImageFeatures(**encoded, allocation=choice.report(uniform_allocation(grids, choice.budgets)))

    def _compress_features(
        self,
        encoded: BaseModelOutputWithPooling,
        grids: Tensor,
        budgets: Tensor,
        is_learned: Tensor | None,
        scoring: dict[str, Tensor | None],
    ) -> ArrCocImageFeatures:
        """Stage `features`: pool what the tower made of all cells."""
        cells = torch.cat(tuple(encoded.pooler_output))  # (cells, dim)
        grids, budgets = grids.to(cells.device), budgets.to(cells.device)
        whole = uniform_allocation(grids, grids.prod(1))
        scores = self._relevance(grids, cells, cells, whole, **scoring)
        choice = self._choose(grids, budgets, is_learned, scores[0], (cells, whole.budgets), scoring)
        return self._pool_features(
            encoded, *self._allocate(sketch_features(cells), scores, grids, choice, split_gains)
        )

    def _pool_features(
        self,
        encoded: BaseModelOutputWithPooling,
        allocation: Allocation,
        relaxation: Relaxation | None = None,
        fade: TierFade | None = None,
    ) -> ArrCocImageFeatures:
        """Draw each leaf as one token, in the tower's output and in its DeepStack features alike.

        Args:
            encoded: the stock output for all cells.
            allocation ([`Allocation`]): their leaves.
            relaxation ([`Relaxation`], *optional*): the mixture behind the leaves, in training.
            fade ([`TierFade`], *optional*): what the cells look like below a chosen tier, in training.
        """

        def pool(cells: Tensor, layer: int) -> Tensor:
            if relaxation is not None:
                cells = relaxation.features(cells, allocation.relevance)
            if fade is not None:
                cells = fade.features(cells, allocation.relevance)
            if self.arrcoc is not None:
                return self.arrcoc.pool(cells, allocation, layer)
            return pool_leaves(cells, allocation.relevance, allocation.cell_to_leaf, len(allocation.boxes))

        return change_image_features(encoded, allocation, pool)

    def _encode_compressed(
        self,
        pixel_values: Tensor,
        grids: Tensor,
        budgets: Tensor,
        is_learned: Tensor | None,
        scoring: dict[str, Tensor | None],
        **kwargs: Any,
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
        scout = None if self.arrcoc is None else self.arrcoc.scout
        scouted = None if scout is None else scout(pixel_values.to(self.visual.dtype), grids)
        scores = self._relevance(grids, salient, glance_features, glance, scouted=scouted, **scoring)
        seen = None if glance is None else (glance_features, glance.budgets)
        seen = seen if scouted is None else (scouted, grids.prod(1))
        choice = self._choose(grids, budgets, is_learned, scores[0], seen, scoring)
        if choice.share is None and torch.equal(choice.budgets, grids.prod(1)):
            return self._encode_native(pixel_values, grids, choice, **kwargs)
        losses = drawing_losses(cells[:, :: vision.temporal_patch_size], grids)  # an image's frames are alike
        prints = print_of_rows(cells) if block.pair_drawing == "window" else None
        allocation, relaxation, fade = self._allocate(losses, scores, grids, choice, drawing_gains, prints)
        if fade is not None:
            cells = fade.pictures(cells)
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
        choice: BudgetChoice,
        gains: Callable[[QuadTree, Tensor, Tensor], list[Tensor]],
        prints: Tensor | None = None,
    ) -> tuple[Allocation, Relaxation | None, TierFade | None]:
        """Choose leaves by the `scores` of `_relevance`; where these are trained, with the mixture behind them.

        Where budgets are trained, also with what lies below their tiers.
        """
        (relevance, maps, balance), block = scores, self.config.arrcoc_config
        budgets, relaxation, fade = choice.budgets, None, None
        if self.training and relevance.requires_grad and block.answers_reach_relevance:
            allocation, relaxation = relaxed_allocation(features, relevance, grids, budgets, block, gains)
        else:
            allocation = allocate(features, relevance, grids, budgets, block, gains, prints)
        if choice.lower is not None and choice.share is not None:
            lower = allocate(features.detach(), relevance.detach(), grids, choice.lower, block, gains)
            fade = TierFade(lower, torch.repeat_interleave(choice.share, grids.prod(1)))
        return choice.report(replace(allocation, maps=maps, balance=balance)), relaxation, fade

    def _choose(
        self,
        grids: Tensor,
        budgets: Tensor,
        is_learned: Tensor | None,
        relevance: Tensor,
        seen: tuple[Tensor | None, Tensor] | None,
        scoring: dict[str, Tensor | None],
    ) -> BudgetChoice:
        """Choose how many tokens are spent on each image.

        Args:
            grids (`Tensor` of shape `(images, 2)`): rows and columns of each image, in cells.
            budgets (`Tensor` of shape `(images,)`): placeholders of each image.
            is_learned (`Tensor` of shape `(images,)`, *optional*): where they are not all to be spent.
            relevance (`Tensor` of shape `(cells,)`): relevance.
            seen (`tuple[Tensor, Tensor]`, *optional*): features that the router reads, of shape `(nodes, dim)`, and
                how many of these are of each image, of shape `(images,)`.
            scoring (`dict[str, Tensor]`): what else `_relevance` is given.
        """
        if is_learned is None or self.arrcoc is None or self.arrcoc.router is None:
            return BudgetChoice(budgets)
        router, block, query_ids = self.arrcoc.router, self.config.arrcoc_config, scoring["query_ids"]
        with torch.no_grad():  # (images, tokens, dim)
            question = None if query_ids is None else self.get_input_embeddings()(query_ids).to(relevance.device)
        logits = router(grids, relevance, scoring["information"], question, scoring["query_mask"], *(seen or ()))
        explore = self.training and logits.requires_grad
        is_learned = is_learned.to(budgets.device)
        return choose_budgets(logits, router.tiers, budgets, is_learned, explore, block.budget_fade)

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
                relevance = balance_maps(maps, weights, block.relevance_floor, grids)
                return self._spread(relevance, grids), maps, {}
            cells = scouted
            if asked is not None and asked_leaves is not None:
                cells = asked[asked_leaves.cell_to_leaf]  # (cells, dim)
            question = self.get_input_embeddings()(query_ids).to(device)  # (images, tokens, dim)
        relevance, maps, balance = self.arrcoc.relevance(cells, grids, question, query_mask.to(device), maps)
        return self._spread(relevance, grids), maps, balance

    def _spread(self, relevance: Tensor, grids: Tensor) -> Tensor:
        """Relevance of shape `(cells,)` as far as the configuration lets it reach."""
        reach = self.config.arrcoc_config.relevance_spread
        return spread_relevance(relevance, grids, reach) if reach else relevance

    def _query_scores(self, cells: Tensor, query_ids: Tensor, query_mask: Tensor, image: Tensor) -> Tensor:
        """How much each cell is asked for, of shape `(cells,)`, by the configured parameter-free scorer."""
        question = self.get_input_embeddings()(query_ids)  # (images, tokens, dim)
        if self.config.arrcoc_config.query_scorer == "cosine":
            return cosine_scores(cells.to(question.device), question, query_mask.to(question.device), image)
        layer = self.language_model.layers[0]
        if isinstance(layer, FSDPModule):
            layer.unshard()  # used ahead of its own forward pass, which gives the weights up again
        attention = layer.self_attn

        def heads(hidden: Tensor, projection: nn.Module, norm: nn.Module | None) -> Tensor:
            states = projection(layer.input_layernorm(hidden)).unflatten(-1, (-1, attention.head_dim))
            return states if norm is None else norm(states)

        # Qwen3 normalises queries and keys, Qwen2.5 does not.
        query = heads(question, attention.q_proj, getattr(attention, "q_norm", None))  # (images, tokens, heads, dim)
        key = heads(cells.to(question), attention.k_proj, getattr(attention, "k_norm", None))  # (cells, heads, dim)
        return attention_scores(query, key, query_mask.to(query.device), image.to(query.device))
