"""How much of what: the presets of the training, and the stages that they make."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from torch import nn

from .answering import Writer
from .cache import Drawing, shards
from .loop import Stage
from .model import build_model, quicken
from .reading import Reader
from .stage_answering import Chats, Exam, Part, answering_step, places
from .stage_looking import BudgetExam, Questions, ScoutReader, budget_step, looking_step
from .stage_reading import Crops, measure_reading, reading_step
from .tokenizer import CELL, build_tokenizer


EASY = frozenset(("form", "receipt"))
BUDGET_SHARES = (1.0, 0.5, 0.25, 0.1, 0.05)


@dataclass(frozen=True)
class Preset:
    """How much of what.

    Args:
        model: size, one of `model.SIZES`.
        print: documents to read in stage 1, cut into squares.
        small, large: documents to answer about, seen whole; large ones from the second part of stage 2. Stage 1 reads
            them too.
        validation, large_validation: documents to choose by, of the sizes of `small` and `large`; budgets are measured
            on large ones, for a tenth of the tokens of a small one is too few to show any cell in full detail.
        heldout: large documents that are measured at the end alone, with faces, words and layouts that are nowhere
            else.
        reading, listening, answering, looking, budgets: steps; the second and third are stage 2, the last two stage 3.
        crops, chats, questions: batch of each process in stages 1, 2 and 3.
        rate: learning rate of stage 1; the others follow from it.
        goal: share of characters that ends stage 1.
        workers: processes.
        exam: documents of a measurement during the training.
        validate_every: steps.
    """

    model: str
    print: tuple[Drawing, ...]
    small: Drawing
    large: Drawing
    validation: Drawing
    large_validation: Drawing
    heldout: Drawing
    reading: int
    listening: int
    answering: int
    looking: int
    budgets: int
    crops: int = 8
    chats: int = 8
    questions: int = 4
    rate: float = 1.2e-3
    goal: float = 0.95
    workers: int = 2
    exam: int = 192
    validate_every: int = 500


_FORMS = ("form", "receipt")
_PAGES = ("form", "receipt", "invoice", "table")
_DOCUMENTS = {
    "print": (Drawing("train", 256, None, 80, 512), Drawing("train", 512, None, 32, 256)),
    "small": Drawing("train", 256, _PAGES, 40, 512, clear=True),
    "large": Drawing("train", 512, _PAGES, 24, 256, clear=True),
    "validation": Drawing("validation", 256, _PAGES, 1, 512, clear=True),
    "large_validation": Drawing("validation", 512, _PAGES, 1, 192, clear=True),
    "heldout": Drawing("heldout", 512, _PAGES, 5, 256, clear=True),
}
PRESETS = {
    # Plain print of two kinds, so that ten minutes are enough to see it learn.
    "quick": Preset(
        model="small",
        print=(),
        small=Drawing("train", 256, _FORMS, 8, 256, plain=True),
        large=Drawing("train", 512, _FORMS, 2, 256, plain=True),
        validation=Drawing("validation", 256, _FORMS, 1, 256, plain=True),
        large_validation=Drawing("validation", 512, _FORMS, 1, 64, plain=True),
        heldout=Drawing("heldout", 512, _FORMS, 1, 128, plain=True),
        reading=2200,
        listening=100,
        answering=350,
        looking=400,
        budgets=150,
        rate=2e-3,
        goal=1.0,
        exam=96,
        validate_every=200,
    ),
    "cpu": Preset(
        model="tiny",
        **_DOCUMENTS,
        reading=16000,
        listening=2000,
        answering=2400,
        looking=6000,
        budgets=3000,
    ),
    "gpu": Preset(
        model="tiny",
        **_DOCUMENTS,
        reading=3500,
        listening=800,
        answering=3000,
        looking=2000,
        budgets=1500,
        crops=96,
        chats=64,
        questions=32,
        rate=2e-3,
        goal=0.97,
        workers=1,
    ),
}


class Reference(nn.Module):
    """All that is trained.

    Args:
        size: of the model, one of `model.SIZES`.
    """

    def __init__(self, size: str):
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.model = build_model(size, self.tokenizer, relevance="learned", cell_encoder="scout", salience_weight=0)
        self.reader = Reader(self.model.model.visual)
        self.scout_reader = ScoutReader(self.model.config.arrcoc_config.scout_dim)
        quicken(self.model.model.visual)


@dataclass(frozen=True)
class Curriculum:
    """Documents of stage 2: forms and receipts, then all kinds, then large pages too; at several resolutions.

    Args:
        easy, small, large: parts of its batches.
        steps: of the stage.
    """

    easy: Part
    small: Part
    large: Part
    steps: int

    def __call__(self, step: int) -> list[Part]:
        done = step / self.steps
        if done < 0.2:
            return [self.easy]
        return [self.easy, self.small] if done < 0.35 else [self.easy, self.small, self.large]


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
        return [self._reading(), self._listening(), self._answering(), self._looking(), self._budgets()]

    def exam(self, drawing: Drawing, documents: int | None = None) -> BudgetExam:
        """What the model can do at several budgets."""
        return BudgetExam(Questions(self.writer, places(shards(drawing, self.root))[:documents], drawing.size, 32))

    def _reading(self) -> Stage:
        preset, reference = self.preset, self.reference
        side = preset.small.size
        drawings = (*preset.print, preset.small, preset.large)
        sources = [(shards(drawing, self.root), 1 / len(drawings)) for drawing in drawings]
        kept = (side // CELL) ** 2 * 9 // 16
        crops = Crops(sources, preset.crops, side, lambda step: (0.6, 1.7), choices=4, kept=kept)
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

    def _listening(self) -> Stage:
        """The language model alone: to find and copy words among few, while what it sees stands still."""
        preset, reference = self.preset, self.reference
        found = [place for drawing in (preset.small, preset.large) for place in places(shards(drawing, self.root))]
        side = preset.small.size // 2
        squares = Part(found, ((side, 1.0),), 8 * preset.chats, 1.0, cut=True)
        held = places(shards(preset.validation, self.root))[: preset.exam]
        return Stage(
            name="listening",
            steps=preset.listening,
            rates={"model": preset.rate * 0.7, "model.model.visual": 0.0, "model.model.arrcoc": 0.0},
            batch=Chats(self.writer, lambda step: [squares], turns=1),  # a second answer is copied from the first
            loss=partial(answering_step, reference.model, reference.reader, 0.0),
            validate=partial(Exam(self.writer, held, (preset.small.size,)), reference.model),
        )

    def _answering(self) -> Stage:
        preset, reference = self.preset, self.reference
        small, large = (shards(drawing, self.root) for drawing in (preset.small, preset.large))
        side = preset.small.size
        smaller = ((side, 0.7), (side * 3 // 4, 0.15), (side // 2, 0.15))
        pages = ((preset.large.size, 0.8), (preset.large.size // 2, 0.2))
        parts = Curriculum(
            Part(places(small, EASY), smaller, preset.chats, 0.3),
            Part(places(small), smaller, preset.chats, 0.3),
            Part(places(large), pages, max(1, preset.chats // 4), 0.4),
            preset.answering,
        )
        held = places(shards(preset.validation, self.root))[: preset.exam]
        return Stage(
            name="answering",
            steps=preset.answering,
            rates={
                "model": preset.rate * 0.5,
                "model.model.visual": preset.rate / 10,
                "model.model.arrcoc": 0.0,
                "reader": preset.rate / 10,
            },
            batch=Chats(self.writer, parts),
            loss=partial(answering_step, reference.model, reference.reader, 0.5),
            validate=partial(Exam(self.writer, held, (side, side // 2)), reference.model),
        )

    def _looking(self) -> Stage:
        preset, reference = self.preset, self.reference
        found = places(shards(preset.large, self.root))
        questions = Questions(self.writer, found, preset.large.size, preset.questions, turns=4)
        return Stage(
            name="looking",
            steps=preset.looking,
            rates={"model.model.arrcoc": preset.rate, "scout_reader": preset.rate},
            batch=questions,
            loss=partial(looking_step, reference.model, reference.scout_reader),
            validate=partial(self.exam(preset.large_validation, preset.exam), reference.model),
        )

    def _budgets(self) -> Stage:
        preset, reference = self.preset, self.reference
        found = places(shards(preset.large, self.root))
        questions = Questions(self.writer, found, preset.large.size, preset.questions, BUDGET_SHARES, seed=3)
        rates = {"model": preset.rate * 0.15, "model.model.arrcoc": preset.rate * 0.3}
        return Stage(
            name="budgets",
            steps=preset.budgets,
            rates=rates,
            batch=questions,
            loss=partial(budget_step, reference.model, 1.0),
            validate=partial(self.exam(preset.large_validation, preset.exam), reference.model),
        )
