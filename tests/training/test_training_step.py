"""benchmarks/training_step.py at tiny widths: what it measures of each case, as a table and as JSON."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_table_of_steps(tmp_path):
    options = "--like tiny --grid 8 8 --shares 0.25 --trained lora --rounds 1 --dtype float32 --device cpu --threads 1"
    done = subprocess.run(
        [sys.executable, "benchmarks/training_step.py", *options.split(), "--json", str(tmp_path / "steps.json")],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads((tmp_path / "steps.json").read_text())
    assert found["settings"]["like"] == "tiny" and found["machine"]["threads"] == 1
    rows = {(row["case"], row["tokens"]): row for row in found["rows"]}
    assert rows.keys() == {("native", 64), ("features", 16), ("pixels", 16)}
    for row in rows.values():
        assert row["seconds"] >= row["forward"] + row["backward"] > 0
        assert row["operations"] > 0 and row["peak_bytes"] > row["extra_bytes"] >= 0
    native = rows["native", 64]
    assert (native["speedup"], native["speedup_limit"]) == (1.0, 1.0)
    lines = done.stdout.splitlines()
    assert lines[1].split()[:6] == ["trained", "case", "share", "tokens", "seconds", "forward"]
    assert [line.split()[:4] for line in lines[2:]] == [
        ["lora", case, share, tokens]
        for case, share, tokens in (("native", "1.00", "64"), ("features", "0.25", "16"), ("pixels", "0.25", "16"))
    ]
