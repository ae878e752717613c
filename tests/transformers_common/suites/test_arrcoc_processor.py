"""transformers' common processor tests on the processor of both hosts."""

import unittest
from unittest.mock import patch

from transformers_tests.test_processing_common import ProcessorTesterMixin

from arrcoc import ArrCocProcessor
from tests.helpers.tiny_processors import CHAT_TEMPLATES, tiny_image_processor, tiny_tokenizer


BUDGET_OUTPUTS = {"image_token_budgets", "image_query_ids", "image_query_mask", "image_information"}


class ArrCocProcessorSuite(ProcessorTesterMixin):
    """The common tests; a subclass with `unittest.TestCase` names a host."""

    processor_class = ArrCocProcessor
    host: str
    options: dict = {}

    # A tiny tokenizer has a token for every byte, so that texts are long.
    images_text_kwargs_max_length = 400
    images_unstructured_max_length = 400
    chat_template_max_length = 150

    @classmethod
    def _setup_image_processor(cls):
        return tiny_image_processor(cls.host)

    @classmethod
    def _setup_tokenizer(cls):
        return tiny_tokenizer()

    @classmethod
    def _setup_test_attributes(cls, processor):
        cls.image_token = processor.image_token  # without the token of videos, no text asks for one

    @classmethod
    def prepare_processor_dict(cls):
        return {"chat_template": CHAT_TEMPLATES[cls.host], **cls.options}

    def prepare_videos_inputs(self, batch_size=None):
        return None

    def prepare_audio_inputs(self, batch_size=None):
        return None

    def setUp(self):
        # `save_pretrained` changes a processor that saves its code with it, a stock one as well; tested elsewhere.
        auto_class = patch.object(ArrCocProcessor, "_auto_class", None)
        auto_class.start()
        self.addCleanup(auto_class.stop)

    @unittest.skip("the stock processor without a video processor fails too: it keeps its defaults for videos")
    def test_no_redundant_default_kwargs(self):
        pass


class ArrCocProcessorQwen3VLTest(ArrCocProcessorSuite, unittest.TestCase):
    """Without a token budget."""

    host = "qwen3_vl"

    def test_model_input_names(self):
        inputs = self.get_processor()(
            text=self.prepare_text_inputs(modalities="image"), images=self.prepare_images_inputs()
        )
        self.assertSetEqual(set(inputs) | BUDGET_OUTPUTS, set(self.get_processor().model_input_names))
        self.assertFalse(set(inputs) & BUDGET_OUTPUTS)


class ArrCocProcessorQwen2_5_VLTest(ArrCocProcessorQwen3VLTest):
    host = "qwen2_5_vl"


class ArrCocProcessorQwen3VLBudgetTest(ArrCocProcessorSuite, unittest.TestCase):
    """With a token budget by default."""

    host = "qwen3_vl"
    options = {"token_budget": 8}


class ArrCocProcessorQwen2_5_VLBudgetTest(ArrCocProcessorSuite, unittest.TestCase):
    host = "qwen2_5_vl"
    options = {"token_budget": 0.5, "auto_strategy": "two_mode"}
