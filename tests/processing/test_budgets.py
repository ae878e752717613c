import math

import numpy as np
import pytest

from arrcoc.processing.budgets import (
    TIERS,
    auto_budget,
    check_token_budget,
    deepseek_ocr_tokens,
    learned_budgets,
    question_type_budget,
    reads_image,
    reads_question,
    resolve_token_budgets,
    snap_to_tier,
    two_mode_budget,
)


@pytest.mark.parametrize(
    "token_budget, expected",
    [
        (None, None),
        (64, [64, 64, 12]),  # clipped to the native count
        (1, [1, 1, 1]),
        (0.5, [200, 50, 6]),
        (1.0, [400, 100, 12]),
        (1e-9, [1, 1, 1]),
        (np.int64(7), [7, 7, 7]),
        (np.float32(0.5), [200, 50, 6]),
        ([100, 0.25, None], [100, 25, 12]),
        ((None, None, None), [400, 100, 12]),
        ([np.int32(5), np.float64(1.0), "auto:two_mode"], [5, 100, 12]),
        ("auto:two_mode", [64, 64, 12]),
        ("auto:question_type", [100, 100, 12]),
        ("learned", [400, 100, 12]),
        ("learned:160", [160, 100, 12]),
        (["learned:7", 9, None], [7, 9, 12]),
    ],
)
def test_forms(token_budget, expected):
    budgets = resolve_token_budgets(token_budget, [400, 100, 12], ["What is the title?"] * 3)
    assert budgets == expected
    assert budgets is None or all(type(budget) is int for budget in budgets)


@pytest.mark.parametrize(
    "value",
    [0, -1, 0.0, -0.5, 1.5, 64.0, math.nan, math.inf, -math.inf, True, False, np.True_, np.int64(0), np.float32(2)]
    + ["", "Auto", "auto:", "auto:best", "64", b"auto", {}, {"budget": 64}, 1j]
    + ["Learned", "learned:", "learned:0", "learned:-3", "learned:0.5", "learned:007", "learned: 64"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_values_that_are_no_budget(value, listed):
    with pytest.raises(ValueError, match=r"float share of the native count in \(0, 1\].*got") as error:
        check_token_budget([64, value] if listed else value)
    assert repr(value) in str(error.value)


def test_learned_forms():
    assert learned_budgets("learned", 2) == learned_budgets("learned:8", 2) == [True, True]
    assert learned_budgets(["learned", 64, None, "auto", "learned:3"], 5) == [True, False, False, False, True]
    assert learned_budgets(None, 1) == [False]
    assert not reads_question("learned") and not reads_image(["learned", 64])
    assert resolve_token_budgets("learned", [900], tiers=(3, 500)) == [500]


def test_a_nested_list_is_no_budget():
    with pytest.raises(ValueError, match=r"got \[64\]"):
        check_token_budget([[64]])


@pytest.mark.parametrize("budgets", [[], [64], [64] * 3])
def test_list_of_the_wrong_length_names_both_numbers(budgets):
    with pytest.raises(ValueError, match=f"{len(budgets)} entries for 2 images"):
        resolve_token_budgets(budgets, [100, 100])


def test_auto_forms_name_what_they_lack():
    with pytest.raises(ValueError, match="depends on the question"):
        resolve_token_budgets("auto:two_mode", [100])
    with pytest.raises(ValueError, match="depends on the question"):
        resolve_token_budgets([64, "auto"], [100, 100])
    with pytest.raises(ValueError, match="depends on the image"):
        resolve_token_budgets("auto", [100], ["Hi"])


def test_what_a_budget_reads():
    cases = {"auto": (True, True), "auto:two_mode": (True, False), 64: (False, False), None: (False, False)}
    for token_budget, expected in cases.items():
        assert (reads_question(token_budget), reads_image(token_budget)) == expected
        assert (reads_question([0.5, token_budget]), reads_image([0.5, token_budget])) == expected


@pytest.mark.parametrize(
    "tokens, questions",
    {
        400: [
            "Summarise this document.",
            "summarize the page",
            "Give me a summary",
            "Please EXPLAIN the diagram",
            "Can you describe the picture?",
            "What is going on? Describe everything in detail.",
            "Analyse the chart",
            "Analyzing this, what do you conclude?",
            "Find the chart and explain it",
            "Is there a signature? Describe it.",
        ],
        100: [
            "What is the title?",
            "Who is the author of this paper?",
            "Who wrote it?",
            "On which date was it signed?",
            "What year is it from?",
        ],
        64: [
            "Is there a signature?",
            "Are there any people in the picture?",
            "is there a summary on this page",
            "Find the dog",
            "Please locate the red button.",
            "Where is the exit?",
            "Does the road turn left?",
            "Is there a dog? Answer yes or no.",
            "Please answer in one word. Do the bars touch?",
            "Is there 3.5 anywhere?",
        ],
        256: [
            "",
            "How much does the coffee cost?",
            "Why is the title so long?",
            "Read the second paragraph",
            "Read the second paragraph. Is there a stamp?",
            "Do a careful reading of the page",
            "Have a look at the total and compare it",
            "Is there a stamp? How much is due?",
            "Was steht auf dem Schild?",
            "What is the subtitled film about?",  # whole words only
            "What was the finding?",
            "Tell me about the isthmus",
        ],
    }.items(),
)
def test_question_types(tokens, questions):
    assert {question: question_type_budget(question) for question in questions} == dict.fromkeys(questions, tokens)


@pytest.mark.parametrize("words, tokens", [(0, 256), (1, 64), (9, 64), (10, 256), (40, 256)])
def test_two_modes(words, tokens):
    assert two_mode_budget(" word" * words) == tokens


@pytest.mark.parametrize("tokens, tier", [(1, 64), (64, 64), (79, 64), (81, 100), (180, 160), (10_000, 400)])
def test_snapping(tokens, tier):
    assert snap_to_tier(tokens) == tier


# A28: the question sets the tier, the image moves it by one at most.
SIMPLE, COMPLEX = 20.0, 1.5  # compression ratios of blank paper and of a puzzle


@pytest.mark.parametrize(
    "question, native, ratio, tokens",
    [
        ("Is there a stamp?", 2400, COMPLEX, 100),  # complex image, simple question: one tier more
        ("What is the title?", 2400, COMPLEX, 160),
        ("Explain the picture", 1000, SIMPLE, 256),  # simple image, complex question: one tier less
        ("How are these related?", 1000, SIMPLE, 160),
        ("Explain this simply", 2400, COMPLEX, 400),  # adversarial: a word of manner saves nothing
        ("Just briefly explain this very simple thing", 2400, COMPLEX, 400),
        ("What about this?", 800, 4.0, 256),  # ambiguous question, ordinary image: the middle
        ("", 800, 4.0, 256),
        ("What is the title?", 1000, SIMPLE, 100),  # never down to the lowest tier: the question did not allow it
        ("Is there a stamp?", 1000, SIMPLE, 64),
        ("Explain the picture", 350, COMPLEX, 350),  # clipped to the cells there are
    ],
)
def test_question_and_image_together(question, native, ratio, tokens):
    assert resolve_token_budgets("auto", [native], [question], [ratio]) == [tokens]


def test_auto_never_leaves_the_tiers_nor_moves_more_than_one():
    for question in TIERS:
        for native in (1, 100, 1000, 100_000):
            for ratio in (1.5, 5.0, 20.0):
                moved = TIERS.index(auto_budget(question, native, ratio)) - TIERS.index(question)
                assert abs(moved) <= 1
                assert not (question > TIERS[0] and auto_budget(question, native, ratio) == TIERS[0])


def test_strategy_and_tiers_are_settings():
    question = "What is the title?"
    assert resolve_token_budgets("auto", [500], [question], [5.0], auto_strategy="two_mode") == [64]
    assert resolve_token_budgets("auto:question_type", [500], [question], tiers=(32, 128)) == [128]


@pytest.mark.parametrize("side, tokens", [(512, 73), (640, 111), (1024, 273), (1280, 421)])
def test_deepseek_ocr_counts(side, tokens):
    assert deepseek_ocr_tokens(side) == tokens
