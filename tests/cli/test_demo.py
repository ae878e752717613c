"""`arrcoc demo` on a checkpoint with random weights."""

from PIL import Image

from arrcoc.cli.demo import QUESTIONS
from examples.draw_demo_document import ENTRIES


def test_every_question_at_every_budget(run, stock_folder, tmp_path):
    status, text, err = run("demo", "--model", stock_folder, "--out", tmp_path / "out")
    assert status == 0, err
    lines = text.splitlines()
    assert all(any(f'"{key}"' in question for key, _ in ENTRIES) for question in QUESTIONS)
    for question in QUESTIONS:
        at = lines.index(question)
        native = int(lines[at + 1].split()[2])
        assert [int(line.split()[0]) for line in lines[at + 1 : at + 4]] == [
            native,
            round(native * 0.25),
            round(native * 0.1),
        ]
        assert all(" ms " in line for line in lines[at + 1 : at + 4])
    for number in (1, 2, 3):
        with Image.open(tmp_path / "out" / f"question_{number}.png") as drawn:
            assert drawn.width > 300
