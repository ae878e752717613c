"""From a seed to a document: layout, drawing, augmentation, questions."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from . import charts, layouts_forms, layouts_sales, layouts_tables, layouts_text, scenes
from .asking import Asker, finish
from .augment import augment, look_of
from .canvas import WHITE, Canvas, Color
from .dice import Dice
from .document import KINDS, SPLITS, Document, Word
from .fonts import Face, body_styles
from .questions import ask
from .sheet import CLEAR, SMALLEST, Layout, Sheet, draw_theme
from .textures import texture
from .vocabulary import lexicon


SMALLEST_SIDE, LARGEST_SIDE = 256, 1536
Size = int | tuple[int, int] | range

LAYOUTS: dict[str, tuple[Layout, ...]] = {
    "form": layouts_forms.FORMS,
    "receipt": layouts_sales.RECEIPTS,
    "invoice": layouts_sales.INVOICES,
    "table": layouts_tables.TABLES,
    "bar_chart": charts.BAR_CHARTS,
    "line_chart": charts.LINE_CHARTS,
    "pie_chart": charts.PIE_CHARTS,
    "letter": layouts_text.LETTERS,
    "page": layouts_text.PAGES,
    "sign": scenes.SIGNS,
    "scene": scenes.SCENES,
}
_KIND_WEIGHTS = dict(zip(KINDS, (26, 15, 9, 10, 7, 4, 4, 8, 8, 5, 4), strict=True))
_GRAY_SHARE = {"form": 0.75, "receipt": 0.65, "invoice": 0.4, "table": 0.55, "letter": 0.7, "page": 0.75}
# Letter sizes in the width of a page, least and most.
_EMS = {"receipt": (18, 36), "form": (28, 74), "letter": (32, 74), "page": (34, 80)}
_PAPERS: tuple[Color, ...] = (
    WHITE,
    WHITE,
    WHITE,
    (250, 248, 240),
    (244, 240, 225),
    (238, 238, 238),
    (252, 240, 205),
    (255, 230, 235),
    (225, 238, 250),
    (228, 244, 228),
)
_MOST_QUESTIONS = 8


@lru_cache(maxsize=64)
def layouts_of(kind: str, split: str) -> tuple[Layout, ...]:
    """Layout variants of a kind that a split may show; those of ``heldout`` are seen nowhere else."""
    return tuple(layout for layout in LAYOUTS[kind] if layout.heldout == (split == "heldout"))


def _check_kinds(kinds: Sequence[str] | None) -> tuple[str, ...]:
    if kinds is None:
        return KINDS
    unknown = [kind for kind in kinds if kind not in KINDS]
    if isinstance(kinds, str) or unknown or not kinds:
        raise ValueError(f"kinds must be a non-empty sequence out of {KINDS}, found {kinds!r}")
    return tuple(kinds)


def _side_range(size: Size | None) -> tuple[range, range]:
    """Allowed widths and heights."""
    if size is None:
        sides = range(SMALLEST_SIDE, LARGEST_SIDE + 1)
        pair = (sides, sides)
    elif isinstance(size, range):
        pair = (size, size)
    elif isinstance(size, int):
        pair = (range(size, size + 1),) * 2
    elif len(size) == 2:
        pair = (range(size[0], size[0] + 1), range(size[1], size[1] + 1))
    else:
        raise ValueError(f"size must be a side, (width, height) or a range of sides, found {size!r}")
    for sides in pair:
        if not sides or min(sides) < SMALLEST_SIDE or max(sides) > LARGEST_SIDE:
            raise ValueError(f"sides must lie in {SMALLEST_SIDE} … {LARGEST_SIDE} px, found {size!r}")
    return pair


def check_arguments(
    kinds: Sequence[str] | None, size: Size | None, split: str, faces: Sequence[Face] | None
) -> tuple[tuple[str, ...], tuple[range, range]]:
    """Check arguments of :func:`generate`; returns the kinds, and the allowed widths and heights.

    Raises:
        ValueError: an argument out of range.
    """
    if split not in SPLITS:
        raise ValueError(f"split must be one of {SPLITS}, found {split!r}")
    if faces is not None and not faces:
        raise ValueError("faces must hold at least one typeface, found none")
    return _check_kinds(kinds), _side_range(size)


def _draw_side(sides: range, dice: Dice) -> int:
    """A side from the range; logarithmically uniform, so that a doubling is as likely anywhere."""
    low, high = min(sides), max(sides)
    wanted = low * ((high + 1) / low) ** dice.random()
    return sides[min(int((wanted - sides.start) / sides.step), len(sides) - 1)] if sides.step > 0 else dice.pick(sides)


def _sheet(
    kind: str, split: str, size: tuple[int, int], faces: tuple[Face, ...] | None, dice: Dice, dark: bool, least: int
) -> Sheet:
    """An empty page with its theme; receipts are strips of paper, maybe on a table."""
    width, height = size
    gray = dice.chance(_GRAY_SHARE.get(kind, 0.0))
    paper = WHITE if gray and dice.chance(0.8) else dice.pick(_PAPERS)
    canvas = Canvas(size, gray, paper)
    margin = max(6, round(min(width, height) * dice.uniform(0.02, 0.08)))
    margin_x = margin
    if kind == "receipt":
        strip = min(width, max(220, round(width * dice.uniform(0.55, 1.0)), round(height * 0.3)))
        side = (width - strip) // 2
        margin_x = side + max(8, round(strip * dice.uniform(0.03, 0.09)))
        if side > 12 and dice.chance(0.6):
            canvas.paste(texture(dice, size, dice.integer(20, 190)), 0, 0)
            canvas.frame(side, 0, width - side, height, None, paper)
        width = strip
    theme = draw_theme(dice, body_styles(split, faces), width, height, _EMS.get(kind, (26, 62)), least)
    sheet = Sheet(canvas, dice, lexicon(split), theme, margin, dark, least)
    sheet.left, sheet.right = margin_x, canvas.width - margin_x
    return sheet


def generate(
    seed: int,
    kinds: Sequence[str] | None = None,
    size: Size | None = None,
    split: str = "train",
    faces: Sequence[Face] | None = None,
    clear: bool = False,
) -> Document:
    """Make the document of a seed.

    The same arguments give the same document bit for bit in any process, on machines with the same faces and the same
    versions of Pillow and NumPy. Documents of different splits share no content words, layouts and text styles.

    Args:
        seed: any non-negative integer.
        kinds: kinds to choose from, all of :data:`KINDS` by default.
        size: side of a square, (width, height), or a range for both sides, in pixels; by default 256 … 1536.
        split: "train", "validation" (unseen words in known layouts and faces) or "heldout" (all three unseen).
        faces: typefaces to use, by default all that :func:`arrcoc.synthetic.available_fonts` finds.
        clear: letters of 16 px at least, on pages that are clean or scanned.

    Returns:
        A document with at least one question.

    Raises:
        ValueError: an argument out of range.
    """
    allowed, (widths, heights) = check_arguments(kinds, size, split, faces)
    dice = Dice(seed, SPLITS.index(split))
    kind = dice.weighted(allowed, [_KIND_WEIGHTS[name] for name in allowed])
    chosen = tuple(faces) if faces is not None else None
    while True:  # a page so cramped that nothing is printed, or nothing can be asked, is drawn again
        pixels = (_draw_side(widths, dice), _draw_side(heights, dice))
        document = _attempt(seed, kind, split, pixels, chosen, dice, clear)
        if document.questions and (document.words or kind == "scene"):
            return document


def _attempt(
    seed: int,
    kind: str,
    split: str,
    size: tuple[int, int],
    faces: tuple[Face, ...] | None,
    dice: Dice,
    clear: bool,
) -> Document:
    layout = dice.pick(layouts_of(kind, split))
    look = dice.pick(("clean", "scan")) if clear else look_of(kind, dice)
    sheet = _sheet(kind, split, size, faces, dice, look != "copy", CLEAR if clear else SMALLEST)
    layout.draw(sheet)
    canvas = sheet.canvas
    drafts = ask(Asker(canvas, kind, dice, sheet.words), dice.integer(3, _MOST_QUESTIONS))
    result = augment(canvas, look, dice)
    boxes = [word.box if word else None for word in result.words]
    finished = (finish(draft, boxes, result.regions, canvas.image.size, result.damage) for draft in drafts)
    return Document(
        image=result.image,
        words=tuple(Word(word.text, word.box, word.edges) for word in result.words if word),
        questions=tuple(question for question in finished if question is not None),
        kind=kind,
        seed=seed,
        split=split,
        layout=layout.name,
        styles=frozenset(canvas.styles),
    )
