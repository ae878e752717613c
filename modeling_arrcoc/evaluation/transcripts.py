"""How well a page that was read agrees with its text: words that are shared, and characters that must be changed."""

import re
from collections import Counter


_CHINESE = re.compile(r"[㐀-䶿一-鿿豈-﫿]")


def edit_distance(a: str, b: str) -> int:
    """Least number of characters to insert, delete or replace to make one text the other (Levenshtein).

    Bit-parallel (Hyyrö, "A bit-vector algorithm for computing Levenshtein and Damerau edit distances", 2003): a column
    of the usual table is two integers of `len(a)` bits, so a page takes milliseconds.
    """
    if not a or not b:
        return len(a) + len(b)
    full, last = (1 << len(a)) - 1, 1 << (len(a) - 1)
    places: dict[str, int] = {}
    for index, character in enumerate(a):
        places[character] = places.get(character, 0) | 1 << index
    rises, falls, distance = full, 0, len(a)  # where the column goes up and down by 1, and its last value
    for character in b:
        equal = places.get(character, 0)
        diagonal = (((equal & rises) + rises) ^ rises) | equal | falls
        right, left = falls | ~(diagonal | rises), rises & diagonal
        distance += bool(right & last) - bool(left & last)
        right, left = (right << 1) | 1, left << 1
        rises, falls = (left | ~(diagonal | right)) & full, right & diagonal & full
    return distance


def normalized_edit_distance(prediction: str, text: str) -> float:
    """NED: the edit distance over the length of the longer text; 0 is perfect, 1 shares nothing."""
    longest = max(len(prediction), len(text))
    return edit_distance(prediction, text) / longest if longest else 0.0


def words(text: str) -> list[str]:
    """The words of a text; each Chinese character is a word.

    The script of the Fox benchmark divides Chinese with a statistical tokenizer instead, which varies by version.
    """
    return _CHINESE.sub(r" \g<0> ", text).split()


def word_scores(prediction: str, text: str) -> dict[str, float]:
    """Shared words by set, as the Fox benchmark counts them, named by what they divide by.

    Each word counts once, however often it occurs (Liu et al., "Focus anywhere for fine-grained multi-page document
    understanding", 2024). The published script exchanges the names of precision and recall.

    Returns:
        `dict[str, float]`: `"of_predicted_words"`, shared words over those predicted (precision);
        `"of_true_words"`, shared words over those of the text (recall); and `"f1"`, their harmonic mean.
    """
    predicted, true = set(words(prediction)), set(words(text))
    shared = len(predicted & true)
    if not predicted and not true:
        return {"of_predicted_words": 1.0, "of_true_words": 1.0, "f1": 1.0}
    return {
        "of_predicted_words": shared / len(predicted) if predicted else 0.0,
        "of_true_words": shared / len(true) if true else 0.0,
        "f1": 2 * shared / (len(predicted) + len(true)),
    }


def word_overlap(prediction: str, text: str) -> float:
    """Share of the text's words that were read, repetitions included: a word read twice counts twice if it is there.

    `sum_w min(n_w(prediction), n_w(text)) / sum_w n_w(text)`; 1 for a text without words.
    """
    true = Counter(words(text))
    return (Counter(words(prediction)) & true).total() / true.total() if true else 1.0
