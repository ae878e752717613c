"""What is trained, and the stages that a preset makes of it."""

from collections.abc import Sequence
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
from .presets import BLOCK, GLANCE, STAGES, Preset
from .reading import Reader
from .stage_budgets import Exam, Questions, budget_step
from .stage_listening import Glimpses, Widening, listening_step
from .stage_looking import Glances, looking_step, measure_looking
from .stage_pairs import PairedPages, paired_step
from .stage_reading import Alternating, Crops, WarpedPages, measure_reading, reading_step
from .stage_together import Sights, Together, page_step, together_step
from .tokenizer import CELL, build_tokenizer
from .watching import watch


GUIDANCE = 0.3  # weight of what teaches beside the answers
BUDGET_SHARES = (1.0, 0.5, 0.25, 0.25, 0.1, 0.1, 0.05)  # drawn from with equal chances
SMALL_SHARES = (0.25, 0.1, 0.1, 0.1, 0.05, 0.05)


class Reference(nn.Module):
    """All that is trained.

    Args:
        size: of the model, one of `model.SIZES`.
        host: its architecture, one of `model.HOSTS`.
        block: options of the ARR-COC block, where not those of `presets.BLOCK`.
    """

    def __init__(self, size: str, host: str = "qwen3_vl", **block: Any):
        super().__init__()
        self.tokenizer = build_tokenizer()
        self.model = build_model(size, self.tokenizer, host, **BLOCK | block)
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

    def stages(self, names: Sequence[str] = STAGES, has_reader: bool = True) -> list[Stage]:
        """Stages in their order.

        Args:
            names: of those wanted, some of `STAGES`.
            has_reader: whether the reader is as far as the tower; if not, and a stage trains it, it learns alone first
        """
        build = {
            "reading": self._reading,
            "enlarged": self._enlarged,
            "listening": self._listening,
            "looking": self._looking,
            "budgets": self._budgets,
            "together": self._together,
            "looking again": self._looking_again,
        }
        stages = [build[name]() for name in STAGES if name in names]
        if not has_reader and any("reader" in stage.rates for stage in stages):
            rates = {"reader": self.preset.rate}
            stages.insert(0, replace(self._enlarged(), name="reader", steps=self.preset.reader, rates=rates))
        return stages

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
        warped = WarpedPages(places(shards(preset.pages, self.root)), whole, count)
        return Stage(
            name="enlarged",
            steps=preset.enlarged,
            rates={"model.model.visual": preset.rate / 2, "reader": preset.rate / 2},
            batch=Alternating((near, warped, near, warped, far)),
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
            loss=partial(listening_step, reference.model, GUIDANCE),
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

    def _looking_again(self) -> Stage:
        """Relevance learns from the tower that it will have."""
        return replace(self._looking(), name="looking again", steps=self.preset.looking // 3)

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
        """All but the embeddings learns at once, from pages as pixels, two of three batches of large ones. What the
        model has learned of other pages it keeps by reading print of all kinds."""
        preset, model, reader = self.preset, self.reference.model, self.reference.reader
        side, tower, block = preset.pages.size, model.model.visual, model.config.arrcoc_config
        sources = [(shards(drawing, self.root), 1 / len(preset.print)) for drawing in preset.print]
        crops = Crops(sources, 2 * preset.crops, side, lambda step: (0.6, 1.7), 4, self._kept(side), seed=13)

        def batches(drawing: Drawing) -> Together:
            side, found = preset.side_of(drawing), places(shards(drawing, self.root))
            size = preset.batch_of(preset.chats // 2, side)
            questions = Questions(
                self.writer,
                found,
                side,
                preset.batch_of(preset.questions // 2, side),
                SMALL_SHARES,
                resized=0.2,
                blind=0.04,
                long=0.3,
                codes=0.25,
                together=preset.workers,
                seed=7,
            )
            pages = Sights(self.writer, found, side, size)
            pairs = PairedPages(found, side, size, windows=block.pair_drawing == "window")
            parts = {"pages": pages, "pairs": pairs, "budgets": questions, "print": crops}
            return Together({kind: parts[kind] for kind in losses})

        losses = {
            "pages": (1.0, partial(page_step, model, reader, GUIDANCE)),
            "pairs": (0.5, partial(paired_step, model, reader)),
            "budgets": (1.0, partial(budget_step, model, looking=1.0)),
            "print": (GUIDANCE, partial(reading_step, tower, reader)),
        }
        if block.pair_worth is None:
            del losses["pairs"]
        small, *large = map(batches, (preset.pages, *preset.large_pages))
        layers = {f"model.model.language_model.{part}": preset.rate / 3 for part in ("layers", "norm")}
        encoder = {f"model.model.visual.{part}": preset.rate / 5 for part in ("blocks", "merger", "deepstack")}
        return Stage(
            name="together",
            steps=preset.together,
            rates=layers | encoder | {"model.model.arrcoc.relevance": preset.rate / 4, "reader": 1.25 * preset.rate},
            batch=Alternating((small, *large, *large), together=preset.workers),
            loss=partial(together_step, losses),
            validate=partial(self._watched, self.exam(preset.validation, preset.exam)),
            decay=0.5,
            muon=("model.model.language_model", "model.model.visual"),
            mean=0.995,
        )

    def _watched(self, exam: Exam) -> Metrics:
        """What the model can do, and whether it looks at all."""
        return exam(self.reference.model) | watch(self.reference.model, exam.questions)
