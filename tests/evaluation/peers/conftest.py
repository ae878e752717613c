"""Fixtures of the tests of methods on hosts: every test runs on both hosts."""

from functools import cache

import pytest
from transformers import PreTrainedModel

from tests.helpers.tiny_models import tiny_arrcoc_model, tiny_stock_model
from tests.helpers.tiny_processors import HOSTS


@cache
def _model(host: str) -> PreTrainedModel:
    return tiny_arrcoc_model(host, tie_word_embeddings=False)


@cache
def _stock(host: str) -> PreTrainedModel:
    return tiny_stock_model(host, tie_word_embeddings=False)


@pytest.fixture(params=HOSTS)
def host(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def model(host: str) -> PreTrainedModel:
    """With ARR-COC; shared between tests, so not to be changed."""
    return _model(host)


@pytest.fixture
def stock(host: str) -> PreTrainedModel:
    """The stock model with the same weights; shared between tests, so not to be changed."""
    return _stock(host)
