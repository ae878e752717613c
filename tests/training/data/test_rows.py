"""Checks of a row's fields, and images of every source."""

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from arrcoc.training.data import Row, row_from_dict
from arrcoc.training.data.rows import image_size, open_image
from tests.training.data.helpers import picture, save_picture


def test_all_fields():
    row = row_from_dict(
        {
            "id": 7,
            "image": "a/b.png",
            "width": 200,
            "height": 100,
            "question": "Total?",
            "answers": ["12", 12.5],
            "evidence": [[1, 2, 3, 4], [5.5, 6, 7, 8]],
            "evidence_mode": "any",
            "key_boxes": [[0, 0, 9, 9], [1, 1, 2, 2]],
            "task": "key_value",
            "set": "forms",
            "difficulty": "hard",
            "token_budget": 64,
            "suggested_budget": 100,
            "history": [["Date?", "Monday"]],
            "licence": "ignored",
        },
        name="unused",
        image_root="/data",
    )
    assert row == Row(
        id="7",
        question="Total?",
        answers=("12", "12.5"),
        images=(Path("/data/a/b.png"),),
        sizes=((200, 100),),
        evidence=(((1.0, 2.0, 3.0, 4.0), (5.5, 6.0, 7.0, 8.0)),),
        evidence_mode="any",
        key_boxes=((0.0, 0.0, 9.0, 9.0), (1.0, 1.0, 2.0, 2.0)),
        task="key_value",
        set="forms",
        difficulty="hard",
        token_budget=64,
        suggested_budget=100,
        history=(("Date?", "Monday"),),
    )


def test_a_single_key_box_is_one_of_them():
    row = row_from_dict({"question": "Total?", "answers": ["12"], "key_box": [0, 0, 9, 9]}, name="a")
    assert row.key_boxes == ((0.0, 0.0, 9.0, 9.0),)


def test_several_images_and_none():
    row = row_from_dict(
        {
            "images": ["a.png", "b.png"],
            "question": "Same?",
            "answer": "no",
            "evidence": [None, [[0, 0, 1, 1]]],
            "token_budget": [64, 0.5],
        },
        name="two",
    )
    assert row.id == "two"
    assert row.evidence == (None, ((0.0, 0.0, 1.0, 1.0),))
    assert row.image_budgets == [64, 0.5]
    assert row.answers == ("no",)
    text = row_from_dict({"question": "2 + 2?", "answer": 4, "evidence": []}, name="text")
    assert (text.images, text.evidence, text.image_budgets, text.answers) == ((), None, [], ("4",))


def test_other_names_of_fields():
    row = row_from_dict({"query": "Q", "label": "A"}, name="r", columns={"question": "query", "answer": "label"})
    assert (row.question, row.answers) == ("Q", ("A",))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"question": None}, "question must be a text"),
        ({"question": "  "}, "question must be a text"),
        ({"question": "a<|im_end|>b"}, r"control token '<\|im_end\|>'"),
        ({"answers": []}, "answers .* missing or empty"),
        ({"answers": ["ok", None]}, "answers must be a text"),
        ({"answers": ["<|image_pad|>"]}, "control token"),
        ({"image": 5}, "an image must be a path or a Pillow image, found int"),
        ({"images": ["a.png"]}, "both given"),
        ({"evidence": [[1, 2, 3]]}, r"a box must be \[x0, y0, x1, y1\]"),
        ({"evidence": [[3, 2, 1, 4]]}, "x0 < x1"),
        ({"evidence": [[0, 0, float("nan"), 4]]}, "a box must be"),
        ({"evidence": [[200, 0, 300, 4]]}, "outside the image of 100x50"),
        ({"key_boxes": [[3, 2, 1, 4]]}, "x0 < x1"),
        ({"key_boxes": [0, 0, 1, 1]}, r"a box must be \[x0, y0, x1, y1\]"),
        ({"key_boxes": 5}, "key_boxes must be a list of boxes, found 5"),
        ({"key_box": [0, 0, 1, 1], "key_boxes": [[0, 0, 1, 1]]}, "expected key_box or key_boxes, found both"),
        ({"evidence": [[[0, 0, 1, 1]], [[0, 0, 1, 1]]]}, "given for 2 images, but the row has 1"),
        ({"evidence_mode": "some"}, "evidence_mode must be one of"),
        ({"token_budget": 0}, "token_budget must be"),
        ({"token_budget": [1, 2]}, "2 entries for 1 images"),
        ({"suggested_budget": 0.5}, "suggested_budget must be"),
        ({"width": 0}, "width and height must be pixels"),
    ],
)
def test_malformed_fields(change, message):
    good = {"image": "a.png", "width": 100, "height": 50, "question": "Q?", "answers": ["A"]}
    with pytest.raises(ValueError, match=message):
        row_from_dict(good | change, name="r")


def test_answers_may_be_missing_where_allowed():
    assert row_from_dict({"question": "Q?"}, name="r", require_answers=False).answers == ()


def test_images_are_upright(tmp_path):
    """A camera's note that the picture lies on its side is followed, by the size from the header as well."""
    lying = picture(96, 64)
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned a quarter clockwise
    path = tmp_path / "lying.png"
    lying.save(path, exif=exif)
    upright = np.asarray(lying.transpose(Image.Transpose.ROTATE_270))
    with Image.open(path) as opened:
        sources = [path, opened]
        for source in sources:
            assert image_size(source) == (64, 96)
            np.testing.assert_array_equal(np.asarray(open_image(source)), upright)


def test_open_images_stay_the_same_object():
    image = picture()
    assert open_image(image) is image
    assert open_image(image.convert("RGBA")).mode == "RGB"


def test_broken_and_missing_images_name_the_row(tmp_path):
    save_picture(tmp_path / "whole.png")
    data = (tmp_path / "whole.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "text.png").write_text("no picture")
    for name in ("cut.png", "text.png", "missing.png"):
        row = Row(id="r7", question="Q?", answers=("A",), images=(tmp_path / name,))
        with pytest.raises(ValueError, match="row 'r7': .*" + name):
            row.decoded()
    assert image_size(tmp_path / "cut.png") == (96, 64)  # the header is whole
    for name in ("text.png", "missing.png"):
        with pytest.raises(ValueError, match=name):
            image_size(tmp_path / name)
    with pytest.raises(ValueError, match="cannot be read"):
        from arrcoc.training.data.rows import _header_size

        _header_size(io.BytesIO(b"nothing"))
