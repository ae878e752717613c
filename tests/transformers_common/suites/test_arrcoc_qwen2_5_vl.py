"""transformers' common model tests on Qwen2.5-VL with ARR-COC."""

import unittest
from functools import partialmethod
from unittest.mock import patch

from arrcoc import ArrCocQwen2_5_VLForConditionalGeneration, ArrCocQwen2_5_VLModel
from arrcoc.hub import HubExportMixin
from tests.transformers_common.suites.model_tester import (
    BUDGET,
    LEARNED_BLOCK,
    ArrCocModelSuite,
    ArrCocTrainingSuite,
)


class Qwen2_5_VLSuite(ArrCocModelSuite):
    host = "qwen2_5_vl"
    all_model_classes = (ArrCocQwen2_5_VLModel, ArrCocQwen2_5_VLForConditionalGeneration)

    def test_reverse_loading_mapping(self):
        # Saved weights have the names of the model, not the older ones of published files, unless these are asked for.
        # A base model has no renaming of its own to be seen.
        save = partialmethod(HubExportMixin.save_pretrained, save_original_format=True)
        with patch.object(HubExportMixin, "save_pretrained", save):
            super().test_reverse_loading_mapping(skip_base_model=True)


class ArrCocQwen2_5_VLModelTest(Qwen2_5_VLSuite, ArrCocTrainingSuite, unittest.TestCase):
    """Inputs of the stock processor."""


class ArrCocQwen2_5_VLBudgetTest(Qwen2_5_VLSuite, unittest.TestCase):
    """A token budget and a question for every image."""

    budget = BUDGET


class ArrCocQwen2_5_VLPixelsTest(Qwen2_5_VLSuite, unittest.TestCase):
    """The same, compressed before the vision tower."""

    budget = BUDGET
    block = {"stage": "pixels"}


class ArrCocQwen2_5_VLLearnedTest(Qwen2_5_VLSuite, unittest.TestCase):
    """The same, with weights of ARR-COC's own."""

    budget = BUDGET
    block = LEARNED_BLOCK
