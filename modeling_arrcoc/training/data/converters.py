"""Rows from the files in which public data sets are published.

Every reader takes the annotation files as they are downloaded and the folder with the images, and returns `Rows`; the
id of a row is that of the data set, if it has any, after the name of the data set.
Answers of several annotators are all kept, for metrics that count them; the one that training teaches stands first.
"""

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .reading import Rows, collect_rows
from .rows import Row, row_from_dict


Paths = str | os.PathLike | Sequence[str | os.PathLike]

_LLAVA_IMAGE = "<image>"


def majority_first(answers: Sequence[str], majority: str | None = None) -> list[str]:
    """The annotators' answers with the most frequent one in front.

    Args:
        answers (`Sequence[str]`): one an annotator.
        majority (`str`, *optional*): the most frequent one if the data set names it; among equals the first given.

    Returns:
        The same answers in another order.
    """
    if not answers:
        return []
    if majority is None or majority not in answers:
        majority = Counter(answers).most_common(1)[0][0]
    rest = list(answers)
    rest.remove(majority)
    return [majority, *rest]


def read_docvqa(annotations: Paths, images: str | os.PathLike, **options: Any) -> Rows:
    """DocVQA (single page), `train_v1.0.json` or `train_v1.0_withQT.json` (Mathew et al. 2021).

    Args:
        annotations: The file, or several.
        images: Folder that holds `documents/`.
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [_fields(record["questionId"], record["image"], record["question"], record.get("answers"))]

    return _read(annotations, "docvqa", "ocr", _data, parse, images, options)


def read_infographicvqa(annotations: Paths, images: str | os.PathLike, **options: Any) -> Rows:
    """InfographicVQA, `infographicsVQA_train_v1.0.json`, `infographicsVQA_val_v1.0_withQT.json` (Mathew et al. 2022).

    Args:
        annotations: The file, or several.
        images: Folder of the images (`infographicsvqa_images`).
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        # "evidence" of these files names kinds of evidence ("Text", "Figure"), no places.
        return [_fields(record["questionId"], record["image_local_name"], record["question"], record.get("answers"))]

    return _read(annotations, "infographicvqa", "ocr", _data, parse, images, options)


def read_chartqa(annotations: Paths, images: str | os.PathLike, **options: Any) -> Rows:
    """ChartQA, `train_human.json` and `train_augmented.json` (Masry et al. 2022).

    Args:
        annotations: The file, or several.
        images: Folder of the images (`train/png`).
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [_fields(None, record["imgname"], record["query"], record.get("label"))]

    return _read(annotations, "chartqa", "chart", _items, parse, images, options)


def read_textvqa(annotations: Paths, images: str | os.PathLike, **options: Any) -> Rows:
    """TextVQA, `TextVQA_0.5.1_train.json` (Singh et al. 2019): ten annotators' answers, the most frequent first.

    Args:
        annotations: The file, or several.
        images: Folder of the images (`train_images`).
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        answers = majority_first(record.get("answers") or [])
        fields = _fields(record["question_id"], f"{record['image_id']}.jpg", record["question"], answers)
        return [fields | {"width": record.get("image_width"), "height": record.get("image_height")}]

    return _read(annotations, "textvqa", "ocr", _data, parse, images, options)


def read_stvqa(annotations: Paths, images: str | os.PathLike, **options: Any) -> Rows:
    """ST-VQA, `train_task_3.json` (Biten et al. 2019).

    Args:
        annotations: The file, or several.
        images: Folder that holds the source data sets' folders (`coco-text`, `visualgenome`, ...).
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [_fields(record["question_id"], record["file_path"], record["question"], record.get("answers"))]

    return _read(annotations, "stvqa", "ocr", _data, parse, images, options)


def read_vqav2(
    questions: str | os.PathLike, annotations: str | os.PathLike | None, images: str | os.PathLike, **options: Any
) -> Rows:
    """VQAv2, questions and annotations in two files (Goyal et al. 2017): the most frequent of ten answers first.

    Args:
        questions: `v2_OpenEnded_mscoco_train2014_questions.json`; names the images' split.
        annotations: `v2_mscoco_train2014_annotations.json`; `None` for the test split (with
            `require_answers=False`).
        images: Folder of the COCO images (`train2014`).
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """
    annotated = (
        {} if annotations is None else {entry["question_id"]: entry for entry in _load(annotations)["annotations"]}
    )
    split = _load(questions)["data_subtype"]

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        number = record["question_id"]
        entry = annotated.get(number, {})
        given = [answer["answer"] for answer in entry.get("answers", ())]
        answers = majority_first(given, entry.get("multiple_choice_answer"))
        return [_fields(number, f"COCO_{split}_{record['image_id']:012d}.jpg", record["question"], answers)]

    def records(loaded: Any) -> list[Any]:
        return loaded["questions"]

    return _read(questions, "vqav2", "vqa", records, parse, images, options)


def read_gqa(
    questions: Paths,
    images: str | os.PathLike,
    scene_graphs: str | os.PathLike | None = None,
    full_answers: bool = False,
    **options: Any,
) -> Rows:
    """GQA, `train_balanced_questions.json` (Hudson & Manning 2019).

    Args:
        questions: The file, or several.
        images: Folder of the images.
        scene_graphs (*optional*): `train_sceneGraphs.json`: the boxes of the objects that question and answer name
            become evidence.
        full_answers (`bool`): whether training teaches the sentence rather than the word.
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """
    graphs = {} if scene_graphs is None else _load(scene_graphs)

    def parse(record: tuple[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
        number, question = record
        image = question["imageId"]
        answers = [question[name] for name in ("answer", "fullAnswer") if name in question]
        fields = _fields(number, f"{image}.jpg", question["question"], answers[::-1] if full_answers else answers[:1])
        graph = graphs.get(image)
        if graph is not None:
            fields |= {"width": graph["width"], "height": graph["height"]}
            fields["evidence"] = _object_boxes(question.get("annotations") or {}, graph) or None
        return [fields]

    def records(loaded: Any) -> list[Any]:
        return list(loaded.items())

    return _read(questions, "gqa", "vqa", records, parse, images, options)


def read_llava(annotations: Paths, images: str | os.PathLike, task: str = "vqa", **options: Any) -> Rows:
    """Conversations as in `llava_v1_5_mix665k.json` (Liu et al. 2023): one row a question, earlier turns as history.

    Args:
        annotations: The file, or several.
        images: Folder that the paths of images are relative to.
        task (`str`): of all rows.
        options: `bad_rows`, `check_images` and `require_answers` as in `read_rows`.
    """

    def parse(record: Mapping[str, Any]) -> list[dict[str, Any]]:
        turns = record["conversations"]
        speakers = [turn["from"] for turn in turns]
        if not turns or speakers != ["human", "gpt"] * (len(turns) // 2):
            raise ValueError(f"a conversation must alternate between human and gpt, found {speakers}")
        images = record.get("image")
        marks = sum(turn["value"].count(_LLAVA_IMAGE) for turn in turns)
        count = len(images) if isinstance(images, list) else int(images is not None)
        if marks != count or marks != turns[0]["value"].count(_LLAVA_IMAGE):
            raise ValueError(f"{count} images, but {marks} {_LLAVA_IMAGE} in the conversation; they must open it")
        texts = [turn["value"].replace(_LLAVA_IMAGE, "").strip() for turn in turns]
        pairs = list(zip(texts[::2], texts[1::2], strict=True))
        return [
            # Conversations about one picture share their id.
            _fields(None, images, question, answer) | {"history": pairs[:number]}
            for number, (question, answer) in enumerate(pairs)
        ]

    return _read(annotations, "llava", task, _items, parse, images, options)


READERS: dict[str, Callable[..., Rows]] = {
    "docvqa": read_docvqa,
    "infographicvqa": read_infographicvqa,
    "chartqa": read_chartqa,
    "vqav2": read_vqav2,
    "gqa": read_gqa,
    "textvqa": read_textvqa,
    "stvqa": read_stvqa,
    "llava": read_llava,
}


def _read(
    annotations: Paths,
    name: str,
    task: str,
    records: Callable[[Any], list[Any]],
    parse: Callable[[Any], list[dict[str, Any]]],
    images: str | os.PathLike,
    options: Mapping[str, Any],
) -> Rows:
    """Read annotation files of a data set.

    Args:
        annotations: Files.
        name: Of the data set.
        task: Of all rows.
        records: Finds the records in a loaded file.
        parse: Makes the fields of rows from a record.
        images: Folder of the images.
        options: `bad_rows`, `check_images` and `require_answers`.
    """
    options = dict(options)
    required = options.pop("require_answers", True)
    rows = Rows()
    for path in [annotations] if isinstance(annotations, str | os.PathLike) else annotations:

        def to_rows(record: Any, line: int, path: str | os.PathLike = path) -> list[Row]:
            made = []
            for turn, fields in enumerate(parse(record)):
                number = fields["id"]  # those of different data sets may be equal
                identifier = f"{name}_{Path(path).stem}_{line}_{turn}" if number is None else f"{name}_{number}"
                fields |= {"id": identifier, "task": task, "set": name}
                made.append(row_from_dict(fields, identifier, images, None, required))
            return made

        found = collect_rows(str(path), _numbered(records(_load(path))), to_rows, **options)
        rows.extend(found)
        rows.bad.extend(found.bad)
    return rows


def _fields(identifier: Any, image: Any, question: str, answers: Any) -> dict[str, Any]:
    return {"id": identifier, "images" if isinstance(image, list) else "image": image} | {
        "question": question,
        "answers": answers,
    }


def _load(path: str | os.PathLike) -> Any:
    with open(path, encoding="utf-8") as file:
        try:
            return json.load(file)
        except ValueError as error:
            raise ValueError(f"{path} is no JSON file: {error}") from error


def _data(loaded: Any) -> list[Any]:
    if not isinstance(loaded, dict) or "data" not in loaded:
        raise ValueError('expected a file of the form {"data": [...], ...}')
    return loaded["data"]


def _items(loaded: Any) -> list[Any]:
    if not isinstance(loaded, list):
        raise ValueError("expected a file that holds a list of records")
    return loaded


def _numbered(records: list[Any]) -> Iterator[tuple[int, Any]]:
    return iter(enumerate(records, start=1))


def _object_boxes(annotations: Mapping[str, Mapping[str, str]], graph: Mapping[str, Any]) -> list[list[float]]:
    """Boxes of a scene graph's objects that a question and its answers point to, each once; no empty ones."""
    named = dict.fromkeys(number for spans in annotations.values() for number in spans.values())
    found = [graph["objects"][number] for number in named if number in graph["objects"]]
    return [
        [one["x"], one["y"], one["x"] + one["w"], one["y"] + one["h"]]
        for one in found
        if one["w"] > 0 and one["h"] > 0
    ]
