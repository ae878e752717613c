"""Train the reference model, a small Qwen3-VL or Qwen2.5-VL with ARR-COC, from nothing on synthetic documents.

    python examples/train_reference.py --preset quick --out runs/quick  # two cores, ten minutes: that it learns at all
    python examples/train_reference.py --preset cpu --out runs/cpu      # two cores, six hours
    python examples/train_reference.py --preset gpu --out runs/gpu --minutes 9  # one large GPU, three times
    python examples/train_reference.py --preset plain --host qwen2_5_vl --out runs/twin  # the other host, three hours
    python examples/train_reference.py --start arrcoc-tiny --stages together --out runs/further  # go on from weights

The tower learns to read (every visual token says which characters stand in its cell), last at the size of the pages,
then the language model to find words and to copy them, in small windows and then on whole pages, and the ARR-COC
block, from evidence, where to look; then tower and language model answer with 5 to 100 % of the tokens. Then all but
the embeddings learns at once, from whole pages of two sizes that are narrowed, slanted and made bolder or lighter, of
cells that share a token in pairs, and under budgets, and ends as the running mean of its weights; with the tower as it
is then the block looks once more. The same command resumes where it was stopped, at any time. `--out` gets `state.pt`,
`log.jsonl`, and in the end `checkpoint`, for `from_pretrained`, and `results.json`: exact answers on documents whose
words, typefaces and layouts were nowhere in the training.
"""

import argparse
import copy
import json
import os
import sys
from pathlib import Path

import torch
from reference import workers
from reference.cache import start_drawing
from reference.loop import Trainer
from reference.model import HOSTS
from reference.plan import Plan, Reference
from reference.presets import PRESETS, STAGES
from reference.tokenizer import CELL, build_processor

from arrcoc.cli.checkpoints import checkpoint_folder, load_model


# Freed memory stays with the process: handing it back costs page faults, half the time of a step.
MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(2**33), "MALLOC_TRIM_THRESHOLD_": str(2**33)}


def save_checkpoint(reference: Reference, folder: Path, side: int) -> None:
    """Write model and processor, for `from_pretrained`; the processor enlarges pages to `side` pixels.

    All weights of the file are in bfloat16, also those that a model computes with in float32 once they are loaded.
    """
    model = copy.deepcopy(reference.model).to("cpu", torch.bfloat16)
    model.save_pretrained(folder, state_dict={name: w.to(torch.bfloat16) for name, w in model.state_dict().items()})
    build_processor(least_cells=(side // CELL) ** 2).save_pretrained(folder)


def load_checkpoint(reference: Reference, name: str) -> None:
    """Take a checkpoint's weights; what it does not hold, the reader, stays as it is.

    Args:
        reference: of the checkpoint's host and size, with the same parts in its block.
        name: folder of the checkpoint, or a bundled one's name.

    Raises:
        ValueError: if the checkpoint has other weights.
    """
    try:
        reference.model.load_state_dict(load_model(checkpoint_folder(name)).state_dict())
    except RuntimeError as error:
        raise ValueError(f"{name} has other weights than the preset's model: {error}") from None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the state, the log and the checkpoint")
    parser.add_argument("--preset", choices=PRESETS, default="cpu")
    parser.add_argument("--host", choices=HOSTS, default="qwen3_vl", help="architecture of the model")
    parser.add_argument("--start", help="checkpoint to go on from, a folder or a bundled one's name")
    parser.add_argument(
        "--stages", nargs="+", choices=STAGES, default=STAGES, help="all by default; their order holds"
    )
    parser.add_argument("--documents", type=Path, help="folder of drawn documents; OUT/documents by default")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop then; the same command resumes")
    parser.add_argument("--workers", type=int, help="processes of one thread each; as in the preset by default")
    options = parser.parse_args()
    if any(os.environ.get(name) != value for name, value in MALLOC.items()):
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **MALLOC})

    preset = PRESETS[options.preset]
    count = options.workers or preset.workers
    worker = workers.start(count)
    on_gpu = torch.cuda.is_available() and count == 1
    if not on_gpu:
        torch.set_num_threads(1)
    root = options.documents or options.out / "documents"
    drawing = preset.drawings(options.stages)
    drawers = start_drawing(drawing, root, max(2, (os.cpu_count() or 1) - 2)) if worker[0] == 0 else []

    torch.manual_seed(0)
    reference = Reference(preset.model, options.host, **preset.block).to("cuda" if on_gpu else "cpu")
    if options.start is not None:
        load_checkpoint(reference, options.start)
    plan = Plan(preset, root, reference)
    trainer = Trainer(
        reference,
        plan.stages(options.stages, has_reader=options.start is None),
        options.out,
        validate_every=preset.validate_every,
        worker=worker,
        readers=8 if on_gpu else 4,
    )
    finished = trainer.run(options.minutes * 60)
    for process in drawers:
        process.join()
    if finished and worker[0] == 0:
        save_checkpoint(reference, options.out / "checkpoint", preset.side)
        reference.eval()
        with torch.no_grad():
            results = plan.exam(preset.heldout)(reference.model)
        (options.out / "results.json").write_text(json.dumps(results, indent=2))
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
