"""Fixtures of the adapter-only folders: stock checkpoints to load them onto, and one that was saved."""

from pathlib import Path

import pytest

from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import HOSTS
from tests.modeling.adapter_folder.folders import UNTIED, trained


@pytest.fixture(scope="session")
def stock_folders(tmp_path_factory) -> dict[str, Path]:
    """Stock checkpoints of both hosts, with the weights of `trained`."""
    folder = tmp_path_factory.mktemp("stock")
    for host in HOSTS:
        tiny_stock_model(host, **UNTIED).save_pretrained(folder / host)
    return {host: folder / host for host in HOSTS}


@pytest.fixture
def stock(host, stock_folders) -> Path:
    return stock_folders[host]


@pytest.fixture
def saved(host, tmp_path) -> Path:
    """An adapter-only folder."""
    trained(host).save_arrcoc(tmp_path / "saved")
    return tmp_path / "saved"
