"""Answer metrics against cases worked by hand, after the rules of their benchmarks."""

import pytest

from arrcoc.evaluation import (
    ANSWER_METRICS,
    anls,
    contains_answer,
    contains_formula,
    exact_match,
    relaxed_accuracy,
    vqa_accuracy,
    vqa_normalize,
)


@pytest.mark.parametrize(
    "prediction, answers, expected",
    [
        ("Dallas", ["dallas"], 1.0),
        ("  two   words ", ["Two Words"], 1.0),
        ("dalas", ["dallas"], 5 / 6),  # one insertion over six
        ("abcd", ["abxy"], 0.0),  # distance 2/4 = 0.5 is not below the threshold
        ("abcde", ["abcxy"], 0.6),  # 2/5
        ("nothing", ["dallas"], 0.0),
        ("", ["dallas"], 0.0),
        ("dalas", ["texas", "Dallas, TX", "dallas"], 5 / 6),  # the nearest answer counts
    ],
)
def test_anls(prediction, answers, expected):
    assert anls(prediction, answers) == pytest.approx(expected)


def test_anls_of_other_thresholds():
    assert anls("abcd", ["abxy"], threshold=0.6) == pytest.approx(0.5)
    assert anls("abcde", ["abcxy"], threshold=0.4) == 0.0


@pytest.mark.parametrize(
    "prediction, answer, expected",
    [
        ("104", "100", 1),
        ("105", "100", 1),  # 5 % exactly
        ("105.1", "100", 0),
        ("95", "100", 1),
        ("94.9", "100", 0),
        ("-95", "-100", 1),
        ("100", "-100", 0),
        ("0.51", "0.5", 1),
        ("51%", "0.5", 1),
        ("50", "50%", 0),
        ("0", "0", 1),  # as text
        ("0.0", "0", 0),
        ("0.01", "0", 0),
        ("Blue ", "blue", 1),
        ("blues", "blue", 0),
        ("1,000", "1000", 0),  # no number by the published rule
        ("12 dogs", "12", 0),
        ("", "12", 0),
    ],
)
def test_relaxed_accuracy(prediction, answer, expected):
    assert relaxed_accuracy(prediction, [answer]) == expected


def test_relaxed_accuracy_takes_any_answer_and_tolerance():
    assert relaxed_accuracy("7", ["red", "7.2"]) == 1
    assert relaxed_accuracy("109", ["100"], tolerance=0.1) == 1


@pytest.mark.parametrize(
    "text, expected",
    [
        ("A dog", "dog"),
        ("the  The an a", ""),
        ("Two", "2"),
        ("none", "0"),
        ("ten eleven", "10 eleven"),
        ("dont", "don't"),
        ("Wont", "won't"),
        ("theyre", "they're"),
        ("could've", "could've"),
        ("oclock", "o'clock"),
        ("girl's", "girl's"),  # apostrophes stay
        ("2:50 pm", "2:50 pm"),  # colons stay
        ("100,978", "100978"),  # a comma between digits goes
        ("red,blue", "red blue"),  # elsewhere punctuation becomes a space
        ("red, blue", "red blue"),  # or goes where it touches one
        ("well-known", "well known"),
        ("yes.", "yes"),
        ("3.5", "3.5"),  # a decimal point stays
        ("u.s.", "us"),
        ("new\nyork\t", "new york"),
        ("what?!", "what"),
    ],
)
def test_vqa_normalisation(text, expected):
    assert vqa_normalize(text) == expected


@pytest.mark.parametrize("given, expected", [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_vqa_accuracy_of_ten_answers(given, expected):
    """With 3 of 10: seven annotators see three others who agree (1), three see two (2/3): (7 + 2) / 10 = 0.9."""
    answers = ["Red"] * given + ["blue"] * (10 - given)
    assert vqa_accuracy("the red", answers) == pytest.approx(expected)


def test_vqa_accuracy_normalises_both_sides():
    assert vqa_accuracy("2", ["two"] * 4 + ["three"] * 6) == 1
    assert vqa_accuracy("dont know", ["don't know"] * 10) == 1
    assert vqa_accuracy("Red.", ["red"]) == 1
    assert vqa_accuracy("green", ["red"]) == 0


def test_exact_match():
    assert exact_match("  YES. ", ["yes"]) == 1
    assert exact_match("two  dogs", ["cat", "Two dogs"]) == 1
    assert exact_match("yes it is", ["yes"]) == 0
    assert exact_match("3.5", ["35"]) == 0
    assert exact_match("", ["yes"]) == 0


def test_ocrbench_rules():
    assert contains_answer("The word is\nCENTRE.", ["is centre"]) == 1
    assert contains_answer("center", ["centre"]) == 0
    assert contains_formula(r"$ \frac { a } { b } $", [r"\frac{a} {b}"]) == 1
    assert contains_formula(r"\frac{A}{b}", [r"\frac{a}{b}"]) == 0  # case matters in formulas


@pytest.mark.parametrize("name", ANSWER_METRICS)
@pytest.mark.parametrize("answers", [[], "yes"])
def test_answers_must_be_a_list(name, answers):
    with pytest.raises(ValueError, match="accepted answer"):
        ANSWER_METRICS[name]("yes", answers)
