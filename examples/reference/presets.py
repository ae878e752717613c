"""How much of what: the presets of the training, and the stages that they make."""

from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain, cycle
from pathlib import Path
from typing import Any

from torch import nn

from .answering import Writer
from .attention import CAUSAL
from .cache import Drawing, shards
from .features import Seen, View, glance_view, information_view, places, tower_view
from .loop import Metrics, Stage
from .model import build_model, quicken, takes_parts
from .reading import Reader
from .stage_budgets import Exam, Questions, budget_step
from .stage_listening import Glimpses, Widening, Window, listening_step
from .stage_looking import Glances, looking_step, measure_looking
from .stage_reading import Alternating, Crops, measure_reading, reading_step
from .stage_together import Together, together_step
from .tokenizer import CELL, build_tokenizer
from .watching import watch


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
}
BUDGET_SHARES = (1.0, 0.5, 0.25, 0.25, 0.1, 0.1, 0.05)  # drawn from with equal chances
SMALL_SHARES = (0.25, 0.25, 0.1, 0.1, 0.05)


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
        crops, chats, glances, questions: batch of each process in these stages.
        side: in pixels that pages are seen at: twice their size, so that few letters share a cell.
        rate: learning rate of stage 1; the others follow from it.
        goal: share of characters that ends stage 1.
        workers: processes.
        exam: documents of a measurement during the training.
        validate_every: steps.
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
        pages=replace(_PLAIN, shards=12),
        reading=3400,
        enlarged=600,
        listening=3000,
        looking=400,
        budgets=60,
        together=300,
        goal=0.97,
        validate_every=800,
    ),
    "cpu": Preset(
        model="tiny",
        **_DOCUMENTS,
        reading=16000,
        enlarged=2000,
        listening=1800,
        looking=1500,
        budgets=120,
        together=800,
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


class Reference(nn.Module):
    """All that is trained.

    Args:
        size: of the model, one of `model.SIZES`.
        host: its architecture, one of `model.HOSTS`.
    """

    def __init__(self, size: str, host: str = "qwen3_vl"):
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.model = build_model(size, self.tokenizer, host, **BLOCK)
        self.reader = Reader(self.model.model.visual)
        quicken(self.model.model.visual)
        self.model.set_attn_implementation({"text_config": CAUSAL})


@dataclass
class Plan:
    """The stages of a preset.

    Args:
        preset: how much of what.
        root: folder of the documents.
        reference: what is trained.
    """

    preset: Preset
    root: Path
    reference: Reference
    writer: Writer = field(init=False)

    def __post_init__(self) -> None:
        self.writer = Writer(self.reference.tokenizer)

    def stages(self) -> list[Stage]:
        """All stages in their order."""
        # From the tower that they will have, relevance learns once more, and then the language model.
        again = replace(self._looking(), name="looking again", steps=self.preset.looking // 3)
        first = [self._reading(), self._enlarged(), self._listening(), self._looking(), self._budgets()]
        return [*first, again, self._together()]

    def exam(self, drawing: Drawing, documents: int | None = None, **options: Any) -> Exam:
        """What the model can do, on some documents or all."""
        found = places(shards(drawing, self.root))[:documents]
        return Exam(Questions(self.writer, found, self.preset.side, size=32), **options)

    def _kept(self, side: int) -> int | None:
        """Cells of a picture that are read: paper teaches little, where it can be left out."""
        return (side // CELL) ** 2 * 9 // 16 if takes_parts(self.reference.model.model.visual) else None

    def _reading(self) -> Stage:
        preset, reference = self.preset, self.reference
        side = preset.pages.size
        sources = [(shards(drawing, self.root), 1 / len(preset.print)) for drawing in preset.print]
        crops = Crops(sources, preset.crops, side, lambda step: (0.6, 1.7), choices=4, kept=self._kept(side))
        held = Crops([(shards(preset.validation, self.root), 1.0)], 32, side, lambda step: (1.0, 1.0))
        tower, reader = reference.model.model.visual, reference.reader
        return Stage(
            name="reading",
            steps=preset.reading,
            rates={"model.model.visual": preset.rate, "reader": preset.rate},
            batch=crops,
            loss=partial(reading_step, tower, reader),
            validate=partial(measure_reading, tower, reader, {"validation": held}),
            goal=("validation", preset.goal),
        )

    def _enlarged(self) -> Stage:
        """The tower reads pages at the size that they are answered at, and at that of a glance."""
        preset, reference = self.preset, self.reference
        tower, reader, own = reference.model.model.visual, reference.reader, preset.pages.size

        def crops(sources: list, count: int, side: int, zoom: tuple[float, float], **options: Any) -> Crops:
            return Crops(sources, count, side, lambda step: zoom, **options)

        print_ = [(shards(drawing, self.root), share) for drawing, share in preset.pages_print()]
        held = [(shards(preset.validation, self.root), 1.0)]
        whole, glance = preset.side, preset.side >> GLANCE
        zoom, count = whole / own, max(1, preset.crops // 2)
        near, far = (
            crops(print_, size, side, zooms, choices=4, kept=self._kept(side))
            for size, side, zooms in (
                (count, whole, (0.85 * zoom, 1.2 * zoom)),
                (4 * count, glance, (0.85 * zoom / 2, 1.2 * zoom / 2)),
            )
        )
        return Stage(
            name="enlarged",
            steps=preset.enlarged,
            rates={"model.model.visual": preset.rate / 2, "reader": preset.rate / 2},
            batch=Alternating((near, near, near, far)),
            loss=partial(reading_step, tower, reader),
            validate=partial(
                measure_reading,
                tower,
                reader,
                {"page": crops(held, 8, whole, (zoom, zoom)), "glance": crops(held, 32, glance, (zoom / 2, zoom / 2))},
            ),
            decay=0.6,
        )

    def _seen(
        self, drawing: Drawing, view: View, name: str, tower: nn.Module | None = None, side: int | None = None
    ) -> Seen:
        """Documents of a drawing through a view."""
        return Seen(places(shards(drawing, self.root)), view, side or self.preset.side, name, tower)

    def _listening(self) -> Stage:
        """The language model alone, of pages that a tower that stands still has seen; first of small windows."""
        preset, reference = self.preset, self.reference
        tower = reference.model.model.visual
        pages = self._seen(preset.pages, tower_view(tower), "tower", tower)
        windows = Widening(preset.side // CELL, preset.chats, preset.listening)
        return Stage(
            name="listening",
            steps=preset.listening,
            rates={"model.model.language_model": preset.rate / 2},
            batch=Glimpses(self.writer, pages, windows),
            loss=partial(listening_step, reference.model, 0.3),
            validate=partial(self._watched, self.exam(preset.validation, preset.exam, shares=(1.0,))),
            decay=0.5,
        )

    def _looking(self) -> Stage:
        """Where to look: every other batch is of clear pages of both sizes, the rest of what is printed smaller."""
        preset, model = self.preset, self.reference.model

        def glances(drawing: Drawing, side: int) -> Glances:
            tower = model.model.visual
            glance = self._seen(drawing, glance_view(tower, GLANCE), "glance", tower, side)
            information = self._seen(drawing, information_view, "information", side=side)
            return Glances(self.writer, glance, information, preset.batch_of(preset.glances, side))

        clear = [glances(drawing, preset.side_of(drawing)) for drawing in (preset.pages, *preset.large_pages)]
        small = [glances(drawing, drawing.size) for drawing in preset.small_print]
        kinds = zip(cycle(clear), small or clear, strict=False)
        return Stage(
            name="looking",
            steps=preset.looking,
            rates={"model.model.arrcoc.relevance": preset.rate},
            batch=Alternating(tuple(chain(*kinds))),
            loss=partial(looking_step, model),
            validate=partial(measure_looking, model, glances(preset.validation, preset.side)),
        )

    def _budgets(self) -> Stage:
        preset, reference = self.preset, self.reference
        found = places(shards(preset.pages, self.root))
        questions = Questions(
            self.writer,
            found,
            preset.side,
            preset.questions,
            BUDGET_SHARES,
            resized=0.3,
            blind=0.04,
            together=preset.workers,
        )
        return Stage(
            name="budgets",
            steps=preset.budgets,
            rates={
                "model.model.language_model": preset.rate / 4,
                "model.model.visual": preset.rate / 24,
            },
            batch=questions,
            loss=partial(budget_step, reference.model),
            validate=partial(self._watched, self.exam(preset.validation, preset.exam)),
        )

    def _together(self) -> Stage:
        """The language model learns from whole pages and under budgets at once, all else stands still; two of three
        batches are of large pages."""
        preset, pages, budgets = self.preset, self._listening(), self._budgets()
        tower = self.reference.model.model.visual

        def batches(drawing: Drawing) -> Together:
            side = preset.side_of(drawing)
            whole = [Window(side // CELL, preset.batch_of(preset.chats, side), 1.0)]
            seen = self._seen(drawing, tower_view(tower), "tower", tower, side)
            glimpses = replace(pages.batch, pages=seen, windows=lambda step: whole, seed=5)
            questions = replace(
                budgets.batch,
                places=seen.places,
                side=side,
                size=preset.batch_of(preset.questions, side),
                shares=SMALL_SHARES,
                resized=0.2,
                seed=7,
            )
            return Together({"pages": glimpses, "budgets": questions})

        large = [batches(drawing) for drawing in preset.large_pages]
        return Stage(
            name="together",
            steps=preset.together,
            rates={f"model.model.language_model.{part}": preset.rate / 3 for part in ("layers", "norm")},
            batch=Alternating((batches(preset.pages), *large, *large), together=preset.workers),
            loss=partial(together_step, {"pages": pages.loss, "budgets": budgets.loss}),
            validate=budgets.validate,
            warmup=30,
            decay=0.5,
            muon=True,
            mean=0.99,
        )

    def _watched(self, exam: Exam) -> Metrics:
        """What the model can do, and whether it looks at all."""
        return exam(self.reference.model) | watch(self.reference.model, exam.questions)
