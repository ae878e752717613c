"""Training never sees words, labels, layouts and faces of the held-out set."""

import re

import pytest

from arrcoc.synthetic import KINDS, SPLITS, Document, available_fonts, bundled_face, generate
from arrcoc.synthetic.dice import Dice
from arrcoc.synthetic.fonts import styles
from arrcoc.synthetic.vocabulary import ESSENTIAL_KEYS, STRUCTURAL, Lexicon, lexicon, split_of


@pytest.fixture(scope="module")
def documents() -> dict[str, list[Document]]:
    return {split: [generate(seed, None, range(256, 513), split) for seed in range(150)] for split in SPLITS}


def content_words(documents: list[Document]) -> set[str]:
    """Alphabetic words of four letters or more that are not part of the shared wording."""
    found: set[str] = set()
    for document in documents:
        for word in document.words:
            found.update(part.lower() for part in re.findall(r"[A-Za-z]{4,}", word.text))
    return found - STRUCTURAL


def test_words_are_disjoint(documents):
    words = {split: content_words(found) for split, found in documents.items()}
    assert all(len(found) > 200 for found in words.values())
    assert not words["train"] & words["heldout"]
    assert not words["train"] & words["validation"]
    assert not words["validation"] & words["heldout"]


def test_every_content_word_belongs_to_its_split(documents):
    for split, found in documents.items():
        assert {split_of(word) for word in content_words(found)} == {split}


def test_layouts_are_disjoint(documents):
    layouts = {split: {document.layout for document in found} for split, found in documents.items()}
    assert not (layouts["train"] | layouts["validation"]) & layouts["heldout"]


def test_styles_are_disjoint(documents):
    used = {split: frozenset().union(*(document.styles for document in found)) for split, found in documents.items()}
    assert used["heldout"] and not (used["train"] | used["validation"]) & used["heldout"]


@pytest.mark.parametrize("faces", [(bundled_face(),), available_fonts()])
def test_available_styles_are_disjoint(faces):
    train, heldout = ({style.name for style in styles(split, faces)} for split in ("train", "heldout"))
    assert len(train) >= 10 and len(heldout) >= 5
    assert not train & heldout


def test_labels_are_divided_as_phrases():
    keys = {split: {key.lower() for found in lexicon(split).keys.values() for key in found} for split in SPLITS}
    assert not keys["train"] & keys["heldout"] - ESSENTIAL_KEYS
    assert len(keys["train"]) > 200 and len(keys["heldout"]) > 50


def test_checksum_never_changes():
    """Values of CRC-32 modulo 100; another split of the words would leak held-out ones into training."""
    words = ("lantern", "Harbor", "Invoice Date", "ziegler", "copper")
    assert [split_of(word) for word in words] == [split_of(word.upper()) for word in words]
    assert [split_of(word) for word in words] == ["heldout", "train", "heldout", "heldout", "train"]


def test_vocabulary_is_open():
    words, dice = Lexicon("heldout"), Dice(1)
    made = {words.pseudo_word(dice) for _ in range(500)}
    assert len(made) > 450
    assert all(split_of(word) == "heldout" and 4 <= len(word) <= 12 for word in made)


def test_words_of_the_training_have_misspellings_of_their_own():
    names = Lexicon("train").surnames
    own = names[:: len(names) // len(names.words)]
    assert own == list(names.words) and len(names) > 10 * len(own)
    spelt = list(names)
    assert spelt == list(Lexicon("train").surnames)  # the same each time
    for place, name in enumerate(spelt):
        word = own[place // (len(names) // len(own))]
        assert split_of(name) == "train" and len(name) == len(word)
        differing = [(a, b) for a, b in zip(name, word, strict=True) if a != b]
        assert len(differing) <= max(1, len(word) // 2) and all(a.isupper() == b.isupper() for a, b in differing)
    assert len(set(spelt)) > 0.9 * len(spelt)
    assert not set(spelt) & {*Lexicon("heldout").surnames, *Lexicon("validation").surnames}


def test_unknown_split():
    with pytest.raises(ValueError, match="split"):
        Lexicon("test")


def test_every_split_shows_every_kind(documents):
    for found in documents.values():
        assert {document.kind for document in found} == set(KINDS)
