"""Boxes: inside the picture, on ink, and around the words they claim to hold."""

import numpy as np
import pytest

from arrcoc.synthetic import KINDS, Document, bundled_face, generate
from arrcoc.synthetic.document import Box


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    faces = (bundled_face(),)
    return [generate(seed, (kind,), range(256, 769), "train", faces) for kind in KINDS for seed in range(100, 112)]


def inside(box: Box, size: tuple[int, int]) -> bool:
    return 0 <= box[0] < box[2] <= size[0] + 0.05 and 0 <= box[1] < box[3] <= size[1] + 0.05


def words_in(document: Document, boxes: tuple[Box, ...]) -> str:
    """Words whose centres lie in the boxes, in drawing order."""
    found = []
    for word in document.words:
        x, y = (word.box[0] + word.box[2]) / 2, (word.box[1] + word.box[3]) / 2
        if any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in boxes):
            found.append(word.text)
    return " ".join(found)


def test_boxes_lie_on_the_picture(documents):
    for document in documents:
        size = document.image.size
        assert all(inside(word.box, size) for word in document.words)
        for question in document.questions:
            assert all(inside(box, size) for box in question.evidence), question
            assert all(inside(box, size) for box in question.key_boxes), question


def test_words_and_evidence_show_ink(documents):
    faint = total = 0
    for document in documents:
        pixels = np.asarray(document.image.convert("L")).astype(int)
        for word in document.words:
            x0, y0, x1, y1 = word.box
            patch = pixels[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]
            spread = int(patch.max()) - int(patch.min())
            total += 1
            faint += spread < 40 and not set(word.text) <= set(".,:;-")
    assert total > 5000
    assert faint / total < 0.002  # a comma or a thin stroke of the smallest, faintest print


def test_letters_are_of_the_promised_sizes(documents):
    for document in documents:
        for word in document.words:
            (x0, y0), (x1, y1) = word.char_edges[0], word.char_edges[-1]
            upright = abs(x1 - x0) >= abs(y1 - y0)
            across = word.box[3] - word.box[1] if upright else word.box[2] - word.box[0]
            assert 1 <= across <= 60


def test_character_edges_run_through_their_word(documents):
    for document in documents:
        for word in document.words:
            assert len(word.char_edges) == len(word.text) + 1
            x0, y0, x1, y1 = word.box
            slack = max(0.5 * (y1 - y0), 14)  # a full stop lies below the middle line
            for x, y in word.char_centers():
                assert x0 - slack <= x <= x1 + slack and y0 - slack <= y <= y1 + slack


def test_printed_answers_are_the_words_of_their_evidence(documents):
    kinds = ("key_value", "doc_field", "table_cell", "chart_value", "text_next", "locate_text", "read_line")
    seen, crossed = 0, 0
    for document in documents:
        for question in document.questions:
            if question.kind in kinds:
                found, answer = words_in(document, question.evidence), question.answers[0]
                # The upright box of a long turned line may hold a word of its neighbours too.
                assert found == answer or set(answer.split()) < set(found.split()), (document.seed, question)
                seen += 1
                crossed += found != answer
    assert seen > 200 and crossed < 0.01 * seen


def test_keys_are_where_their_boxes_say(documents):
    def letters(text: str) -> str:
        return "".join(sign for sign in text.lower() if sign.isalnum())

    seen = 0
    for document in documents:
        for question in document.questions:
            if question.kind == "key_value" and question.key_boxes:
                key = letters(words_in(document, question.key_boxes)).lstrip("0123456789")
                assert key in letters(question.text), (document.seed, question)
                seen += 1
    assert seen > 50


def test_questions_without_a_place_on_the_picture_have_no_evidence(documents):
    for document in documents:
        for question in document.questions:
            if not question.evidence:
                assert question.kind in ("exists", "doc_type")
                assert question.kind == "doc_type" or question.answers == ("no",)
