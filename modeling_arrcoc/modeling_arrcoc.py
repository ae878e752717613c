"""What ARR-COC adds to a host's base model, written once for all hosts: a mixin that stands before the stock class."""

import torch
from torch import Tensor
from transformers import Cache
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .compaction import Compaction, compact_placeholders
from .encoding_arrcoc import ArrCocImageEncoder
from .outputs import Allocation, ArrCocModelOutputWithPast, image_allocation, image_tokens
from .positions import leaf_position_ids


class ArrCocModelMixin(ArrCocImageEncoder):
    """Base model whose images take exactly their token budgets.

    Stands before a stock `...Model`. Without `image_token_budgets` it is the stock model.
    """

    def leaf_position_ids(
        self,
        allocation: Allocation,
        input_ids: Tensor | None,
        mm_token_type_ids: Tensor | None,
        attention_mask: Tensor | None = None,
        **rope_inputs: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        """Positions of a prompt with compressed images; see [`positions.leaf_position_ids`].

        Of a prompt that is given as embeddings, without `input_ids`, `mm_token_type_ids` say where the images are.

        Raises:
            ValueError: if `mm_token_type_ids` are missing, or placeholders and visual tokens disagree in number.
        """
        input_ids, mm_token_type_ids = self._prompt(input_ids, mm_token_type_ids)
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

    def compaction(
        self,
        allocation: Allocation,
        input_ids: Tensor | None,
        mm_token_type_ids: Tensor | None,
        attention_mask: Tensor | None = None,
    ) -> Compaction | None:
        """How a prompt is shortened by the placeholders that learned budgets leave unused; `None` if there are none.

        Arguments as of `leaf_position_ids`; raises as [`compaction.compact_placeholders`].
        """
        if allocation.placeholders is None:
            return None
        is_image = self._prompt(input_ids, mm_token_type_ids)[0] == self.config.image_token_id
        return compact_placeholders(is_image, allocation.placeholders, allocation.budgets, attention_mask)

    def _prompt(self, input_ids: Tensor | None, mm_token_type_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Token ids, or what stands for them where there are none, and their types."""
        if mm_token_type_ids is None:
            raise ValueError("images with a token budget need `mm_token_type_ids`; the processor returns them")
        if input_ids is None:
            input_ids = torch.where(mm_token_type_ids == 1, self.config.image_token_id, 0)
        return input_ids, mm_token_type_ids

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
        image_budget_is_learned: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> ArrCocModelOutputWithPast:
        """As the stock model; images with `image_token_budgets` are compressed, see `get_image_features`.

        The encoded images are left in `mm_encoder_outputs["image"]` where that dictionary is given. Where the model
        spends fewer tokens on images than the prompt has placeholders, the language model runs without the rest, all
        outputs are zero there, and no cache is returned, whose length would not be that of the prompt.

        Raises:
            ValueError: if placeholders and visual tokens disagree in number, or arguments exclude each other.
        """
        mm_encoder_outputs = {} if mm_encoder_outputs is None else mm_encoder_outputs
        # Only Qwen2.5-VL knows this argument.
        video_timing = {} if second_per_grid_ts is None else {"second_per_grid_ts": second_per_grid_ts}
        if pixel_values is not None:
            if mm_encoder_outputs:
                raise ValueError("found both `pixel_values` and `mm_encoder_outputs`; expected one of them")
            mm_encoder_outputs["image"] = self.get_image_features(
                pixel_values,
                image_grid_thw,
                image_token_budgets=image_token_budgets,
                image_query_ids=image_query_ids,
                image_query_mask=image_query_mask,
                image_information=image_information,
                image_budget_is_learned=image_budget_is_learned,
                return_dict=True,
                **kwargs,
            )
            pixel_values = None
            if pixel_values_videos is not None:
                mm_encoder_outputs["video"] = self.get_video_features(
                    pixel_values_videos, video_grid_thw, return_dict=True, **kwargs
                )
                pixel_values_videos = None

        allocation, compaction = image_allocation(mm_encoder_outputs), None
        if allocation is not None and position_ids is None:
            if past_key_values is not None and past_key_values.get_seq_length() > 0:
                raise ValueError(
                    "compressed images need `position_ids` where a cache holds the start of the prompt; "
                    "`leaf_position_ids` computes them"
                )
            compaction = self.compaction(allocation, input_ids, mm_token_type_ids, attention_mask)
            if compaction is not None:
                if past_key_values is not None:
                    raise ValueError("learned budgets shorten the prompt, which a cache cannot follow; use `generate`")
                input_ids, inputs_embeds, mm_token_type_ids = (
                    None if values is None else compaction.compact(values)
                    for values in (input_ids, inputs_embeds, mm_token_type_ids)
                )
                attention_mask, use_cache = compaction.attended.long(), False
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
        if compaction is not None:
            outputs = compaction.expand_outputs(outputs)
        return ArrCocModelOutputWithPast(
            **outputs, image_hidden_states=image_tokens(mm_encoder_outputs), allocation=allocation
        )
