"""docs/training.md: its commands have options that exist and files that can be read, and the cheap ones are run."""

import json
import os
import re
import runpy
import shlex
from pathlib import Path

import pytest
from accelerate.commands.launch import launch_command_parser

import arrcoc_cli
from arrcoc.training import PHASES
from arrcoc.training.configuration import parse_run, read_run
from arrcoc.training.data import read_rows
from arrcoc.training.monitors import MONITORS
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import write_stock_processor_folder
from tests.training.conftest import make_rows


ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
CHECKPOINT = "Qwen/Qwen3-VL-2B-Instruct"
# peft 0.21 and trl 1.16 know activation checkpointing by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")


def fences(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", TEXT, flags=re.DOTALL)


COMMANDS = [shlex.split(line, comments=True) for block in fences("bash") for line in block.splitlines()]


def training_runs() -> list[list[str]]:
    """Arguments of `arrcoc train` in all commands, also in those that `accelerate launch` starts."""
    found = []
    for command in COMMANDS:
        if command[:2] == ["arrcoc", "train"]:
            found.append(command[2:])
        elif "arrcoc_cli" in command:
            found.append(command[command.index("arrcoc_cli") + 2 :])
    return found


def test_there_are_commands():
    assert len(COMMANDS) >= 15 and len(training_runs()) >= 7


@pytest.mark.parametrize("arguments", training_runs(), ids=" ".join)
def test_files_and_changes_can_be_read(arguments):
    run = read_run(ROOT / arguments[0], arguments[1:])
    assert run.phases


@pytest.mark.parametrize(
    "command", [command for command in COMMANDS if command[0] == "arrcoc"], ids=lambda command: " ".join(command)[:60]
)
def test_options_exist(command):
    options = arrcoc_cli.build_parser().parse_args(command[1:])
    assert options.command == command[1]


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "accelerate"], ids=" ".join)
def test_launches_can_be_parsed(command):
    """By the launcher; what it starts is a command of this package."""
    options = launch_command_parser().parse_args(command[2:])
    assert options.module and options.training_script == "arrcoc_cli"
    started = arrcoc_cli.build_parser().parse_args(options.training_script_args)
    assert started.command == "train"


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "python"], ids=" ".join)
def test_options_of_scripts_exist(command, monkeypatch, capsys):
    """A script refuses an option that it does not have before it does anything else; its help names all it has."""
    monkeypatch.setattr("sys.argv", [command[1], "--help"])
    monkeypatch.syspath_prepend(ROOT / "examples")
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / command[1]), run_name="__main__")
    shown = capsys.readouterr().out
    assert all(option in shown for option in command[2:] if option.startswith("--"))


@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] in ("python", "sh", "accelerate")], ids=" ".join)
def test_files_exist(command):
    named = [part for part in command if part.startswith("examples/")]
    assert named
    assert all((ROOT / path).exists() for path in named)


def test_the_row_is_read(tmp_path):
    (line,) = fences("json")
    (tmp_path / "rows.jsonl").write_text(line)
    (row,) = read_rows(tmp_path / "rows.jsonl")
    assert set(json.loads(line)) - {"image"} <= set(vars(row))
    assert row.answers == ("31.40", "31.40 EUR") and row.evidence == (((412.0, 903.0, 497.0, 931.0),),)


def test_tables_name_all_that_there_is():
    named = set(re.findall(r"^\| `(\w+)` \|", TEXT, flags=re.M))
    assert named >= set(PHASES)
    assert named >= set(MONITORS)


def test_phases_that_are_mappings_are_valid():
    content = {"model": "host", "out": "run", "data": {"train": "rows.jsonl"}}
    assert parse_run(content | {"phases": [{"name": "phase0", "gate": None}]}).phases[0].gate is None


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with stand-ins for the checkpoint and the data that the document names."""
    folder = tmp_path / CHECKPOINT
    tiny_stock_model("qwen3_vl", tie_word_embeddings=False).save_pretrained(folder)
    write_stock_processor_folder(folder, "qwen3_vl")
    (tmp_path / "data").mkdir()
    lines = []
    for row in make_rows("qwen3_vl"):
        row.images[0].resize((256, 256)).save(tmp_path / "data" / f"{row.id}.png")
        fields = {"id": row.id, "image": f"{row.id}.png", "question": row.question, "answers": list(row.answers)}
        lines.append(json.dumps(fields | {"evidence": [[0, 0, 64, 64]]}))
    (tmp_path / "data" / "train.jsonl").write_text("\n".join(lines))
    (tmp_path / "data" / "validation.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return tmp_path


def test_wrapping_and_preflight(place, capsys):
    for name in ("wrap", "preflight"):
        (command,) = [command for command in COMMANDS if command[:2] == ["arrcoc", name]]
        assert arrcoc_cli.main(command[1:]) == 0, capsys.readouterr().err


@pytest.mark.slow
def test_training_loading_and_trl(place, capsys):
    """The commands for one GPU on a stand-in, a step a phase; then the Python of the document, as printed."""
    from arrcoc.cli.train import train

    (config, *changes) = next(run for run in training_runs() if "24gb" in run[0])
    small = [
        "arguments.bf16=false",
        "arguments.report_to=none",
        "arguments.use_cpu=true",
        "arguments.eval_strategy=no",
        "arguments.dataloader_num_workers=0",
        "dtype=float32",
        "monitors={non_finite: stop}",
        "phases=[{name: phase1, steps: 1, gate: null}, {name: phase3, steps: 1, gate: null, update_cycle: null, "
        "trains: [allocator, compressor, adapter, lora]}]",
    ]
    train(ROOT / config, [*changes, *small])
    assert (place / "runs" / "qwen3_vl_2b" / "adapter").is_dir()
    loading, plain_trl = fences("python")
    names: dict = {}
    exec(loading, names)
    assert not any("lora" in name for name, _ in names["model"].named_parameters())

    (wrap,) = [command for command in COMMANDS if command[:2] == ["arrcoc", "wrap"]]
    assert arrcoc_cli.main(wrap[1:]) == 0, capsys.readouterr().err
    tested = plain_trl.replace(
        "max_length=None", "max_length=None, max_steps=1, bf16=False, use_cpu=True, report_to=[]"
    )
    assert tested != plain_trl
    exec(tested, names)
    assert names["trainer"].state.global_step == 1
    assert os.path.isdir("runs/wrapped")
