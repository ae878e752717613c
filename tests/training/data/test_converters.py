"""Small files in exactly the published formats."""

import pytest

from arrcoc.training.data import (
    READERS,
    majority_first,
    read_chartqa,
    read_docvqa,
    read_gqa,
    read_infographicvqa,
    read_llava,
    read_sources,
    read_stvqa,
    read_textvqa,
    read_vqav2,
)
from tests.training.data.helpers import write_json, write_lines


def test_majority():
    assert majority_first(["a", "b", "b", "c"]) == ["b", "a", "b", "c"]
    assert majority_first(["a", "b"]) == ["a", "b"]  # among equals the first
    assert majority_first(["a", "b", "b"], "a") == ["a", "b", "b"]
    assert majority_first(["a", "b", "b"], "B") == ["b", "a", "b"]  # the data set's spelling is none of them
    assert majority_first([]) == []


def test_docvqa(tmp_path):
    path = write_json(
        tmp_path / "train_v1.0_withQT.json",
        {
            "dataset_name": "SP-DocVQA",
            "dataset_split": "train",
            "dataset_version": "1.0",
            "data": [
                {
                    "questionId": 337,
                    "question": "what is the date mentioned in this letter?",
                    "question_types": ["handwritten", "form"],
                    "image": "documents/xnbl0037_1.png",
                    "docId": 279,
                    "ucsf_document_id": "xnbl0037",
                    "ucsf_document_page_no": "1",
                    "answers": ["1/8/93", "1/8/1993"],
                    "data_split": "train",
                }
            ],
        },
    )
    (row,) = read_docvqa(path, "/docvqa")
    assert (row.id, row.task, row.set) == ("docvqa_337", "ocr", "docvqa")
    assert row.question == "what is the date mentioned in this letter?"
    assert row.answers == ("1/8/93", "1/8/1993")
    assert row.images[0].as_posix() == "/docvqa/documents/xnbl0037_1.png"


def test_infographicvqa(tmp_path):
    path = write_json(
        tmp_path / "infographicsVQA_val_v1.0_withQT.json",
        {
            "dataset_name": "infographicVQA",
            "dataset_version": "1.0",
            "dataset_split": "val",
            "data": [
                {
                    "questionId": 98313,
                    "question": "Which social platform has heavy female audience?",
                    "image_local_name": "37313.jpeg",
                    "image_url": "https://example.org/image.jpg",
                    "ocr_output_file": "37313.json",
                    "answers": ["pinterest"],
                    "data_split": "val",
                    "answer_type": ["Image span"],
                    "evidence": ["Text"],
                    "operation/reasoning": [],
                }
            ],
        },
    )
    (row,) = read_infographicvqa(path, "/images")
    assert (row.id, row.answers, row.evidence) == ("infographicvqa_98313", ("pinterest",), None)
    assert row.images[0].as_posix() == "/images/37313.jpeg"


def test_chartqa(tmp_path):
    human = write_json(
        tmp_path / "train_human.json",
        [
            {"imgname": "41699051005347.png", "query": "How many food item is shown in the bar graph?", "label": "14"},
            {"imgname": "two_col_1.png", "query": "Which year is highest?", "label": "[2010, 2014]"},
        ],
    )
    augmented = write_json(
        tmp_path / "train_augmented.json",
        [{"imgname": "two_col_104629.png", "query": "How many stores?", "label": "7305"}],
    )
    rows = read_chartqa([human, augmented], "/png")
    assert [row.id for row in rows] == [
        f"chartqa_train_{name}" for name in ("human_1_0", "human_2_0", "augmented_1_0")
    ]
    assert [row.answers for row in rows] == [("14",), ("[2010, 2014]",), ("7305",)]
    assert {row.task for row in rows} == {"chart"}


def test_vqav2(tmp_path):
    questions = write_json(
        tmp_path / "v2_OpenEnded_mscoco_train2014_questions.json",
        {
            "info": {},
            "task_type": "Open-Ended",
            "data_type": "mscoco",
            "data_subtype": "train2014",
            "license": {},
            "questions": [
                {
                    "image_id": 458752,
                    "question": "What is this photo taken looking through?",
                    "question_id": 458752000,
                },
                {"image_id": 9, "question": "What color?", "question_id": 9001},
            ],
        },
    )
    given = ["net", "net", "net", "netting", "net", "net", "mesh", "net", "net", "net"]
    annotations = write_json(
        tmp_path / "v2_mscoco_train2014_annotations.json",
        {
            "info": {},
            "data_type": "mscoco",
            "data_subtype": "train2014",
            "annotations": [
                {
                    "question_type": "what is this",
                    "multiple_choice_answer": "net",
                    "answers": [
                        {"answer": answer, "answer_confidence": "maybe", "answer_id": number}
                        for number, answer in enumerate(["netting", *given[:3], *given[4:]], start=1)
                    ],
                    "image_id": 458752,
                    "answer_type": "other",
                    "question_id": 458752000,
                }
            ],
        },
    )
    rows = read_vqav2(questions, annotations, "/train2014")
    (row,) = rows
    assert row.images[0].as_posix() == "/train2014/COCO_train2014_000000458752.jpg"
    assert row.answers[0] == "net"
    assert sorted(row.answers) == sorted(given)
    assert [(bad.line, bad.reason) for bad in rows.bad] == [
        (2, "answers (a list of texts) or answer is missing or empty")
    ]
    unanswered = read_vqav2(questions, None, "/train2014", require_answers=False)
    assert [row.answers for row in unanswered] == [(), ()]


def test_gqa(tmp_path):
    questions = write_json(
        tmp_path / "train_balanced_questions.json",
        {
            "07333408": {
                "semantic": [{"operation": "select", "dependencies": [], "argument": "wall (722332)"}],
                "entailed": ["07333406"],
                "equivalent": ["07333408"],
                "question": "What is on the white wall?",
                "imageId": "2375429",
                "isBalanced": True,
                "groups": {"global": None, "local": "14-wall_on,s"},
                "answer": "pipe",
                "semanticStr": "select: wall (722332)",
                "annotations": {
                    "answer": {"0": "722333"},
                    "question": {"4:6": "722332"},
                    "fullAnswer": {"1": "722333", "5": "722332"},
                },
                "types": {"detailed": "relS", "semantic": "rel", "structural": "query"},
                "fullAnswer": "The pipe is on the wall.",
            },
            "1": {
                "question": "Is it raining?",
                "imageId": "5",
                "answer": "no",
                "fullAnswer": "No.",
                "annotations": {},
            },
        },
    )
    graphs = write_json(
        tmp_path / "train_sceneGraphs.json",
        {
            "2375429": {
                "width": 640,
                "height": 480,
                "objects": {
                    "722332": {
                        "name": "wall",
                        "x": 10,
                        "y": 20,
                        "w": 300,
                        "h": 200,
                        "attributes": [],
                        "relations": [],
                    },
                    "722333": {"name": "pipe", "x": 50, "y": 60, "w": 10, "h": 90, "attributes": [], "relations": []},
                },
            },
        },
    )
    row, rain = read_gqa(questions, "/images", graphs)
    assert (row.id, row.answers, row.sizes) == ("gqa_07333408", ("pipe",), ((640, 480),))
    assert row.evidence == (((50.0, 60.0, 60.0, 150.0), (10.0, 20.0, 310.0, 220.0)),)
    assert row.images[0].as_posix() == "/images/2375429.jpg"
    assert rain.evidence is None
    plain = read_gqa(questions, "/images", full_answers=True)
    assert [row.answers for row in plain] == [("The pipe is on the wall.", "pipe"), ("No.", "no")]
    assert plain[0].evidence is None


def test_textvqa(tmp_path):
    path = write_json(
        tmp_path / "TextVQA_0.5.1_train.json",
        {
            "dataset_type": "train",
            "dataset_name": "textvqa",
            "dataset_version": "0.5.1",
            "data": [
                {
                    "question": "what is the brand of this camera?",
                    "image_id": "003a8ae2ef43b901",
                    "image_classes": ["Cassette deck", "Printer"],
                    "flickr_original_url": "https://example.org/o.jpg",
                    "flickr_300k_url": "https://example.org/z.jpg",
                    "image_width": 1024,
                    "image_height": 664,
                    "answers": ["nous les gosses", "dakota", "clos culombu", *["dakota digital"] * 6, "dakota"],
                    "question_tokens": ["what", "is"],
                    "question_id": 34602,
                    "set_name": "train",
                }
            ],
        },
    )
    (row,) = read_textvqa(path, "/train_images")
    assert (row.id, row.sizes, len(row.answers), row.answers[0]) == (
        "textvqa_34602",
        ((1024, 664),),
        10,
        "dakota digital",
    )
    assert row.images[0].as_posix() == "/train_images/003a8ae2ef43b901.jpg"


def test_stvqa(tmp_path):
    path = write_json(
        tmp_path / "train_task_3.json",
        {
            "task_name": "Task 3 - Open Dictionary",
            "task_version": "0.1",
            "data": [
                {
                    "dataset": "coco-text",
                    "file_name": "COCO_train2014_000000325334.jpg",
                    "file_path": "coco-text/COCO_train2014_000000325334.jpg",
                    "question": "What is the title of the book?",
                    "answers": ["Black Coffee", "BLACK COFFEE"],
                    "question_id": 1,
                    "set_name": "train",
                }
            ],
        },
    )
    (row,) = read_stvqa(path, "/stvqa")
    assert row.answers == ("Black Coffee", "BLACK COFFEE")
    assert row.images[0].as_posix() == "/stvqa/coco-text/COCO_train2014_000000325334.jpg"


def test_llava(tmp_path):
    def turns(*texts):
        return [{"from": ("human", "gpt")[place % 2], "value": text} for place, text in enumerate(texts)]

    path = write_json(
        tmp_path / "llava_v1_5_mix665k.json",
        [
            {
                "id": "000000033471",
                "image": "coco/train2017/000000033471.jpg",
                "conversations": turns("<image>\nWhat colors?", "White and red.", "What does it show?", "A back."),
            },
            {"id": "wgByO4Y_0", "model": "", "conversations": turns("Write a poem.", "No.")},
            {"id": "two", "image": ["a.jpg", "b.jpg"], "conversations": turns("<image><image>Same?", "Yes.")},
            {"id": "late", "image": "a.jpg", "conversations": turns("Hello", "Hi", "<image>\nWhat?", "That.")},
            {"id": "odd", "conversations": turns("Hello")},
            {"id": "empty", "conversations": []},
            {"id": "null", "conversations": [{"from": "human", "value": None}, {"from": "gpt", "value": "A"}]},
            {"id": "unmarked", "image": "a.jpg", "conversations": turns("What?", "That.")},
        ],
    )
    rows = read_llava(path, "/images")
    assert [row.id.removeprefix("llava_llava_v1_5_mix665k_") for row in rows] == ["1_0", "1_1", "2_0", "3_0"]
    first, second, text, two = rows
    assert (first.question, first.answers, first.history) == ("What colors?", ("White and red.",), ())
    assert second.history == (("What colors?", "White and red."),)
    assert second.question == "What does it show?"
    assert first.images == second.images
    assert text.images == ()
    assert [image.name for image in two.images] == ["a.jpg", "b.jpg"]
    assert [bad.line for bad in rows.bad] == [4, 5, 6, 7, 8]


def test_bad_records_and_files(tmp_path):
    record = {"questionId": 1, "image": "a.png", "question": "Q?", "answers": ["A"]}
    broken = [{name: value for name, value in record.items() if name != missing} for missing in record]
    path = write_json(tmp_path / "train.json", {"data": [record, *broken]})
    rows = read_docvqa(path, "/images")
    assert len(rows) == 1
    assert [bad.reason.split(" is missing")[0] for bad in rows.bad] == [
        "field 'questionId'",
        "field 'image'",
        "field 'question'",
        "answers (a list of texts) or answer",
    ]
    with pytest.raises(ValueError, match="train.json:2: field 'questionId' is missing"):
        read_docvqa(path, "/images", bad_rows="raise")
    with pytest.raises(ValueError, match="1 bad rows"):
        read_docvqa(write_json(tmp_path / "one.json", {"data": [record]}), tmp_path, check_images=True)
    with pytest.raises(ValueError, match='of the form {"data"'):
        read_docvqa(write_json(tmp_path / "list.json", [record]), "/images")
    with pytest.raises(ValueError, match="a list of records"):
        read_chartqa(path, "/images")
    (tmp_path / "text.json").write_text("nothing")
    with pytest.raises(ValueError, match="text.json is no JSON file"):
        read_chartqa(tmp_path / "text.json", "/images")


def test_every_family_has_a_reader():
    families = {"docvqa", "infographicvqa", "chartqa", "vqav2", "gqa", "textvqa", "stvqa", "llava"}
    assert set(READERS) == families


def test_sources_of_a_configuration(tmp_path):
    """Files of the project's own form and published ones side by side, with options of both."""
    own = write_lines(tmp_path / "own.jsonl", [{"question": "Q?", "answers": ["A"]}])
    chart = {"imgname": "a.png", "query": "How many?", "label": "14"}
    charts = write_json(tmp_path / "human.json", [chart, chart | {"label": None}])
    published = {"reader": "chartqa", "annotations": str(charts), "images": "/png"}
    rows = read_sources([str(own), published])
    assert [row.set for row in rows] == ["", "chartqa"]
    assert [bad.line for bad in rows.bad] == [2]
    assert len(read_sources(published, require_answers=False)) == 2
    with pytest.raises(ValueError, match="human.json:2"):
        read_sources(published, bad_rows="raise")
    assert len(read_sources(published | {"bad_rows": "skip"}, bad_rows="raise")) == 1
    with pytest.raises(ValueError, match="reader must be one of .*'chartqa'.* found 'charts'"):
        read_sources(published | {"reader": "charts"})
    with pytest.raises(ValueError, match="unexpected keyword argument 'image'.*found .*chartqa"):
        read_sources(published | {"image": "/png"})
