"""Scores of pages that were read, against the textbook table and cases worked by hand."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrcoc.evaluation import edit_distance, normalized_edit_distance, word_overlap, word_scores


def table_distance(a: str, b: str) -> int:
    """The textbook's table, row by row (Wagner & Fischer, 1974)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[-1] + 1, above[j - 1] + (x != y)))
    return row[-1]


@settings(max_examples=200, deadline=None)
@given(st.text("abc", max_size=12), st.text("abcd", max_size=12))
def test_edit_distance(a, b):
    assert edit_distance(a, b) == table_distance(a, b)


def test_edit_distance_of_long_texts():
    page = "The quick brown fox jumps over the lazy dog. " * 20  # longer than a machine word many times over
    changed = page[:100] + "x" + page[100:300] + page[310:] + "end"
    assert edit_distance(page, changed) == table_distance(page, changed) == edit_distance(changed, page)


def test_normalised_edit_distance():
    assert normalized_edit_distance("kitten", "sitting") == pytest.approx(3 / 7)
    assert normalized_edit_distance("", "") == 0
    assert normalized_edit_distance("", "abc") == 1
    assert normalized_edit_distance("Abc", "abc") == pytest.approx(1 / 3)  # case matters


def test_word_scores_are_named_by_what_they_divide_by():
    # {the, cat, sat, down} against {the, cat, sat, on, mat, today}: three shared.
    found = word_scores("the cat sat down the the", "the cat sat on the mat today")
    assert found == {
        "of_predicted_words": pytest.approx(3 / 4),
        "of_true_words": pytest.approx(3 / 6),
        "f1": pytest.approx(2 * 0.75 * 0.5 / 1.25),
    }


def test_word_scores_of_nothing():
    assert word_scores("", "some text") == {"of_predicted_words": 0, "of_true_words": 0, "f1": 0}
    assert word_scores("some text", "") == {"of_predicted_words": 0, "of_true_words": 0, "f1": 0}
    assert set(word_scores("", "").values()) == {1}


def test_chinese_characters_are_words():
    assert word_scores("今天", "今年")["f1"] == 0.5
    assert word_scores("第2章abc", "第2章 abc")["f1"] == 1


def test_word_overlap_counts_repetitions():
    assert word_overlap("a a b", "a a a c") == 0.5
    assert word_overlap("a a a a a", "a b") == 0.5  # what is not there does not help
    assert word_overlap("", "a") == 0
    assert word_overlap("x", "") == 1
