"""How much of what: the presets of the training."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .cache import Drawing


STAGES = ("reading", "enlarged", "listening", "looking", "budgets", "together", "looking again")
GLANCE = 1  # at a quarter of the native tokens the print is still read
BLOCK = {
    "policy": "foveated",
    "relevance": "learned",
    "scorer_context": "axial",
    "cell_encoder": "glance",
    "glance_level": GLANCE,
    "query_scorer": "none",
    "salience_weight": 0,
    "query_weight": 10.0,  # what is asked for decides; chosen on validation pages, as is all below
    "relevance_floor": 2e-4,
    "relevance_spread": 0.35,
    "context_share": 0.0,  # one token at least for all that is not shown
    "fovea_threshold": 2e-4,
    "pair_worth": 0.97,
    "pair_drawing": "window",
}


@dataclass(frozen=True)
class Preset:
    """How much of what.

    Args:
        model: size, one of `model.SIZES`.
        print: documents to read in stage 1, cut into squares of the size of `pages`.
        pages: documents to answer about, seen whole.
        large_pages: larger ones of the same print, seen as large.
        small_print: documents as in the world, at their own size, that relevance learns from besides.
        validation: documents to choose by.
        heldout: documents that are measured at the end alone, with faces, words and layouts that are nowhere else.
        reading, enlarged, listening, looking, budgets, together: steps of the stages.
        reader: steps of the reader alone, where a training goes on from a checkpoint, which has none.
        crops, chats, glances, questions: batch of each process in these stages.
        side: in pixels that pages are seen at: twice their size, so that few letters share a cell.
        rate: learning rate of stage 1; the others follow from it.
        goal: share of characters that ends stage 1.
        workers: processes.
        exam: documents of a measurement during the training.
        validate_every: steps.
        block: options of the ARR-COC block, where not those of `BLOCK`.
    """

    model: str
    print: tuple[Drawing, ...]
    pages: Drawing
    validation: Drawing
    heldout: Drawing
    reading: int
    enlarged: int
    listening: int
    looking: int
    budgets: int
    together: int
    reader: int = 400
    crops: int = 8
    chats: int = 16
    glances: int = 16
    questions: int = 16
    small_print: tuple[Drawing, ...] = ()
    large_pages: tuple[Drawing, ...] = ()
    side: int = 512
    rate: float = 1.2e-3
    goal: float = 0.95
    workers: int = 2
    exam: int = 192
    validate_every: int = 400
    block: Mapping[str, Any] = field(default_factory=dict)

    def drawings(self, stages: Sequence[str] = STAGES) -> list[Drawing]:
        """Documents that stages and the measurement after them need, those of the pages first."""
        drawings = [self.validation, self.pages, *self.large_pages]
        if {"reading", "enlarged", "together"} & set(stages):
            drawings += self.print
        if {"looking", "looking again"} & set(stages):
            drawings += self.small_print
        return [*drawings, self.heldout]

    def side_of(self, drawing: Drawing) -> int:
        """Side in pixels that documents are seen at whose print is that of the pages."""
        return self.side * drawing.size // self.pages.size

    def batch_of(self, size: int, side: int) -> int:
        """Documents of a side whose cells are about as many as those of `size` pages."""
        return max(1, size * self.side**2 // side**2)

    def pages_print(self) -> list[tuple[Drawing, float]]:
        """Documents of the kinds that are asked about, and the share of each drawing."""
        alike = [drawing for drawing in self.print if drawing.kinds == self.pages.kinds]
        return [(drawing, 1 / len(alike)) for drawing in alike]


_FORMS = ("form", "receipt")
_PAGES = ("form", "receipt", "invoice", "table")
_DOCUMENTS = {
    "print": (
        Drawing("train", 256, None, 80, 512),
        Drawing("train", 512, None, 32, 256),
        Drawing("train", 256, _PAGES, 40, 512, clear=True),
        Drawing("train", 512, _PAGES, 24, 256, clear=True),
    ),
    "pages": Drawing("train", 256, _PAGES, 24, 512, clear=True),
    "large_pages": (Drawing("train", 384, _PAGES, 12, 512, clear=True),),
    "small_print": (Drawing("train", 512, None, 8, 256), Drawing("train", 1024, _PAGES, 20, 64)),
    "validation": Drawing("validation", 256, _PAGES, 1, 512, clear=True),
    "heldout": Drawing("heldout", 256, _PAGES, 3, 512, clear=True),
}
_PLAIN = Drawing("train", 256, _FORMS, 24, 256, plain=True, clear=True)
_QUICK = Preset(
    model="small",
    print=(replace(_PLAIN, shards=8),),
    pages=replace(_PLAIN, shards=2),  # what the tower sees of each is computed once, and takes longest
    validation=replace(_PLAIN, split="validation", shards=1),
    heldout=replace(_PLAIN, split="heldout", shards=1, documents=128),
    reading=800,
    enlarged=80,
    listening=100,
    looking=150,
    budgets=20,
    together=10,
    chats=8,
    rate=2e-3,
    goal=1.0,
    exam=96,
    validate_every=200,
)
PRESETS = {
    # Large print of two kinds in one face, so that ten minutes are enough to see it learn.
    "quick": _QUICK,
    # The same print until the small model answers.
    "plain": replace(
        _QUICK,
        print=(_PLAIN,),
        pages=replace(_PLAIN, shards=64),
        reading=3400,
        enlarged=2400,
        listening=7000,
        looking=450,
        budgets=60,
        together=850,
        goal=0.97,
        validate_every=800,
        block={"pair_worth": None},  # on validation pages pairs brought this model nothing
    ),
    "cpu": Preset(
        model="tiny",
        **_DOCUMENTS,
        reading=16000,
        enlarged=2000,
        listening=1800,
        looking=1500,
        budgets=120,
        together=1000,
    ),
    "gpu": Preset(
        model="tiny",
        **_DOCUMENTS,
        reading=3500,
        enlarged=1000,
        listening=2400,
        looking=1500,
        budgets=1000,
        together=500,
        crops=96,
        chats=48,
        glances=48,
        questions=48,
        rate=2e-3,
        goal=0.97,
        workers=1,
    ),
}
