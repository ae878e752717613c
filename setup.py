"""Packaging of ARR-COC: the one source of its metadata (tools are configured in pyproject.toml)."""

import re
from pathlib import Path

from setuptools import setup


ROOT = Path(__file__).parent

# The folder names are those of a Hugging Face Hub repository; the import names are the user's.
PACKAGE_DIR = {
    "arrcoc": "modeling_arrcoc",
    "arrcoc.cli": "modeling_arrcoc/cli",
    "arrcoc.evaluation": "modeling_arrcoc/evaluation",
    "arrcoc.evaluation.peers": "modeling_arrcoc/evaluation/peers",
    "arrcoc.synthetic": "modeling_arrcoc/synthetic",
    "arrcoc.training": "modeling_arrcoc/training",
    "arrcoc.training.data": "modeling_arrcoc/training/data",
    "arrcoc.training.monitors": "modeling_arrcoc/training/monitors",
    "arrcoc.processing": "processing",
}


def read_version() -> str:
    """Return `__version__` of the package without importing it (its dependencies may not be installed yet)."""
    source = (ROOT / "modeling_arrcoc" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__ = "([^"]+)"$', source, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('modeling_arrcoc/__init__.py has no line of the form __version__ = "1.2.3".')
    return match.group(1)


INSTALL_REQUIRES = [
    "torch>=2.6",
    "transformers>=5.20,<6",
    "accelerate>=1.1",  # for `device_map`
    "safetensors>=0.4.3",
    "pillow>=10.1",
    "numpy>=1.26",
]

EXTRAS_REQUIRE = {
    "train": ["peft>=0.18,<1", "trl>=1.16,<2; python_version >= '3.11'", "datasets>=4.0"],
    "eval": ["datasets>=4.0", "evaluate>=0.4.3", "matplotlib>=3.8"],
    "flash": ["flash-attn>=2.6"],
    "video": ["torchvision>=0.21"],
    "dev": [
        "build>=1.2",
        "hypothesis>=6.100",
        "mypy>=1.14",
        "parameterized>=0.9",
        "pytest>=8.0",
        "pytest-xdist>=3.6",
        "ruff>=0.9",
        "setuptools>=77",
    ],
}

setup(
    name="arrcoc",
    version=read_version(),
    description="Qwen vision-language models with an exact, question-aware visual-token budget",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="The ARR-COC authors",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["vision-language", "transformers", "visual token compression", "optical compression", "Qwen-VL"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3.10",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    python_requires=">=3.10",
    package_dir=PACKAGE_DIR,
    packages=list(PACKAGE_DIR),
    py_modules=["arrcoc_arguments", "arrcoc_cli"],
    package_data={"arrcoc": ["py.typed", "assets/**"], "arrcoc.evaluation": ["metrics/*.py"]},
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
    entry_points={
        "console_scripts": ["arrcoc=arrcoc_cli:main"],
        "lmms_eval.models": ["arrcoc=arrcoc.evaluation.lmms:manifest"],
    },
)
