"""Streams by seed and rows in the format of evaluation sets."""

import json

import pytest
from torch.utils.data import DataLoader

from arrcoc.synthetic import DIFFICULTIES, QUESTION_KINDS, DocumentStream, bundled_face, generate, rows
from arrcoc.synthetic.torch_dataset import SyntheticDataset


STREAM = DocumentStream(first=20, count=7, stride=3, kinds=("scene", "pie_chart"), size=256, faces=(bundled_face(),))


def name(document) -> str:
    return f"{document.seed}:{document.kind}"


def test_stream_is_generate_seed_by_seed():
    found = list(STREAM)
    assert [document.seed for document in found] == list(range(20, 41, 3))
    for document in found:
        alone = generate(document.seed, STREAM.kinds, 256, "train", STREAM.faces)
        assert alone.image.tobytes() == document.image.tobytes() and alone.questions == document.questions


@pytest.mark.parametrize("shards", [1, 2, 3, 7, 9])
def test_shards_are_the_stream(shards):
    parts = [[document.seed for document in STREAM.shard(index, shards)] for index in range(shards)]
    assert sorted(seed for part in parts for seed in part) == [document.seed for document in STREAM]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_endless_stream():
    stream = iter(DocumentStream(kinds=("scene",), size=256))
    assert [next(stream).seed for _ in range(5)] == list(range(5))
    assert DocumentStream().shard(1, 2).count is None


@pytest.mark.parametrize(
    "arguments",
    [{"first": -1}, {"count": -1}, {"stride": 0}, {"split": "x"}, {"kinds": ("x",)}, {"size": 10}, {"faces": ()}],
)
def test_bad_streams(arguments):
    with pytest.raises(ValueError):
        DocumentStream(**arguments)


def test_bad_shard():
    with pytest.raises(ValueError, match="3"):
        STREAM.shard(3, 3)


def test_rows_have_the_format_of_evaluation_sets():
    for seed in range(12):
        document = generate(seed, None, 300, "heldout", (bundled_face(),))
        found = rows(document, "images/a.png")
        assert len(found) == len(document.questions)
        assert json.loads(json.dumps(found)) == found
        for row, question in zip(found, document.questions, strict=True):
            required = {"id", "image", "width", "height", "question", "answers", "evidence", "evidence_mode", "task"}
            assert required | {"set", "source", "licence", "difficulty", "token_budget"} <= set(row)
            assert (row["width"], row["height"], row["image"]) == (300, 300, "images/a.png")
            assert row["task"] in QUESTION_KINDS and row["difficulty"] in DIFFICULTIES
            assert row["evidence_mode"] in ("all", "any") and row["answers"] == list(question.answers)
            for x0, y0, x1, y1 in row["evidence"] or []:
                assert 0 <= x0 < x1 <= 300 and 0 <= y0 < y1 <= 300
            assert [tuple(box) for box in row.get("key_boxes", [])] == list(question.key_boxes)
        assert len({row["id"] for row in found}) == len(found)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_workers_share_the_seeds(workers):
    loader = DataLoader(SyntheticDataset(STREAM, name), batch_size=None, num_workers=workers)
    assert sorted(loader) == sorted(map(name, STREAM))


def test_documents_without_transform():
    assert [document.seed for document in SyntheticDataset(STREAM)] == [document.seed for document in STREAM]
