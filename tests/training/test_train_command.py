"""`arrcoc train`: files and overrides, runs from start to end, and what they leave behind."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForImageTextToText, AutoProcessor, TrainerCallback

import arrcoc
from arrcoc.cli import train as command
from arrcoc.training import PHASES
from arrcoc.training.configuration import STRATEGIES, override_value, parse_run, read_run
from tests.helpers.tiny_models import tiny_stock_model
from tests.helpers.tiny_processors import write_stock_processor_folder
from tests.training.conftest import LEARNED, QUIET, make_rows


# peft 0.21 and trl 1.16 know activation checkpointing by its old name.
pytestmark = pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning")

EXAMPLES = sorted((Path(__file__).parents[2] / "examples" / "configs").glob("*.yaml"))
MINIMAL: dict[str, Any] = {"model": "host", "out": "run", "data": {"train": "rows.jsonl"}, "phases": ["phase1"]}


class TestReading:
    def test_a_file_and_its_overrides(self, tmp_path):
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump({**MINIMAL, "phases": ["phase0", {"name": "phase1", "steps": 5}]}))
        overrides = [
            "phases.phase0.steps=7",
            "phases.1.learning_rate=3e-4",
            "data.batching=grouped",
            "arguments.bf16=true",
            "processor.token_budget=64",
        ]
        run = read_run(path, overrides)
        assert [(phase.name, phase.steps) for phase in run.phases] == [("phase0", 7), ("phase1", 5)]
        assert run.phases[1].learning_rate == 3e-4
        assert (run.data.batching, run.arguments, run.processor) == ("grouped", {"bf16": True}, {"token_budget": 64})

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"modle": "x"}, "unknown keys: modle \\(did you mean 'model'\\?\\)"),
            ({"data": {"train": "x", "batchin": "grouped"}}, "unknown keys: data.batchin \\(did you mean 'batching'"),
            ({"data": {"eval": "x"}}, "missing keys: data.train"),
            ({"out": None}, "missing keys: out"),
            ({"data": "rows.jsonl"}, "data is 'rows.jsonl'; expected keys and values"),
            ({"arguments": {"warmup_step": 1}}, "arguments.warmup_step \\(did you mean 'warmup_steps'"),
            ({"arguments": {"learning_rate": 1e-4}}, "unknown keys: arguments.learning_rate"),
            ({"arguments": {"output_dir": "x"}}, "unknown keys: arguments.output_dir"),
            ({"block": {"stag": "pixels"}}, "block.stag \\(did you mean 'stage'"),
            ({"phases": ["phase_1"]}, "phases has 'phase_1' \\(did you mean 'phase1'"),
            ({"phases": [{"name": "phase1", "step": 1}]}, "no 'step'"),
            ({"phases": ["phase1", "phase1"]}, "names that differ"),
            ({"phases": []}, "at least one"),
            ({"trainer": "trl"}, "trainer is 'trl'"),
            (
                {"data": {"train": "x", "rebalance": True, "mixture": {"ocr": 1}}},
                "needs data.mixture, and `validation`",
            ),
            ({"data": {"train": "x", "curriculum_rows": 5}}, "data.curriculum_rows is 5, which needs data.curriculum"),
            ({"quantization": "8bit"}, "quantization is '8bit'"),
            ({"data": {"train": "x", "batching": "even"}}, "data.batching is 'even'; allowed are 'plain', [^;]*$"),
            ({"data": {"train": "x", "batching": "packed"}}, "not packed into one sequence.*'grouped' batches"),
        ],
        ids=str,
    )
    def test_mistakes_are_named(self, changes, message):
        with pytest.raises(ValueError, match=message):
            parse_run({**MINIMAL, **changes})

    @pytest.mark.parametrize(
        ("override", "message"),
        [
            ("steps", "expected KEY=VALUE"),
            ("phases.phase9.steps=1", "no 'phase9' among \\['phase1'\\]"),
            ("model.name=x", "model is 'host', which has no keys"),
            ("phases.phase1=x", "is a list"),
        ],
    )
    def test_overrides_that_lead_nowhere(self, override, message):
        with pytest.raises(ValueError, match=message):
            override_value({**MINIMAL, "phases": ["phase1"]}, override)

    @pytest.mark.parametrize("name", STRATEGIES)
    def test_no_is_a_word_among_strategies(self, name, tmp_path):
        """YAML reads `no` as false, from a file and from the command line."""
        run = parse_run({**MINIMAL, "arguments": {name: False}})
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(MINIMAL))
        for found in (run, read_run(path, [f"arguments.{name}=no", "arguments.bf16=no", "quantization=no"])):
            assert found.arguments[name] == "no"
            assert getattr(command.ArrCocTrainingArguments("out", **found.arguments), name) == "no"
        assert (found.arguments["bf16"], found.quantization) == (False, None)

    @pytest.mark.parametrize(("text", "value"), [("1e-4", 1e-4), ("[64, 0.5]", [64, 0.5]), ("even", "even"), ("7", 7)])
    def test_values(self, text, value):
        content: dict[str, Any] = {}
        override_value(content, f"a.b={text}")
        assert content == {"a": {"b": value}}

    def test_files_that_are_none(self, tmp_path):
        (tmp_path / "bad.yaml").write_text("a: [")
        with pytest.raises(ValueError, match="is no YAML"):
            read_run(tmp_path / "bad.yaml")
        (tmp_path / "list.yaml").write_text("- a")
        with pytest.raises(ValueError, match="holds list"):
            read_run(tmp_path / "list.yaml")
        with pytest.raises(FileNotFoundError):
            read_run(tmp_path / "none.yaml")

    @pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
    def test_examples(self, path):
        """The files in examples/configs are valid, up to the data and checkpoints that they name."""
        run = read_run(path)
        assert run.phases
        for phase in run.phases:
            options = {**run.arguments, **phase.arguments()} | {"bf16": False, "use_cpu": True}
            command.ArrCocTrainingArguments("out", **options)


def test_there_are_examples():
    assert {"phase0_tiny.yaml", "phase3_tiny.yaml", "qwen3_vl_2b_lora_24gb.yaml"} <= {path.name for path in EXAMPLES}


@pytest.fixture
def files(host, tmp_path) -> dict[str, Any]:
    """A run on a tiny stock checkpoint and four rows."""
    folder = tmp_path / "host"
    tiny_stock_model(host, tie_word_embeddings=False).save_pretrained(folder)
    write_stock_processor_folder(folder, host)
    settings = json.loads((folder / "preprocessor_config.json").read_text())
    limits = {"min_pixels": 1024, "max_pixels": 65536, "size": {"shortest_edge": 1024, "longest_edge": 65536}}
    settings |= {name: value for name, value in limits.items() if name in settings}
    (folder / "preprocessor_config.json").write_text(json.dumps(settings))
    lines = []
    for number, row in enumerate(make_rows(host)):
        row.images[0].save(tmp_path / f"{number}.png")
        boxes = [list(box) for box in row.evidence[0]]
        lines.append(
            {
                "id": row.id,
                "image": f"{number}.png",
                "question": row.question,
                "answers": list(row.answers),
                "evidence": boxes,
            }
        )
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(line) for line in lines))
    arguments = QUIET | {
        "per_device_train_batch_size": 2,
        "save_strategy": "steps",
        "save_steps": 1,
        "logging_steps": 1,
    }
    return {
        "model": str(folder),
        "out": str(tmp_path / "run"),
        "data": {"train": str(tmp_path / "rows.jsonl")},
        "block": LEARNED["features"],
        "processor": {"token_budget": 6},
        "arguments": arguments,
        "phases": [
            {"name": "phase0", "steps": 2, "gate": None},
            {"name": "phase3", "steps": 2, "gate": {"threshold": 9.0}, "lora": {"r": 2}, "budgets": [4, 0.5]}
            | {"budget_shares": [1, 1]},
        ],
    }


def write(tmp_path: Path, content: dict[str, Any]) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def test_a_run_from_stock_checkpoint_to_adapter(host, files, tmp_path, capsys):
    """All phases, then an adapter-only folder and a merged model that answer alike; again, nothing is trained."""
    command.train(write(tmp_path, files), ["merge=true"])
    report = capsys.readouterr().out
    assert "phase3: loss" in report
    assert "block and LoRA, without the host" in report
    adapter, merged = tmp_path / "run" / "adapter", tmp_path / "run" / "merged"
    assert {"arrcoc_config.json", "arrcoc_model.safetensors", "adapter_model.safetensors"} <= {
        path.name for path in adapter.iterdir()
    }

    from peft import PeftModel

    onto_stock = PeftModel.from_pretrained(arrcoc.load_arrcoc_model(adapter), adapter).eval()
    whole = AutoModelForImageTextToText.from_pretrained(merged).eval()
    processor = AutoProcessor.from_pretrained(merged)
    assert processor.token_budget == 6
    row = make_rows(host)[0]
    text = processor.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": row.question}]}], tokenize=False
    )
    inputs = processor(images=list(row.images), text=[text], return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(onto_stock(**inputs).logits, whole(**inputs).logits, rtol=1e-3, atol=1e-3)

    before = {path: path.stat().st_mtime for path in (tmp_path / "run").rglob("checkpoint-*/*")}
    command.train(write(tmp_path, files), ["merge=true"])
    assert {path: path.stat().st_mtime for path in (tmp_path / "run").rglob("checkpoint-*/*")} == before


def test_a_run_that_was_cut_off_goes_on(files, tmp_path, monkeypatch):
    whole = dict(files, out=str(tmp_path / "whole"))
    command.train(write(tmp_path, whole), [])

    class Cut(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if "phase3" in args.output_dir and state.global_step == 2:
                raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(command, "make_monitors", lambda options: [Cut()])
        with pytest.raises(KeyboardInterrupt):
            command.train(write(tmp_path, files), [])
    command.train(write(tmp_path, files), [])
    for name in ("adapter_model.safetensors", "arrcoc_model.safetensors"):
        first, second = (tmp_path / run / "adapter" / name for run in ("run", "whole"))
        assert first.read_bytes() == second.read_bytes()


def test_hosts_that_changed_are_saved_whole(files, tmp_path, capsys):
    """Where weights of the host were trained without LoRA, an adapter-only folder would not be the model."""
    files["phases"] = [{"name": "phase2", "steps": 2, "gate": None}]
    command.train(write(tmp_path, files), [])
    assert "the whole model (bridge of the host changed)" in capsys.readouterr().out
    assert not (tmp_path / "run" / "adapter").exists()
    stock = AutoModelForImageTextToText.from_pretrained(files["model"]).state_dict()
    found = AutoModelForImageTextToText.from_pretrained(tmp_path / "run" / "merged").state_dict()
    changed = {name for name in stock if not torch.equal(stock[name], found[name])}
    assert changed
    assert all("visual" in name and "merger" in name for name in changed)


def test_a_gate_that_is_not_passed_is_a_plain_error(files, tmp_path):
    files["phases"] = [{"name": "phase0", "steps": 1, "gate": {"metric": "evidence_coverage", "threshold": 2.0}}]
    with pytest.raises(ValueError, match="phase 'phase0' ended with evidence_coverage = .* does not pass its gate"):
        command.train(write(tmp_path, files), [])


def test_statistics_of_the_host_are_measured_where_needed(files, tmp_path):
    files["phases"] = [{"name": "calibrate", "steps": 1, "gate": None}]
    command.train(write(tmp_path, files), [])
    assert (tmp_path / "run" / "host_statistics.safetensors").exists()


@pytest.mark.parametrize(("row_budgets", "tokens"), [(True, [16, 9]), (False, [6, 6])])
def test_budgets_of_rows(row_budgets, tokens, files, tmp_path):
    """Rows that say what they should need are shown at it, or at the budget of the run; it is known either way."""
    path = tmp_path / "rows.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()[:2]]
    lines[0]["token_budget"], lines[1]["token_budget"] = 64, 9
    path.write_text("\n".join(map(json.dumps, lines)))
    run = parse_run({**files, "data": {"train": str(path), "row_budgets": row_budgets}})
    _, processor = command.load(run)
    batch = command.make_collator(run.data, processor)(command.load_rows(run.data, run.data.train))
    assert batch["image_token_budgets"].tolist() == tokens
    assert batch["suggested_budgets"].tolist() == [16, 20]  # tiers, at most native


def test_mixtures_and_grouped_batches(files, tmp_path):
    files["phases"] = [{"name": "phase1", "steps": 2, "gate": None}]
    files["data"] |= {"batching": "grouped", "max_tokens": 200, "mixture": {"": 1.0}, "curriculum": True}
    changes = ["data.curriculum_rows=3", "data.rebalance=true", "monitors={validation: {every: 1}}"]
    command.train(write(tmp_path, files), changes)
    assert (tmp_path / "run" / "adapter").exists()
    assert (tmp_path / "run" / "phase1" / "difficulty-0.npy").exists()


def test_trl_as_the_trainer(files, tmp_path):
    pytest.importorskip("trl")
    files["phases"][1] |= {"gate": None}
    files["data"] |= {"batching": "grouped", "max_tokens": 200}
    changes = ["trainer=sft", "arguments.bf16=false", "arguments.gradient_checkpointing=false"]
    with pytest.raises(ValueError, match="`packing`, `eval_packing` and `padding_free` must be off: samples are not"):
        command.train(write(tmp_path, files), [*changes, "arguments.packing=true"])
    command.train(write(tmp_path, files), changes)
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()


def test_four_bits_need_a_library(files, tmp_path, monkeypatch):
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install bitsandbytes"):
        command.train(write(tmp_path, files), ["quantization=4bit"])
    monkeypatch.setattr(command.importlib.util, "find_spec", lambda name: object())
    files["phases"] = ["phase2_language"]
    with pytest.raises(ValueError, match="phases \\['phase2_language'\\] train the language model's own weights"):
        command.train(write(tmp_path, files), ["quantization=4bit"])
    assert PHASES["phase3"].lora is not None
