"""Exported checkpoints: loaded by every Auto class in an interpreter that cannot import the package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from arrcoc import ArrCocProcessor
from tests.helpers.inputs import random_inputs
from tests.helpers.tiny_models import ARRCOC_MODELS, tiny_arrcoc_model
from tests.helpers.tiny_processors import HOSTS, tiny_processor


BLOCK = {"policy": "tiers", "tiers": [4, 9], "region_size": 4}


def inputs_of(host: str) -> dict[str, torch.Tensor]:
    return random_inputs(host, [[(4, 6)], [(3, 5), (1, 7)]], budgets=[9, 4, 3])


def export(host: str, folder: Path) -> None:
    model = tiny_arrcoc_model(host, arrcoc_config=BLOCK, tie_word_embeddings=False)
    model.save_pretrained(folder / "head")
    tiny_processor(host, token_budget=6).save_pretrained(folder / "head")
    tiny_arrcoc_model(host, arrcoc_config=BLOCK, tie_word_embeddings=False).model.save_pretrained(folder / "base")
    torch.save(inputs_of(host), folder / "inputs.pt")


def run_without_package(source: Path, target: Path) -> None:
    """Run load_exported.py far from the repository, with a cache of its own and without the network."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(target / "cache"), "HF_HUB_OFFLINE": "1"}
    script = Path(__file__).with_name("load_exported.py")
    run = subprocess.run(
        [sys.executable, str(script), str(source), str(target / "out")],
        cwd=target,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr[-4000:]


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> tuple[Path, Path]:
    """Folders of both hosts as they were saved here, and what came of them elsewhere."""
    source, target = tmp_path_factory.mktemp("exported"), tmp_path_factory.mktemp("elsewhere")
    for host in HOSTS:
        export(host, source / host)
    run_without_package(source, target)
    return source, target / "out"


@pytest.fixture
def results(exported, host) -> dict:
    return torch.load(exported[1] / host / "results.pt")


@pytest.fixture
def original(host):
    return tiny_arrcoc_model(host, arrcoc_config=BLOCK, tie_word_embeddings=False)


def test_auto_map_names_every_class(exported, host):
    source, target = exported
    family = {"qwen3_vl": "Qwen3VL", "qwen2_5_vl": "Qwen2_5_VL"}[host]
    module = f"modeling_arrcoc_{host}"
    expected = {
        "AutoConfig": f"configuration_arrcoc.ArrCoc{family}Config",
        "AutoModel": f"{module}.ArrCoc{family}Model",
        "AutoModelForImageTextToText": f"{module}.ArrCoc{family}ForConditionalGeneration",
    }
    for folder in (source / host / "head", source / host / "base", target / host / "again"):
        config = json.loads((folder / "config.json").read_text())
        assert config["auto_map"] == expected
        assert "auto_map" not in config["arrcoc_config"]
        assert {name.split(".")[0] + ".py" for name in expected.values()} <= {file.name for file in folder.iterdir()}
    for folder in (source / host / "head", target / host / "again"):
        processor = json.loads((folder / "processor_config.json").read_text())
        assert processor["auto_map"] == {"AutoProcessor": "processing_arrcoc.ArrCocProcessor"}
        assert (folder / "processing_arrcoc.py").exists()


def test_the_models_are_the_same_elsewhere(host, results, original):
    inputs = inputs_of(host)
    with torch.no_grad():
        outputs = original(**inputs)
        hidden = original.model(**inputs).last_hidden_state
    assert torch.equal(results["logits"], outputs.logits)
    assert torch.equal(results["boxes"], outputs.allocation.boxes)
    assert torch.equal(results["head as base"], hidden)
    assert torch.equal(results["base as base"], hidden)
    assert torch.equal(results["generated"], original.generate(**inputs, max_new_tokens=4, do_sample=False))
    assert results["policy"] == BLOCK["policy"]


def test_the_processor_is_the_same_elsewhere(host, results):
    processor = tiny_processor(host, token_budget=6)
    image = Image.linear_gradient("L").resize((192, 128))
    text = f"<|im_start|>user\n<|vision_start|>{processor.image_token}<|vision_end|>Where?<|im_end|>\n"
    expected = processor(images=image, text=text, return_tensors="pt")
    assert results["processed"].keys() == expected.keys()
    assert all(torch.equal(results["processed"][name], value) for name, value in expected.items())
    assert results["processed"]["image_token_budgets"].tolist() == [6]


def test_all_code_came_from_the_folder(results):
    assert all(module.startswith("transformers_modules.") for module in results["modules"].values())


def test_code_is_not_run_unasked(results):
    assert set(results["refusals"]) == {"AutoConfig", "AutoModel", "AutoModelForImageTextToText", "AutoProcessor"}
    assert all("trust_remote_code=True" in message for message in results["refusals"].values())


@pytest.mark.parametrize("trust", [None, False, True])
def test_the_installed_package_wins(exported, host, original, trust):
    """What was saved elsewhere is loaded by the installed code, whether or not the folder's is trusted."""
    folder = exported[1] / host / "again"
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=trust)
    assert type(model) is ARRCOC_MODELS[host]
    assert type(AutoProcessor.from_pretrained(folder, trust_remote_code=trust)) is ArrCocProcessor
    inputs = inputs_of(host)
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, original(**inputs).logits)


@pytest.mark.slow
def test_what_was_saved_elsewhere_is_complete(exported, tmp_path):
    """The code travels on: folders that were saved by exported code can be loaded by it."""
    _, out = exported
    source = tmp_path / "source"
    for host in HOSTS:
        (source / host).mkdir(parents=True)
        (source / host / "head").symlink_to(out / host / "again")
        (source / host / "base").symlink_to(exported[0] / host / "base")
        torch.save(inputs_of(host), source / host / "inputs.pt")
    (tmp_path / "target").mkdir()
    run_without_package(source, tmp_path / "target")
    for host in HOSTS:
        results = torch.load(tmp_path / "target" / "out" / host / "results.pt")
        assert torch.equal(results["logits"], torch.load(out / host / "results.pt")["logits"])
