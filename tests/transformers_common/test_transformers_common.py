"""transformers' own common tests, see README.md; in a process of their own, with pytest settings of their own."""

import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_transformers_common():
    command = [sys.executable, "-m", "tests.transformers_common.run"]
    result = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    print(result.stdout, result.stderr)  # shown on failure, and always with -rP
    assert result.returncode == 0
