"""Run transformers' own common tests on the classes of this package: `python -m tests.transformers_common.run -n 2`.

The source distribution of the installed transformers is downloaded once, into `.cache/`. Arguments that are not listed
below go to pytest and select tests, such as `-k Budget`. A whole run on a machine without accelerator also compares
what was skipped, and why, with the table in README.md beside this file.
"""

import argparse
import os
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

import pytest
import torch

from tests.transformers_common.sdist import assemble, download


HERE = Path(__file__).parent
ROOT = HERE.parents[1]
README = HERE / "README.md"
TABLE = re.compile(r"(?<=<!-- skipped -->\n).*(?=<!-- end -->)", re.DOTALL)


class SkipTable:
    """A pytest plugin that collects skipped tests and writes them as a Markdown table."""

    def __init__(self) -> None:
        self.suites: set[str] = set()
        self.skipped: dict[tuple[str, str], set[str]] = defaultdict(set)  # (reason, test) -> suites

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        suite, test = report.nodeid.split("::")[-2:]
        self.suites.add(_short(suite))
        if report.skipped:
            self.skipped[_reason(report.longrepr[2]), test].add(_short(suite))

    def __str__(self) -> str:
        rows = defaultdict(list)
        for (reason, test), suites in self.skipped.items():
            rows[reason, self._name(suites)].append(test.removeprefix("test_"))
        lines = ["| reason | suites | tests, without `test_` |", "|---|---|---|"]
        for (reason, suites), tests in sorted(rows.items()):
            lines.append(f"| {reason} | {suites} | {', '.join(f'`{test}`' for test in sorted(tests))} |")
        return "\n".join(lines) + "\n"

    def _name(self, suites: set[str]) -> str:
        groups = {"all": self.suites, "models": {suite for suite in self.suites if suite.startswith("Qwen")}}
        groups["processors"] = self.suites - groups["models"]
        for host in ("Qwen3VL", "Qwen2_5_VL"):
            groups[f"models of {host}"] = {suite for suite in groups["models"] if suite.startswith(host)}
        return next((name for name, group in groups.items() if group == suites), ", ".join(sorted(suites)))


def _short(text: str) -> str:
    """Names of classes and suites without what they have in common."""
    text = re.sub(r"<class '[\w.]*?(\w+)'>", r"\1", text).replace("\n", " ")
    return re.sub(r"\bArrCoc(\w+?)(Test)?\b", r"\1", text)


def _reason(text: str) -> str:
    """A reason without the names of a host's classes."""
    return re.sub(r"\bQwen\w+?(Model|ForConditionalGeneration)\b", "Model", _short(text.removeprefix("Skipped: ")))


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist-dir", type=Path, help="an unpacked source distribution, instead of a download")
    parser.add_argument("--update", action="store_true", help="write the table of skipped tests into README.md")
    parser.add_argument("-n", metavar="WORKERS", help="processes to run tests in (pytest-xdist)")
    options, selection = parser.parse_known_args(arguments)

    sdist = download() if options.sdist_dir is None else options.sdist_dir
    with tempfile.TemporaryDirectory() as folder:
        assemble(sdist, Path(folder))
        return run(Path(folder), options.n, selection, options.update)


def run(folder: Path, workers: str | None, selection: list[str], update: bool) -> int:
    """Run the suites on an assembled folder of tests, and compare or `update` the table; returns the exit status."""
    # Also for the processes that pytest-xdist and some tests start.
    paths = [str(folder), str(folder / "utils"), str(ROOT)]
    sys.path[:0] = paths
    os.environ["PYTHONPATH"] = os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ.pop("RUN_SLOW", None)

    table = SkipTable()
    settings = ["-c", str(folder / "pytest.ini"), "--rootdir", str(ROOT)]
    settings += [] if workers is None else ["-n", workers]
    status = pytest.main([*settings, *selection, str(HERE / "suites")], plugins=[table])
    print(f"\nSkipped:\n\n{table}")
    if status != pytest.ExitCode.OK or selection or torch.accelerator.is_available():
        return int(status)
    text = README.read_text(encoding="utf-8")
    if update:
        README.write_text(TABLE.sub(lambda _: str(table), text), encoding="utf-8")
    elif TABLE.findall(text) != [str(table)]:
        print("README.md lists other skipped tests than the table above; --update writes this one.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
