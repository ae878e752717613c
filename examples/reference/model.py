"""The reference model and its tower as it is trained: equal in function and weights to the stock one, and faster."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.models.qwen2_5_vl import modeling_qwen2_5_vl as qwen2_5_vl
from transformers.models.qwen3_vl import modeling_qwen3_vl as qwen3_vl

from arrcoc import (
    ArrCocQwen2_5_VLConfig,
    ArrCocQwen2_5_VLForConditionalGeneration,
    ArrCocQwen3VLConfig,
    ArrCocQwen3VLForConditionalGeneration,
)


Model = ArrCocQwen3VLForConditionalGeneration | ArrCocQwen2_5_VLForConditionalGeneration

HOSTS: dict[str, tuple[type, type]] = {
    "qwen3_vl": (ArrCocQwen3VLConfig, ArrCocQwen3VLForConditionalGeneration),
    "qwen2_5_vl": (ArrCocQwen2_5_VLConfig, ArrCocQwen2_5_VLForConditionalGeneration),
}
# Width and depth of the tower, width and depth of the language model, width of the relevance.
SIZES = {
    "tiny": ((192, 6), (192, 6), 128),
    "small": ((128, 4), (128, 4), 96),
    "micro": ((64, 2), (64, 4), 32),
}


def host_options(host: str, vision_depth: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """What the configurations of a host's tower and language model have of their own."""
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0}
    if host == "qwen3_vl":
        vision = {"num_position_embeddings": 16**2, "deepstack_visual_indexes": [vision_depth // 2]}
        rope |= {"mrope_section": [12, 10, 10], "mrope_interleaved": True}
        return vision, {"head_dim": 64, "rope_parameters": rope}
    # Windows of 512 px: a page of the training is one, and its patches stay in their order.
    vision = {"window_size": 512, "fullatt_block_indexes": [vision_depth // 2, vision_depth - 1]}
    return vision, {"rope_parameters": rope | {"mrope_section": [8, 12, 12]}}


def build_model(size: str, tokenizer: PreTrainedTokenizerBase, host: str = "qwen3_vl", **block: Any) -> Model:
    """A model with random weights.

    Args:
        size: one of `SIZES`.
        tokenizer: of `build_tokenizer`.
        host: one of `HOSTS`.
        block: options of the ARR-COC block.
    """
    config_class, model_class = HOSTS[host]
    (vision_width, vision_depth), (width, depth), relevance_width = SIZES[size]
    own_vision, own_text = host_options(host, vision_depth)
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in tokenizer.get_vocab()}
    config = config_class(
        vision_config={
            "depth": vision_depth,
            "hidden_size": vision_width,
            "intermediate_size": 3 * vision_width,
            "num_heads": vision_width // 64,
            "patch_size": 16,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": width,
            **own_vision,
        },
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": width,
            "intermediate_size": 3 * width,
            "num_hidden_layers": depth,
            "num_attention_heads": width // 64,
            "num_key_value_heads": width // 64,
            "max_position_embeddings": 32768,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            **own_text,
        },
        arrcoc_config={"stage": "pixels", "scout_dim": relevance_width, **block},
        image_token_id=ids["<|image_pad|>"],
        video_token_id=ids["<|video_pad|>"],
        vision_start_token_id=ids["<|vision_start|>"],
        vision_end_token_id=ids["<|vision_end|>"],
        tie_word_embeddings=True,
    )
    return model_class(config)


class LinearPatches:
    """The stock patch embedding as a matrix product.

    Takes patches of one frame too, for pictures, whose two frames are copies of each other.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        weight = self.proj.weight  # (dim, channels, frames, patch_size, patch_size)
        patches = hidden_states.view(len(hidden_states), self.in_channels, -1)
        if patches.shape[2] == self.patch_size**2:
            weight = weight.sum(2)
        return F.linear(patches.flatten(1).to(weight.dtype), weight.flatten(1), self.proj.bias)


class BatchedImages:
    """The stock attention, with images of equal size as one batch."""

    def forward(self, hidden_states, cu_seqlens, position_embeddings=None, max_seqlen=None, **kwargs):
        lengths = cu_seqlens.diff()
        if len(lengths) == 1 or not bool((lengths == lengths[0]).all()):
            return super().forward(hidden_states, cu_seqlens, position_embeddings, max_seqlen, **kwargs)
        patches, images = len(hidden_states), len(lengths)
        query, key, value = self.qkv(hidden_states).view(patches, 3, self.num_heads, -1).unbind(1)
        query, key = qwen3_vl.apply_rotary_pos_emb_vision(query, key, *position_embeddings)

        def batched(states: Tensor) -> Tensor:  # (images, heads, patches of an image, head_dim)
            return states.view(images, -1, self.num_heads, self.head_dim).transpose(1, 2)

        # Written out: twice as fast as the fused kernel's backward pass on a CPU.
        scores = (batched(query) * self.scaling) @ batched(key).transpose(-1, -2)
        mixed = scores.softmax(-1).to(value.dtype) @ batched(value)
        return self.proj(mixed.transpose(1, 2).reshape(patches, self.dim))


class Qwen3LinearPatches(LinearPatches, qwen3_vl.Qwen3VLVisionPatchEmbed):
    pass


class Qwen3BatchedImages(BatchedImages, qwen3_vl.Qwen3VLVisionAttention):
    pass


class Qwen25LinearPatches(LinearPatches, qwen2_5_vl.Qwen2_5_VisionPatchEmbed):
    def __init__(self, config: Any):
        super().__init__(config.patch_size, config.temporal_patch_size, config.in_channels, config.hidden_size)


class Qwen25BatchedImages(BatchedImages, qwen2_5_vl.Qwen2_5_VLVisionAttention):
    pass


def takes_parts(tower: nn.Module) -> bool:
    """Whether a tower runs on any patches of a picture; windows need all of them."""
    return isinstance(tower, qwen3_vl.Qwen3VLVisionModel)


def quicken(tower: nn.Module) -> None:
    """Put the faster modules into a tower, with its own weights under their own names."""
    patches, attention = {
        qwen3_vl.Qwen3VLVisionModel: (Qwen3LinearPatches, Qwen3BatchedImages),
        qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel: (Qwen25LinearPatches, Qwen25BatchedImages),
    }[type(tower)]

    def replace(parent: nn.Module, name: str, kind: type) -> None:
        old = getattr(parent, name)
        new = kind(tower.config)
        for child, module in old.named_children():
            setattr(new, child, module)
        setattr(parent, name, new.train(old.training))

    replace(tower, "patch_embed", patches)
    for block in tower.blocks:
        replace(block, "attn", attention)
