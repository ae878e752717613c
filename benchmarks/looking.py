"""Measure where a checkpoint looks on held-out synthetic documents, and what it says where there is nothing to see.

    python benchmarks/looking.py                                   # the bundled model; some twenty minutes on a core
    python benchmarks/looking.py --model CKPT --json looking.json --markdown looking.md --documents 500

At each budget, with 95 % intervals (bootstrap over documents):

- `moved`: of the cells in full detail for one question, as tokens of their own or in windows of pairs, the share that
  is not in full detail for another question about the same document whose evidence lies in other cells.
- `blank`: share of the tokens whose leaves show no word and no line: cells that carry no information.
- `beside`: share of the tokens whose leaves touch neither the evidence nor the words that the question names.

And for questions about printed values, asked of pictures of noise, white and black: `confident`, the share of answers
that name something (not "unreadable", "no" or nothing) with a probability, the geometric mean of their tokens', of
more than a half; the same for the documents themselves as `page`.
"""

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import interval, publish
from PIL import Image
from torch import Tensor

from arrcoc.cli.checkpoints import BUNDLED, checkpoint_folder, load_model, load_processor
from arrcoc.evaluation.digest import checkpoint_digest
from arrcoc.evaluation.documents import read_documents
from arrcoc.outputs import Allocation
from arrcoc.training.data.evidence import evidence_cells
from arrcoc.training.data.prompts import prompt_text
from arrcoc.training.data.rows import Row
from arrcoc.training.data.synthetic import synthetic_rows


DOCUMENTS = "size=256,kinds=form+receipt+invoice+table,split=heldout,clear"
BATCH = 32
PRINTED = ("key_value", "doc_field", "table_cell", "read_line", "text_next")
NOTHING = ("", "unreadable", "no")
LEAST = 1e-3  # information of a cell that is not blank


def blank_picture(name: str, size: tuple[int, int]) -> Image.Image:
    """A picture of uniform noise, or of one colour."""
    if name != "noise":
        return Image.new("RGB", size, name)
    generator = torch.Generator().manual_seed(0)
    return Image.fromarray(torch.randint(256, (size[1], size[0], 3), generator=generator, dtype=torch.uint8).numpy())


def batches(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    for start in range(0, len(rows), BATCH):
        yield rows[start : start + BATCH]


def inputs_of(processor: Any, rows: Sequence[Row], budget: float) -> dict[str, Tensor]:
    """Model inputs of questions with one picture each."""
    texts = [prompt_text(row, processor) for row in rows]
    pictures = [row.images[0] for row in rows]
    questions = [row.question for row in rows]
    return dict(
        processor(
            images=pictures, text=texts, queries=questions, token_budget=budget, padding=True, return_tensors="pt"
        )
    )


def cells_of(row: Row, boxes: Sequence[Any], grid: tuple[int, int]) -> Tensor:
    """Which cells boxes touch, `(cells,)` bool."""
    return evidence_cells(boxes, row.images[0].size, grid) > 0


def full_detail(allocation: Allocation) -> Tensor:
    """Which cells of an image are tokens of their own or share one that is a window of them, `(cells,)` bool."""
    leaf = allocation.cell_to_leaf
    return (allocation.levels[leaf.clamp(min=0)] == 0) & (leaf >= 0)


def tokens_without(allocation: Allocation, cells: Tensor) -> float:
    """Share of an image's leaves that hold none of some cells `(cells,)` bool."""
    held = torch.zeros(len(allocation.boxes)).index_add(0, allocation.cell_to_leaf, cells.float())
    return float((held == 0).float().mean())


def look(model: Any, processor: Any, pairs: Sequence[tuple[Row, Row]], budget: float) -> dict[str, list[float]]:
    """`moved` of each pair of questions, `blank` and `beside` of each first one."""
    found: dict[str, list[float]] = {"tokens": [], "moved": [], "blank": [], "beside": []}
    rows = [row for pair in pairs for row in pair]
    for part in batches(rows):
        inputs = inputs_of(processor, part, budget)
        with torch.no_grad():
            allocation = model.encode_images(**inputs).allocation
        information = inputs["image_information"].split(allocation.cells_per_image.tolist())
        for number in range(0, len(part), 2):
            row, own, other = part[number], allocation.image(number), allocation.image(number + 1)
            grid = tuple(own.grids[0].tolist())
            seen, seen_then = full_detail(own), full_detail(other)
            named = [*row.evidence[0], *row.key_boxes]
            found["tokens"].append(float(own.budgets[0]))
            if seen.any():
                found["moved"].append(float((seen & ~seen_then).sum() / seen.sum()))
            found["blank"].append(tokens_without(own, information[number] > LEAST))
            found["beside"].append(tokens_without(own, cells_of(row, named, grid)))
    return found


def elsewhere(rows: Sequence[Row], grid: tuple[int, int]) -> tuple[Row, Row] | None:
    """The first two questions about a document whose evidence, and what they name, lie in different cells."""
    known = [row for row in rows if row.evidence and row.evidence[0]]
    for number, row in enumerate(known):
        for other in known[number + 1 :]:
            touched = [cells_of(one, [*one.evidence[0], *one.key_boxes], grid) for one in (row, other)]
            if not (touched[0] & touched[1]).any():
                return row, other
    return None


def confident(model: Any, processor: Any, rows: Sequence[Row], budget: float) -> tuple[list[float], list[str]]:
    """Whether each answer names something with a probability of more than a half, and the answers."""
    values, answers = [], []
    for part in batches(rows):
        inputs = inputs_of(processor, part, budget)
        output = model.generate(
            **inputs, max_new_tokens=32, do_sample=False, output_logits=True, return_dict_in_generate=True
        )
        written = output.sequences[:, inputs["input_ids"].shape[1] :]  # (rows, tokens)
        likely = torch.stack(output.logits, 1).float().log_softmax(-1).gather(2, written[..., None])[..., 0]
        counted = written != processor.tokenizer.pad_token_id
        mean = ((likely * counted).sum(1) / counted.sum(1)).exp()
        for tokens, probability in zip(written, mean.tolist(), strict=True):
            answers.append(processor.decode(tokens, skip_special_tokens=True).strip())
            values.append(float(answers[-1].lower() not in NOTHING and probability > 0.5))
    return values, answers


def markdown(found: dict[str, Any]) -> str:
    """The page of what was measured."""

    def cell(values: dict[str, Any]) -> str:
        return f"{values['mean']:.3f} [{values['low']:.3f}, {values['high']:.3f}]"

    names = ("moved", "blank", "beside")
    lines = [
        "# Where the model looks",
        "",
        "Written by `python benchmarks/looking.py --markdown docs/looking.md`, which says what each figure is; no",
        "number is typed by hand. With 95 % intervals, bootstrap over documents.",
        "",
        f"- model: `{found['model']}`",
        f"- weights: `{found['weights']}`",
        f"- documents: `{found['documents']}`, of {found['native']} tokens",
        "",
        f"| share of the tokens | tokens | pairs of questions | {' | '.join(names)} |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for budget, values in found["looking"].items():
        shown = " | ".join(cell(values[name]) for name in names)
        lines.append(f"| {budget} | {values['tokens']['mean']:.0f} | {values['tokens']['items']} | {shown} |")
    lines += [
        "",
        "Share of answers to questions about printed values that name something with a probability of more than a",
        "half, and the most frequent answer:",
        "",
        "| share of the tokens | questions | the page | noise | white | black |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for budget, values in found["confident"].items():
        blind = " | ".join(f"{cell(values[name])} `{values[name]['often']}`" for name in ("noise", "white", "black"))
        lines.append(f"| {budget} | {values['page']['items']} | {cell(values['page'])} | {blind} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED, help="checkpoint folder, its name on the Hub, or the bundled one")
    parser.add_argument("--documents", type=int, default=1025)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.1], help="shares of the native tokens")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--markdown", type=Path, help="page to write")
    options = parser.parse_args()

    folder = checkpoint_folder(options.model)
    model, processor = load_model(folder).eval(), load_processor(folder)
    processor.tokenizer.padding_side = "left"
    documents = [synthetic_rows(document) for document in read_documents(f"{options.documents},{DOCUMENTS}")]
    first = documents[0][0]
    shape = inputs_of(processor, [first], 1.0)["image_grid_thw"][0, 1:] // processor.image_processor.merge_size
    grid = (int(shape[0]), int(shape[1]))
    pairs = [pair for rows in documents if (pair := elsewhere(rows, grid))]
    printed = [row for rows in documents if (row := next((row for row in rows if row.task in PRINTED), None))]

    result: dict[str, Any] = {
        "model": options.model,
        "weights": checkpoint_digest(folder),
        "documents": f"{options.documents},{DOCUMENTS}",
        "native": grid[0] * grid[1],
        "looking": {
            str(budget): {name: interval(values) for name, values in look(model, processor, pairs, budget).items()}
            for budget in options.budgets
        },
        "confident": {},
    }
    for budget in (1.0, *options.budgets):
        shown = {"page": confident(model, processor, printed, budget)}
        for name in ("noise", "white", "black"):
            rows = [replace(row, images=(blank_picture(name, row.images[0].size),)) for row in printed]
            shown[name] = confident(model, processor, rows, budget)
        result["confident"][str(budget)] = {
            name: interval(values) | {"often": max(set(answers), key=answers.count)}
            for name, (values, answers) in shown.items()
        }
    publish(result, markdown(result), options.json, options.markdown)


if __name__ == "__main__":
    main()
