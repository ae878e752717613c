"""Fixtures of the model tests: every test runs on both hosts."""

from functools import cache

import pytest
from transformers import PreTrainedModel

from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_stock_model
from tests.helpers.tiny_processors import HOSTS


# Tied embeddings make a random model repeat its last token; without them generated text varies and shows differences.
_UNTIED = {"tie_word_embeddings": False}


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@cache
def _stock_model(host: str) -> PreTrainedModel:
    return tiny_stock_model(host, **_UNTIED)


@cache
def _arrcoc_model(host: str) -> PreTrainedModel:
    return tiny_arrcoc_model(host, **_UNTIED)


@pytest.fixture
def stock(host: str) -> PreTrainedModel:
    """The stock model; shared between tests, so not to be changed."""
    return _stock_model(host)


@pytest.fixture
def model(host: str) -> PreTrainedModel:
    """The same model with ARR-COC and its default block; shared between tests, so not to be changed."""
    return _arrcoc_model(host)
