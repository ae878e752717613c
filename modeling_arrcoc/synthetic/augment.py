"""From a clean drawing to a page as the world delivers it: scanned, copied, photographed, or a screen picture.

Boxes follow every geometric change. The amount of damage is kept within what leaves all words legible.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageChops, ImageFilter

from . import textures
from .canvas import Canvas, Placed
from .dice import Dice
from .document import Box, Point


Matrix = tuple[float, float, float, float, float, float]

_LOOKS: dict[str, tuple[tuple[str, float], ...]] = {
    "form": (("scan", 4), ("copy", 4), ("clean", 1.5), ("photo", 1)),
    "receipt": (("scan", 4), ("copy", 1.5), ("clean", 1), ("photo", 3)),
    "invoice": (("scan", 3), ("copy", 1), ("clean", 3), ("photo", 1)),
    "table": (("scan", 3), ("copy", 2), ("clean", 3), ("photo", 0.7)),
    "letter": (("scan", 3), ("copy", 3), ("clean", 2), ("photo", 1)),
    "page": (("scan", 2), ("copy", 1), ("clean", 4), ("photo", 0.5)),
    "sign": (("photo", 1),),
    "scene": (("clean", 1), ("photo", 1)),
    "chart": (("clean", 5), ("scan", 1), ("photo", 0.4)),
}
_SKEW_SHARE = {"scan": 0.25, "copy": 0.2, "photo": 0.3, "clean": 0.0}
_SKEW_DEGREES = {"scan": 1.5, "copy": 1.2, "photo": 4.0, "clean": 0.0}


@dataclass(frozen=True)
class Augmented:
    """Result of :func:`augment`.

    Args:
        image: final RGB picture, the size of the page.
        words: words with their boxes on it; None for words that left the picture.
        regions: regions with their boxes; None for those that left it.
        damage: 0 for a clean page to 1 for the worst.
    """

    image: Image.Image
    words: list[Placed | None]
    regions: list[Box | None]
    damage: float


def look_of(kind: str, dice: Dice) -> str:
    """How a document of this kind reached the reader: "clean", "scan", "copy" or "photo"."""
    names, weights = zip(*_LOOKS.get(kind, _LOOKS["chart"]), strict=True)
    return dice.weighted(names, weights)


def augment(canvas: Canvas, look: str, dice: Dice) -> Augmented:
    """Turn a drawn page into a picture of it.

    Args:
        canvas: the page; its image is not changed.
        look: "clean", "scan", "copy" or "photo".
        dice: source of randomness.

    Returns:
        Picture, words and regions in its pixels.
    """
    image, damage = canvas.image, 0.0
    words: list[Placed | None] = list(canvas.words)
    regions: list[Box | None] = list(canvas.regions)
    if look in ("scan", "copy") and dice.chance(0.2):
        image, damage = _bleed(image, dice), damage + 0.1
    if dice.chance(_SKEW_SHARE[look]):
        forward, image = _turn(image, dice, _SKEW_DEGREES[look])
        words, regions = move_words(canvas.words, forward, image.size), move_boxes(canvas.regions, forward, image.size)
        damage += 0.15
    image, more = _SURFACES[look](image, dice)
    damage += more
    image = image.convert("RGB")
    if look != "copy" and dice.chance(0.3 if look == "photo" else 0.12):
        quality = dice.integer(30, 85)
        image, damage = _jpeg(image, quality), damage + (85 - quality) / 200
    return Augmented(image, words, regions, min(damage, 1.0))


def _bleed(image: Image.Image, dice: Dice) -> Image.Image:
    """The back of the sheet shines through, mirrored and faint."""
    keep = dice.integer(12, 30)
    ghost = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    faint = [255 - (255 - level) * keep // 255 for level in range(256)]
    return ImageChops.darker(
        image, ImageChops.offset(ghost.point(faint * len(image.getbands())), dice.integer(-30, 30), 9)
    )


def _turn(image: Image.Image, dice: Dice, degrees: float) -> tuple[Matrix, Image.Image]:
    """Rotate and shear about the centre; outside is the colour of a page corner, or dark as a scanner lid."""
    width, height = image.size
    angle = math.radians(dice.uniform(-degrees, degrees))
    # A tall page turned about its centre moves its ends sideways: bound the shift, not only the angle.
    limit = 0.035 * width / max(width, height)
    angle = max(-limit, min(limit, angle)) if degrees < 3 else max(-2 * limit, min(2 * limit, angle))
    shear = dice.uniform(-0.015, 0.015)
    a, b, c, d = math.cos(angle), math.sin(angle) + shear, -math.sin(angle), math.cos(angle)
    cx, cy = width / 2, height / 2
    inverse = (a, b, cx - a * cx - b * cy, c, d, cy - c * cx - d * cy)
    corner = image.getpixel((0, 0)) if dice.chance(0.8) else (30 if image.mode == "L" else (30, 30, 30))
    turned = image.transform(image.size, Image.Transform.AFFINE, inverse, Image.Resampling.BILINEAR, fillcolor=corner)
    return invert(inverse), turned


def invert(matrix: Matrix) -> Matrix:
    """Inverse of the affine map (x, y) -> (a x + b y + e, c x + d y + f) given as (a, b, e, c, d, f)."""
    a, b, e, c, d, f = matrix
    det = a * d - b * c
    return (d / det, -b / det, (b * f - d * e) / det, -c / det, a / det, (c * e - a * f) / det)


def _apply(matrix: Matrix, x: float, y: float) -> Point:
    a, b, e, c, d, f = matrix
    return (a * x + b * y + e, c * x + d * y + f)


def move_box(box: Box, matrix: Matrix, size: tuple[int, int]) -> Box | None:
    """Bounding box of a moved rectangle, clipped to the picture; None if less than 80 % of it stays inside."""
    a, b, e, c, d, f = matrix
    x0, y0, x1, y1 = box
    xs = (a * x0 + b * y0 + e, a * x1 + b * y0 + e, a * x0 + b * y1 + e, a * x1 + b * y1 + e)
    ys = (c * x0 + d * y0 + f, c * x1 + d * y0 + f, c * x0 + d * y1 + f, c * x1 + d * y1 + f)
    left, top, right, bottom = min(xs), min(ys), max(xs), max(ys)
    clipped = (max(left, 0.0), max(top, 0.0), min(right, float(size[0])), min(bottom, float(size[1])))
    inside = max(clipped[2] - clipped[0], 0.0) * max(clipped[3] - clipped[1], 0.0)
    return clipped if inside >= 0.8 * (right - left) * (bottom - top) else None


def move_boxes(boxes: Sequence[Box], matrix: Matrix, size: tuple[int, int]) -> list[Box | None]:
    """:func:`move_box` of many."""
    return [move_box(box, matrix, size) for box in boxes]


def move_words(words: Sequence[Placed], matrix: Matrix, size: tuple[int, int]) -> list[Placed | None]:
    """Words with box and character edges moved; None for those that leave the picture."""
    moved: list[Placed | None] = []
    for word in words:
        box = move_box(word.box, matrix, size)
        edges = tuple(_apply(matrix, x, y) for x, y in word.edges)
        moved.append(Placed(word.text, box, edges) if box else None)
    return moved


def _grain(image: Image.Image, dice: Dice, strength: float) -> Image.Image:
    """Add white noise with a standard deviation of ``strength`` grey levels."""
    ramp = [round(128 + (level - 128) * strength / 32) for level in range(256)]
    tile = textures.noise(dice, image.size).point(ramp)
    if image.mode == "RGB":
        tile = Image.merge("RGB", (tile, tile, tile))
    return ImageChops.add(image, tile, 1.0, -128)


def _levels(image: Image.Image, black: int, white: int) -> Image.Image:
    """Map 0…255 to ``black``…``white``, as faint print on tinted paper does."""
    ramp = [black + (white - black) * level // 255 for level in range(256)]
    return image.point(ramp * len(image.getbands()))


def _clean(image: Image.Image, dice: Dice) -> tuple[Image.Image, float]:
    if dice.chance(0.25):
        black = dice.integer(0, 90)
        return _levels(image, black, dice.integer(max(190, black + 120), 255)), black / 250
    return image, 0.0


def _shade(image: Image.Image, dice: Dice, darkest: int) -> Image.Image:
    lights = textures.light(dice, image.size, darkest)
    return ImageChops.multiply(image, lights if image.mode == "L" else Image.merge("RGB", (lights,) * 3))


def _scan(image: Image.Image, dice: Dice) -> tuple[Image.Image, float]:
    """Flatbed: faint print, soft edges, uneven light, grain, dust."""
    damage = 0.1
    if dice.chance(0.3):
        image, damage = image.filter(ImageFilter.BoxBlur(dice.uniform(0.2, 0.6))), damage + 0.1
    black = dice.integer(0, 100) if dice.chance(0.5) else 0
    white = dice.integer(max(195, black + 110), 255) if dice.chance(0.5) else 255
    if black or white < 255:
        image = _levels(image, black, white)
    if dice.chance(0.35):
        image = _shade(image, dice, 170)
    strength = dice.uniform(1.5, 9)
    image = _grain(image, dice, strength)
    if image.mode == "L" and dice.chance(0.3):
        image = ImageChops.darker(image, textures.speckle(dice, image.size, False))
    return image, damage + black / 400 + strength / 60


def _copy(image: Image.Image, dice: Dice) -> tuple[Image.Image, float]:
    """Photocopy or fax: nearly black and white, eaten or fattened strokes, specks."""
    gray = image.convert("L")
    if dice.chance(0.35):
        gray = gray.filter(ImageFilter.BoxBlur(dice.uniform(0.3, 0.6)))
    strength = dice.uniform(3, 14)
    gray = _grain(gray, dice, strength)
    # Thin strokes are grey: a lower threshold would lose them, a higher one would blacken the grain of the paper.
    threshold, softness = dice.integer(175, int(min(222, 248 - 2.2 * strength))), dice.integer(4, 60)
    ramp = [min(max((level - threshold) * 255 // softness + 128, 0), 255) for level in range(256)]
    gray = gray.point(ramp)
    dense = dice.chance(0.3)
    if dice.chance(0.75):
        gray = ImageChops.darker(gray, textures.speckle(dice, gray.size, dense))
    return gray, 0.2 + strength / 80 + 0.15 * dense


def _photo(image: Image.Image, dice: Dice) -> tuple[Image.Image, float]:
    """Camera: shaded, tinted, soft, noisy."""
    damage = 0.2
    image = image.convert("RGB") if dice.chance(0.6) else image
    if dice.chance(0.6):
        image = _shade(image, dice, dice.integer(140, 215))
    if image.mode == "RGB" and dice.chance(0.6):
        tints = [dice.integer(205, 255) for _ in range(3)]
        image = image.point([level * tint // 255 for tint in tints for level in range(256)])
    if dice.chance(0.3):
        image, damage = image.filter(ImageFilter.BoxBlur(dice.uniform(0.3, 0.8))), damage + 0.15
    if dice.chance(0.7):
        strength = dice.uniform(1, 8)
        image, damage = _grain(image, dice, strength), damage + strength / 60
    return image, damage


_SURFACES: dict[str, Callable[[Image.Image, Dice], tuple[Image.Image, float]]] = {
    "clean": _clean,
    "scan": _scan,
    "copy": _copy,
    "photo": _photo,
}


def _jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer).convert("RGB")
