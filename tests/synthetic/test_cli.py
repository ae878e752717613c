"""`arrcoc synth`: complete folders or none."""

import importlib
import json

import pytest
from PIL import Image

import arrcoc_cli
from arrcoc.synthetic import generate


command = importlib.import_module("arrcoc.cli.synth")


def written(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_writes_pictures_and_lines(tmp_path, capsys):
    out = tmp_path / "set"
    assert (
        arrcoc_cli.main(["synth", "--out", str(out), "--n", "5", "--seed", "3", "--size", "256-300", "--workers", "1"])
        == 0
    )
    lines = [json.loads(line) for line in (out / "train.jsonl").read_text(encoding="utf-8").splitlines()]
    documents = [generate(3 + number, None, range(256, 301)) for number in range(5)]
    assert len(lines) == sum(len(document.questions) for document in documents)
    for number, document in enumerate(documents):
        own = [line for line in lines if line["id"].startswith(f"train_{3 + number}_")]
        assert [line["question"] for line in own] == [question.text for question in document.questions]
        with Image.open(out / own[0]["image"]) as picture:
            assert picture.tobytes() == document.image.tobytes()
            assert picture.size == (own[0]["width"], own[0]["height"])
    assert "5 documents" in capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["set"]


def test_two_processes_write_the_same(tmp_path):
    for workers in ("1", "2"):
        sizes = ["--out", str(tmp_path / workers), "--n", "3", "--size", "256x320", "--workers", workers]
        kinds = ["--kinds", "scene", "sign", "--split", "heldout", "--format", "jpg"]
        assert arrcoc_cli.main(["synth", *sizes, *kinds]) == 0
    one, two = written(tmp_path / "1"), written(tmp_path / "2")
    assert one == two
    assert set(one) == {"heldout.jsonl", *(f"images/0000/{number:07d}.jpg" for number in range(3))}


def test_full_folders_and_files_are_refused(tmp_path, capsys):
    (tmp_path / "kept.txt").write_text("mine")
    for out in (tmp_path, tmp_path / "kept.txt"):
        assert arrcoc_cli.main(["synth", "--out", str(out), "--n", "1", "--size", "256", "--workers", "1"]) == 2
        assert "not an empty folder" in capsys.readouterr().err
    assert written(tmp_path) == {"kept.txt": b"mine"}


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "a").mkdir()
    assert arrcoc_cli.main(["synth", "--out", str(tmp_path / "a"), "--n", "1", "--size", "256", "--workers", "1"]) == 0
    assert (tmp_path / "a" / "train.jsonl").stat().st_size > 0


def test_nothing_is_left_after_an_error(tmp_path, monkeypatch):
    def fail(seed, *rest):
        if seed == 2:
            raise RuntimeError("out of paper")
        return generate(seed, *rest)

    monkeypatch.setattr(command, "generate", fail)
    with pytest.raises(RuntimeError, match="out of paper"):
        command.synth(tmp_path / "a", n=4, size="256", workers=1)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--n", "0"), "'0'"),
        (("--workers", "0"), "'0'"),
        (("--seed", "-4"), "'-4'"),
        (("--size", "100"), "256"),
        (("--size", "big"), "big"),
        (("--size", "512x"), "512x"),
        (("--kinds", "poem"), "poem"),
    ],
)
def test_bad_arguments(tmp_path, words, message, capsys):
    try:
        status = arrcoc_cli.main(["synth", "--out", str(tmp_path / "a"), *words])
    except SystemExit as stop:  # argparse leaves by itself
        status = stop.code
    assert status == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_sizes():
    assert command.parse_size("512") == 512
    assert command.parse_size("512x768") == (512, 768)
    assert command.parse_size("256-1024") == range(256, 1025)
