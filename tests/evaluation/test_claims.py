"""`docs/claims.md`: its commands run as printed, on stand-ins for checkpoints and data and with less of everything.

They run in a folder where `my-model`, `Qwen/...` and `data/...` are folders, as printed: tiny checkpoints with random
weights, and files in the formats of their publishers. What they measure there means nothing; that they run, and write
what they are told to write, is what is tested.
"""

import argparse
import re
import runpy
import shlex
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from arrcoc.cli.calibrate import CALIBRATION
from arrcoc.evaluation.policies import MODEL_POLICIES, conditions
from arrcoc.evaluation.records import read_json
from arrcoc.evaluation.weightless import WeightlessPolicies
from arrcoc.host_statistics import HostStatistics
from arrcoc_cli import build_parser, main
from tests.evaluation.test_tasks import EXPECTED, FILES, write
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import write_stock_processor_folder


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```bash\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").splitlines()]
SCRIPTS = sorted(command for command in COMMANDS if command.startswith("python benchmarks/"))
OURS = sorted(command for command in COMMANDS if command.startswith("arrcoc "))

# What is given besides; of an option that is given twice the last value counts.
SHORT = ["--max-new-tokens", "2", "--resamples", "20"]
LESS = {
    "eval": SHORT,
    "calibrate": SHORT,
    "report": ["--hardest", "1", "--resamples", "20"],
    "bench": ["--grid", "4", "4", "--rounds", "1", "--new-tokens", "2", "--device", "cpu"],
    "preflight": ["--images", "2"],
}
FEW_POLICIES = {"eval": "arrcoc,resize", "bench": "arrcoc-pixels,resize"}
NUMBER = re.compile(r"\d[\d,]*(?:\.\d+)?")


def arguments(command: str, all_policies: bool = False) -> list[str]:
    """Words of a command after `arrcoc`, and those that make it short."""
    words = shlex.split(command)[1:]
    name = words[0]
    words += LESS[name] + (["--like", "tiny"] if "--like" in words else [])
    if not all_policies and name in FEW_POLICIES and "--model" in words:
        words += ["--policies", FEW_POLICIES[name]]
        if "--budgets" in words:
            budgets = words[words.index("--budgets") + 1].split(",")
            words += ["--budgets", ",".join(dict.fromkeys([*budgets[:2], budgets[-1]]))]
    return words


@pytest.fixture(scope="module")
def world(checkpoint, pages, tmp_path_factory):
    """Everything that commands name."""
    folder = tmp_path_factory.mktemp("world")
    for name, host in (("2.5-VL-7B", "qwen2_5_vl"), ("2.5-VL-3B", "qwen2_5_vl"), ("3-VL-2B", "qwen3_vl")):
        stock = folder / "Qwen" / f"Qwen{name}-Instruct"
        tiny_stock_model(host).save_pretrained(stock)
        write_stock_processor_folder(stock, host)
    shutil.copytree(checkpoint, folder / "my-model")
    shutil.copytree(pages.parent, folder / "data")
    shutil.copy(pages, folder / "data" / "validation.jsonl")
    for name, files in FILES.items():
        write(folder / "data" / name, files)
        for _, image, _, _ in EXPECTED[name]:
            path = folder / "data" / name / image
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.linear_gradient("L").resize((128, 96)).save(path)
    fox = folder / "data" / "fox"
    shutil.copytree(fox / "en_pdf_png", fox / "cn_pdf_png")
    shutil.copy(fox / "en_page_ocr.json", fox / "cn_page_ocr.json")
    return folder


@pytest.fixture
def place(world, tmp_path, monkeypatch):
    """A folder to run in; what commands change is a copy."""
    for name in ("Qwen", "data"):
        (tmp_path / name).symlink_to(world / name, target_is_directory=True)
    shutil.copytree(world / "my-model", tmp_path / "my-model")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(words: list[str], place: Path) -> None:
    """Run a command and check what it wrote."""
    options = build_parser().parse_args(words)
    if words[0] == "report":
        (source,) = (command for command in OURS if f"--out {options.run} " in f"{command} ")
        run(arguments(source), place)
    assert main(words) == 0
    CHECKS[words[0]](options, place)


def check_eval(options: argparse.Namespace, place: Path) -> None:
    tasks = read_json(place / options.out / "summary.json")["tasks"]
    assert len(tasks) == len(options.data)
    for given, (name, task) in zip(options.data, tasks.items(), strict=True):
        assert name == Path(given.partition("=")[0]).stem.replace(":", "-")
        rows = {(row["policy"], row["budget"]): row for row in task["conditions"]}
        allowed = MODEL_POLICIES if options.model else WeightlessPolicies.allowed
        if options.policies is None:
            assert {"arrcoc", "resize"} < {policy for policy, _ in rows}
        else:
            wanted = conditions(options.policies, options.budgets, allowed)
            assert {(condition.policy, condition.label) for condition in wanted} == set(rows)
        assert all(row["items"] > 0 and not row["problems"]["error"] for row in rows.values())


def check_report(options: argparse.Namespace, place: Path) -> None:
    page = (place / options.run / "report" / "index.html").read_text()
    text = (place / options.markdown).read_text()
    for name in read_json(place / options.run / "summary.json")["tasks"]:
        assert f"<h2>{name}</h2>" in page and f"## {name}" in text
        assert (place / options.markdown.with_suffix("") / f"{name}-quality-tokens.png").exists()


def check_calibrate(options: argparse.Namespace, place: Path) -> None:
    assert read_json(place / options.out / CALIBRATION)["keep"] == options.keep
    found = read_json(place / options.model / "processor_config.json")
    assert found["auto_strategy"] == "calibrated" and found["calibrated_budgets"]


def check_bench(options: argparse.Namespace, place: Path) -> None:
    rows = read_json(place / options.out)["rows"]
    policies = {row["policy"] for row in rows}
    assert policies >= {"native", "arrcoc-pixels", "resize"}
    assert len(rows) == len(options.batch_sizes) * (1 + (len(policies) - 1) * len(options.budgets))
    assert all(row["first_token"] > 0 and row["operations"] > 0 and row["kv_bytes"] > 0 for row in rows)


def check_preflight(options: argparse.Namespace, place: Path) -> None:
    assert HostStatistics.from_pretrained(place / options.save) is not None


CHECKS = {
    "eval": check_eval,
    "report": check_report,
    "calibrate": check_calibrate,
    "bench": check_bench,
    "preflight": check_preflight,
}


def test_the_page_is_made_of_commands_that_are_tested():
    assert len(set(COMMANDS)) >= 17 and len(OURS) + len(SCRIPTS) == len(COMMANDS)
    assert {command.split()[1] for command in OURS} == set(LESS)
    outputs = [words[words.index("--out") + 1] for words in map(str.split, OURS) if "--out" in words]
    assert len(set(outputs)) == len(outputs)


def named(command: str) -> str:
    """A short name of a command: what it does, and where."""
    words = command.split()
    return f"{words[1]} {words[words.index('--out') + 1] if '--out' in words else words[2]}"


@pytest.mark.parametrize("command", OURS, ids=named)
def test_command(command, place):
    run(arguments(command), place)


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in OURS if command.split()[1] in FEW_POLICIES], ids=named)
def test_command_with_all_its_policies_and_budgets(command, place):
    run(arguments(command, all_policies=True), place)


@pytest.mark.parametrize("command", sorted(set(SCRIPTS)))
def test_script_takes_its_options(command, monkeypatch):
    """Scripts time models of real widths: their options are read, and nothing is run."""

    class Read(Exception):
        pass

    usual = argparse.ArgumentParser.parse_args

    def read(parser, *given):
        raise Read(usual(parser, *given))

    _, script, *words = shlex.split(command)
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", read)
    monkeypatch.setattr(sys, "argv", [script, *words])
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    monkeypatch.setitem(sys.modules, "common", None)  # what scripts import by that name
    monkeypatch.delitem(sys.modules, "common")  # is forgotten afterwards
    run_script = runpy.run_path(str(ROOT / script))["main"]
    with pytest.raises(Read) as found:
        run_script()
    assert str(found.value.args[0].json) == words[words.index("--json") + 1]


def measured_cells() -> list[str]:
    """What stands in the columns "measured here"."""
    cells, column = [], None
    for line in PAGE.splitlines():
        if not line.startswith("|"):
            column = None
            continue
        parts = [part.strip() for part in line.strip("|").split("|")]
        if column is None:
            column = next((i for i, part in enumerate(parts) if part.startswith("measured here")), -1)
        elif column >= 0 and not parts[0].startswith("---"):
            cells.append(parts[column])
    return cells


def test_figures_measured_here_stand_on_the_pages_that_measured_them():
    names = ("measurements.md", "mark_task.md", "results.md", "results_large.md", "results_dev.md")
    pages = "".join((ROOT / "docs" / name).read_text() for name in names)
    known = set(NUMBER.findall(pages))
    cells = measured_cells()
    assert len(cells) > 40 and any("x" in cell for cell in cells)
    for cell in cells:
        assert cell and set(NUMBER.findall(cell)) <= known, cell
