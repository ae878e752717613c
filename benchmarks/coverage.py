"""Measure how much of the evidence a checkpoint shows in full detail, on rows whose evidence is known.

    python benchmarks/coverage.py --data pages.jsonl                    # the bundled model
    python benchmarks/coverage.py --data pages.jsonl --json coverage.json --markdown coverage.md

No question is answered: pictures are encoded under a budget and the allocation is read. For each set of rows (`set`),
at each budget, with 95 % intervals (bootstrap over images), the share of the evidence's area that lies in cells which
are tokens of their own:

- `arrcoc`: as the checkpoint is configured.
- `best cells`: its most relevant cells alone, without any context (policy `topk`).
- `information`: the cells of most information, which is measured on the pixels and reads no question.

And beside it `resolution`, the mean linear resolution over the evidence's area (1 in full detail, 1/2 where four cells
share a token), of `arrcoc` and of `uniform`, equal leaves everywhere.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import interval, publish
from torch import Tensor

from arrcoc.allocation import allocate
from arrcoc.cli.checkpoints import BUNDLED, checkpoint_folder, load_model, load_processor
from arrcoc.configuration_arrcoc import ArrCocConfig
from arrcoc.evaluation.coverage import Coverage, row_coverage
from arrcoc.evaluation.digest import ANSWERING, checkpoint_digest
from arrcoc.evaluation.tasks import image_key
from arrcoc.outputs import Allocation
from arrcoc.training.data.prompts import prompt_text
from arrcoc.training.data.reading import read_rows
from arrcoc.training.data.rows import Row


SHOWN = {"full_detail": ("arrcoc", "best cells", "information"), "resolution": ("arrcoc", "uniform")}
ALL = "all"


def measure(model: Any, processor: Any, row: Row, budget: float) -> dict[str, Coverage]:
    """Coverage of a row's evidence, of which there is some, by each method."""
    row = row.decoded()
    inputs = dict(
        processor(
            images=list(row.images),
            text=[prompt_text(row, processor)],
            queries=[row.question] * len(row.images),
            token_budget=budget,
            return_tensors="pt",
        )
    )
    with torch.no_grad():
        allocation = model.encode_images(**inputs).allocation
    information = inputs["image_information"].clamp(min=1e-6)  # relevance has to be positive
    found = {
        "arrcoc": allocation,
        "best cells": by_policy("topk", allocation.relevance, allocation),
        "information": by_policy("topk", information, allocation),
        "uniform": by_policy("uniform", information, allocation),
    }
    return {name: row_coverage(each, row) for name, each in found.items()}


def by_policy(policy: str, relevance: Tensor, allocation: Allocation) -> Allocation:
    """The leaves that a policy makes of some relevance `(cells,)`, as many as an allocation has of the same images."""
    nothing = torch.zeros(len(relevance), 1)  # of these policies, none looks at features
    config = ArrCocConfig(policy=policy)
    return allocate(nothing, relevance, allocation.grids, allocation.budgets, config)


def summarize(rows: Sequence[Row], found: Sequence[dict[str, Coverage]]) -> dict[str, dict[str, Any]]:
    """Means with intervals by set, `all` last, then by kind of coverage and method."""
    result: dict[str, dict[str, Any]] = {}
    sets = [*dict.fromkeys(row.set or "rows" for row in rows), ALL]
    for name in sets:
        part = [(row, values) for row, values in zip(rows, found, strict=True) if name in (ALL, row.set or "rows")]
        images = [image_key(row) for row, _ in part]
        result[name] = {"items": len(part), "images": len(set(images))}
        for kind, methods in SHOWN.items():
            result[name][kind] = {
                method: interval([getattr(values[method], kind) for _, values in part], images) for method in methods
            }
    return result


def markdown(result: dict[str, Any]) -> str:
    """The page of what was measured."""
    heads = [f"{kind.replace('_', ' ')}: {method}" for kind, methods in SHOWN.items() for method in methods]
    lines = [
        "# Where the evidence is",
        "",
        "Written by `python benchmarks/coverage.py --data FILE --markdown PAGE`, which says what each figure is; no",
        "number is typed by hand. With 95 % intervals, bootstrap over images.",
        "",
        f"- model: `{result['model']}`",
        f"- weights: `{result['weights']}`, of these what decides where to look: `{result['looking_weights']}`",
        f"- rows: {result['rows']}, {result['left_out']} without evidence left out",
    ]
    for budget, sets in result["budgets"].items():
        lines += [
            "",
            f"At {float(budget):.3g} of the tokens:",
            "",
            f"| set | questions | images | {' | '.join(heads)} |",
            "|---|---:|---:|" + "---:|" * len(heads),
        ]
        for name, values in sets.items():
            shown = [values[kind][method] for kind, methods in SHOWN.items() for method in methods]
            cells = " | ".join(f"{one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for one in shown)
            lines.append(f"| {name} | {values['items']} | {values['images']} | {cells} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=BUNDLED, help="checkpoint folder, its name on the Hub, or the bundled one")
    parser.add_argument("--data", required=True, help="rows with evidence, as `arrcoc train` reads them")
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.1], help="shares of the native tokens")
    parser.add_argument("--json", type=Path, help="file to write")
    parser.add_argument("--markdown", type=Path, help="page to write")
    options = parser.parse_args()

    folder = checkpoint_folder(options.model)
    model, processor = load_model(folder).eval(), load_processor(folder)
    every = read_rows(options.data)
    rows = [row for row in every if row.evidence and any(row.evidence)]
    if not rows:
        parser.error(f"expected rows with evidence, found none in {options.data}")
    # One scorer is made of the language model's first layer; nothing else that looks is made of its layers.
    answering = () if model.config.arrcoc_config.query_scorer == "attention" else ANSWERING
    result: dict[str, Any] = {
        "model": options.model,
        "weights": checkpoint_digest(folder),
        "looking_weights": checkpoint_digest(folder, answering),
        "rows": len(rows),
        "left_out": len(every) - len(rows),
        "budgets": {},
    }
    for budget in options.budgets:
        found = [measure(model, processor, row, budget) for row in rows]
        result["budgets"][str(budget)] = summarize(rows, found)
    publish(result, markdown(result), options.json, options.markdown)


if __name__ == "__main__":
    main()
