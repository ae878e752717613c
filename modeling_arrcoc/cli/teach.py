"""`arrcoc teach`: where a host looks when it answers, measured once for a data set."""

import json
import warnings
from collections import Counter
from dataclasses import replace
from pathlib import Path

import torch
from tqdm import tqdm

from arrcoc.training.data import ArrCocCollator, Row, read_rows
from arrcoc.training.teacher import TeacherCache, shards, teacher_maps, teacher_settings, write_shard

from .checkpoints import checkpoint_folder, load_model, load_processor


def teach(
    model: str, data: Path, out: Path, batch_size: int = 4, shard_rows: int = 512, as_json: bool = False
) -> None:
    """Measure a host's attention from answers to visual tokens at native budget, and keep it for training.

    What OUT holds already is not measured again, so a run that was cut off is continued by the same command.

    Args:
        model (`str`): checkpoint folder, wrapped or stock, or its name on the Hub.
        data (`Path`): rows to train on, with ids, images and answers.
        out (`Path`): folder for the maps.
        batch_size (`int`): rows at a time.
        shard_rows (`int`): rows of a file.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the checkpoint or the data cannot be read, two rows have the same id, or OUT holds maps
            that were made with another model or other settings.
    """
    rows = [replace(row, token_budget=None) for row in read_rows(data) if row.images]
    if not rows:
        raise ValueError(f"{data} holds no rows with images")
    if twice := [name for name, count in Counter(row.id for row in rows).items() if count > 1]:
        raise ValueError(f"ids of rows must differ, but {len(twice)} are found several times, such as {twice[0]!r}")
    folder = checkpoint_folder(model)
    network = load_model(folder).eval()
    if torch.accelerator.is_available():
        network = network.to(torch.accelerator.current_accelerator())
    processor = load_processor(folder)
    processor.token_budget = None
    name = str(folder.resolve()) if Path(model).expanduser().is_dir() else model
    settings = teacher_settings(name, network, processor)
    done = TeacherCache(out, settings) if shards(out) else {}

    collator = ArrCocCollator(processor)
    todo = [row for row in rows if row.id not in done]
    broken: list[str] = []
    with tqdm(total=len(rows), initial=len(rows) - len(todo), desc="teaching", unit=" rows", leave=False) as bar:
        for start in range(0, len(todo), shard_rows):
            maps: dict[str, torch.Tensor] = {}
            shard = todo[start : start + shard_rows]
            for first in range(0, len(shard), batch_size):
                batch = opened(shard[first : first + batch_size], broken)
                if batch:
                    found = teacher_maps(network, collator(batch))
                    maps |= {row.id: map for row, map in zip(batch, found, strict=True)}
                bar.update(len(shard[first : first + batch_size]))
            if maps:
                write_shard(out, maps, settings)
    if broken:
        warnings.warn(f"{len(broken)} rows were left out; the first: {broken[0]}", stacklevel=2)
    report = {
        "model": model,
        "out": str(out),
        "rows": len(rows),
        "measured": len(todo) - len(broken),
        "found": len(rows) - len(todo),
        "left_out": len(broken),
        "layers": settings["layers"],
    }
    if as_json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        layers = f"{report['layers'][0]}-{report['layers'][-1]}"
        print(f"{out}: {report['measured']} rows measured, {report['found']} found, from layers {layers} of {model}")


def opened(rows: list[Row], broken: list[str]) -> list[Row]:
    """Rows with their images; what is wrong with those that have none is added to `broken`."""
    found = []
    for row in rows:
        try:
            found.append(row.decoded())
        except ValueError as error:
            broken.append(str(error))
    return found
