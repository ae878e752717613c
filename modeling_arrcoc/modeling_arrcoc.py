"""What ARR-COC adds to a host, written once for all hosts: two mixins that stand before the stock classes."""

from dataclasses import replace
from itertools import compress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import Cache, GenerationConfig, PreTrainedModel
from transformers.generation import GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.utils import can_return_tuple

from .allocation import allocate
from .outputs import Allocation, ArrCocCausalLMOutputWithPast, ArrCocImageFeatures, ArrCocModelOutputWithPast
from .pooling import pool_leaves
from .positions import leaf_position_ids
from .relevance import attention_scores, balance_maps, cosine_scores, normalize_per_image, salience_map

# The mixins have no base of their own; to a type checker they are models.
_Host: Any = PreTrainedModel if TYPE_CHECKING else object

# Inputs that say how images are encoded; `generate` uses them up before the language model runs.
IMAGE_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "image_token_budgets",
    "image_query_ids",
    "image_query_mask",
    "image_information",
)


def image_allocation(mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None) -> Allocation | None:
    """The allocation of pre-encoded images, if there are any and they were compressed."""
    return getattr((mm_encoder_outputs or {}).get("image"), "allocation", None)


class ArrCocModelMixin(_Host):
    """Base model: encodes images into exactly the budgeted number of visual tokens.

    Stands before a stock `...Model`. Without `image_token_budgets` it is the stock model.
    """

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
        encoded = super().get_image_features(pixel_values, image_grid_thw, return_dict=True, **kwargs)
        if image_token_budgets is None:
            return encoded
        if image_grid_thw is None:
            raise ValueError("`image_token_budgets` need `image_grid_thw`; the processor returns them")
        cells = torch.cat(tuple(encoded.pooler_output))  # (cells, dim)
        grids = image_grid_thw[:, 1:].to(cells.device) // self.config.vision_config.spatial_merge_size
        budgets = image_token_budgets.to(grids)
        allocation = self._allocate(cells, grids, budgets, image_query_ids, image_query_mask, image_information)
        counts = budgets.tolist()

        def pool(features: list[Tensor]) -> list[Tensor]:
            cells = torch.cat(tuple(features))  # (cells, dim)
            leaves = pool_leaves(cells, allocation.relevance, allocation.cell_to_leaf, sum(counts))  # (leaves, dim)
            return list(leaves.split(counts))

        deepstack = getattr(encoded, "deepstack_features", None)
        return ArrCocImageFeatures(
            last_hidden_state=encoded.last_hidden_state,
            pooler_output=pool(encoded.pooler_output),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            deepstack_features=None if deepstack is None else [pool(layer) for layer in deepstack],
            allocation=allocation,
        )

    @torch.no_grad()
    def _allocate(
        self,
        cells: Tensor,
        grids: Tensor,
        budgets: Tensor,
        query_ids: Tensor | None,
        query_mask: Tensor | None,
        information: Tensor | None,
    ) -> Allocation:
        """Score the cells, of shape `(cells, dim)`, balance the maps and allocate; see `get_image_features`."""
        block = self.config.arrcoc_config
        weights = {
            "information": block.information_weight,
            "salience": block.salience_weight,
            "query": block.query_weight if block.query_scorer != "none" else 0.0,
        }
        image = torch.repeat_interleave(torch.arange(len(grids), device=cells.device), grids.prod(1))  # (cells,)
        maps = {}
        if information is not None and weights["information"] > 0:
            if len(information) != len(cells):
                raise ValueError(f"found `image_information` of {len(information)} cells for images of {len(cells)}")
            maps["information"] = information.to(cells.device, torch.float32)
        if weights["salience"] > 0:
            maps["salience"] = salience_map(cells, grids)
        if query_ids is not None and weights["query"] > 0:
            if len(query_ids) != len(grids):
                raise ValueError(f"found {len(query_ids)} rows of `image_query_ids` for {len(grids)} images")
            query_mask = torch.ones_like(query_ids) if query_mask is None else query_mask
            scores = self._query_scores(cells, query_ids, query_mask, image).to(cells.device)
            maps["query"] = normalize_per_image(scores, image, len(grids))
        relevance = balance_maps(maps, weights, block.relevance_floor, grids)
        return replace(allocate(cells, relevance, grids, budgets, block), maps=maps)

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

    def leaf_position_ids(
        self,
        allocation: Allocation,
        input_ids: Tensor,
        mm_token_type_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        **rope_inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Positions of a prompt with compressed images; see [`positions.leaf_position_ids`].

        Raises:
            ValueError: if `mm_token_type_ids` are missing, or placeholders and visual tokens disagree in number.
        """
        if mm_token_type_ids is None:
            raise ValueError("images with a token budget need `mm_token_type_ids`; the processor returns them")
        return leaf_position_ids(
            self.get_rope_index,
            allocation.to(input_ids.device),
            input_ids,
            mm_token_type_ids,
            image_token_id=self.config.image_token_id,
            spatial_merge_size=self.config.vision_config.spatial_merge_size,
            attention_mask=attention_mask,
            **rope_inputs,
        )

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        second_per_grid_ts: Tensor | None = None,
        use_cache: bool | None = None,
        image_token_budgets: Tensor | None = None,
        image_query_ids: Tensor | None = None,
        image_query_mask: Tensor | None = None,
        image_information: Tensor | None = None,
        **kwargs: Any,
    ) -> ArrCocModelOutputWithPast:
        """As the stock model; images with `image_token_budgets` are compressed, see `get_image_features`.

        The encoded images are left in `mm_encoder_outputs["image"]` where that dictionary is given.
        """
        mm_encoder_outputs = {} if mm_encoder_outputs is None else mm_encoder_outputs
        # Only Qwen2.5-VL knows this argument.
        video_timing = {} if second_per_grid_ts is None else {"second_per_grid_ts": second_per_grid_ts}
        if pixel_values is not None and image_token_budgets is not None:
            if mm_encoder_outputs:
                raise ValueError("found both `pixel_values` and `mm_encoder_outputs`; expected one of them")
            mm_encoder_outputs["image"] = self.get_image_features(
                pixel_values,
                image_grid_thw,
                image_token_budgets=image_token_budgets,
                image_query_ids=image_query_ids,
                image_query_mask=image_query_mask,
                image_information=image_information,
                return_dict=True,
                **kwargs,
            )
            pixel_values = None
            if pixel_values_videos is not None:
                mm_encoder_outputs["video"] = self.get_video_features(
                    pixel_values_videos, video_grid_thw, return_dict=True, **kwargs
                )
                pixel_values_videos = None

        allocation = image_allocation(mm_encoder_outputs)
        if allocation is not None and position_ids is None:
            if input_ids is None or (past_key_values is not None and past_key_values.get_seq_length() > 0):
                raise ValueError(
                    "compressed images need `position_ids` where `inputs_embeds` are given or a cache holds the start "
                    "of the prompt; `leaf_position_ids` computes them"
                )
            position_ids, self.rope_deltas = self.leaf_position_ids(
                allocation, input_ids, mm_token_type_ids, attention_mask, video_grid_thw=video_grid_thw, **video_timing
            )
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            mm_encoder_outputs=mm_encoder_outputs or None,
            use_cache=use_cache,
            return_dict=True,
            **video_timing,
            **kwargs,
        )
        return ArrCocModelOutputWithPast(**outputs, allocation=allocation)


class ArrCocForConditionalGenerationMixin(_Host):
    """Model with a language-modelling head: reports the allocation, and encodes images once before it generates."""

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        pixel_values: Tensor | None = None,
        pixel_values_videos: Tensor | None = None,
        image_grid_thw: Tensor | None = None,
        video_grid_thw: Tensor | None = None,
        mm_token_type_ids: Tensor | None = None,
        logits_to_keep: int | Tensor = 0,
        mm_encoder_outputs: dict[str, BaseModelOutputWithPooling] | None = None,
        second_per_grid_ts: Tensor | None = None,
        image_token_budgets: Tensor | None = None,
        image_query_ids: Tensor | None = None,
        image_query_mask: Tensor | None = None,
        image_information: Tensor | None = None,
        **kwargs: Any,
    ) -> ArrCocCausalLMOutputWithPast:
        """As the stock model, plus `allocation`; images with `image_token_budgets` are compressed.

        Args:
            image_token_budgets, image_query_ids, image_query_mask, image_information:
                See [`ArrCocModelMixin.get_image_features`]; the processor returns them. All others as in the stock
                model.
        """
        mm_encoder_outputs = {} if mm_encoder_outputs is None else mm_encoder_outputs
        if second_per_grid_ts is not None:  # Qwen2.5-VL only
            kwargs["second_per_grid_ts"] = second_per_grid_ts
        outputs = super().forward(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            labels=labels,
            pixel_values=pixel_values,
            pixel_values_videos=pixel_values_videos,
            image_grid_thw=image_grid_thw,
            video_grid_thw=video_grid_thw,
            mm_token_type_ids=mm_token_type_ids,
            logits_to_keep=logits_to_keep,
            mm_encoder_outputs=mm_encoder_outputs,
            image_token_budgets=image_token_budgets,
            image_query_ids=image_query_ids,
            image_query_mask=image_query_mask,
            image_information=image_information,
            return_dict=True,
            **kwargs,
        )
        return ArrCocCausalLMOutputWithPast(**outputs, allocation=image_allocation(mm_encoder_outputs))

    def encode_images(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        image_token_budgets: Tensor | None = None,
        image_query_ids: Tensor | None = None,
        image_query_mask: Tensor | None = None,
        image_information: Tensor | None = None,
        **other_inputs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images once, for one or several calls of `generate` that are to see the same tokens.

        Args:
            As [`ArrCocModelMixin.get_image_features`]. The processor's other outputs may be passed too; they are not
            used.

        Returns:
            The encoded images, to be passed to `generate` as `encoded_images`; `.allocation` says where the tokens
            went.
        """
        return self.model.get_image_features(
            pixel_values,
            image_grid_thw,
            image_token_budgets=image_token_budgets,
            image_query_ids=image_query_ids,
            image_query_mask=image_query_mask,
            image_information=image_information,
            return_dict=True,
        )

    @torch.no_grad()
    def generate(
        self,
        inputs: Tensor | None = None,
        generation_config: GenerationConfig | None = None,
        logits_processor: LogitsProcessorList | None = None,
        *,
        encoded_images: BaseModelOutputWithPooling | None = None,
        **kwargs: Any,
    ) -> Any:
        """As in transformers, with compressed images; image and video placeholders are never generated.

        Args:
            inputs (`Tensor` of shape `(batch, length)`, *optional*): the prompt, unless given as `input_ids`.
            generation_config, logits_processor (*optional*): as in transformers.
            encoded_images (*optional*): what `encode_images` returned for this prompt's images, which are then not
                encoded again.
            **kwargs: as for [`~transformers.GenerationMixin.generate`]. To continue a chat from a cache, pass the whole
                conversation with all of its images.

        Raises:
            ValueError: if placeholders and visual tokens disagree in number, or images come without a prompt.
        """
        placeholders = [self.config.image_token_id, self.config.video_token_id]
        logits_processor = LogitsProcessorList(logits_processor or [])
        logits_processor.append(SuppressTokensLogitsProcessor(placeholders, device=self.device))

        has_budgets = kwargs.get("pixel_values") is not None and kwargs.get("image_token_budgets") is not None
        if has_budgets or encoded_images is not None:
            image_inputs = {name: kwargs.pop(name, None) for name in IMAGE_INPUTS}
            prompt = kwargs.get("input_ids") if inputs is None else inputs
            if prompt is None:
                raise ValueError("images need the prompt's `input_ids`, with one placeholder a visual token")
            cache = kwargs.get("past_key_values")
            cached = 0 if cache is None else cache.get_seq_length()
            if (prompt[:, cached:] == self.config.image_token_id).any():
                encoded_images = self.encode_images(**image_inputs) if encoded_images is None else encoded_images
                kwargs["mm_encoder_outputs"] = {"image": self._uncached_images(encoded_images, prompt, cached)}
                kwargs["image_grid_thw"] = image_inputs["image_grid_thw"]
        return super().generate(inputs, generation_config, logits_processor, **kwargs)

    def _uncached_images(
        self, encoded_images: BaseModelOutputWithPooling, prompt: Tensor, cached: int
    ) -> BaseModelOutputWithPooling:
        """A copy, which generation may change, with those images that lie beyond the first `cached` columns."""
        tokens = torch.tensor([len(image) for image in encoded_images.pooler_output], device=prompt.device)
        columns = (prompt == self.config.image_token_id).nonzero()[:, 1]  # (tokens of all images,)
        if len(columns) != int(tokens.sum()):
            raise ValueError(
                f"found {len(columns)} image placeholders in the prompt for {int(tokens.sum())} visual tokens"
            )
        uncached = (columns[tokens.cumsum(0) - tokens] >= cached).tolist()
        uncached_images = replace(encoded_images, pooler_output=list(compress(encoded_images.pooler_output, uncached)))
        if getattr(encoded_images, "deepstack_features", None) is not None:
            uncached_images.deepstack_features = [
                list(compress(layer, uncached)) for layer in encoded_images.deepstack_features
            ]
        return uncached_images

    def _prepare_position_ids_for_generation(self, inputs_tensor: Tensor, model_kwargs: dict) -> Tensor:
        # Called by `generate` after the attention mask is known; the stock hosts override the same method.
        allocation = image_allocation(model_kwargs.get("mm_encoder_outputs"))
        if allocation is None:
            return super()._prepare_position_ids_for_generation(inputs_tensor, model_kwargs)
        text_positions = GenerationMixin._prepare_position_ids_for_generation(self, inputs_tensor, model_kwargs)
        timing = model_kwargs.get("second_per_grid_ts")
        positions, self.model.rope_deltas = self.model.leaf_position_ids(
            allocation,
            model_kwargs.get("input_ids", inputs_tensor),
            model_kwargs.get("mm_token_type_ids"),
            model_kwargs.get("attention_mask"),
            video_grid_thw=model_kwargs.get("video_grid_thw"),
            **({} if timing is None else {"second_per_grid_ts": timing}),
        )
        return torch.cat([text_positions[None].to(positions), positions])  # (4, batch, length)
