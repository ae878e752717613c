"""ARR-COC: Qwen vision-language models with an exact visual-token budget.

Importing the package registers its classes with the Auto classes of transformers, so that checkpoints saved by it load
without `trust_remote_code`.
"""

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from .adapter_folder import load_arrcoc_model
from .allocation import allocate
from .configuration_arrcoc import ArrCocConfig, ArrCocQwen2_5_VLConfig, ArrCocQwen3VLConfig
from .modeling_arrcoc_qwen2_5_vl import ArrCocQwen2_5_VLForConditionalGeneration, ArrCocQwen2_5_VLModel
from .modeling_arrcoc_qwen3_vl import ArrCocQwen3VLForConditionalGeneration, ArrCocQwen3VLModel
from .outputs import Allocation
from .pretrained import reference
from .processing import ArrCocProcessor


__version__ = "0.1.0"

for _config, _model, _generator in (
    (ArrCocQwen3VLConfig, ArrCocQwen3VLModel, ArrCocQwen3VLForConditionalGeneration),
    (ArrCocQwen2_5_VLConfig, ArrCocQwen2_5_VLModel, ArrCocQwen2_5_VLForConditionalGeneration),
):
    AutoConfig.register(_config.model_type, _config)
    AutoModel.register(_config, _model)
    AutoModelForImageTextToText.register(_config, _generator)
    AutoProcessor.register(_config, ArrCocProcessor)
    # A saved checkpoint carries the code that loads it where the package is not installed.
    _config.register_for_auto_class()
    _model.register_for_auto_class("AutoModel")
    _generator.register_for_auto_class("AutoModelForImageTextToText")
ArrCocProcessor.register_for_auto_class("AutoProcessor")

__all__ = [
    "Allocation",
    "ArrCocConfig",
    "ArrCocProcessor",
    "ArrCocQwen2_5_VLConfig",
    "ArrCocQwen2_5_VLForConditionalGeneration",
    "ArrCocQwen2_5_VLModel",
    "ArrCocQwen3VLConfig",
    "ArrCocQwen3VLForConditionalGeneration",
    "ArrCocQwen3VLModel",
    "allocate",
    "load_arrcoc_model",
    "reference",
]
