"""A preset of seconds and its documents; the examples' modules are found as the script finds them."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest


sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

from reference.cache import Drawing, draw  # noqa: E402
from reference.presets import PRESETS  # noqa: E402


@pytest.fixture(scope="package")
def preset():
    kinds = ("form", "receipt")
    pages = Drawing("train", 256, kinds, 1, 6, plain=True, clear=True)
    return replace(
        PRESETS["quick"],
        model="micro",
        print=(pages, Drawing("train", 512, kinds, 1, 4, plain=True)),
        pages=pages,
        validation=Drawing("validation", 256, kinds, 1, 4, plain=True, clear=True),
        reading=2,
        enlarged=4,
        listening=4,
        looking=3,
        budgets=2,
        together=2,
        crops=2,
        chats=2,
        glances=2,
        questions=2,
        exam=4,
        goal=2.0,
        validate_every=100,
    )


@pytest.fixture(scope="package")
def root(preset, tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    draw([*preset.print, preset.validation], folder)
    return folder
