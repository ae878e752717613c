"""Tasks from files in their published formats, their scores and the groups that are reported."""

import json
from pathlib import Path

import pytest

from arrcoc.evaluation import (
    BENCHMARKS,
    LOWER_IS_BETTER,
    benchmark_task,
    difficult_items,
    grouped_intervals,
    image_key,
    rows_task,
    tier_of,
)


TEN = [{"answer": answer, "answer_id": i + 1} for i, answer in enumerate(["two"] * 3 + ["2"] + ["three"] * 6)]

# For each benchmark its files in the published format, and the domains, answers and a wrong prediction of its rows.
FILES = {
    "docvqa": {
        "val_v1.0_withQT.json": {
            "dataset_name": "SP-DocVQA",
            "dataset_split": "val",
            "data": [
                {
                    "questionId": 49153,
                    "question": "What is the date?",
                    "question_types": ["handwritten"],
                    "image": "documents/pybv0228_81.png",
                    "docId": 14465,
                    "answers": ["5/9/1997", "May 9, 1997"],
                    "data_split": "val",
                }
            ],
        },
    },
    "infographicvqa": {
        "infographicsVQA_val_v1.0_withQT.json": {
            "data": [
                {
                    "questionId": 98313,
                    "question": "What percent?",
                    "image_local_name": "38579.jpeg",
                    "image_url": "http://x",
                    "answers": ["5/9/1997"],
                    "evidence": ["Text"],
                    "data_split": "val",
                }
            ]
        },
        "infographicsvqa_images": None,
    },
    "chartqa": {
        "test/test_human.json": [{"imgname": "41699051005347.png", "query": "How many?", "label": "14"}],
        "test/test_augmented.json": [{"imgname": "two_col_2.png", "query": "What was it?", "label": "14.1"}],
        "test/png": None,
    },
    "textvqa": {
        "TextVQA_0.5.1_val.json": {
            "data": [
                {
                    "question_id": 34602,
                    "image_id": "003a8ae2ef43b901",
                    "question": "how many?",
                    "answers": [answer["answer"] for answer in TEN],
                    "image_width": 1024,
                    "image_height": 664,
                    "set_name": "val",
                }
            ]
        },
        "train_images": None,
    },
    "stvqa": {
        "train_task_3.json": {
            "data": [
                {
                    "question_id": 1,
                    "file_path": "coco-text/COCO_train2014_000000000081.jpg",
                    "question": "What airline?",
                    "answers": ["5/9/1997"],
                    "set_name": "train",
                }
            ]
        },
    },
    "vqav2": {
        "v2_OpenEnded_mscoco_val2014_questions.json": {
            "data_subtype": "val2014",
            "questions": [{"image_id": 262148, "question": "How many?", "question_id": 262148000}],
        },
        "v2_mscoco_val2014_annotations.json": {
            "annotations": [
                {
                    "question_id": 262148000,
                    "image_id": 262148,
                    "question_type": "how many",
                    "answer_type": "number",
                    "multiple_choice_answer": "three",
                    "answers": TEN,
                }
            ]
        },
        "val2014": None,
    },
    "gqa": {
        "testdev_balanced_questions.json": {
            "201307251": {
                "imageId": "n161313",
                "question": "Is it overcast?",
                "answer": "no",
                "fullAnswer": "No, it is clear.",
                "isBalanced": True,
            }
        },
        "images": None,
    },
    "ocrbench": {
        "OCRBench.json": [
            {
                "dataset_name": "IIIT5K",
                "type": "Regular Text Recognition",
                "id": 0,
                "image_path": "IIIT5K/1.png",
                "question": "what is written in the image?",
                "answers": ["CENTRE"],
            },
            {
                "dataset_name": "HME100k",
                "type": "Handwritten Mathematical Expression Recognition",
                "id": 999,
                "image_path": "HME100k/1.jpg",
                "question": "Please write out the expression.",
                "answers": "a ^ { 2 }",
            },
        ],
        "OCRBench_Images": None,
    },
    "fox": {
        "en_page_ocr.json": [
            {
                "image": "en_1.png",
                "conversations": [
                    {"from": "human", "value": "<image>\nPerform OCR on the page."},
                    {"from": "gpt", "value": "the cat sat on the mat"},
                ],
            }
        ],
        "en_pdf_png": None,
    },
}
EXPECTED = {  # domain, path of the image, a good prediction, its score
    "docvqa": [("document", "documents/pybv0228_81.png", "5/9/1997", 1.0)],
    "infographicvqa": [("infographic", "infographicsvqa_images/38579.jpeg", "5/9/1987", 7 / 8)],
    "chartqa": [
        ("chart_human", "test/png/41699051005347.png", "13.5", 1.0),
        ("chart_augmented", "test/png/two_col_2.png", "14.1", 1),
    ],
    "textvqa": [("scene_text", "train_images/003a8ae2ef43b901.jpg", "two", 1.0)],
    "stvqa": [("scene_text", "coco-text/COCO_train2014_000000000081.jpg", "5/9/1997", 1.0)],
    "vqav2": [("natural", "val2014/COCO_val2014_000000262148.jpg", "2", 1.0)],
    "gqa": [("natural", "images/n161313.jpg", "No.", 1.0)],
    "ocrbench": [
        ("Regular Text Recognition", "OCRBench_Images/IIIT5K/1.png", "It says centre", 1.0),
        ("Handwritten Mathematical Expression Recognition", "OCRBench_Images/HME100k/1.jpg", "$a^{2}$", 1.0),
    ],
    "fox": [("dense_text_en", "en_pdf_png/en_1.png", "the cat sat", 2 * 3 / 8)],
}


def write(folder: Path, files: dict) -> Path:
    for name, content in files.items():
        path = folder / name
        if content is None:
            path.mkdir(parents=True, exist_ok=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_from_its_published_files(name, tmp_path):
    task = benchmark_task(name, write(tmp_path, FILES[name]))
    assert len(task.rows) == len(EXPECTED[name]) and not task.bad
    assert len({row.id for row in task.rows}) == len(task.rows)
    for row, (domain, image, prediction, score) in zip(task.rows, EXPECTED[name], strict=True):
        assert task.groups(row)["domain"] == domain
        assert row.images == (tmp_path / image,)
        assert task.score(row, prediction)[task.metric] == pytest.approx(score)
        assert task.score(row, "~")[task.metric] == 0
        assert set(task.score(row, "")) == set(task.score(row, prediction))
        assert task.prompt(row) == row.question + task.instruction
        assert row.question and "<image>" not in row.question


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_missing_file_is_named_with_its_publisher(name, tmp_path):
    write(tmp_path, FILES[name])
    for missing in FILES[name]:
        path = tmp_path / missing
        moved = tmp_path / "moved"
        path.rename(moved)
        with pytest.raises(FileNotFoundError) as error:
            benchmark_task(name, tmp_path)
        assert str(path) in str(error.value) and BENCHMARKS[name].published in str(error.value)
        moved.rename(path)


def test_ten_answers_are_all_kept(tmp_path):
    """What ten annotators said is what the metric counts: 4 of them gave 2, 6 gave 3."""
    for name in ("textvqa", "vqav2"):
        task = benchmark_task(name, write(tmp_path / name, FILES[name]))
        assert len(task.rows[0].answers) == 10
        assert task.score(task.rows[0], "3") == {"vqa_accuracy": 1.0, "exact_match": 0.0}


def test_scene_graphs_give_gqa_evidence(tmp_path):
    question = {
        "imageId": "1",
        "question": "What color is the dog?",
        "answer": "red",
        "annotations": {"question": {"4": "77"}, "answer": {}},
    }
    graph = {"1": {"width": 100, "height": 80, "objects": {"77": {"name": "dog", "x": 10, "y": 20, "w": 30, "h": 40}}}}
    files = {"val_balanced_questions.json": {"9": question}, "val_sceneGraphs.json": graph, "images": None}
    task = benchmark_task("gqa", write(tmp_path, files), split="val")
    assert task.rows[0].evidence == (((10, 20, 40, 60),),)


def test_fox_reports_all_scores_of_a_page(tmp_path):
    task = benchmark_task("fox", write(tmp_path, FILES["fox"]))
    found = task.score(task.rows[0], "the cat sat")
    assert found == {
        "of_predicted_words": 1.0,
        "of_true_words": pytest.approx(3 / 5),
        "f1": pytest.approx(3 / 4),
        "ned": pytest.approx(11 / 22),
        "word_overlap": 0.5,
    }
    assert LOWER_IS_BETTER & found.keys() == {"ned"}


def test_bad_records_are_counted(tmp_path, caplog):
    records = FILES["ocrbench"]["OCRBench.json"]
    broken = [records[0], {"image_path": "x.png"}, records[1] | {"question": " "}]
    task = benchmark_task("ocrbench", write(tmp_path, FILES["ocrbench"] | {"OCRBench.json": broken}))
    assert len(task.rows) == 1
    assert [bad.line for bad in task.bad] == [2, 3]
    assert "question" in task.bad[1].reason
    with pytest.raises(ValueError, match="OCRBench.json:2"):
        benchmark_task("ocrbench", tmp_path, bad_rows="raise")
    for content in ({"data": []}, "["):
        (tmp_path / "OCRBench.json").write_text(content if isinstance(content, str) else json.dumps(content))
        with pytest.raises(ValueError, match="OCRBench.json"):
            benchmark_task("ocrbench", tmp_path)


def test_unknown_names_are_named(tmp_path):
    with pytest.raises(ValueError, match="'mmbench'.*docvqa"):
        benchmark_task("mmbench", tmp_path)
    with pytest.raises(ValueError, match="'dev'.*validation"):
        benchmark_task("docvqa", tmp_path, split="dev")
    with pytest.raises(ValueError, match="'bleu'.*anls"):
        rows_task(tmp_path / "x.jsonl", metric="bleu")


def test_rows_of_json_lines(tmp_path):
    rows = [
        {
            "id": "a",
            "image": "a.png",
            "question": "Total?",
            "answers": ["12", "12.00"],
            "task": "field",
            "set": "forms",
        }
        | {"width": 90, "height": 60, "evidence": [[1, 2, 30, 40]], "evidence_mode": "any", "difficulty": "hard"},
        {"id": "b", "image": "a.png", "question": "Color?", "answers": ["red"], "evidence": None, "set": "scenes"},
        {"id": "c", "image": "a.png", "answers": ["red"]},
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = rows_task(path)
    assert (task.name, task.metric, len(task.rows), len(task.bad)) == ("mine", "anls", 2, 1)
    assert task.groups(task.rows[0]) == {"domain": "forms", "kind": "field", "difficulty": "hard"}
    assert task.score(task.rows[0], "12.00") == {"anls": 1.0, "exact_match": 1.0}
    strict = rows_task(path, metric="relaxed_accuracy", name="numbers", instruction=" In digits.")
    assert strict.score(strict.rows[0], "12.3") == {"relaxed_accuracy": 1.0, "anls": 0.6, "exact_match": 0.0}
    assert strict.prompt(strict.rows[1]) == "Color? In digits."
    assert image_key(task.rows[0]) == image_key(task.rows[1]) == (tmp_path / "a.png",)


def test_subsets_are_drawn_evenly_and_keep_their_order(tmp_path):
    path = tmp_path / "many.jsonl"
    path.write_text("".join(json.dumps({"question": f"{i}?", "answer": str(i)}) + "\n" for i in range(100)))
    task = rows_task(path)
    half = [int(row.answers[0]) for row in task.subset(50).rows]
    assert half == sorted(half) and len(set(half)) == 50
    assert 15 < sum(number < 50 for number in half) < 35
    assert [int(row.answers[0]) for row in task.subset(50, seed=1).rows] != half
    assert task.subset(None) is task and task.subset(100) is task
    with pytest.raises(ValueError, match="count"):
        task.subset(0)


def test_tiers():
    assert [tier_of(n) for n in (1, 64, 65, 100, 160, 161, 400, 401)] == [
        "1-64", "1-64", "65-100", "65-100", "101-160", "161-256", "257-400", "401-",
    ]  # fmt: skip
    assert tier_of(9, tiers=[8, 16]) == "9-16"
    with pytest.raises(ValueError, match="at least one token"):
        tier_of(0)


def test_the_difficult_group_is_what_resizing_breaks():
    native, resized = [1.0, 1.0, 0.0, 0.0, 0.6], [0.0, 1.0, 1.0, 0.0, 0.4]
    assert difficult_items(native, resized) == [True, False, False, False, True]
    assert difficult_items(native, resized, threshold=0.9) == [True, False, False, False, False]
    with pytest.raises(ValueError, match="same items"):
        difficult_items(native, resized[1:])


def test_grouped_intervals():
    found = grouped_intervals([1, 0, 1, 1], ["b", "a", "b", "a"], ["x", "x", "y", "z"], resamples=200)
    assert list(found) == ["a", "b"]
    assert found["a"][0] == 2 and found["a"][1].mean == 0.5
    assert (found["b"][1].low, found["b"][1].high) == (1, 1)
    one_image = grouped_intervals([1, 0], ["a", "a"], ["x", "x"])["a"][1]
    assert (one_image.low, one_image.high) == (0.5, 0.5)
    with pytest.raises(ValueError, match="2 scores"):
        grouped_intervals([1, 0], ["a"], ["x", "x"])
