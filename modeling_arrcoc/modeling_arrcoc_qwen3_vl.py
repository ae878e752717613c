"""Qwen3-VL with ARR-COC."""

from torch import nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLModel

from .configuration_arrcoc import ArrCocQwen3VLConfig
from .modeling_arrcoc import ArrCocForConditionalGenerationMixin, ArrCocModelMixin


class ArrCocQwen3VLModel(ArrCocModelMixin, Qwen3VLModel):
    """Qwen3-VL without a head, whose images take exactly their token budgets."""

    config: ArrCocQwen3VLConfig
    _can_compile_fullgraph = False  # the number of visual tokens depends on data


class ArrCocQwen3VLForConditionalGeneration(ArrCocForConditionalGenerationMixin, Qwen3VLForConditionalGeneration):
    """Qwen3-VL with its language-modelling head, whose images take exactly their token budgets."""

    config: ArrCocQwen3VLConfig
    _can_compile_fullgraph = False

    def __init__(self, config: ArrCocQwen3VLConfig):
        super(Qwen3VLForConditionalGeneration, self).__init__(config)  # the stock one would build a stock base model
        self.model = ArrCocQwen3VLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


__all__ = ["ArrCocQwen3VLForConditionalGeneration", "ArrCocQwen3VLModel"]
