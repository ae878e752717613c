"""How long training waits for its data: the share of a run's time between asking the loader for a batch and having it.

A short run of `ArrCocTrainer` with LoRA and the learned parts of ARR-COC on real rows: files are opened, pictures
decoded, resized and cut into patches, and the block's pixel statistics measured, by as many workers as are given. The
first steps, in which workers start, are left out.

    arrcoc synth --out runs/documents --n 200 --size 768
    python benchmarks/loader_waiting.py --model Qwen/Qwen3-VL-2B-Instruct --data runs/documents/train.jsonl
"""

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import machine

from arrcoc.cli.checkpoints import checkpoint_folder, load_model, load_processor
from arrcoc.training import ArrCocTrainer, ArrCocTrainingArguments, apply_phase
from arrcoc.training.data import ArrCocCollator, RowDataset, read_rows
from arrcoc.training.phases import Lora, Phase


BLOCK: dict[str, Any] = {
    "stage": "pixels",
    "cell_encoder": "scout",
    "relevance": "learned",
    "compressor": "experts",
    "adapter": "quality",
}
PHASE = Phase("waiting", trains=("allocator", "compressor", "adapter", "lora"), steps=1, lora=Lora())
WARM_UP = 3


class TimedTrainer(ArrCocTrainer):
    """Notes when it asks for the batches of a step, and when it has them."""

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        asked = time.perf_counter()
        found = super().get_batch_samples(*args, **kwargs)
        self.times = [*getattr(self, "times", []), (asked, time.perf_counter())]
        return found


def waiting(model: torch.nn.Module, processor: Any, rows: list, workers: int, options: argparse.Namespace) -> dict:
    """Train for some steps; returns the share of waiting, and seconds and images of a step."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = ArrCocTrainingArguments(
            folder,
            max_steps=options.steps + WARM_UP,
            per_device_train_batch_size=options.batch,
            dataloader_num_workers=workers,
            bf16=options.bf16,
            save_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        trainer = TimedTrainer(
            model, arguments, data_collator=ArrCocCollator(processor), train_dataset=RowDataset(rows)
        )
        trainer.train()
        end = time.perf_counter()
    measured = trainer.times[WARM_UP:]
    total = end - measured[0][0]
    return {
        "workers": workers,
        "waiting": sum(had - asked for asked, had in measured) / total,
        "seconds_a_step": total / options.steps,
        "images_a_second": options.steps * options.batch / total,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="checkpoint folder, stock or wrapped, or its name on the Hub")
    parser.add_argument("--data", required=True, help="JSON lines")
    parser.add_argument("--share", type=float, default=0.25, help="token budget as a share of the native count (0.25)")
    parser.add_argument("--batch", type=int, default=4, help="images a step (4)")
    parser.add_argument("--steps", type=int, default=20, help="steps to measure (20)")
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2], help="numbers of workers (0 1 2)")
    parser.add_argument("--bf16", action="store_true", help="mixed precision")
    parser.add_argument("--json", type=Path, help="file to write")
    options = parser.parse_args()
    folder = checkpoint_folder(options.model)
    rows = list(read_rows(options.data))
    found = []
    for workers in options.workers:
        model = apply_phase(load_model(folder, **BLOCK), PHASE)
        processor = load_processor(folder, token_budget=options.share)
        found.append(waiting(model, processor, rows, workers, options))
        print("{workers} workers: waits {waiting:.1%} of {seconds_a_step:.3g} s a step".format(**found[-1]))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine(), "runs": found}, indent=2) + "\n")


if __name__ == "__main__":
    main()
