"""Words of a split: real words divided by a checksum, and pseudo-words so that the vocabulary is open.

A word (or a whole field label) belongs to the split that the CRC-32 of its lower-case spelling says: 70 % to training,
10 % to validation, 20 % to the held-out set. In training each word has misspellings besides, with up to half of its
letters exchanged: a few thousand words are soon known by heart, and their letters guessed instead of read. Structural
words (function words, words of field labels and of fixed wording) are shared: a form without "Date" and "Total" would
be no form. Labels are divided as whole phrases, except the few in :data:`ESSENTIAL_KEYS`.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache
from string import ascii_lowercase
from typing import overload

from . import templates, wordlists
from .dice import Dice
from .document import DOCUMENT_WORDS, SPLITS


_SHARES = {"train": (0, 70), "validation": (70, 80), "heldout": (80, 100)}
_MISSPELLINGS = 12  # of each word
_ALPHABETIC = re.compile(r"[A-Za-z]+")

ESSENTIAL_KEYS = frozenset(
    "date total name address subject title time phone amount price quantity city company type weight comments".split()
)


def split_of(text: str) -> str:
    """The split a word or phrase belongs to, by a checksum that no platform or version changes."""
    mark = zlib.crc32(text.lower().encode()) % 100
    return next(name for name, (low, high) in _SHARES.items() if low <= mark < high)


def words_in(text: str) -> list[str]:
    """Lower-case alphabetic words of a text."""
    return [word.lower() for word in _ALPHABETIC.findall(text)]


def _template_texts() -> list[str]:
    texts: list[str] = []
    for name in dir(templates):
        value = getattr(templates, name)
        if not name.isupper():
            continue
        for item in (value,) if isinstance(value, str) else value:
            texts.extend((item,) if isinstance(item, str) else item[:1])
    return texts


def _structural() -> frozenset[str]:
    lists = (
        wordlists.MONTHS,
        tuple(month[:3] for month in wordlists.MONTHS),
        wordlists.WEEKDAYS,
        wordlists.STREETS,
        wordlists.STATES,
        wordlists.COMPANY_FORMS,
        wordlists.TICK_LABELS,
        wordlists.FORM_TITLES,
        *wordlists.KEYS.values(),
        *wordlists.KEY_HEADS.values(),
        *DOCUMENT_WORDS.values(),
        tuple(_template_texts()),
    )
    return frozenset(word for phrases in lists for phrase in phrases for word in words_in(phrase))


STRUCTURAL = _structural()


class Spellings(Sequence[str]):
    """Words of the training, each followed by its misspellings, which are made when asked for.

    Up to half of a word's letters are others; a misspelling belongs to the training like any word.

    Args:
        words: in their own spelling.
    """

    def __init__(self, words: tuple[str, ...]) -> None:
        self.words = words

    def __len__(self) -> int:
        return len(self.words) * (1 + _MISSPELLINGS)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        place, number = divmod(range(len(self))[index], 1 + _MISSPELLINGS)
        word = self.words[place]
        if number == 0:
            return word
        letters = [place for place, letter in enumerate(word) if letter.isascii() and letter.isalpha()]
        dice = Dice(zlib.crc32(word.encode()), number)
        while True:
            spelt = list(word)
            for place in dice.sample(letters, dice.integer(1, max(1, len(letters) // 2))):
                letter = dice.pick(ascii_lowercase)
                spelt[place] = letter.upper() if word[place].isupper() else letter
            found = "".join(spelt)
            if split_of(found) == "train" and not STRUCTURAL.intersection(words_in(found)):
                return found


def _share(items: tuple[str, ...], split: str) -> Sequence[str]:
    own = tuple(item for item in items if item.lower() not in STRUCTURAL and split_of(item) == split)
    return Spellings(own) if split == "train" else own


class Lexicon:
    """All words that documents of one split may print.

    Args:
        split: one of :data:`arrcoc.synthetic.document.SPLITS`.

    Raises:
        ValueError: unknown split.
    """

    def __init__(self, split: str) -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be one of {SPLITS}, found {split!r}")
        self.split = split
        self.first_names = _share(wordlists.FIRST_NAMES, split)
        self.surnames = _share(wordlists.SURNAMES, split)
        self.places = _share(wordlists.PLACES, split)
        self.nouns = _share(wordlists.NOUNS, split)
        self.adjectives = _share(wordlists.ADJECTIVES, split)
        self.verbs = _share(wordlists.VERBS, split)
        self.products = _share(wordlists.PRODUCTS, split)
        self.industries = _share(wordlists.INDUSTRIES, split)
        self.keys = {
            kind: tuple(key for key in keys if key.lower() in ESSENTIAL_KEYS or split_of(key) == split)
            for kind, keys in wordlists.KEYS.items()
        }
        self._key_kinds = tuple(kind for kind, keys in self.keys.items() if keys)
        self._key_weights = tuple(len(self.keys[kind]) ** 0.5 for kind in self._key_kinds)

    def pseudo_word(self, dice: Dice) -> str:
        """A pronounceable lower-case word of 4 to 12 letters that belongs to this split."""
        while True:
            word = "".join(dice.pick(wordlists.SYLLABLES) for _ in range(dice.integer(1, 3))) + dice.pick(
                wordlists.ENDINGS
            )
            if 4 <= len(word) <= 12 and word not in STRUCTURAL and split_of(word) == self.split:
                return word

    def noun(self, dice: Dice) -> str:
        """A noun, now and then a pseudo-word."""
        return self.pseudo_word(dice) if dice.chance(0.12) else dice.pick(self.nouns)

    def surname(self, dice: Dice) -> str:
        """A family name, now and then an invented one."""
        return self.pseudo_word(dice).capitalize() if dice.chance(0.15) else dice.pick(self.surnames)

    def place(self, dice: Dice) -> str:
        """A town, now and then an invented one."""
        return self.pseudo_word(dice).capitalize() if dice.chance(0.15) else dice.pick(self.places)

    def brand(self, dice: Dice) -> str:
        """A capitalised name of a thing: pseudo-word, surname or noun."""
        draw = dice.random()
        if draw < 0.4:
            return self.pseudo_word(dice).capitalize()
        return dice.pick(self.surnames) if draw < 0.7 else dice.pick(self.nouns).capitalize()

    def phrase(self, dice: Dice, words: int) -> str:
        """``words`` content words that read like a noun phrase, lower case."""
        parts = [dice.pick(self.adjectives) if dice.chance(0.6) else self.noun(dice) for _ in range(words - 1)]
        return " ".join([*parts, self.noun(dice)])

    def key(self, dice: Dice, kind: str | None = None) -> tuple[str, str]:
        """A field label of one to five words and the type of its value.

        Args:
            dice: source of randomness.
            kind: type of value wanted; any when None.

        Returns:
            (label in title case, type of value as :func:`arrcoc.synthetic.values.value` knows it).
        """
        kind = kind or dice.weighted(self._key_kinds, self._key_weights)
        heads = wordlists.KEY_HEADS.get(kind)
        if heads and (not self.keys.get(kind) or dice.chance(0.3)):
            words = self.phrase(dice, dice.weighted((1, 2, 3), (6, 3, 1))).title()
            return f"{words} {dice.pick(heads)}", kind
        return dice.pick(self.keys[kind]), kind


@lru_cache(maxsize=len(SPLITS))
def lexicon(split: str) -> Lexicon:
    """The (cached) lexicon of a split."""
    return Lexicon(split)
