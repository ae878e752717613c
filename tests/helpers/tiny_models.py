"""Tiny random models of both hosts, stock and with ARR-COC, whose vocabulary is that of `tiny_processors`."""

import torch
from transformers import (
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

import arrcoc
from tests.helpers.tiny_processors import MERGE_SIZE, PATCH_SIZE, TOKEN_IDS, VOCAB_SIZE


DIM = 64
STOCK_CONFIGS = {"qwen3_vl": Qwen3VLConfig, "qwen2_5_vl": Qwen2_5_VLConfig}
STOCK_MODELS = {"qwen3_vl": Qwen3VLForConditionalGeneration, "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration}
ARRCOC_CONFIGS = {"qwen3_vl": arrcoc.ArrCocQwen3VLConfig, "qwen2_5_vl": arrcoc.ArrCocQwen2_5_VLConfig}
ARRCOC_MODELS = {
    "qwen3_vl": arrcoc.ArrCocQwen3VLForConditionalGeneration,
    "qwen2_5_vl": arrcoc.ArrCocQwen2_5_VLForConditionalGeneration,
}

_VISION = {
    "depth": 4,
    "hidden_size": DIM,
    "intermediate_size": 128,
    "num_heads": 2,
    "out_hidden_size": DIM,
    "spatial_merge_size": MERGE_SIZE,
}
_VISION_BY_HOST = {
    "qwen3_vl": {"num_position_embeddings": 256, "deepstack_visual_indexes": [1, 2]},
    "qwen2_5_vl": {"window_size": 4 * MERGE_SIZE * PATCH_SIZE["qwen2_5_vl"], "fullatt_block_indexes": [1, 3]},
}
_TEXT = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": DIM,
    "intermediate_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "bos_token_id": None,
    "eos_token_id": TOKEN_IDS["<|im_end|>"],
    "pad_token_id": TOKEN_IDS["<|endoftext|>"],
}
_ROPE_BY_HOST = {
    "qwen3_vl": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2], "mrope_interleaved": True},
    "qwen2_5_vl": {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2]},
}


def tiny_config_dict(host: str) -> dict:
    """Arguments of a host's configuration class for a model of about 300,000 parameters."""
    text = {**_TEXT, "rope_parameters": _ROPE_BY_HOST[host]}
    if host == "qwen2_5_vl":
        del text["head_dim"]  # always hidden_size / num_attention_heads
    return {
        "vision_config": {**_VISION, **_VISION_BY_HOST[host], "patch_size": PATCH_SIZE[host]},
        "text_config": text,
        "image_token_id": TOKEN_IDS["<|image_pad|>"],
        "video_token_id": TOKEN_IDS["<|video_pad|>"],
        "vision_start_token_id": TOKEN_IDS["<|vision_start|>"],
        "vision_end_token_id": TOKEN_IDS["<|vision_end|>"],
        "tie_word_embeddings": True,
    }


def _sharpen(model: PreTrainedModel) -> PreTrainedModel:
    """Scale up initial weights: at 0.02 a random model's logits are all but equal and ties hide differences."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    return model.eval()


def tiny_stock_model(host: str, seed: int = 0, **config) -> PreTrainedModel:
    """A stock model of `host` with random weights, in evaluation mode."""
    torch.manual_seed(seed)
    return _sharpen(STOCK_MODELS[host](STOCK_CONFIGS[host](**{**tiny_config_dict(host), **config})))


def tiny_arrcoc_model(host: str, seed: int = 0, arrcoc_config: dict | None = None, **config) -> PreTrainedModel:
    """An ARR-COC model of `host` with the weights of `tiny_stock_model(host, seed)`, in evaluation mode."""
    stock = tiny_stock_model(host, seed, **config)
    arguments = {**tiny_config_dict(host), **config, "arrcoc_config": arrcoc_config}
    model = ARRCOC_MODELS[host](ARRCOC_CONFIGS[host](**arguments))
    model.load_state_dict(stock.state_dict(), strict=False)
    return model.eval()
