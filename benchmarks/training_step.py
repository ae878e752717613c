"""A training step: forward, backward and update of the native model and of ARR-COC at a share of the tokens.

Widths are published ones, weights are random and depth may be cut in proportion, for machines that cannot hold the
states of an optimizer for all layers. Two ways to train are measured:

- `lora`: LoRA on the language model's attention and all learned parts of ARR-COC, tower and language model frozen;
- `full`: every weight.

All cases share the weights of one host and are run in turn, round by round; figures are medians over the rounds. Peak
memory is that of a process of its own for each case (of the accelerator, where there is one): `extra` is what a step
needs besides the model. Operations are counted in a run of their own.

    python benchmarks/training_step.py --like 2B --depth 0.25 --grid 32 32 --threads 1 --json training_step.json
    python benchmarks/training_step.py --like 2B --grid 48 50 --device cuda --rounds 10
"""

import argparse
import json
import multiprocessing
import statistics
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from common import (
    IMAGE,
    TEXT_TOKENS,
    WIDTHS,
    build_inputs,
    build_model,
    count_operations,
    keep_freed_memory,
    machine,
    peak_bytes,
    reset_peak,
    seconds,
)
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from tqdm import tqdm

from arrcoc import ArrCocQwen3VLForConditionalGeneration
from arrcoc.training.losses import alignment_loss


TRAINED = ("lora", "full")
BLOCKS: dict[str, dict[str, Any]] = {
    "features": {"stage": "features", "relevance": "learned", "compressor": "experts", "adapter": "quality"},
    "pixels": {
        "stage": "pixels",
        "cell_encoder": "scout",
        "relevance": "learned",
        "compressor": "experts",
        "adapter": "quality",
    },
}


class Case(NamedTuple):
    """What is measured; `stage` is `None` for the native model."""

    trained: str
    stage: str | None
    share: float

    @property
    def name(self) -> str:
        return self.stage or "native"


class Trainer:
    """Models with the two stages around one host, and an optimizer for what is trained."""

    def __init__(self, trained: str, options: argparse.Namespace, stages: list[str]):
        self.device, self.dtype, self.images = options.device, getattr(torch, options.dtype), options.images
        self.models: dict[str, ArrCocQwen3VLForConditionalGeneration] = {}
        for stage in stages:
            block = BLOCKS[stage] | {"relaxation": options.relaxation}
            model = build_model(options.like, self.device, self.dtype, block, options.depth).train()
            if self.models:  # one host
                first = next(iter(self.models.values()))
                model.model.visual, model.model.language_model = first.model.visual, first.model.language_model
                model.lm_head = first.lm_head
            self.models[stage] = model
        if trained == "lora":
            host = next(iter(self.models.values()))
            for part in (host.model.visual, host.model.language_model, host.lm_head):
                part.requires_grad_(False)
            adapters = LoraConfig(r=16, lora_alpha=32, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])
            inject_adapter_in_model(adapters, host.model.language_model)
        parameters = {parameter for model in self.models.values() for parameter in model.parameters()}
        self.optimizer = torch.optim.AdamW([p for p in parameters if p.requires_grad], lr=1e-5)

    @staticmethod
    def loss(model: ArrCocQwen3VLForConditionalGeneration, inputs: dict[str, Tensor], labels: Tensor) -> Tensor:
        """Loss of the answer, and of evidence where relevance is learned from that alone."""
        outputs = model(**inputs, labels=labels)
        if outputs.allocation is None or model.config.arrcoc_config.relaxation != "none":
            return outputs.loss
        query, counts = outputs.allocation.maps["query"], outputs.allocation.cells_per_image
        evidence = (torch.arange(len(query), device=query.device) < len(query) // 10).float()
        return outputs.loss + alignment_loss("bce", query, evidence, counts).mean()

    def step(self, stage: str | None, inputs: dict[str, Tensor]) -> dict[str, float]:
        """One step over `images` images, one after another; seconds of its parts.

        Parameters that a case does not use have no gradient and are not updated.
        """
        model = next(iter(self.models.values())) if stage is None else self.models[stage]
        labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE, -100)
        forward, backward, start = 0.0, 0.0, seconds(self.device)
        for _ in range(self.images):
            times = [seconds(self.device)]
            loss = self.loss(model, inputs, labels) / self.images
            times.append(seconds(self.device))
            loss.backward()
            times.append(seconds(self.device))
            forward, backward = forward + times[1] - times[0], backward + times[2] - times[1]
        begun = seconds(self.device)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        end = seconds(self.device)
        return {"seconds": end - start, "forward": forward, "backward": backward, "update": end - begun}


def inputs_of(case: Case, options: argparse.Namespace) -> dict[str, Tensor]:
    rows, cols = options.grid
    budget = None if case.stage is None else max(1, round(case.share * rows * cols))
    return build_inputs(rows, cols, budget, options.device, getattr(torch, options.dtype))


def measure_memory(case: Case, options: argparse.Namespace, result: Any) -> None:
    """Put bytes at rest and at the peak of the second step into a queue; in a process of its own.

    At rest there are the model and the states of its optimizer.
    """
    torch.set_num_threads(options.threads)
    trainer, inputs = Trainer(case.trained, options, [case.stage or "pixels"]), inputs_of(case, options)
    trainer.step(case.stage, inputs)
    at_rest = torch.cuda.memory_allocated() if options.device.startswith("cuda") else resident_bytes()
    reset_peak(options.device)
    trainer.step(case.stage, inputs)
    result.put((at_rest, peak_bytes(options.device)))


def resident_bytes() -> int | None:
    """Memory that the process holds now, freed memory given back first; `None` where it is not known."""
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    import ctypes

    ctypes.CDLL(None).malloc_trim(0)
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
    return int(line.split()[1]) * 1024


def memory_in_a_process(case: Case, options: argparse.Namespace) -> tuple[int | None, int | None]:
    context = multiprocessing.get_context("spawn")
    result = context.Queue()
    process = context.Process(target=measure_memory, args=(case, options, result))
    process.start()
    process.join()
    if process.exitcode != 0:
        raise RuntimeError(f"measuring the memory of {case} failed with status {process.exitcode}")
    return result.get()


def time_steps(trained: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Rows of the table, without memory, for one way to train."""
    cases = [Case(trained, None, 1.0)]
    cases += [Case(trained, stage, share) for share in options.shares for stage in BLOCKS]
    trainer, inputs = Trainer(trained, options, list(BLOCKS)), [inputs_of(case, options) for case in cases]
    runs: list[list[dict[str, float]]] = [[] for _ in cases]
    with tqdm(total=len(cases) * (options.rounds + 1), desc=trained) as progress:
        operations = []
        for case, given in zip(cases, inputs, strict=True):  # also warms up
            operations.append(count_operations(partial(trainer.step, case.stage, given)))
            progress.update()
        for _ in range(options.rounds):
            for case, given, run in zip(cases, inputs, runs, strict=True):
                run.append(trainer.step(case.stage, given))
                progress.update()
    native = statistics.median(run["seconds"] for run in runs[0])
    table = []
    for case, given, run, count in zip(cases, inputs, runs, operations, strict=True):
        row: dict[str, Any] = {"trained": trained, "case": case.name, "share": case.share, "operations": count}
        row["tokens"] = int((given["input_ids"] == IMAGE).sum())
        row |= {key: statistics.median(one[key] for one in run) for key in run[0]}
        row |= {"speedup": native / row["seconds"], "speedup_limit": operations[0] / count}
        table.append(row)
    return table


def save(table: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """Write what has been measured so far, where it was asked for."""
    if options.json:
        settings = {**vars(options), "json": str(options.json)}
        scratch = options.json.with_name(f".{options.json.name}")
        scratch.write_text(json.dumps({"settings": settings, "machine": machine(), "rows": table}, indent=1))
        scratch.replace(options.json)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", choices=WIDTHS, default="2B")
    parser.add_argument("--depth", type=float, default=1.0, help="share of the layers of tower and language model")
    parser.add_argument("--grid", type=int, nargs=2, default=(32, 32), metavar=("ROWS", "COLS"), help="cells")
    parser.add_argument("--images", type=int, default=1, help="images of a step; their gradients are accumulated")
    parser.add_argument("--shares", type=float, nargs="+", default=(0.5, 0.25, 0.1))
    parser.add_argument("--trained", nargs="+", choices=TRAINED, default=TRAINED)
    parser.add_argument(
        "--relaxation",
        choices=("straight_through", "none"),
        default="straight_through",
        help="how relevance learns: from the answer, or (none) from evidence alone",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=("bfloat16", "float32"))
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    keep_freed_memory()
    torch.set_num_threads(options.threads)

    table: list[dict[str, Any]] = []
    for trained in options.trained:
        table += time_steps(trained, options)
        save(table, options)
    for row in tqdm(table, desc="memory"):
        stage = None if row["case"] == "native" else row["case"]
        at_rest, peak = memory_in_a_process(Case(row["trained"], stage, row["share"]), options)
        if at_rest is not None and peak is not None:
            row |= {"peak_bytes": peak, "extra_bytes": peak - at_rest}
        save(table, options)
    print(
        f"Qwen3-VL-{options.like} widths at {options.depth:g} of the depth, {options.grid[0]} x {options.grid[1]} "
        f"cells, {TEXT_TOKENS} text tokens, {options.dtype}, {options.device}, {options.threads} threads"
    )
    print("trained case      share tokens  seconds  forward backward   update  speed-up  limit  peak GB  extra GB")
    for row in table:
        print(
            f"{row['trained']:7} {row['case']:9} {row['share']:5.2f} {row['tokens']:6} {row['seconds']:8.3f} "
            f"{row['forward']:8.3f} {row['backward']:8.3f} {row['update']:8.3f} {row['speedup']:8.2f}x "
            f"{row['speedup_limit']:5.1f}x {row.get('peak_bytes', 0) / 2**30:8.2f} "
            f"{row.get('extra_bytes', 0) / 2**30:9.2f}"
        )


if __name__ == "__main__":
    main()
