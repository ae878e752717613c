"""transformers' common model tests on Qwen3-VL with ARR-COC."""

import unittest

from arrcoc import ArrCocQwen3VLForConditionalGeneration, ArrCocQwen3VLModel
from tests.transformers_common.suites.model_tester import (
    BUDGET,
    LEARNED_BLOCK,
    ArrCocModelSuite,
    ArrCocTrainingSuite,
)


class Qwen3VLSuite(ArrCocModelSuite):
    host = "qwen3_vl"
    all_model_classes = (ArrCocQwen3VLModel, ArrCocQwen3VLForConditionalGeneration)


class ArrCocQwen3VLModelTest(Qwen3VLSuite, ArrCocTrainingSuite, unittest.TestCase):
    """Inputs of the stock processor."""


class ArrCocQwen3VLBudgetTest(Qwen3VLSuite, unittest.TestCase):
    """A token budget and a question for every image."""

    budget = BUDGET


class ArrCocQwen3VLPixelsTest(Qwen3VLSuite, unittest.TestCase):
    """The same, compressed before the vision tower."""

    budget = BUDGET
    block = {"stage": "pixels"}


class ArrCocQwen3VLLearnedTest(Qwen3VLSuite, unittest.TestCase):
    """The same, with weights of ARR-COC's own."""

    budget = BUDGET
    block = LEARNED_BLOCK
