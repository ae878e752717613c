"""examples/overfit_ten.py: ten pictures learned by heart through a quarter of their tokens, with LoRA alone."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_ten_pictures_are_learned_by_heart(tmp_path):
    done = subprocess.run(
        [sys.executable, str(ROOT / "examples" / "overfit_ten.py"), "--out", str(tmp_path), "--steps", "120"],
        env=os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = re.findall(r"^(before|after): (\d+)% exact, loss \S+, (\d+) tokens an image$", done.stdout, flags=re.M)
    assert found == [("before", "0", "16"), ("after", "100", "16")]
