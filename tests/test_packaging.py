"""What a user installs: metadata, pinned versions, the model card's template, the bundled pages and checkpoint, the
wheel."""

import ast
import importlib.metadata
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from huggingface_hub import ModelCard, ModelCardData
from packaging.requirements import Requirement
from PIL import Image

import arrcoc
from arrcoc.pretrained import NAMES, reference_folder
from examples.draw_demo_document import ASSETS, PAGES


ROOT = Path(__file__).parents[1]


def setup_constant(name: str) -> Any:
    """Value of a constant at the top of setup.py."""
    for statement in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(statement, ast.Assign) and statement.targets[0].id == name:
            return ast.literal_eval(statement.value)
    raise AssertionError(f"setup.py has no {name}")


def test_installed_version_is_the_packages_own():
    assert importlib.metadata.version("arrcoc") == arrcoc.__version__


def test_every_sub_package_is_listed():
    listed = setup_constant("PACKAGE_DIR")
    assert all((ROOT / folder / "__init__.py").is_file() for folder in listed.values())
    found = [path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "modeling_arrcoc").rglob("__init__.py")]
    assert set(found) | {"processing"} == set(listed.values())


def test_tested_versions_lie_in_the_ranges_of_setup():
    pins: dict[str, list[Requirement]] = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line and not line.startswith("#"):
            pin = Requirement(line)
            pins.setdefault(pin.name, []).append(pin)
    extras = setup_constant("EXTRAS_REQUIRE")
    for name in ("flash", "video"):  # not part of the tested set
        del extras[name]
    wanted = [
        *setup_constant("INSTALL_REQUIRES"),
        *(requirement for extra in extras.values() for requirement in extra),
    ]
    for requirement in map(Requirement, wanted):
        for pin in pins[requirement.name]:
            version = str(pin.specifier).removeprefix("==")
            assert requirement.specifier.contains(version), f"{pin} is outside of {requirement}"


def test_examples_need_no_extra():
    """`device_map` needs accelerate, which `pip install -e .` must bring."""
    assert "device_map" in (ROOT / "README.md").read_text() and "device_map" in (ROOT / "model_card.md").read_text()
    assert "accelerate" in {Requirement(line).name for line in setup_constant("INSTALL_REQUIRES")}


def test_model_card_template_renders_to_valid_metadata():
    values = {
        "base_model": "Qwen/Qwen3-VL-2B-Instruct",
        "model_name": "ARR-COC Qwen3-VL 2B",
        "repository": "owner/arrcoc-qwen3-vl-2b",
        "stage": "features",
        "policy": "lod",
        "token_budget": "None",
    }
    card = ModelCard.from_template(ModelCardData(), template_path=str(ROOT / "model_card.md"), **values)
    assert "{{" not in card.content
    metadata = yaml.safe_load(card.content.split("---")[1])
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-text-to-text"
    assert metadata["base_model"] == values["base_model"]
    assert {"arrcoc", "visual-token-compression", "custom_code"} <= set(metadata["tags"])
    for code in re.findall(r"```python\n(.*?)```", card.content, flags=re.DOTALL):
        compile(code, "model_card.md", "exec")


@pytest.mark.parametrize(("name", "size"), [("demo_document.png", (1024, 1344)), ("demo_form.png", (256, 256))])
def test_bundled_pages_are_what_their_script_draws(name, size):
    drawn = PAGES[name]()
    with Image.open(ASSETS / name) as saved:
        assert saved.size == drawn.size == size and saved.mode == drawn.mode == "RGB"
        # Releases of Pillow and FreeType differ in the edges of letters.
        assert np.abs(np.asarray(saved, float) - np.asarray(drawn, float)).mean() < 0.5
    assert (ASSETS / name).stat().st_size < 300_000


@pytest.mark.parametrize("name", NAMES)
def test_bundled_checkpoint_is_small_and_complete(name):
    files = {path.name: path.stat().st_size for path in reference_folder(name).iterdir()}
    assert set(files) == {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert files["model.safetensors"] <= 16_000_000


def test_bundled_checkpoints_are_small_together():
    assert sum((reference_folder(name) / "model.safetensors").stat().st_size for name in NAMES) <= 24_000_000


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("tiny", arrcoc.ArrCocQwen3VLForConditionalGeneration),
        ("twin", arrcoc.ArrCocQwen2_5_VLForConditionalGeneration),
    ],
)
def test_bundled_checkpoint_loads_without_remote_code(name, kind):
    model, processor = arrcoc.reference(name)
    assert type(model) is kind and model.dtype == torch.bfloat16
    assert type(processor) is arrcoc.ArrCocProcessor and processor.tokenizer.padding_side == "left"
    assert arrcoc.reference(name, dtype=torch.float32)[0].dtype == torch.float32


def test_a_checkpoint_that_is_not_bundled():
    with pytest.raises(ValueError, match="one of 'tiny', 'twin', found 'huge'"):
        arrcoc.reference("huge")


@pytest.mark.parametrize("name", NAMES)
def test_card_of_the_bundled_checkpoint(name):
    card = (reference_folder(name) / "README.md").read_text(encoding="utf-8")
    assert "{{" not in card
    metadata = yaml.safe_load(card.split("---")[1])
    assert metadata["library_name"] == "transformers" and metadata["pipeline_tag"] == "image-text-to-text"
    (code,) = re.findall(r"```python\n(.*?)```", card, flags=re.DOTALL)
    found: dict[str, Any] = {}
    exec(code, found)
    assert found["inputs"]["image_token_budgets"].tolist() == [64] and found["answer"] == found["answer"].strip()


@pytest.mark.slow
def test_wheel_works_away_from_the_repository(tmp_path):
    def run(*command: str) -> str:
        ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout

    source = tmp_path / "source"  # a build leaves files behind
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "arrcoc_arguments.py", "arrcoc_cli.py"):
        shutil.copy(ROOT / name, source)
    for name in ("modeling_arrcoc", "processing"):
        shutil.copytree(ROOT / name, source / name)

    pip = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")
    run(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(source))
    (wheel,) = tmp_path.glob("arrcoc-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    assert {"arrcoc_arguments.py", "arrcoc_cli.py", "arrcoc/py.typed", "arrcoc/processing/__init__.py"} <= names
    assert {
        "arrcoc/assets/demo_document.png",
        *(f"arrcoc/assets/arrcoc-{name}/model.safetensors" for name in NAMES),
    } <= names
    assert {name.split("/")[0].split("-")[0] for name in names} == {"arrcoc", "arrcoc_arguments.py", "arrcoc_cli.py"}

    site = tmp_path / "site"
    run(*pip, "install", "--no-deps", "--target", str(site), str(wheel))
    code = f"""
import sys
sys.path.insert(0, {str(site)!r})
import arrcoc, arrcoc.processing, arrcoc_cli
for module in (arrcoc, arrcoc.processing, arrcoc_cli):
    assert module.__file__.startswith({str(site)!r}), module.__file__
image = {str(site / "arrcoc" / "assets" / "demo_document.png")!r}
sys.exit(arrcoc_cli.main(["inspect", "--image", image, "--out", "out.png", "--token-budget", "100"]))
"""
    assert "visual tokens 100 of 1344" in run(sys.executable, "-c", code)
