"""What the model suites of both hosts share: a tiny configuration, and inputs with and without token budgets."""

from unittest.mock import patch

import torch
from transformers.testing_utils import torch_device
from transformers_tests import test_modeling_common
from transformers_tests.generation.test_utils import GenerationTesterMixin
from transformers_tests.test_configuration_common import ConfigTester
from transformers_tests.test_modeling_common import ModelTesterMixin
from transformers_tests.test_training_mixin import TrainingTesterMixin

from arrcoc import ArrCocConfig
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import ARRCOC_CONFIGS, ARRCOC_MODELS, tiny_config_dict
from tests.helpers.tiny_processors import SPECIAL_TOKENS, VOCAB_SIZE


LAYERS = 2
GRID = (4, 6)  # of every image, in cells
BUDGET = 9
SPECIAL_TOKENS_START = 120
TEXT_LENGTH = 5
LEARNED_BLOCK = {
    "stage": "pixels",
    "relevance": "learned",
    "cell_encoder": "scout",
    "scout_dim": 16,
    "scout_depth": 2,
    "scorer_context": "axial",
    "compressor": "experts",
    "compressor_dim": 16,
    "adapter": "quality",
    "adapter_dim": 16,
}

# The common tests ask these tables by class name whether a model has a head and takes labels. Classes outside of
# transformers are not in them, so the copies in the test module get them.
test_modeling_common.MODEL_MAPPING_NAMES = {
    **test_modeling_common.MODEL_MAPPING_NAMES,
    "arrcoc_qwen3_vl": "ArrCocQwen3VLModel",
    "arrcoc_qwen2_5_vl": "ArrCocQwen2_5_VLModel",
}
test_modeling_common.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES = {
    **test_modeling_common.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    "arrcoc_qwen3_vl": "ArrCocQwen3VLForConditionalGeneration",
    "arrcoc_qwen2_5_vl": "ArrCocQwen2_5_VLForConditionalGeneration",
}


def rotate_ids(ids: torch.Tensor | int) -> torch.Tensor | int:
    """Rotate the tiny vocabulary so that its special tokens lie in the middle, from `SPECIAL_TOKENS_START` on.

    The common tests cut off the end of the vocabulary, where the tiny tokenizer has them, and generate from its start.
    """
    return (ids + len(SPECIAL_TOKENS) + SPECIAL_TOKENS_START) % VOCAB_SIZE


class ArrCocModelTester:
    """Configuration and inputs of one host for the common tests; every row is one image and a few tokens of text.

    Args:
        host: `"qwen3_vl"` or `"qwen2_5_vl"`.
        budget: visual tokens of every image; `None` gives inputs without any of ARR-COC's.
        block: options of the ARR-COC block.
    """

    batch_size = 3
    is_training = True

    def __init__(self, host: str, budget: int | None, block: dict):
        self.host = host
        self.budget = budget
        self.block = block
        self.causal_lm_class = ARRCOC_MODELS[host]
        self.config_dict = self._config_dict()
        for name in ("vocab_size", "hidden_size", "num_attention_heads", "num_hidden_layers"):
            setattr(self, name, self.config_dict["text_config"][name])
        self.seq_length = self._row(0)["input_ids"].shape[1]

    def _config_dict(self) -> dict:
        config = tiny_config_dict(self.host)
        # The common tests want two layers everywhere.
        deepest = {"qwen3_vl": {"deepstack_visual_indexes": [0, 1]}, "qwen2_5_vl": {"fullatt_block_indexes": [1]}}
        config["vision_config"] = {**config["vision_config"], "depth": LAYERS, **deepest[self.host]}
        config["text_config"] = {**config["text_config"], "num_hidden_layers": LAYERS, "max_position_embeddings": 512}
        for section in (config, config["text_config"]):
            for name, value in section.items():
                if name.endswith("_token_id") and value is not None:
                    section[name] = rotate_ids(value)
        return {**config, "arrcoc_config": self.block}

    def _row(self, index: int) -> dict[str, torch.Tensor]:
        budgets = None if self.budget is None else [self.budget]
        inputs = random_inputs(self.host, [[GRID]], budgets, text_length=TEXT_LENGTH, seed=index)
        inputs["input_ids"] = rotate_ids(inputs["input_ids"])
        if self.budget is not None:
            # Within the vocabulary also after it was cut, where the tests clamp `input_ids` alone.
            inputs["image_query_ids"] %= SPECIAL_TOKENS_START
        return inputs

    def get_config(self):
        return ARRCOC_CONFIGS[self.host](**self.config_dict)

    def prepare_config_and_inputs_for_common(self):
        rows = [self._row(index) for index in range(self.batch_size)]
        return self.get_config(), {name: torch.cat([row[name] for row in rows]).to(torch_device) for name in rows[0]}


class ArrCocModelSuite(GenerationTesterMixin, ModelTesterMixin):
    """The common tests; a subclass with `unittest.TestCase` names a host and gives its classes."""

    host: str
    budget: int | None = None
    block: dict = {}
    _is_composite = True
    test_can_init_all_missing_weights_before_2023 = True  # told by the year in a license header; there is none

    def setUp(self):
        self.model_tester = ArrCocModelTester(self.host, self.budget, self.block)

    @property
    def skip_test_image_features_output_shape(self) -> bool:
        # The test wants one state a patch from the tower, which in stage `pixels` runs on leaves.
        return self.block.get("stage") == "pixels"

    def test_inputs_embeds_matches_input_ids(self):
        if self.budget is None:
            return super().test_inputs_embeds_matches_input_ids()
        # The common test takes positions from `get_rope_index`, which is for native prompts; here the model does it.
        config, inputs = self.model_tester.prepare_config_and_inputs_for_common()
        input_ids = inputs.pop("input_ids")
        for model_class in self.all_model_classes:
            model = model_class(config).to(torch_device).eval()
            with torch.no_grad():
                expected = model(input_ids=input_ids, **inputs)[0]
                model.base_model.rope_deltas = None
                found = model(inputs_embeds=model.get_input_embeddings()(input_ids), **inputs)[0]
            torch.testing.assert_close(found, expected)

    def test_config(self):
        ConfigTester(self, config_class=ARRCOC_CONFIGS[self.host], has_text_modality=False).run_common_tests()

    def test_block_config(self):
        options = {"policy": "tiers", "tiers": [4, 9, 16], "region_size": 4, "query_scorer": "cosine", "seed": 3}
        tester = ConfigTester(self, ArrCocConfig, has_text_modality=False, common_properties=list(options), **options)
        tester.create_and_test_config_common_properties()
        tester.create_and_test_config_to_json_string()
        tester.create_and_test_config_to_json_file()
        tester.create_and_test_config_from_and_save_pretrained()
        tester.create_and_test_config_from_and_save_pretrained_subfolder()
        tester.check_config_arguments_init()
        tester.check_config_can_be_init_without_params()
        # Left out is `create_and_test_config_with_num_labels`: the block refuses options that it does not have.


class ArrCocTrainingSuite(TrainingTesterMixin):
    """The common training test, on text; a base class beside [`ArrCocModelSuite`]."""

    def test_training_overfit(self):
        # The test asks the configuration itself for the size of the vocabulary, which its text part knows.
        with patch.object(ARRCOC_CONFIGS[self.host], "vocab_size", VOCAB_SIZE, create=True):
            super().test_training_overfit()
