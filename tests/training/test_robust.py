"""Runs that are killed, at any moment and again and again, end with the weights of a run that was not.

Runs are forks of a process that has imported everything, so that being killed costs little.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
STEPS, SAVE_STEPS = 12, 2
# Three checkpoints, one of which is deleted and one replaced.
SMALL = {"max_steps": 6, "save_steps": 2, "save_total_limit": 1}


def train_host(folder: Path) -> None:
    """A tiny host with all that is random: order of the data, budgets, noise on the choice of leaves, fading."""
    from arrcoc.training.data import BudgetAugmentation, RowDataset
    from arrcoc.training.monitors import FeatureMonitor, GradientNormMonitor, NonFiniteMonitor
    from tests.training.conftest import make_model, make_rows, make_trainer

    block = {"relaxation": "gumbel", "relaxation_fade": 0.5, "compressor_dim": 16, "adapter_blocks": 1}
    trainer = make_trainer(
        make_model("qwen3_vl", "pixels", **block),
        "qwen3_vl",
        folder,
        callbacks=[FeatureMonitor(every=3), GradientNormMonitor(every=3), NonFiniteMonitor()],
        max_steps=STEPS,
        save_strategy="steps",
        save_steps=SAVE_STEPS,
        save_total_limit=2,
        loss_weights={"alignment": 0.1},
        spike_ratio=1.02,  # goes back now and then
        snapshot_steps=3,
        plateau_steps=3,
        max_rollbacks=100,
    )
    trainer.train_dataset = RowDataset(make_rows("qwen3_vl", 7), BudgetAugmentation((4, 8, 12), (1, 1, 1)))
    trainer.train("auto")


def train_line(folder: Path) -> None:
    from tests.training.test_checkpoints import trainer

    trainer(folder, **SMALL).train("auto")


def forked(work: Callable[[], None]) -> int:
    """Start a process; returns its number."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        work()
        status = 0
    finally:
        os._exit(status)


def ended(child: int) -> int:
    """How a process ended: its exit status, or minus the number of the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def result(folder: Path, last: int) -> dict[str, object]:
    """All that a finished run leaves: weights, optimizer and scheduler bit for bit, and the losses of all steps."""
    import torch
    from safetensors.torch import load_file

    checkpoint = folder / f"checkpoint-{last}"
    state = json.loads((checkpoint / "trainer_state.json").read_text())
    found = {name: value.numpy().tobytes() for name, value in load_file(checkpoint / "model.safetensors").items()}
    for group, values in torch.load(checkpoint / "optimizer.pt")["state"].items():
        found |= {f"{group} {name}": value.numpy().tobytes() for name, value in values.items()}
    found["losses"] = {entry["step"]: entry["loss"] for entry in state["log_history"] if "loss" in entry}
    assert len(found["losses"]) == last and len(set(found["losses"].values())) > last // 2
    found["rates"] = {entry["step"]: entry["lr/adapter"] for entry in state["log_history"] if "lr/adapter" in entry}
    found["rollbacks"] = [entry["rollback_to_step"] for entry in state["log_history"] if "rollback" in entry]
    found["folder"] = sorted(path.name for path in folder.iterdir())
    return found


def drive(folder: Path, kills: int, seed: int) -> None:
    """Kill training at random moments; a run that ends nevertheless is checked, and a new one started."""
    import torch

    import arrcoc.training
    import tests.training.test_checkpoints  # noqa: F401

    torch.set_num_threads(1)
    assert arrcoc.training
    start = time.monotonic()
    assert ended(forked(lambda: train_host(folder / "whole"))) == 0
    duration = time.monotonic() - start
    expected = result(folder / "whole", STEPS)
    assert expected["rollbacks"]

    dice, done, unfinished, progress, runs = random.Random(seed), 0, 0, [], 0
    while True:
        run = folder / f"run-{runs}"
        child = forked(lambda run=run: train_host(run))
        if done < kills:
            time.sleep(dice.uniform(0.1, 0.7) * duration)
            os.kill(child, signal.SIGKILL)
        status = ended(child)
        assert status in (0, -signal.SIGKILL), f"training ended with {status}"
        if status:
            done += 1
            names = os.listdir(run) if run.exists() else []
            unfinished += any(name.startswith(".") for name in names)
            progress.append(max((int(name.split("-")[1]) for name in names if name[0] == "c"), default=0))
            continue
        assert result(run, STEPS) == expected, f"{run} differs from the uninterrupted run"
        runs += 1
        if done == kills:
            break
    print(json.dumps({"kills": done, "while_saving": unfinished, "steps_reached": progress, "runs": runs}))


def run_driver(call: str) -> dict:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    command = f"from pathlib import Path; from tests.training.test_robust import *; {call}"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_killed_runs_end_as_if_nothing_had_been(tmp_path, kills):
    found = run_driver(f"drive(Path({str(tmp_path)!r}), {kills}, seed={kills})")
    print(found)
    assert found["kills"] == kills and found["runs"] >= 1


def kill_at(number: int, work: Callable[[], None]) -> None:
    """Do `work`, but be killed just before the `number`-th change that it makes to the names of files and folders, or
    call to bring them to the disk."""
    count = iter(range(1, 10**9))

    def counted(original):
        def call(*arguments, **options):
            if next(count) == number:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        return call

    for module, name in ((os, "fsync"), (os, "rmdir"), (os, "unlink"), (Path, "rename"), (Path, "rmdir")):
        setattr(module, name, counted(getattr(module, name)))
    work()


def drive_changes(folder: Path, every: int) -> None:
    """Kill a small run before each of its changes to the folder, and let it go on to its end."""
    import torch

    import tests.training.test_checkpoints  # noqa: F401

    torch.set_num_threads(1)
    assert ended(forked(lambda: train_line(folder / "whole"))) == 0
    expected, number = result(folder / "whole", SMALL["max_steps"]), 1
    while True:
        run = folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        status = ended(forked(lambda n=number, run=run: kill_at(n, lambda: train_line(run))))
        if status == 0:
            break
        assert status == -signal.SIGKILL
        assert ended(forked(lambda run=run: train_line(run))) == 0, f"killed before change {number}"
        assert result(run, SMALL["max_steps"]) == expected, f"killed before change {number}"
        number += every
    print(json.dumps({"changes": number - 1}))


@pytest.mark.slow
def test_killed_at_each_change_to_the_folder(tmp_path):
    found = run_driver(f"drive_changes(Path({str(tmp_path)!r}), every=1)")
    print(found)
    assert found["changes"] > 30
