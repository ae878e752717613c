"""How answers to questions about images are scored, each by the rules of the benchmark that introduced the score.

All scores are functions of one prediction and the accepted answers, and lie in [0, 1].
"""

import re
from collections.abc import Callable, Sequence

from .transcripts import edit_distance


_ARTICLES = frozenset({"a", "an", "the"})
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten".split()
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBER_WORDS)} | {"none": "0"}
# Contractions in the rules' table, by their endings: the apostrophe goes before the ending (before the t of "nt").
_CONTRACTED = {
    "t": (
        "aint arent cant couldnt didnt doesnt dont hadnt hasnt havent isnt mightnt mustnt neednt oughtnt shant "
        "shouldnt wasnt werent wont wouldnt"
    ),
    "ve": "couldve mightve mustve notve shouldve theyve weve whatve whereve whove wouldve youve",
    "s": "hes hows somebodys thats theres whats whens wheres whos whys",
    "d": "hed howd itd someoned somethingd thered theyd whered whod youd",
    "ll": "howll itll somebodyll someonell somethingll theyll whatll wholl whyll youll",
    "re": "therere theyre whatre whyre youre",
}
_CONTRACTIONS = {
    word: f"{word.removesuffix(ending)}'{ending}" for ending, words in _CONTRACTED.items() for word in words.split()
} | {"maam": "ma'am", "oclock": "o'clock", "twas": "'twas", "yall": "y'all"}
_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_NUMBER_COMMA = re.compile(r"\d,\d")
_LONE_PERIOD = re.compile(r"\.(?!\d)")


def _plain(text: str) -> str:
    """Lower case, with single spaces."""
    return " ".join(text.lower().split())


def anls(prediction: str, answers: Sequence[str], threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest answer, 0 from a distance of `threshold` on.

    `max_a 1 - d(p, a) / max(|p|, |a|)` over the answers whose normalised distance lies below the threshold, without
    regard to case and spacing (Biten et al., "Scene text visual question answering", ICCV 2019). The mean over
    questions is ANLS.

    Args:
        prediction (`str`), answers (`Sequence[str]`): the prediction and the accepted answers.
        threshold (`float`): normalised distance from which on an answer is wrong.

    Raises:
        ValueError: if there is no answer.
    """
    _check_answers(answers)
    best = 0.0
    found = _plain(prediction)
    for answer in map(_plain, answers):
        longest = max(len(found), len(answer))
        distance = edit_distance(found, answer) / longest if longest else 0.0
        if distance < threshold:
            best = max(best, 1 - distance)
    return best


def relaxed_accuracy(prediction: str, answers: Sequence[str], tolerance: float = 0.05) -> float:
    """1 if a number lies within 5 % of an answer, or a text equals one without regard to case (ChartQA).

    A text that ends in a per cent sign is a hundredth of its number. An answer of 0 must be met exactly (Masry et al.,
    "ChartQA", Findings of ACL 2022; Methani et al., "PlotQA", WACV 2020).

    Args:
        prediction (`str`), answers (`Sequence[str]`): the prediction and the accepted answers.
        tolerance (`float`): largest difference, relative to the answer.

    Raises:
        ValueError: if there is no answer.
    """
    _check_answers(answers)

    def matches(answer: str) -> bool:
        found, expected = _number(prediction), _number(answer)
        if found is not None and expected:
            return abs(found - expected) / abs(expected) <= tolerance
        return prediction.strip().lower() == answer.strip().lower()

    return float(any(map(matches, answers)))


def _number(text: str) -> float | None:
    text = text.strip()
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def vqa_normalize(text: str) -> str:
    """An answer as the VQA evaluation compares it.

    The published rules: lower case; periods go unless a digit follows; other punctuation but apostrophes and colons
    becomes a space, or goes where it touches a space or a number has commas; number words up to ten become digits;
    articles go; apostrophes that contractions lack are restored.
    """
    text = text.replace("\n", " ").replace("\t", " ").strip()
    plain = text
    for mark in _PUNCTUATION:
        if f"{mark} " in text or f" {mark}" in text or _NUMBER_COMMA.search(text):
            plain = plain.replace(mark, "")
        else:
            plain = plain.replace(mark, " ")
    words = (_DIGITS.get(word, word) for word in _LONE_PERIOD.sub("", plain).lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def vqa_accuracy(prediction: str, answers: Sequence[str]) -> float:
    """Agreement with the annotators: 1 if at least three of nine others gave the prediction.

    The mean over annotators of `min(1, n / 3)`, where `n` of the *other* annotators gave the predicted answer, after
    `vqa_normalize` on both (Antol et al., "VQA", ICCV 2015). The published script leaves the normalisation out where
    all annotators agree to the letter. A single answer is compared exactly: 1 or 0.

    Args:
        prediction (`str`): the prediction.
        answers (`Sequence[str]`): one an annotator (ten in VQAv2 and TextVQA), in any order.

    Raises:
        ValueError: if there is no answer.
    """
    _check_answers(answers)
    found = vqa_normalize(prediction)
    agree = [vqa_normalize(answer) == found for answer in answers]
    if len(answers) == 1:
        return float(agree[0])
    return sum(min(1.0, (sum(agree) - own) / 3) for own in agree) / len(answers)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is an answer, without regard to case, spacing and a final full stop.

    Raises:
        ValueError: if there is no answer.
    """
    _check_answers(answers)
    found = _plain(prediction).rstrip(". ")
    return float(any(_plain(answer).rstrip(". ") == found for answer in answers))


def contains_answer(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction contains an answer, without regard to case (Liu et al., "OCRBench", 2023).

    Raises:
        ValueError: if there is no answer.
    """
    _check_answers(answers)
    found = prediction.lower().strip().replace("\n", " ")
    return float(any(answer.lower().strip().replace("\n", " ") in found for answer in answers))


def contains_formula(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction contains an answer, without regard to spaces: OCRBench's rule for handwritten formulas.

    Raises:
        ValueError: if there is no answer.
    """
    _check_answers(answers)
    found = "".join(prediction.split())
    return float(any("".join(answer.split()) in found for answer in answers))


def _check_answers(answers: Sequence[str]) -> None:
    if isinstance(answers, str) or not answers:
        raise ValueError(f"expected a list of at least one accepted answer, found {answers!r}")


ANSWER_METRICS: dict[str, Callable[[str, Sequence[str]], float]] = {
    "anls": anls,
    "relaxed_accuracy": relaxed_accuracy,
    "vqa_accuracy": vqa_accuracy,
    "exact_match": exact_match,
    "contains_answer": contains_answer,
    "contains_formula": contains_formula,
}
