"""Run tasks under policies and budgets, item by item, so that a killed run goes on where it was."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from PIL import Image
from tqdm import tqdm

from arrcoc.training.data.rows import ImageSource, Row, StoredImage

from .policies import Answer, Condition
from .records import ItemLog, Record, open_run, read_records, record_key
from .tasks import LOWER_IS_BETTER, Task, image_key


FORMAT = 1
EVIDENCE_METRIC = "resolution"


class Policies(Protocol):
    """What answers: `ModelPolicies` or `WeightlessPolicies`."""

    @property
    def allowed(self) -> tuple[str, ...]:
        """Names of policies."""

    def answers(
        self, task: Task, rows: Sequence[Row], wanted: Sequence[Condition]
    ) -> Iterator[tuple[Condition, list[Answer]]]: ...


def evidence_task(task: Task) -> tuple[Task, int]:
    """A task scored by the coverage of evidence alone, and the number of its rows that have none and are left out."""
    rows = [row for row in task.rows if row.evidence and any(row.evidence)]
    if not rows:
        raise ValueError(f"no row of {task.name} has evidence; without a model there is nothing else to measure")
    return replace(task, rows=rows, metric=EVIDENCE_METRIC), len(task.rows) - len(rows)


def task_settings(task: Task, without_evidence: int | None = None) -> dict[str, Any]:
    """What a run's header says about a task; another set of rows has another digest."""
    digest = hashlib.sha256()
    for row in task.rows:
        images = [image_place(image) for image in row.images]
        fields = [row.id, row.question, row.answers, row.evidence, images]
        digest.update(json.dumps(fields, ensure_ascii=False, default=str).encode())
    settings: dict[str, Any] = {
        "metric": task.metric,
        "instruction": task.instruction,
        "rows": len(task.rows),
        "digest": digest.hexdigest()[:16],
        "unreadable": [str(bad) for bad in task.bad],
    }
    if task.documents is not None:
        settings["documents"] = task.documents
    if without_evidence is not None:
        settings["without_evidence"] = without_evidence
    return settings


def image_place(source: ImageSource) -> str | int | None:
    """Where an image can be found again: its path, its number in its data set (of a synthetic document the seed), or
    `None` if it is nowhere."""
    if isinstance(source, StoredImage):
        return source.index
    return None if isinstance(source, Image.Image) else str(source)


def run_tasks(
    tasks: Sequence[Task],
    policies: Policies,
    wanted: Sequence[Condition],
    folder: Path,
    settings: dict[str, Any],
    batch_size: int = 1,
    process: int = 0,
    processes: int = 1,
    progress: bool = True,
) -> None:
    """Answer all questions of all tasks under all conditions, and write an item for each.

    Batches are fixed by the order of rows, whatever is done already and by how many processes, so that a run that was
    killed ends with the items of one that was not. An image or a question that cannot be used makes items with an
    `error` and the worst scores, which count like all others.

    Args:
        tasks (`Sequence[Task]`): with different names.
        policies: what answers.
        wanted (`Sequence[Condition]`): policies and budgets.
        folder (`Path`): of the run; begun by the first process, the others must wait for it.
        settings (`dict`): as written by `open_run`.
        batch_size (`int`): questions at a time.
        process, processes (`int`): this process's number, and how many share the work.
        progress (`bool`): whether to show a bar.

    Raises:
        ValueError: if the folder holds a run with other settings, or two tasks have the same name.
    """
    if len({task.name for task in tasks}) < len(tasks):
        raise ValueError(f"tasks must have different names, found {[task.name for task in tasks]}")
    open_run(folder, settings)
    done = {record_key(record) for record in read_records(folder)}
    batches = [
        (task, range(start, min(start + batch_size, len(task.rows))))
        for task in tasks
        for start in range(0, len(task.rows), batch_size)
    ][process::processes]
    images = {task.name: _image_numbers(task) for task in tasks}
    total = sum(len(numbers) for _, numbers in batches) * len(wanted)
    bar = tqdm(total=total, desc="evaluating", unit=" items", disable=not progress or process > 0, delay=1)
    with ItemLog(folder, process) as log, bar:
        for task, numbers in batches:
            keys = {(number, c): (task.name, number, c.policy, c.label) for number in numbers for c in wanted}
            missing = [c for c in wanted if any(keys[number, c] not in done for number in numbers)]
            bar.update(sum(key in done for key in keys.values()))
            for number, condition, answer in _answered(policies, task, numbers, missing):
                if keys[number, condition] not in done:
                    log.append(item_record(task, number, images[task.name][number], condition, answer))
                    bar.update()


def _answered(
    policies: Policies, task: Task, numbers: Sequence[int], wanted: Sequence[Condition]
) -> Iterator[tuple[int, Condition, Answer | str]]:
    """Answers of a batch, condition by condition; the reason instead of an answer for rows that cannot be used."""
    todo = list(wanted)
    rows = [task.rows[number] for number in numbers]
    while todo:
        try:
            for condition, answers in policies.answers(task, rows, tuple(todo)):
                for number, answer in zip(numbers, answers, strict=True):
                    yield number, condition, answer
                todo.remove(condition)
        except (OSError, ValueError) as error:
            condition = todo.pop(0)  # conditions are answered in their order
            if len(numbers) == 1:
                yield numbers[0], condition, str(error) or type(error).__name__
            for number in numbers if len(numbers) > 1 else ():  # the others have no part in it
                yield from _answered(policies, task, [number], [condition])


def item_record(task: Task, number: int, image: int, condition: Condition, answer: Answer | str) -> Record:
    """The record of one item.

    Args:
        number (`int`): of the row in its task.
        image (`int`): number of the first row with the same images.
        answer: what came of it, or why nothing did.
    """
    row = task.rows[number]
    record: Record = {
        "task": task.name,
        "row": number,
        "policy": condition.policy,
        "budget": condition.label,
        "id": row.id,
        "image": image,
        "paths": [image_place(source) for source in row.images],
        "question": row.question,
        "answers": list(row.answers),
        "groups": task.groups(row),
        "prediction": None,
        "score": None,
        "scores": {},
        "tokens": None,
        "native": None,
        "milliseconds": None,
        "coverage": None,
        "error": None,
        "empty": False,
        "over_long": False,
        "leaves": [],
    }
    by_evidence = task.metric == EVIDENCE_METRIC
    if isinstance(answer, str):
        scores = {EVIDENCE_METRIC: 0.0, "full_detail": 0.0} if by_evidence else _worst(task, row)
        return record | {"error": answer, "scores": scores, "score": scores[task.metric]}
    found = answer.coverage
    coverage = None if found is None else {"full_detail": found.full_detail, "resolution": found.resolution}
    scores = dict(coverage or {}) if by_evidence else task.score(row, answer.prediction)
    return record | {
        "prediction": None if by_evidence else answer.prediction,
        "score": scores[task.metric],
        "scores": scores,
        "tokens": answer.tokens,
        "native": answer.native,
        "milliseconds": round(answer.milliseconds, 3),
        "coverage": coverage,
        "empty": not by_evidence and not answer.prediction,
        "over_long": not answer.complete,
        "leaves": answer.leaves,
    }


def _worst(task: Task, row: Row) -> dict[str, float]:
    return {name: float(name in LOWER_IS_BETTER) for name in task.score(row, "")}


def _image_numbers(task: Task) -> list[int]:
    """For each row the number of the first row with the same images."""
    first: dict[Any, int] = {}
    return [first.setdefault(image_key(row), number) for number, row in enumerate(task.rows)]
