"""Qwen2.5-VL with ARR-COC."""

from torch import Tensor, nn
from transformers.conversion_mapping import register_checkpoint_conversion_mapping
from transformers.core_model_loading import WeightRenaming
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLModel

from .configuration_arrcoc import ArrCocQwen2_5_VLConfig
from .generation_arrcoc import ArrCocForConditionalGenerationMixin
from .hub import HubExportMixin
from .modeling_arrcoc import ArrCocModelMixin
from .multiresolution import window_order
from .outputs import Allocation


class ArrCocQwen2_5_VLModel(ArrCocModelMixin, HubExportMixin, Qwen2_5_VLModel):
    """Qwen2.5-VL without a head, whose images take exactly their token budgets."""

    config: ArrCocQwen2_5_VLConfig
    _can_compile_fullgraph = False  # the number of visual tokens depends on data
    _no_split_modules = [*Qwen2_5_VLModel._no_split_modules, "ArrCocBlock"]

    def _tower_inputs(self, allocation: Allocation) -> dict[str, Tensor]:
        vision = self.config.vision_config
        window = vision.window_size // vision.patch_size // vision.spatial_merge_size
        order, ends = window_order(allocation, window, vision.spatial_merge_size)
        return {"image_window_index": order, "image_cu_window_seqlens": ends}


class ArrCocQwen2_5_VLForConditionalGeneration(
    ArrCocForConditionalGenerationMixin, HubExportMixin, Qwen2_5_VLForConditionalGeneration
):
    """Qwen2.5-VL with its language-modelling head, whose images take exactly their token budgets."""

    config: ArrCocQwen2_5_VLConfig
    _can_compile_fullgraph = False
    _no_split_modules = [*Qwen2_5_VLForConditionalGeneration._no_split_modules, "ArrCocBlock"]

    def __init__(self, config: ArrCocQwen2_5_VLConfig):
        # Not the stock constructor, which would build a stock base model.
        super(Qwen2_5_VLForConditionalGeneration, self).__init__(config)
        self.model = ArrCocQwen2_5_VLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


# Published checkpoints have other names for their weights, and transformers looks the renaming up by class name. These
# are the stock ones, but for the weights of the block, which are saved under their own names.
register_checkpoint_conversion_mapping(
    "ArrCocQwen2_5_VLModel",
    [WeightRenaming(r"^model\.(?!language_model\.|visual\.|arrcoc\.)(.+)", r"model.language_model.\1")],
    overwrite=True,
)
register_checkpoint_conversion_mapping(
    "ArrCocQwen2_5_VLForConditionalGeneration",
    [
        WeightRenaming(r"^visual", "model.visual"),
        WeightRenaming(r"^model(?!\.(language_model|visual|arrcoc))", "model.language_model"),
    ],
    overwrite=True,
)


__all__ = ["ArrCocQwen2_5_VLForConditionalGeneration", "ArrCocQwen2_5_VLModel"]
