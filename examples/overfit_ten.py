"""Can ten pictures be learned by heart through a quarter of their tokens, with LoRA alone?

They must: if they cannot, something between pixels and answers is broken, and no long run will mend it. The host and
what ARR-COC adds to it stay as they are; LoRA on the language model's attention alone learns. Without `--model` the
host is a small one with random weights, and the pictures are those of tiny_marks.py.

    python examples/overfit_ten.py --out runs/overfit
    python examples/overfit_ten.py --out runs/overfit --model Qwen/Qwen3-VL-2B-Instruct --data train.jsonl
"""

import argparse
from itertools import islice
from pathlib import Path

from tiny_marks import write_host, write_rows

from arrcoc.cli.checkpoints import checkpoint_folder, load_model, load_processor
from arrcoc.training import ArrCocTrainer, ArrCocTrainingArguments, Phase, apply_phase
from arrcoc.training.data import ArrCocCollator, RowDataset, read_rows
from arrcoc.training.phases import Lora


TEN, SHARE = 10, 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--model", help="checkpoint folder, or its name on the Hub")
    parser.add_argument("--data", type=Path, help="JSON lines; the first ten are learned")
    parser.add_argument("--steps", type=int, default=300, help="optimizer steps (300)")
    parser.add_argument("--learning-rate", type=float, default=5e-3, help="of LoRA (5e-3)")
    options = parser.parse_args()
    host = checkpoint_folder(options.model) if options.model else write_host(options.out / "host")
    data = options.data or write_rows(options.out / "data", "train", TEN, seed=0, side=8)

    processor = load_processor(host, token_budget=SHARE)
    phase = Phase("overfit", trains=("lora",), steps=options.steps, lora=Lora(r=16, alpha=32, dropout=0.0))
    model = apply_phase(load_model(host), phase)
    rows = RowDataset(list(islice(read_rows(data), TEN)))
    arguments = ArrCocTrainingArguments(
        str(options.out / "run"),
        max_steps=phase.steps,
        learning_rate=options.learning_rate,
        per_device_train_batch_size=TEN,
        logging_steps=50,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    trainer = ArrCocTrainer(
        model,
        arguments,
        data_collator=ArrCocCollator(processor),
        train_dataset=rows,
        eval_dataset=rows,
        processing_class=processor,
    )
    before = trainer.evaluate()
    trainer.train()
    after = trainer.evaluate()
    for name, found in (("before", before), ("after", after)):
        print(
            f"{name}: {found['eval_exact']:.0%} exact, loss {found['eval_loss']:.3g}, "
            f"{found['eval_tokens_per_image']:.0f} tokens an image"
        )


if __name__ == "__main__":
    main()
