"""Qwen3-VL with ARR-COC."""

import torch
from torch import Tensor, nn
from transformers.models.qwen3_vl.modeling_qwen3_vl import Qwen3VLForConditionalGeneration, Qwen3VLModel

from .configuration_arrcoc import ArrCocQwen3VLConfig
from .generation_arrcoc import ArrCocForConditionalGenerationMixin
from .hub import HubExportMixin
from .modeling_arrcoc import ArrCocModelMixin
from .multiresolution import bilinear_taps, patch_positions
from .outputs import Allocation


class ArrCocQwen3VLModel(ArrCocModelMixin, HubExportMixin, Qwen3VLModel):
    """Qwen3-VL without a head, whose images take exactly their token budgets."""

    config: ArrCocQwen3VLConfig
    _can_compile_fullgraph = False  # the number of visual tokens depends on data
    _no_split_modules = [*Qwen3VLModel._no_split_modules, "ArrCocBlock"]

    def _tower_inputs(self, allocation: Allocation) -> dict[str, Tensor]:
        vision = self.config.vision_config
        merge_size = vision.spatial_merge_size
        positions = patch_positions(allocation, merge_size)  # (patches, 2)
        sizes = allocation.grids * merge_size / allocation.position_scale[:, None]  # (images, 2)
        sizes = torch.repeat_interleave(sizes, allocation.budgets * merge_size**2, dim=0)
        indices, weights = bilinear_taps(positions, sizes, self.visual.num_grid_per_side)
        return {"image_interp_indices": indices, "image_interp_weights": weights}


class ArrCocQwen3VLForConditionalGeneration(
    ArrCocForConditionalGenerationMixin, HubExportMixin, Qwen3VLForConditionalGeneration
):
    """Qwen3-VL with its language-modelling head, whose images take exactly their token budgets."""

    config: ArrCocQwen3VLConfig
    _can_compile_fullgraph = False
    _no_split_modules = [*Qwen3VLForConditionalGeneration._no_split_modules, "ArrCocBlock"]

    def __init__(self, config: ArrCocQwen3VLConfig):
        super(Qwen3VLForConditionalGeneration, self).__init__(config)  # the stock one would build a stock base model
        self.model = ArrCocQwen3VLModel(config)
        self.lm_head = nn.Linear(config.text_config.hidden_size, config.text_config.vocab_size, bias=False)
        self.post_init()


__all__ = ["ArrCocQwen3VLForConditionalGeneration", "ArrCocQwen3VLModel"]
