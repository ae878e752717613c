"""Which parameters belong to which part of the model."""

import pytest

from arrcoc.training.components import COMPONENTS, component_of, named_components, plain_name
from tests.helpers.tiny_models import tiny_stock_model
from tests.training.conftest import (
    make_model,
    make_trainer,
)


class TestComponents:
    @pytest.mark.parametrize(
        ("name", "component"),
        [
            ("model.arrcoc.scout.blocks.0.weight", "allocator"),
            ("model.arrcoc.relevance.query.score.weight", "allocator"),
            ("model.arrcoc.router.score.weight", "allocator"),
            ("model.arrcoc.compressors.0.experts.weight", "compressor"),
            ("model.arrcoc.adapter.blocks.0.film.weight", "adapter"),
            ("base_model.model.model.arrcoc.modules_to_save.default.adapter.blocks.0.film.weight", "adapter"),
            ("_fsdp_wrapped_module.model.arrcoc._fsdp_wrapped_module.adapter.norm.weight", "adapter"),
            ("model.visual.merger.linear_fc1.weight", "bridge"),
            ("model.visual.deepstack_merger_list.1.norm.weight", "bridge"),
            ("model.visual.blocks.3.attn.qkv.weight", "bridge"),
            ("model.visual.blocks.1.attn.qkv.weight", "vision"),
            ("model.visual.patch_embed.proj.weight", "vision"),
            ("model.language_model.layers.0.mlp.up_proj.weight", "llm"),
            ("lm_head.weight", "llm"),
            ("module.base_model.model.model.language_model.layers.0.self_attn.q_proj.lora_A.default.weight", "lora"),
        ],
    )
    def test_by_name(self, name, component):
        assert component_of(name, vision_depth=4, bridge_vision_blocks=2) == component

    def test_plain_names(self):
        wrapped = "module.base_model.model.model.arrcoc.modules_to_save.default.adapter.norm.weight"
        assert plain_name(wrapped) == "model.arrcoc.adapter.norm.weight"
        assert plain_name("model.visual.merger.norm.weight") == "model.visual.merger.norm.weight"

    def test_every_parameter_has_one(self, host, stage):
        found = {component for component, _, _ in named_components(make_model(host, stage))}
        assert found == set(COMPONENTS) - {"lora"}

    def test_a_model_without_arrcoc_is_refused(self, tmp_path):
        with pytest.raises(ValueError, match="found no model with ARR-COC in a Qwen3VLForConditionalGeneration"):
            make_trainer(tiny_stock_model("qwen3_vl"), "qwen3_vl", tmp_path)
