"""`generate`: reproducible documents of every kind, within the promised limits."""

import hashlib
import subprocess
import sys

import pytest

from arrcoc.synthetic import DIFFICULTIES, KINDS, QUESTION_KINDS, SPLITS, Document, bundled_face, generate
from arrcoc.synthetic.generator import LAYOUTS, layouts_of


BUNDLED = (bundled_face(),)


def fingerprint(document: Document) -> str:
    """Digest of everything in a document."""
    parts = (document.image.size, document.words, document.questions, document.layout, sorted(document.styles))
    return hashlib.sha256(document.image.tobytes() + repr(parts).encode()).hexdigest()


@pytest.fixture(scope="module")
def documents() -> list[Document]:
    return [generate(seed, (kind,), range(256, 641), "train", BUNDLED) for kind in KINDS for seed in range(36)]


def test_same_seed_same_document_other_seed_other_document():
    first, again, other = (generate(seed, size=300, faces=BUNDLED) for seed in (5, 5, 6))
    assert fingerprint(first) == fingerprint(again)
    assert fingerprint(first) != fingerprint(other)


def test_splits_of_a_seed_differ():
    assert len({fingerprint(generate(5, ("form",), 300, split, BUNDLED)) for split in SPLITS}) == len(SPLITS)


def test_bit_for_bit_in_another_process():
    code = (
        "import hashlib; from arrcoc.synthetic import bundled_face, generate\n"
        "for seed in range(12):\n"
        "    d = generate(seed, size=320, split='heldout', faces=(bundled_face(),))\n"
        "    parts = (d.image.size, d.words, d.questions, d.layout, sorted(d.styles))\n"
        "    print(hashlib.sha256(d.image.tobytes() + repr(parts).encode()).hexdigest())"
    )
    printed = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "77"}
    ).stdout.split()
    # In reverse here, so that nothing carried over from one document to the next can hide.
    here = [fingerprint(generate(seed, size=320, split="heldout", faces=BUNDLED)) for seed in reversed(range(12))]
    assert printed == here[::-1]


def test_kind_size_split_are_as_asked():
    document = generate(3, ("receipt",), (300, 700), "validation", BUNDLED)
    assert (document.kind, document.image.size, document.split) == ("receipt", (300, 700), "validation")
    assert document.image.mode == "RGB"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [256, (256, 1536), (1536, 256)])
def test_extreme_sizes(kind, size):
    document = generate(1, (kind,), size, "train", BUNDLED)
    assert document.image.size == (size if isinstance(size, tuple) else (size, size))
    assert document.questions


def test_sides_come_from_the_range():
    sides = range(256, 513, 32)
    found = [generate(seed, ("scene",), sides, "train", BUNDLED).image.size for seed in range(30)]
    assert {side for size in found for side in size} <= set(sides)
    assert any(width != height for width, height in found)


def test_default_sides_stay_in_the_limits():
    for seed in range(12):
        assert all(256 <= side <= 1536 for side in generate(seed, ("scene", "pie_chart"), faces=BUNDLED).image.size)


def test_clear_pages_have_large_letters():
    kinds = ("form", "receipt", "table")

    def smallest(clear: bool) -> float:
        drawn = (generate(seed, kinds, 384, "train", BUNDLED, clear) for seed in range(40))
        heights = [
            box[3] - box[1] for document in drawn for word in document.words if "A" in word.text for box in [word.box]
        ]
        return min(heights)

    assert smallest(clear=True) >= 10 > smallest(clear=False)  # capitals are 0.7 of the letter size high


def test_every_kind_layout_and_question_kind_appears(documents):
    assert {document.kind for document in documents} == set(KINDS)
    assert {document.layout for document in documents} == {
        layout.name for kind in KINDS for layout in layouts_of(kind, "train")
    }
    asked = {question.kind for document in documents for question in document.questions}
    assert asked == set(QUESTION_KINDS)


def test_every_kind_has_layouts_for_training_and_others_held_out():
    names = [layout.name for kind in KINDS for layout in LAYOUTS[kind]]
    assert len(set(names)) == len(names)
    for kind in KINDS:
        assert layouts_of(kind, "train") == layouts_of(kind, "validation")
        assert layouts_of(kind, "train") and layouts_of(kind, "heldout")
        assert not set(layouts_of(kind, "train")) & set(layouts_of(kind, "heldout"))


def test_difficulties_are_mixed(documents):
    levels = [question.difficulty for document in documents for question in document.questions]
    shares = {level: levels.count(level) / len(levels) for level in DIFFICULTIES}
    assert 0.1 < shares["easy"] < 0.4 and 0.25 < shares["medium"] < 0.6 and 0.1 < shares["hard"] < 0.5
    assert 0.005 < shares["very hard"] < 0.2


def test_several_different_questions_an_image(documents):
    counts = [len(document.questions) for document in documents]
    assert min(counts) >= 1 and max(counts) <= 8 and sum(counts) / len(counts) > 4
    for document in documents:
        texts = [question.text for question in document.questions]
        assert len(set(texts)) == len(texts)
        assert all(question.answers and all(question.answers) for question in document.questions)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"kinds": ("poster",)}, "poster"),
        ({"kinds": ()}, "kinds"),
        ({"kinds": "form"}, "kinds"),
        ({"size": 200}, "256"),
        ({"size": (512, 4096)}, "1536"),
        ({"size": (512, 512, 3)}, "size"),
        ({"size": range(300, 300)}, "300"),
        ({"split": "test"}, "split"),
        ({"faces": ()}, "faces"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        generate(**{"seed": 0, **arguments})
