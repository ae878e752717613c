"""What ARR-COC adds to a host with a language-modelling head: it reports allocations and encodes images once."""

from dataclasses import replace
from itertools import compress
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, GenerationConfig
from transformers.generation import GenerationMixin
from transformers.generation.logits_process import LogitsProcessorList, SuppressTokensLogitsProcessor
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.processing_utils import Unpack
from transformers.utils import TransformersKwargs, can_return_tuple

from .allocation import uniform_allocation
from .compaction import Compaction
from .encoding_arrcoc import Host
from .outputs import ArrCocCausalLMOutputWithPast, image_allocation, image_tokens


# Inputs that say how images are encoded; `generate` uses them up before the language model runs.
IMAGE_INPUTS = (
    "pixel_values",
    "image_grid_thw",
    "image_token_budgets",
    "image_query_ids",
    "image_query_mask",
    "image_information",
    "image_budget_is_learned",
)

_CACHED_LEARNED = (
    "found a cache that holds a part of the prompt together with learned budgets: how many placeholders are used of "
    "the images in the cache would be chosen anew. Give the processor budgets, or generate without a cache"
)


class ArrCocForConditionalGenerationMixin(Host):
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
        image_budget_is_learned: Tensor | None = None,
        **kwargs: Unpack[TransformersKwargs],  # type: ignore[misc]
    ) -> ArrCocCausalLMOutputWithPast:
        """As the stock model, plus `image_hidden_states` and `allocation`; images with budgets are compressed.

        Args:
            image_token_budgets, image_query_ids, image_query_mask, image_information, image_budget_is_learned:
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
            image_budget_is_learned=image_budget_is_learned,
            return_dict=True,
            **kwargs,
        )
        return ArrCocCausalLMOutputWithPast(
            **outputs,
            image_hidden_states=image_tokens(mm_encoder_outputs),
            allocation=image_allocation(mm_encoder_outputs),
        )

    def encode_images(
        self,
        pixel_values: Tensor,
        image_grid_thw: Tensor,
        image_token_budgets: Tensor | None = None,
        image_query_ids: Tensor | None = None,
        image_query_mask: Tensor | None = None,
        image_information: Tensor | None = None,
        image_budget_is_learned: Tensor | None = None,
        **other_inputs: Any,
    ) -> BaseModelOutputWithPooling:
        """Encode images once, for one or several calls of `generate` that are to see the same tokens.

        Gradients flow, so that losses on the tokens can train; call it under `torch.no_grad()` to generate.

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
            image_budget_is_learned=image_budget_is_learned,
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
            **kwargs: as for [`~transformers.GenerationMixin.generate`]. To continue a chat from a cache, pass the
                whole conversation with all of its images.

        Returns:
            As in transformers. With learned budgets the language model reads the prompt without the placeholders that
            are left unused, and so do processors of logits, stopping criteria and streamers; the sequences returned
            begin with the prompt as it was given, which is what lengths are counted from.

        Raises:
            ValueError: if placeholders and visual tokens disagree in number, images come without a prompt, or a cache
                with learned budgets.
        """
        prompt, own_processors = kwargs.get("input_ids") if inputs is None else inputs, logits_processor
        placeholders = [self.config.image_token_id, self.config.video_token_id]
        logits_processor = LogitsProcessorList(logits_processor or [])
        device = self.device if prompt is None else prompt.device
        logits_processor.append(SuppressTokensLogitsProcessor(placeholders, device=device))

        has_budgets = kwargs.get("pixel_values") is not None and kwargs.get("image_token_budgets") is not None
        if has_budgets or encoded_images is not None:
            image_inputs = {name: kwargs.pop(name, None) for name in IMAGE_INPUTS}
            if prompt is None:
                raise ValueError("images need the prompt's `input_ids`, with one placeholder a visual token")
            cache = kwargs.get("past_key_values")
            cached = 0 if cache is None else cache.get_seq_length()
            is_learned = image_inputs["image_budget_is_learned"]
            if cached and is_learned is not None and is_learned.any():
                raise ValueError(_CACHED_LEARNED)
            if (prompt[:, cached:] == self.config.image_token_id).any():
                encoded_images = self.encode_images(**image_inputs) if encoded_images is None else encoded_images
                allocation = getattr(encoded_images, "allocation", None)
                if allocation is not None and allocation.placeholders is not None:
                    types, mask = kwargs.get("mm_token_type_ids"), kwargs.get("attention_mask")
                    compaction = self.model.compaction(allocation, prompt, types, mask)
                    if compaction is not None:
                        kwargs |= {"input_ids": prompt, "image_grid_thw": image_inputs["image_grid_thw"]}
                        return self._generate_compacted(
                            compaction, generation_config, own_processors, encoded_images=encoded_images, **kwargs
                        )
                kwargs["mm_encoder_outputs"] = {"image": self._uncached_images(encoded_images, prompt, cached)}
                kwargs["image_grid_thw"] = image_inputs["image_grid_thw"]
            elif has_budgets:  # all images lie in the cache; their sizes say where the text goes on
                kwargs |= {name: image_inputs[name] for name in ("image_grid_thw", "image_token_budgets")}
        return super().generate(inputs, generation_config, logits_processor, **kwargs)

    def _generate_compacted(
        self,
        compaction: Compaction,
        generation_config: GenerationConfig | None,
        logits_processor: LogitsProcessorList | None,
        **kwargs: Any,
    ) -> Any:
        """Generate from a shortened prompt, and return sequences that begin with the whole one."""
        if kwargs.get("past_key_values") is not None and kwargs["past_key_values"].get_seq_length() > 0:
            raise ValueError(_CACHED_LEARNED)
        prompt, kwargs = kwargs["input_ids"], compaction.compact_prompt(kwargs)
        for name in ("max_length", "min_length"):  # count the prompt in, as it was given
            configs = (generation_config, self.generation_config)
            lengths = [kwargs.get(name), *(getattr(config, name, None) for config in configs)]
            if (length := next((length for length in lengths if length is not None), None)) is not None:
                kwargs[name] = max(length - compaction.removed, 0)
        found = self.generate(None, generation_config, logits_processor, **kwargs)
        sequences = found if isinstance(found, Tensor) else found.sequences
        new_tokens = sequences[:, compaction.attended.shape[1] :]
        prompts = prompt.repeat_interleave(len(new_tokens) // len(prompt), 0).to(new_tokens)
        whole = torch.cat([prompts, new_tokens], 1)
        if isinstance(found, Tensor):
            return whole
        found.sequences = whole
        return found

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
        budgets = model_kwargs.get("image_token_budgets")
        if allocation is None and budgets is not None:
            grids = model_kwargs["image_grid_thw"][:, 1:] // self.config.vision_config.spatial_merge_size
            allocation = uniform_allocation(grids, budgets.to(grids), self.config.arrcoc_config.position_scale)
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
