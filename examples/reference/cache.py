"""Documents drawn once and kept as memory-mapped shards: drawing costs more than the step that learns from it.

A shard is a folder with `pixels.npy` `(documents, height, width, 3)` uint8, `letters.npz` and `questions.json`. It is
written under another name and then renamed, so a shard that exists is whole and any number of workers may be stopped
at any time.
"""

import json
import multiprocessing
import os
import shutil
import time
from dataclasses import dataclass
from functools import cached_property
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from arrcoc.synthetic import Document, bundled_face, generate


@dataclass(frozen=True)
class Drawing:
    """Documents to draw.

    Args:
        split: split of the generator.
        size: side in pixels.
        kinds: kinds of documents, or None for all.
        shards: number of shards.
        documents: documents of a shard.
        first: seed of the first document.
        plain: whether all are set in the one face that is bundled with Pillow.
        clear: whether letters are large and pages clean, or as in the world.
    """

    split: str
    size: int
    kinds: tuple[str, ...] | None
    shards: int
    documents: int = 256
    first: int = 0
    plain: bool = False
    clear: bool = False

    @property
    def name(self) -> str:
        """Folder name; equal for equal documents, however many shards are wanted."""
        kinds = "+".join(self.kinds or ("all",)) + "-plain" * self.plain + "-clear" * self.clear
        return f"{self.split}-{self.size}-{kinds}-{self.documents}-{self.first}"


_STALE = 300  # seconds after which an unfinished shard is held to be abandoned; drawing takes a tenth of them


class Shard:
    """A drawn shard, read when used.

    Args:
        folder: of the shard.
    """

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def pixels(self) -> NDArray:
        """`(documents, height, width, 3)` uint8, memory-mapped."""
        return np.load(self.folder / "pixels.npy", mmap_mode="r")

    @cached_property
    def _letters(self) -> dict[str, NDArray]:
        with np.load(self.folder / "letters.npz") as file:
            return {name: file[name] for name in file.files}

    @cached_property
    def questions(self) -> list[list[dict]]:
        """Of each document: `text, answers, evidence, named, kind`."""
        return json.loads((self.folder / "questions.json").read_text())

    def letters(self, index: int) -> tuple[NDArray, NDArray, NDArray]:
        """Of a document: centres `(letters, 2)` as x, y in pixels, code points, and whether a letter starts a word."""
        part = slice(*self._letters["ends"][index : index + 2])
        return self._letters["centers"][part], self._letters["codes"][part], self._letters["starts"][part]


def _letters_of(documents: list[Document]) -> dict[str, NDArray]:
    centers, codes, starts, ends = [], [], [], [0]
    for document in documents:
        for word in document.words:
            centers += word.char_centers()
            codes += map(ord, word.text)
            starts += [True] + [False] * (len(word.text) - 1)
        ends.append(len(codes))
    return {
        "centers": np.array(centers, np.float32).reshape(-1, 2),
        "codes": np.array(codes, np.int32),
        "starts": np.array(starts, bool),
        "ends": np.array(ends, np.int64),
    }


def draw_shard(drawing: Drawing, number: int, folder: Path) -> None:
    """Draw a shard, unless it is there or another worker is at it."""
    if folder.exists():
        return
    part = folder.with_suffix(".part")
    try:
        part.mkdir(parents=True)
    except FileExistsError:
        if time.time() - part.stat().st_mtime < _STALE:
            return
        shutil.rmtree(part)  # its worker was stopped
        part.mkdir()
    if folder.exists():  # another worker was done in between
        part.rmdir()
        return
    first = drawing.first + number * drawing.documents
    faces = (bundled_face(),) if drawing.plain else None
    seeds = range(first, first + drawing.documents)
    documents = [generate(seed, drawing.kinds, drawing.size, drawing.split, faces, drawing.clear) for seed in seeds]
    np.save(part / "pixels.npy", np.stack([np.asarray(document.image) for document in documents]))
    np.savez(part / "letters.npz", **_letters_of(documents))
    questions = [
        [
            {"text": q.text, "answers": q.answers, "evidence": q.evidence, "named": q.key_boxes, "kind": q.kind}
            for q in document.questions
        ]
        for document in documents
    ]
    (part / "questions.json").write_text(json.dumps(questions))
    os.replace(part, folder)


def _folders(drawing: Drawing, root: Path) -> list[Path]:
    return [root / drawing.name / f"{number:05d}" for number in range(drawing.shards)]


def draw(drawings: list[Drawing], root: Path) -> None:
    """Draw all missing shards, one after another; ends when all are there, whoever drew them."""
    wanted = [(drawing, *numbered) for drawing in drawings for numbered in enumerate(_folders(drawing, root))]
    while True:
        for drawing, number, folder in wanted:
            draw_shard(drawing, number, folder)
        if all(folder.exists() for _, _, folder in wanted):
            return
        time.sleep(5)


def start_drawing(drawings: list[Drawing], root: Path, count: int) -> list[BaseProcess]:
    """Start processes that draw all missing shards beside the training; none where none is missing."""
    if all(folder.exists() for drawing in drawings for folder in _folders(drawing, root)):
        return []
    context = multiprocessing.get_context("spawn")
    processes: list[BaseProcess] = [
        context.Process(target=draw, args=(drawings, root), daemon=True) for _ in range(count)
    ]
    for process in processes:
        process.start()
    return processes


def shards(drawing: Drawing, root: Path) -> list[Shard]:
    """All shards of a drawing; waits for those that workers still draw."""
    folders = _folders(drawing, root)
    while missing := [folder for folder in folders if not folder.exists()]:
        print(f"waiting for {len(missing)} of {len(folders)} shards of {drawing.name}", flush=True)
        time.sleep(10)
    return [Shard(folder) for folder in folders]
