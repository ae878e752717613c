"""How many visual tokens an image gets: the forms of `token_budget` and the heuristics behind `"auto"`.

A budget is decided before the model runs, from the question and the pixels alone, so that the processor can write
exactly that many placeholders.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from transformers.utils import logging


logger = logging.get_logger(__name__)

TIERS = (64, 100, 160, 256, 400)

_LEARNED = re.compile(r"learned(?::([1-9][0-9]*))?")
_ALLOWED = (
    "None (native), an int K >= 1, a float share of the native count in (0, 1], 'auto', 'auto:question_type', "
    "'auto:two_mode', 'auto:calibrated', 'learned', 'learned:K' with an int K >= 1, or a list or tuple with one of "
    "these for each image"
)

# Verbs that ask for the whole image; British and American spelling, all forms.
_WHOLE_IMAGE_VERB = (
    r"(?:summari[sz](?:e[sd]?|ing)|explain(?:s|ed|ing)?|describ(?:e[sd]?|ing)|analy[sz](?:e[sd]?|ing)"
    r"|discuss(?:es|ed|ing)?|outlin(?:e[sd]?|ing)|elaborat(?:e[sd]?|ing)|interpret(?:s|ed|ing)?"
    r"|transcrib(?:e[sd]?|ing)|translat(?:e[sd]?|ing)|paraphras(?:e[sd]?|ing))"
)
_WHOLE_IMAGE = re.compile(
    rf"\b(?:{_WHOLE_IMAGE_VERB}|summar(?:y|ies)|descriptions?|explanations?|analys[ei]s|overview|in detail|everything"
    r"|all (?:of )?the text)\b",
    re.IGNORECASE,
)
_YES_NO = re.compile(
    r"^\W*(?:(?:please|and|so|then|also)\W+)*"
    r"(?:(?:is|are|was|were) (?:there|this|that|these|those|it)|does|did|has|(?:do|have)\b(?=.*\?)"
    r"|(?:can|could) you (?:see|spot))\b",
    re.IGNORECASE,
)
_FORM_OF_ANSWER = re.compile(r"^\W*(?:please\W+)?(?:answer|reply|respond)\b", re.IGNORECASE)
_REASONS = re.compile(r"^\W*(?:why|how (?!many\b|much\b|old\b))", re.IGNORECASE)
_SEARCH = re.compile(r"^\W*(?:(?:please|and|then|can you|could you)\W+)*(?:find|locate|spot|where)\b", re.IGNORECASE)
_SINGLE_FACT = re.compile(
    r"\b(?:titles?|headings?|headlines?|authors?|written by|who wrote|dates?|dated|what year|which year|publishers?"
    r"|published)\b",
    re.IGNORECASE,
)
# Where one request ends and the next begins: after a sentence, and in "find the chart and explain it".
_NEXT_REQUEST = re.compile(
    rf"(?<=[.?!;])\s+|\n+|(?:,|\band\b|\bthen\b)\s+(?=(?:(?:then|please|also|briefly)\s+)?{_WHOLE_IMAGE_VERB}\b)",
    re.IGNORECASE,
)


def question_type_budget(question: str) -> int:
    """Tokens by the kind of question: the whole image 400, a single fact 100, yes/no and search 64, anything else 256.

    A request is judged by its words: "summarise", "explain", "describe" and the like ask for the whole image; "is
    there", "does", "find", "where" at its start for one look; "title", "author", "date" for one fact. Words of manner
    change nothing ("explain simply" is "explain"), nor do instructions on the form of the answer ("answer yes or no").
    Of several requests in one question the dearest decides. 64 tokens lose small print, so only a question that asks
    for such a look and nothing else gets them; an empty question, another language or an unknown kind gets 256.

    Args:
        question: The user's question, in English.

    Returns:
        One of 64, 100, 256, 400.
    """
    budgets = []
    for request in _NEXT_REQUEST.split(question):
        if _YES_NO.search(request):
            budgets.append(64)
        elif _WHOLE_IMAGE.search(request):
            budgets.append(400)
        elif _SEARCH.search(request):
            budgets.append(64)
        elif _SINGLE_FACT.search(request) and not _REASONS.search(request):
            budgets.append(100)
        elif request.strip() and not _FORM_OF_ANSWER.search(request):
            budgets.append(256)
    return max(budgets, default=256)


def two_mode_budget(question: str) -> int:
    """Tokens by the length of the question: 64 under ten words, else 256.

    The baseline that a learned budget must beat. An empty question is no question and gets 256.
    """
    return 64 if 0 < len(question.split()) < 10 else 256


AUTO_STRATEGIES: dict[str, Callable[[str], int]] = {
    "question_type": question_type_budget,
    "two_mode": two_mode_budget,
}
# Spends what was measured on a validation set, not a tier; needs `calibrated_budgets`.
CALIBRATED = "calibrated"

# Names of what `question_type_budget` tells apart, by its tokens.
QUESTION_TYPES = {64: "look", 100: "fact", 256: "reading", 400: "whole"}


def question_type(question: str) -> str:
    """The kind of a question: a `"look"` (yes/no and search), a single `"fact"`, the `"whole"` image, or `"reading"`.

    See `question_type_budget` for what each means.
    """
    return QUESTION_TYPES[question_type_budget(question)]


def check_calibrated_budgets(budgets: Mapping[str, int | float | None]) -> None:
    """Raise a `ValueError` if a key is no kind of question or a value is no number of tokens, share or `None`."""
    if unknown := sorted(set(budgets) - set(QUESTION_TYPES.values())):
        raise ValueError(
            f"calibrated_budgets has the kinds {unknown}; there are {', '.join(map(repr, QUESTION_TYPES.values()))}"
        )
    check_token_budget(list(budgets.values()))
    if texts := [value for value in budgets.values() if isinstance(value, str)]:
        raise ValueError(f"calibrated_budgets must be numbers of tokens, shares or None, got {texts}")


def snap_to_tier(tokens: float, tiers: Sequence[int] = TIERS) -> int:
    """The tier nearest to a number of tokens by ratio (180 is nearer to 160 than to 256)."""
    return min(tiers, key=lambda tier: abs(math.log(tier / tokens)))


def auto_budget(
    question_budget: int, native_count: int, compression_ratio: float, tiers: Sequence[int] = TIERS
) -> int:
    """Tokens by question and image: the question's tier, one tier up or down if the image clearly wants it.

    The image wants `native_count / compression_ratio` tokens. At least twice the question's tier moves it one tier up,
    at most a quarter of it one tier down (lost detail costs more than spare tokens), and never by more than one tier.
    Nothing moves down into the lowest tier: whether that is safe only the question can say.

    Args:
        question_budget: Tokens that the question asks for.
        native_count: Cells of the image.
        compression_ratio: By how much the image may be compressed, see `image_compression_ratio`.
        tiers: Allowed budgets in ascending order.

    Returns:
        One of the tiers, not clipped to the native count.
    """
    level = tiers.index(snap_to_tier(question_budget, tiers))
    wanted = native_count / compression_ratio
    if wanted >= 2 * tiers[level]:
        level = min(level + 1, len(tiers) - 1)
    elif wanted <= tiers[level] / 4 and level > 1:
        level -= 1
    return tiers[level]


def reads_question(token_budget: Any) -> bool:
    """Whether a `token_budget`, or an entry of it, is one of the `"auto"` forms."""
    return any(isinstance(entry, str) and entry.startswith("auto") for entry in _entries(token_budget))


def reads_image(token_budget: Any, auto_strategy: str = "question_type") -> bool:
    """Whether a `token_budget`, or an entry of it, is plain `"auto"` with a heuristic: it reads the image as well."""
    return auto_strategy != CALIBRATED and any(
        isinstance(entry, str) and entry == "auto" for entry in _entries(token_budget)
    )


def learned_budgets(token_budget: Any, images: int) -> list[bool]:
    """For each of `images` images whether its budget is left to the model: one of the `"learned"` forms.

    Args:
        token_budget: One form for all images, or a list or tuple with one for each.
        images: Number of images.
    """
    entries = _entries(token_budget) if isinstance(token_budget, list | tuple) else [token_budget] * images
    return [isinstance(entry, str) and entry.startswith("learned") for entry in entries]


def check_token_budget(token_budget: Any) -> None:
    """Raise a `ValueError` if a `token_budget` has none of the allowed forms."""
    names = {"auto", *(f"auto:{name}" for name in (*AUTO_STRATEGIES, CALIBRATED))}
    for entry in _entries(token_budget):
        value = entry.item() if isinstance(entry, np.generic) else entry
        if not (
            value is None
            or (isinstance(value, str) and (value in names or _LEARNED.fullmatch(value)))
            or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
            or (isinstance(value, float) and 0 < value <= 1)
        ):
            raise ValueError(f"token_budget must be {_ALLOWED}; got {entry!r}")


def resolve_token_budgets(
    token_budget: Any,
    native_counts: Sequence[int],
    queries: Sequence[str] | None = None,
    compression_ratios: Sequence[float] | None = None,
    auto_strategy: str = "question_type",
    tiers: Sequence[int] = TIERS,
    calibrated_budgets: Mapping[str, int | float | None] | None = None,
) -> list[int] | None:
    """Turn a `token_budget` of any form into the number of tokens of each image.

    Args:
        token_budget: One form for all images, or a list or tuple with one for each image:
            - `None`: the native count (alone, outside a list: the stock behaviour, the result is `None`).
            - int K: K tokens, at most the native count.
            - float in (0, 1]: this share of the native count, at least one token.
            - `"auto:question_type"`, `"auto:two_mode"`: the heuristic of that name on the question.
            - `"auto"`: the heuristic `auto_strategy`, moved by the image's information (`auto_budget`).
            - `"auto:calibrated"`, or `"auto"` with that `auto_strategy`: what `calibrated_budgets` says about the kind
              of question, native where it says nothing.
            - `"learned"`: the most that the model may choose, the highest tier; `"learned:K"`: K tokens at most.
        native_counts: Cells of each image.
        queries: The question about each image; needed by the `"auto"` forms.
        compression_ratios: By how much each image may be compressed; needed by plain `"auto"`.
        auto_strategy: Name of the heuristic of plain `"auto"`, or `"calibrated"`.
        tiers: Allowed automatic and learned budgets in ascending order.
        calibrated_budgets: For kinds of question (see `question_type`) a number of tokens, a share of the native
            count, or `None` for native; needed by the calibrated forms.

    Returns:
        `(images,)` tokens of each image, from 1 to its native count, or `None`.

    Raises:
        ValueError: If a value has no allowed form, a list has not one entry for each image, or an `"auto"` form lacks
            what it reads.
    """
    check_token_budget(token_budget)
    if token_budget is None:
        return None
    entries = _entries(token_budget)
    if not isinstance(token_budget, list | tuple):
        entries = entries * len(native_counts)
    if len(entries) != len(native_counts):
        raise ValueError(f"token_budget has {len(entries)} entries for {len(native_counts)} images")
    if reads_question(token_budget) and queries is None:
        raise ValueError(
            f"token_budget={token_budget!r} depends on the question: pass `queries` with one question for each image"
        )
    if reads_image(token_budget, auto_strategy) and compression_ratios is None:
        raise ValueError(
            f"token_budget={token_budget!r} depends on the image as well as on the question: pass "
            "`compression_ratios` with one ratio for each image (see image_compression_ratio), or take "
            "'auto:question_type', which reads the question alone"
        )
    budgets = []
    for image, (entry, native) in enumerate(zip(entries, native_counts, strict=True)):
        entry = entry.item() if isinstance(entry, np.generic) else entry
        if entry is None:
            budget = native
        elif isinstance(entry, str) and (learned := _LEARNED.fullmatch(entry)):
            budget = int(learned[1] or max(tiers))
        elif isinstance(entry, str):
            strategy = entry.partition(":")[2] or auto_strategy
            if strategy == CALIBRATED:
                budgets.append(_calibrated_tokens(queries[image], native, calibrated_budgets))  # type: ignore[index]
                continue
            budget = snap_to_tier(AUTO_STRATEGIES[strategy](queries[image]), tiers)  # type: ignore[index]
            if entry == "auto":
                budget = auto_budget(budget, native, compression_ratios[image], tiers)  # type: ignore[index]
        elif isinstance(entry, float):
            budget = max(1, round(entry * native))
        else:
            budget = entry
            if budget > native:
                logger.info(f"token_budget={budget} of image {image} is clipped to its native count {native}.")
        budgets.append(min(int(budget), int(native)))
    return budgets


def _calibrated_tokens(question: str, native: int, budgets: Mapping[str, int | float | None] | None) -> int:
    """Tokens of one image by the kind of its question."""
    if budgets is None:
        raise ValueError("the strategy 'calibrated' needs `calibrated_budgets`; `arrcoc calibrate` saves them")
    return (resolve_token_budgets(budgets.get(question_type(question)), [native]) or [native])[0]


def deepseek_ocr_tokens(side: int) -> int:
    """Visual tokens of DeepSeek-OCR for a square image: a `g x g` grid, a separator for each row and one more.

    `g = ceil((side / 16) / 4)` patches of 16 pixels after a fourfold merge, `g (g + 1) + 1` tokens in all.

    Args:
        side: Pixels a side.

    Returns:
        73 for 512, 111 for 640, 273 for 1024, 421 for 1280 pixels.
    """
    grid = math.ceil((side / 16) / 4)
    return grid * (grid + 1) + 1


def _entries(token_budget: Any) -> list[Any]:
    return list(token_budget) if isinstance(token_budget, list | tuple) else [token_budget]
