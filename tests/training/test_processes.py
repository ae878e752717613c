"""Two processes train as one does on the same global batches: the same losses, and the same weights at the end.

This module is also the program that `accelerate launch` starts:

    accelerate launch --config_file CONFIG -m tests.training.test_processes OUT [CASE ...]
"""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.state import PartialState
from accelerate.utils import DistributedType

from arrcoc.training import ArrCocTrainer, ArrCocTrainingArguments, Gate, Phase
from arrcoc.training.components import COMPONENTS, named_components
from arrcoc.training.data import ArrCocCollator, Row, RowDataset
from arrcoc.training.runs import run_phase
from tests.training.conftest import make_arguments, make_model, make_rows, shared_processor


ROOT = Path(__file__).parents[2]
LAUNCHES = ROOT / "examples" / "configs" / "accelerate"
HOST = "qwen3_vl"
# Global batches of the optimizer steps, or of the batches that are accumulated for one; each process takes one half.
BATCHES = [[0, 1, 2, 3], [4, 5, 6, 7], [0, 2, 4, 6]]

CASES: dict[str, dict[str, Any]] = {
    "images": {},
    # Straight-through relaxation credits splits that were refused by a mean over the batch, of which each process has
    # its own; the mixture itself knows no batch.
    "pixels": {"stage": "pixels", "block": {"relaxation": "soft"}},
    "mixed": {"text_only": (1, 4, 6)},
    # The second half of the first batch is text alone, and so is all of the second.
    "text": {"text_only": (2, 3, 4, 5, 6, 7)},
    "native": {"budgets": {0: 1.0, 1: 1.0, 4: 1.0}},
    # Without what is drawn at random: how far tiers fade, and (see below) which is chosen.
    "learned budgets": {
        "block": {"budget": "learned", "tiers": [2, 4, 6], "budget_fade": 0.0, "relaxation": "soft"},
        "budgets": {2: 4, 3: 4, 4: 4, 5: 4},
        "losses": {"alignment": 0.5, "efficiency": 0.1},
    },
    "accumulated": {"text_only": (1, 4), "arguments": {"gradient_accumulation_steps": 3}, "steps": 1},
    "by sample": {"arguments": {"answer_normalization": "sample"}},
    "cycle": {
        "arguments": {"update_cycle": [["allocator"], list(COMPONENTS[:-1])], "activation_checkpointing": True},
    },
    # No loss reaches the scorer of salience and the balances.
    "allocator alone": {
        "trains": ("allocator",),
        "losses": {"answer": 0.0, "alignment": 1.0},
        "arguments": {"activation_checkpointing": True},
    },
}
# A phase that is evaluated before and after it.
GATED = Phase("gated", tuple(COMPONENTS[:-1]), len(BATCHES), gate=Gate("loss/answer", 2.0, relative=True))
SHARES = ("eval_exact", "eval_evidence_coverage", "eval_tokens_per_image")
SHARDED = ("images", "pixels", "mixed", "text", "accumulated")


def make_trainer(name: str, folder: Path, batch: int) -> ArrCocTrainer:
    case = CASES[name]
    rows: list[Row] = make_rows(HOST, 8, case.get("text_only", ()))
    for number, budget in case.get("budgets", {}).items():
        rows[number] = Row(**{**vars(rows[number]), "token_budget": budget})
    model = make_model(HOST, case.get("stage", "features"), **case.get("block", {}))
    for component, _, parameter in named_components(model):
        parameter.requires_grad_(component in case.get("trains", COMPONENTS))
    token_budget = None
    if "budget" in case.get("block", {}):
        token_budget = "learned"
        model.model.arrcoc.router.score.bias.data = torch.tensor([0.0, 1000.0, 0.0])
    arguments = make_arguments(
        folder,
        max_steps=case.get("steps", len(BATCHES)),
        per_device_eval_batch_size=batch,
        loss_weights=case.get("losses", {"alignment": 0.5}),
        seed=0,
        adam_epsilon=1e-3,  # a gradient that is rounding errors alone moves nothing
        **case.get("arguments", {}),
    )
    if os.environ.get("ACCELERATE_USE_FSDP") == "true":
        # accelerate shards on accelerators alone; PyTorch on CPUs too.
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU
    batches = [half for whole in BATCHES for half in (whole[:batch], whole[batch:]) if half]
    return ArrCocTrainer(
        model,
        arguments,
        data_collator=ArrCocCollator(shared_processor(HOST), token_budget=token_budget),
        train_dataset=RowDataset(rows),
        eval_dataset=RowDataset(rows[:7]),  # in two processes, the eighth place repeats a row
        processing_class=shared_processor(HOST),
        train_batch_sampler=batches,
    )


def train(name: str, folder: Path, batch: int) -> dict[str, Any]:
    """Train a case on this process's share of the global batches; returns what was logged, and all weights."""
    torch.manual_seed(0)
    trainer = make_trainer(name, folder, batch)
    result = run_phase(trainer, GATED, folder)
    logged = [entry for entry in trainer.state.log_history if "loss" in entry]
    state = trainer.accelerator.get_state_dict(trainer.model)
    return {
        "processes": trainer.args.world_size,
        "kind": type(trainer.model_wrapped).__name__,
        "losses": [{key: value for key, value in entry.items() if "loss" in key} for entry in logged],
        "norms": [{key: value for key, value in entry.items() if "norm" in key} for entry in logged],
        "weights": {key: value.cpu() for key, value in state.items()},
        "evaluations": [
            {key: value for key, value in metrics.items() if "loss" in key or key in SHARES}
            for metrics in (result.start, result.metrics)
        ],
    }


def launch(config: Path, out: Path, cases: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Train cases in two processes."""
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(config)]
    command += ["--main_process_port", "0", "-m", "tests.training.test_processes", str(out), *cases]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-6000:]
    return torch.load(out / "found.pt")


@pytest.fixture(scope="module")
def two_processes(tmp_path_factory):
    return launch(LAUNCHES / "two_cpu_processes.yaml", tmp_path_factory.mktemp("ddp"), tuple(CASES))


@pytest.fixture(scope="module")
def sharded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    content = yaml.safe_load((LAUNCHES / "fsdp.yaml").read_text())
    content |= {"num_processes": 2, "mixed_precision": "no", "use_cpu": True}
    (folder / "fsdp.yaml").write_text(yaml.safe_dump(content))
    return launch(folder / "fsdp.yaml", folder, SHARDED)


def check(found: dict[str, Any], expected: dict[str, Any], kind: str) -> None:
    assert found["processes"] == 2 and expected["processes"] == 1
    assert found["kind"] == kind
    for part in ("losses", "norms"):
        assert len(found[part]) == len(expected[part]) > 0
        for one, two in zip(expected[part], found[part], strict=True):
            assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    for one, two in zip(expected["evaluations"], found["evaluations"], strict=True):
        assert {"eval_loss", "eval_loss/answer", "eval_exact"} <= one.keys()
        assert two == pytest.approx(one, rel=1e-4, abs=1e-6)
    assert found["weights"].keys() == expected["weights"].keys()
    for name, value in expected["weights"].items():
        torch.testing.assert_close(found["weights"][name], value, rtol=0, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}")


def test_several_gpus_need_several_processes(tmp_path, monkeypatch):
    """transformers would deal out each batch to the GPUs by itself, and losses would see the part of the first."""
    monkeypatch.setattr(ArrCocTrainingArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="found 2 GPUs for one process; start one process for each"):
        make_trainer("images", tmp_path, batch=4)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_two_processes_are_one(name, two_processes, tmp_path):
    check(two_processes[name], train(name, tmp_path, batch=4), "DistributedDataParallel")


@pytest.mark.slow
@pytest.mark.parametrize("name", SHARDED)
def test_two_processes_that_share_the_weights_are_one(name, sharded, tmp_path):
    check(sharded[name], train(name, tmp_path, batch=4), "FSDPArrCocQwen3VLForConditionalGeneration")


if __name__ == "__main__":
    os.environ["ACCELERATE_USE_CPU"] = "true"
    out = Path(sys.argv[1])
    results = {case: train(case, out / case, batch=2) for case in sys.argv[2:]}
    if PartialState().is_main_process:
        torch.save(results, out / "found.pt")
    PartialState().destroy_process_group()
