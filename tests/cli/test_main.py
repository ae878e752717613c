import argparse
import importlib
import inspect
import subprocess
import sys

import pytest

import arrcoc
import arrcoc_arguments
import arrcoc_cli
from arrcoc.allocation import POLICIES
from arrcoc.cli.checkpoints import BUNDLED
from arrcoc.configuration_arrcoc import QUERY_SCORERS, STAGES
from arrcoc.synthetic import SPLITS


COMMANDS = next(
    action.choices for action in arrcoc_cli.build_parser()._actions if isinstance(action, argparse._SubParsersAction)
)


def test_version(run):
    status, out, _ = run("--version")
    assert status == 0 and out == f"arrcoc {arrcoc.__version__}\n"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_help_names_every_command(run, command):
    assert command in run("--help")[1]
    status, out, _ = run(command, "--help")
    assert status == 0 and f"usage: arrcoc {command}" in out


def test_choices_are_those_of_the_configuration():
    assert arrcoc_cli.POLICIES == POLICIES
    assert arrcoc_cli.BUNDLED == BUNDLED
    assert arrcoc_cli.STAGES == STAGES
    assert arrcoc_cli.SPLITS == SPLITS
    assert arrcoc_cli.QUERY_SCORERS == QUERY_SCORERS


def test_help_and_usage_errors_do_not_load_torch():
    code = """
import sys
import arrcoc_cli
try:
    arrcoc_cli.main(sys.argv[1:])
finally:
    assert not {"arrcoc", "torch", "transformers", "PIL"} & set(sys.modules)
"""
    for argument, status in (("--help", 0), ("inspect", 2)):
        ended = subprocess.run([sys.executable, "-c", code, argument], capture_output=True, text=True)
        assert ended.returncode == status, ended.stderr


def test_no_command_is_a_usage_error(run):
    status, _, err = run()
    assert status == 2 and "COMMAND" in err


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("256", 256), ("0.25", 0.25), ("1.0", 1.0), ("auto", "auto"), ("auto:x", "auto:x")]
)
def test_token_budget_is_read(text, value):
    read = arrcoc_arguments.token_budget(text)
    assert read == value and type(read) is type(value)


@pytest.mark.parametrize("text", ["0", "-3", "0.0", "-0.5", "1.5", "nan", "inf", "many", "", "1e3", "automatic"])
def test_bad_token_budget_is_a_usage_error(fails, tmp_path, document, text):
    line = fails("inspect", "--image", document, "--token-budget", text, "--out", tmp_path / "out.png")
    assert "--token-budget" in line and repr(text) in line and "expected" in line
    assert not any(tmp_path.iterdir())


def test_variant_is_read():
    text = "bare:query_weight=0,policy=uniform,relevance_floor=0.1,pair_worth=null,model=a/b"
    options = {"query_weight": 0, "policy": "uniform", "relevance_floor": 0.1, "pair_worth": None, "model": "a/b"}
    assert arrcoc_arguments.variant(text) == ("bare", options)


@pytest.mark.parametrize("text", ["", "name", "name:", ":query_weight=0", "name:query_weight", "a b:query_weight=0"])
def test_bad_variant_is_a_usage_error(fails, tmp_path, text):
    line = fails("eval", "--data", tmp_path, "--out", tmp_path / "out", "--variant", text)
    assert "--variant" in line and repr(text) in line and "NAME:OPTION=VALUE" in line


def test_interrupt_ends_quietly(run, monkeypatch, tmp_path, document):
    def interrupt(**_):
        raise KeyboardInterrupt

    monkeypatch.setattr("arrcoc.cli.inspect.inspect", interrupt)
    assert run("inspect", "--image", document, "--out", tmp_path / "out.png") == (130, "", "arrcoc: interrupted\n")


def test_message_has_one_line(fails, monkeypatch, tmp_path, document):
    def fail(**_):
        raise OSError("first\n  second\n\nthird")

    monkeypatch.setattr("arrcoc.cli.inspect.inspect", fail)
    assert fails("inspect", "--image", document, "--out", tmp_path / "out.png") == "arrcoc: first second third"


def test_a_defect_of_the_program_is_not_hidden(run, monkeypatch, tmp_path, document):
    def fail(**_):
        raise RuntimeError("a defect")

    monkeypatch.setattr("arrcoc.cli.inspect.inspect", fail)
    with pytest.raises(RuntimeError, match="a defect"):
        run("inspect", "--image", document, "--out", tmp_path / "out.png")


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_options_are_the_parameters_of_the_commands_function(command):
    parser = COMMANDS[command]
    module = parser.get_default("command") or command
    function = getattr(importlib.import_module(f"arrcoc.cli.{module}"), module)
    parameters = inspect.signature(function).parameters.values()
    options = {action.dest for action in parser._actions} - {"help"}
    named = {parameter.name for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
    assert options <= named or len(named) < len(parameters)
    assert {parameter.name for parameter in parameters if parameter.default is parameter.empty} & named <= options
