"""The test modules of transformers' source distribution, made importable as `transformers_tests`.

The wheel has no tests, and the source distribution only those files of `tests/` that lie at its top. What they import
from elsewhere is stood in for by the few lines of `STAND_INS`.
"""

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import transformers
from PIL import Image, ImageDraw


CACHE = Path(__file__).parents[2] / ".cache" / "transformers-sdist"
PACKAGE = "transformers_tests"

# Path in the assembled folder -> content.
STAND_INS = {
    "pytest.ini": (
        "[pytest]\n"
        "addopts = --import-mode=importlib --quiet --disable-warnings -p no:cacheprovider\n"
        "verbosity_subtests = 0\n"
    ),
    f"{PACKAGE}/__init__.py": "",
    # Tests of ONNX and executorch export, and of `generate`: not in the source distribution, hence without tests here.
    f"{PACKAGE}/exporters/test_export.py": "class ExportTesterMixin:\n    pass\n",
    f"{PACKAGE}/generation/test_utils.py": "class GenerationTesterMixin:\n    pass\n",
    # Values of common options that a configuration has to take over.
    f"{PACKAGE}/utils/test_configuration_utils.py": (
        "config_common_kwargs = dict(\n"
        '    return_dict=False, output_hidden_states=True, output_attentions=True, dtype="float16",\n'
        '    architectures=["Model"], chunk_size_feed_forward=5, id2label={0: "label"}, label2id={"label": "0"},\n'
        '    problem_type="regression",\n'
        ")\n"
    ),
    # Finds files of the Hub in a local cache; here every image is the picture beside it and nothing is downloaded.
    "utils/fetch_hub_objects_for_ci.py": (
        "from pathlib import Path\n\n\n"
        "def url_to_local_path(url):\n"
        '    is_image = url.endswith((".png", ".jpg"))\n'
        '    return str(Path(__file__).with_name("picture.png")) if is_image else url\n'
    ),
}


def download(cache: Path = CACHE) -> Path:
    """Fetch and unpack the source distribution of the installed transformers, unless the cache has it.

    Returns:
        The unpacked folder.

    Raises:
        subprocess.CalledProcessError: if `pip download` fails.
    """
    name = f"transformers-{transformers.__version__}"
    if not (cache / name).is_dir():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            requirement = f"transformers=={transformers.__version__}"
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
            subprocess.run([*pip, "--no-deps", "--no-binary", ":all:", "--dest", folder, requirement], check=True)
            with tarfile.open(next(Path(folder).glob("*.tar.gz"))) as archive:
                archive.extractall(folder, filter="data")
            try:
                os.replace(Path(folder, name), cache / name)
            except OSError:  # another process was faster
                if not (cache / name).is_dir():
                    raise
    return cache / name


def assemble(sdist: Path, target: Path) -> None:
    """Copy the test modules of `sdist` and the stand-ins into one folder that can be put on `sys.path`.

    Args:
        sdist: an unpacked source distribution of transformers.
        target: an empty folder.

    Raises:
        FileNotFoundError: if `sdist` has no common model tests.
    """
    if not (sdist / "tests" / "test_modeling_common.py").is_file():
        raise FileNotFoundError(f"{sdist} is no unpacked source distribution: it has no tests/test_modeling_common.py")
    shutil.copytree(sdist / "tests", target / PACKAGE)
    for path, content in STAND_INS.items():
        (target / path).parent.mkdir(parents=True, exist_ok=True)
        (target / path).write_text(content, encoding="utf-8")
    picture = Image.new("RGB", (320, 240), "white")
    ImageDraw.Draw(picture).rectangle((40, 60, 200, 180), fill="navy", outline="orange", width=8)
    picture.save(target / "utils" / "picture.png")
