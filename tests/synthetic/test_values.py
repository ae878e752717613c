"""Draws, values and sentences."""

import re

import numpy as np
import pytest

from arrcoc.synthetic import SPLITS
from arrcoc.synthetic.asking import number_in
from arrcoc.synthetic.dice import Dice
from arrcoc.synthetic.values import VALUE_KINDS, column, date, digits, sentence, value
from arrcoc.synthetic.vocabulary import lexicon


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("kind", VALUE_KINDS)
def test_values_are_clean_texts(kind, split):
    dice = Dice(4)
    found = [value(kind, dice, lexicon(split)) for _ in range(200)]
    for text in found:
        assert text and text == " ".join(text.split()) and text.isascii()
        assert "{" not in text and "}" not in text
    assert len(set(found)) >= {"yesno": 4, "currency": 4, "terms": 7, "status": 10}.get(kind, 40)


@pytest.mark.parametrize(
    ("notation", "pattern"),
    [
        (0, r"[A-Z][a-z]+ \d\d?, \d{4}"),
        (3, r"\d\d? [A-Z][a-z]{2} \d{4}"),
        (7, r"\d{4}-\d\d-\d\d"),
        (10, r"\d\d-[A-Z]{3}-\d\d"),
        (11, r"\d\d-[A-Z]{3}-\d{4}"),
    ],
)
def test_dates_have_a_notation(notation, pattern):
    assert all(re.fullmatch(pattern, date(Dice(seed), notation)) for seed in range(50))


@pytest.mark.parametrize("kind", ["amount", "measure", "decimal", "percent", "integer"])
def test_columns_share_unit_and_decimals(kind):
    for seed in range(20):
        texts = column(kind, 12, Dice(seed), lexicon("train"))
        shapes = {re.sub(r"[\d,]+", "0", text) for text in texts}
        assert len(shapes) == 1, texts
        if kind != "measure":
            assert all(number_in(text) is not None for text in texts)


def test_codes_always_hold_a_digit():
    dice = Dice(9)
    assert all(re.search(r"\d", value("code", dice, lexicon("train"))) for _ in range(300))


def test_digits():
    dice = Dice(0)
    assert all(len(digits(dice, n)) == n and digits(dice, n)[0] != "0" for n in range(1, 12))


def test_sentences_are_finished():
    dice = Dice(2)
    for _ in range(200):
        text = sentence(dice, lexicon("heldout"))
        assert text[0].isupper() and text.endswith(".") and len(text.split()) > 4


def test_unknown_kind():
    with pytest.raises(ValueError, match="poem"):
        value("poem", Dice(0), lexicon("train"))


def test_dice_repeat_and_streams_differ():
    rolls = [[Dice(seed, stream).random() for _ in range(3)] for seed, stream in ((7, 0), (7, 0), (7, 1), (8, 0))]
    assert rolls[0] == rolls[1]
    assert len({tuple(roll) for roll in rolls}) == 3
    with pytest.raises(ValueError, match="-1"):
        Dice(-1)


def test_dice_are_fair():
    dice = Dice(1)
    faces = np.bincount([dice.integer(1, 6) for _ in range(6000)], minlength=7)[1:]
    assert faces.min() > 850 and faces.max() < 1150
    picked = [dice.weighted("ab", (1, 3)) for _ in range(4000)]
    assert 0.7 < picked.count("b") / 4000 < 0.8
    shaken = np.array([dice.jitter(2.0) for _ in range(4000)])
    assert abs(shaken.mean()) < 0.1 and np.abs(shaken).max() <= 6.0
    assert all(0.2 <= dice.uniform(0.2, 0.4) < 0.4 for _ in range(100))


def test_samples_hold_every_item_once():
    dice = Dice(3)
    assert sorted(dice.sample(range(10), 99)) == list(range(10))
    firsts = [dice.sample("abcd", 2) for _ in range(2000)]
    assert all(len(set(pair)) == 2 for pair in firsts)
    assert all(400 < sum(pair[0] == letter for pair in firsts) < 600 for letter in "abcd")


def test_labels_have_one_to_five_words_and_known_values():
    for split in SPLITS:
        dice = Dice(5)
        for _ in range(500):
            key, kind = lexicon(split).key(dice)
            assert 1 <= len(key.split()) <= 5 and kind in VALUE_KINDS
        assert lexicon(split).key(dice, "date")[1] == "date"
