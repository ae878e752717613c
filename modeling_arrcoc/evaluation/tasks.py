"""Tasks: questions about images, how answers are scored, and the groups that scores are reported for."""

import os
import random
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from arrcoc.processing import TIERS
from arrcoc.training.data import converters
from arrcoc.training.data.reading import BadRow, Rows, read_rows
from arrcoc.training.data.rows import Row

from . import answers, readers, transcripts
from .intervals import Interval, bootstrap_interval


Scores = dict[str, float]
LOWER_IS_BETTER = frozenset({"ned"})
FORMULAS = "Handwritten Mathematical Expression Recognition"

SHORT_ANSWER = "\nAnswer the question using a single word or phrase."


def _text_scores(row: Row, prediction: str) -> Scores:
    text = row.answers[0]
    return transcripts.word_scores(prediction, text) | {
        "ned": transcripts.normalized_edit_distance(prediction, text),
        "word_overlap": transcripts.word_overlap(prediction, text),
    }


def _ocrbench_scores(row: Row, prediction: str) -> Scores:
    contains = answers.contains_formula if row.task == FORMULAS else answers.contains_answer
    return {"contains_answer": contains(prediction, row.answers)}


def answer_scores(row: Row, prediction: str, names: Sequence[str]) -> Scores:
    """Scores of a prediction by the functions of [`answers`] of these names."""
    return {name: answers.ANSWER_METRICS[name](prediction, row.answers) for name in names}


@dataclass(frozen=True)
class Task:
    """Questions with a way to score their answers.

    Attributes:
        name (`str`): of the task.
        rows (`Sequence[Row]`): the questions.
        metric (`str`): the score that the task is known by, a key of what `score` returns.
        score (`Callable`): from a row and a prediction to scores by name.
        domain (`Callable`): from a row to the domain that it is reported with.
        instruction (`str`): what follows the question in the prompt; no part of the question that is allocated for.
        bad (`tuple[BadRow, ...]`): rows that could not be read, to be counted and listed.
        documents (`str`, *optional*): of synthetic documents, what they are drawn like, as of `read_documents`.
    """

    name: str
    rows: Sequence[Row]
    metric: str
    score: Callable[[Row, str], Scores]
    domain: Callable[[Row], str]
    instruction: str = ""
    bad: tuple[BadRow, ...] = ()
    documents: str | None = None

    def prompt(self, row: Row) -> str:
        """Text of the user turn."""
        return row.question + self.instruction

    def groups(self, row: Row) -> dict[str, str]:
        """What a row's scores are grouped by: its domain, kind of question, and difficulty where it is known."""
        found = {"domain": self.domain(row), "kind": row.task}
        return found if row.difficulty is None else found | {"difficulty": row.difficulty}

    def subset(self, count: int | None, seed: int = 0) -> "Task":
        """The task with `count` rows drawn without replacement, in their old order; all if there are no more."""
        if count is None or count >= len(self.rows):
            return self
        if count < 1:
            raise ValueError(f"count must be at least 1, got {count}")
        chosen = sorted(random.Random(seed).sample(range(len(self.rows)), count))
        return replace(self, rows=[self.rows[index] for index in chosen])


@dataclass(frozen=True)
class Part:
    """Files of a benchmark, relative to the folder that it was unpacked in.

    Attributes:
        domain (`str`): of its rows.
        annotations (`tuple[str, ...]`): the reader's annotation files.
        images (`str`): the reader's folder of images.
    """

    domain: str
    annotations: tuple[str, ...]
    images: str


@dataclass(frozen=True)
class Benchmark:
    """A benchmark with its published files.

    Attributes:
        published (`str`): where to download it.
        splits (`dict[str, tuple[Part, ...]]`): its files; the first split is the one that is reported.
        read (`Callable`): from the annotation files of a part, its folder of images and options to `Rows`.
        metric, score, instruction: as of [`Task`].
    """

    published: str
    splits: dict[str, tuple[Part, ...]]
    read: Callable[..., Rows]
    metric: str
    score: Callable[[Row, str], Scores]
    instruction: str = SHORT_ANSWER


def _by_answers(*names: str) -> Callable[[Row, str], Scores]:
    return partial(answer_scores, names=names)


def _chartqa_parts(split: str) -> tuple[Part, ...]:
    return tuple(
        Part(f"chart_{kind}", (f"{split}/{split}_{kind}.json",), f"{split}/png") for kind in ("human", "augmented")
    )


def _read_gqa(questions: Path, scene_graphs: Path | None = None, *, images: Path, **options: Any) -> Rows:
    return converters.read_gqa(questions, images, scene_graphs, **options)


def _read_vqav2(questions: Path, annotations: Path, images: Path, **options: Any) -> Rows:
    return converters.read_vqav2(questions, annotations, images, **options)


def _one_file(read: Callable[..., Rows]) -> Callable[..., Rows]:
    """A reader of one annotation file, called as those of several are."""
    return lambda annotations, images, **options: read(annotations, images, **options)


BENCHMARKS = {
    "docvqa": Benchmark(
        "https://rrc.cvc.uab.es/?ch=17 (task 1, single page document VQA; the images in a folder `documents`)",
        {
            "validation": (Part("document", ("val_v1.0_withQT.json",), "."),),
            "train": (Part("document", ("train_v1.0_withQT.json",), "."),),
        },
        _one_file(converters.read_docvqa),
        "anls",
        _by_answers("anls", "exact_match"),
    ),
    "infographicvqa": Benchmark(
        "https://rrc.cvc.uab.es/?ch=17 (task 3, infographics VQA)",
        {
            "validation": (Part("infographic", ("infographicsVQA_val_v1.0_withQT.json",), "infographicsvqa_images"),),
            "train": (Part("infographic", ("infographicsVQA_train_v1.0.json",), "infographicsvqa_images"),),
        },
        _one_file(converters.read_infographicvqa),
        "anls",
        _by_answers("anls", "exact_match"),
    ),
    "chartqa": Benchmark(
        "https://github.com/vis-nlp/ChartQA (folder `ChartQA Dataset`)",
        {split: _chartqa_parts(split) for split in ("test", "val", "train")},
        _one_file(converters.read_chartqa),
        "relaxed_accuracy",
        _by_answers("relaxed_accuracy", "exact_match"),
    ),
    "textvqa": Benchmark(
        "https://textvqa.org/dataset (v0.5.1 and its training and validation images)",
        {
            "validation": (Part("scene_text", ("TextVQA_0.5.1_val.json",), "train_images"),),
            "train": (Part("scene_text", ("TextVQA_0.5.1_train.json",), "train_images"),),
        },
        _one_file(converters.read_textvqa),
        "vqa_accuracy",
        _by_answers("vqa_accuracy", "exact_match"),
    ),
    "stvqa": Benchmark(
        "https://rrc.cvc.uab.es/?ch=11 (scene text VQA, task 3; answers are published for its training set alone)",
        {"train": (Part("scene_text", ("train_task_3.json",), "."),)},
        _one_file(converters.read_stvqa),
        "anls",
        _by_answers("anls", "exact_match"),
    ),
    "vqav2": Benchmark(
        "https://visualqa.org/download.html (balanced real images)",
        {
            split: (
                Part(
                    "natural",
                    (f"v2_OpenEnded_mscoco_{images}_questions.json", f"v2_mscoco_{images}_annotations.json"),
                    images,
                ),
            )
            for split, images in (("validation", "val2014"), ("train", "train2014"))
        },
        _read_vqav2,
        "vqa_accuracy",
        _by_answers("vqa_accuracy", "exact_match"),
    ),
    "gqa": Benchmark(
        "https://cs.stanford.edu/people/dorarad/gqa/download.html (questions 1.2, images, scene graphs for val)",
        {
            "testdev": (Part("natural", ("testdev_balanced_questions.json",), "images"),),
            "val": (Part("natural", ("val_balanced_questions.json", "val_sceneGraphs.json"), "images"),),
        },
        _read_gqa,
        "exact_match",
        _by_answers("exact_match"),
    ),
    "ocrbench": Benchmark(
        "https://github.com/Yuliang-Liu/MultimodalOCR (OCRBench.json and OCRBench_Images)",
        {"test": (Part("", ("OCRBench.json",), "OCRBench_Images"),)},
        _one_file(readers.read_ocrbench),
        "contains_answer",
        _ocrbench_scores,
        instruction="",
    ),
    "fox": Benchmark(
        "https://huggingface.co/datasets/ucaslcl/Fox_benchmark_data (focus_benchmark_test.zip)",
        {
            "english": (Part("dense_text_en", ("en_page_ocr.json",), "en_pdf_png"),),
            "chinese": (Part("dense_text_cn", ("cn_page_ocr.json",), "cn_pdf_png"),),
        },
        _one_file(readers.read_fox),
        "f1",
        _text_scores,
        instruction="",
    ),
}


def benchmark_task(name: str, folder: str | os.PathLike, split: str | None = None, **options: Any) -> Task:
    """A published benchmark from the files of its publishers.

    Args:
        name (`str`): a key of `BENCHMARKS`.
        folder (path): where it was unpacked.
        split (`str`, *optional*): the benchmark's first if not given.
        **options: `bad_rows` and `check_images` as in `read_rows`.

    Raises:
        ValueError: if there is no such benchmark or split.
        FileNotFoundError: if a file is missing; the message says where it is published.
    """
    if name not in BENCHMARKS:
        raise ValueError(f"found benchmark {name!r}; expected one of {sorted(BENCHMARKS)}")
    benchmark = BENCHMARKS[name]
    split = next(iter(benchmark.splits)) if split is None else split
    if split not in benchmark.splits:
        raise ValueError(f"found split {split!r} of {name}; expected one of {list(benchmark.splits)}")
    rows: list[Row] = []
    bad: list[BadRow] = []
    domains: dict[str, str] = {}
    for part in benchmark.splits[split]:
        paths = [Path(folder) / file for file in (*part.annotations, part.images)]
        for path in paths:
            if not path.exists():
                raise FileNotFoundError(f"{path} does not exist; {name} is published at {benchmark.published}")
        found = benchmark.read(*paths[:-1], images=paths[-1], **options)
        domains |= {row.id: part.domain for row in found}
        rows += found
        bad += found.bad
    return Task(
        name=name,
        rows=rows,
        metric=benchmark.metric,
        score=benchmark.score,
        domain=lambda row: domains[row.id] or row.task,
        instruction=benchmark.instruction,
        bad=tuple(bad),
    )


def rows_task(
    source: Any, metric: str = "anls", name: str | None = None, instruction: str = "", **options: Any
) -> Task:
    """A task of rows from JSON lines or any other source that `read_rows` takes; a row's domain is its `set`.

    Args:
        source: as of `read_rows`.
        metric (`str`): a key of `answers.ANSWER_METRICS`.
        name (`str`, *optional*): of the task; the name of the file if not given.
        instruction (`str`): as of [`Task`].
        **options: as of `read_rows`.

    Raises:
        ValueError: if there is no such metric, or as `read_rows`.
    """
    if metric not in answers.ANSWER_METRICS:
        raise ValueError(f"found metric {metric!r}; expected one of {sorted(answers.ANSWER_METRICS)}")
    rows = read_rows(source, **options)
    if name is None:
        name = Path(source).stem if isinstance(source, str | os.PathLike) else "rows"
    return Task(
        name=name,
        rows=rows,
        metric=metric,
        score=_by_answers(*dict.fromkeys((metric, "anls", "exact_match"))),
        domain=lambda row: row.set,
        instruction=instruction,
        bad=tuple(rows.bad),
    )


def image_key(row: Row) -> Hashable:
    """What tells a row's images from those of other rows: intervals are drawn over images."""
    return tuple(id(image) if isinstance(image, Image.Image) else image for image in row.images)


def tier_of(tokens: int, tiers: Sequence[int] = TIERS) -> str:
    """The range of visual tokens that a number lies in, named by its ends: `"101-160"`, `"1-64"`, `"401-"`."""
    if tokens < 1:
        raise ValueError(f"an image has at least one token, got {tokens}")
    ends = [0, *sorted(tiers)]
    for low, high in zip(ends, ends[1:], strict=False):
        if tokens <= high:
            return f"{low + 1}-{high}"
    return f"{ends[-1] + 1}-"


def difficult_items(native: Sequence[float], resized: Sequence[float], threshold: float = 0.5) -> list[bool]:
    """VTC-Bench's difficult group: items that the native image answers and an equally long resized one does not.

    On all other items a plain resize is as good as any method, so that they say nothing about methods ("Are we using
    the right benchmark: an evaluation framework for visual token compression methods", 2025).

    Args:
        native, resized (`Sequence[float]`): score of each item at native budget and resized.
        threshold (`float`): score from which on an item counts as answered.

    Raises:
        ValueError: if the numbers of items differ.
    """
    if len(native) != len(resized):
        raise ValueError(f"found {len(native)} native scores and {len(resized)} resized ones; expected the same items")
    return [full >= threshold > small for full, small in zip(native, resized, strict=True)]


def grouped_intervals(
    scores: Sequence[float], labels: Sequence[str], images: Sequence[Hashable], **options: Any
) -> dict[str, tuple[int, Interval]]:
    """Mean and interval of each group, with its number of items.

    Args:
        scores (`Sequence[float]`), labels (`Sequence[str]`), images (`Sequence[Hashable]`): score, group and image of
            each item.
        **options: of `bootstrap_interval`.

    Returns:
        `dict[str, tuple[int, Interval]]`: by label, in alphabetical order.
    """
    if not len(scores) == len(labels) == len(images):
        raise ValueError(f"found {len(scores)} scores, {len(labels)} labels and {len(images)} images")
    groups: dict[str, list[int]] = {}
    for index, label in enumerate(labels):
        groups.setdefault(label, []).append(index)
    return {
        label: (
            len(groups[label]),
            bootstrap_interval([scores[i] for i in groups[label]], [images[i] for i in groups[label]], **options),
        )
        for label in sorted(groups)
    }
