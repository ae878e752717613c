"""A row: one question about some images with its answers, and everything training knows about it."""

import io
import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from arrcoc.processing import load_image
from arrcoc.processing.budgets import check_token_budget


Box = tuple[float, float, float, float]
EVIDENCE_MODES = ("all", "any")

_CONTROL_TOKEN = re.compile(r"<\|[^|<>\s]+\|>")
_QUARTER_TURNS = (5, 6, 7, 8)  # values of EXIF's orientation that exchange width and height


@dataclass(frozen=True)
class StoredImage:
    """An image inside a `datasets.Dataset`, read when it is opened.

    Args:
        dataset (`datasets.Dataset`): with the column of images alone, not decoded.
        index (`int`): row of the data set.
        column (`str`): the column.
        position (`int`, *optional*): number of the image where the column holds lists.
    """

    dataset: Any
    index: int
    column: str
    position: int | None = None

    def value(self) -> Any:
        """The entry: a path, a Pillow image, or a mapping with `bytes` or `path`."""
        entry = self.dataset[self.index][self.column]
        return entry if self.position is None else entry[self.position]


ImageSource = Path | Image.Image | StoredImage


@dataclass(frozen=True)
class Row:
    """One question about images; text-only if there are none.

    Args:
        id (`str`): name of the row, unique in its data set.
        question (`str`): what the user asks.
        answers (`tuple[str, ...]`): accepted answers; the first is the one that training teaches.
        images (`tuple`): paths, Pillow images or `StoredImage`s.
        sizes (`tuple[tuple[int, int], ...]`, *optional*): (width, height) in pixels of each image as annotated: the
            frame that the boxes refer to; that of the upright image if not given.
        evidence (`tuple`, *optional*): one entry an image, either `None` (not known) or its boxes (x0, y0, x1, y1)
            in pixels of the upright image.
        evidence_mode (`str`): `"all"`: the boxes together hold the answer; `"any"`: each of them alone does.
        key_boxes (`tuple[Box, ...]`): where the key, labels or headers stand that the question names.
        task (`str`): what kind of question it is.
        set (`str`): the data set it comes from.
        difficulty (`str`, *optional*): its difficulty as the data set names it.
        token_budget (*optional*): visual tokens, in any form that the processor takes for one image, or a tuple of
            such with one an image.
        suggested_budget (`int`, *optional*): tokens that the question should need: what a learned budget is taught.
        history (`tuple[tuple[str, str], ...]`): earlier (question, answer) turns of the conversation.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    images: tuple[ImageSource, ...] = ()
    sizes: tuple[tuple[int, int], ...] | None = None
    evidence: tuple[tuple[Box, ...] | None, ...] | None = None
    evidence_mode: str = "all"
    key_boxes: tuple[Box, ...] = ()
    task: str = ""
    set: str = ""
    difficulty: str | None = None
    token_budget: Any = None
    suggested_budget: int | None = None
    history: tuple[tuple[str, str], ...] = ()

    @property
    def image_budgets(self) -> list[Any]:
        """`token_budget` of each image."""
        if isinstance(self.token_budget, tuple):
            return list(self.token_budget)
        return [self.token_budget] * len(self.images)

    def image_sizes(self) -> list[tuple[int, int]]:
        """(width, height) in pixels of each image: as annotated, or else from the headers of the files.

        Raises:
            ValueError: An image is missing or cannot be read.
        """
        return list(self.sizes) if self.sizes is not None else [image_size(image) for image in self.images]

    def decoded(self) -> "Row":
        """The row with its images opened: upright RGB Pillow images.

        Raises:
            ValueError: An image is missing or cannot be read; the message names the row.
        """
        try:
            return replace(self, images=tuple(open_image(image) for image in self.images))
        except ValueError as error:
            raise ValueError(f"row {self.id!r}: {error}") from error


def open_image(source: ImageSource) -> Image.Image:
    """Open an image of a row: upright, RGB.

    Raises:
        ValueError: It is missing, no image, damaged or too large.
    """
    if isinstance(source, StoredImage):
        entry = source.value()
        if isinstance(entry, Mapping) and entry.get("bytes") is not None:
            try:
                with Image.open(io.BytesIO(entry["bytes"])) as image:
                    return load_image(ImageOps.exif_transpose(image))
            except (UnidentifiedImageError, OSError, SyntaxError, EOFError) as error:
                raise ValueError(f"bytes in column {source.column!r} are no image: {error}") from error
        return open_image(_as_source(entry["path"] if isinstance(entry, Mapping) else entry, None))
    if isinstance(source, Image.Image):
        upright = source.mode == "RGB" and source.getexif().get(ExifTags.Base.Orientation, 1) == 1
        return source if upright else load_image(ImageOps.exif_transpose(source))
    try:
        return load_image(source)
    except OSError as error:
        raise ValueError(str(error)) from error


def image_size(source: ImageSource) -> tuple[int, int]:
    """(width, height) of the upright image in pixels, from the header alone.

    Raises:
        ValueError: It is missing or no image.
    """
    if isinstance(source, StoredImage):
        entry = source.value()
        if isinstance(entry, Mapping):
            data = entry.get("bytes")
            return _header_size(io.BytesIO(data) if data is not None else Path(entry["path"]))
        return image_size(_as_source(entry, None))
    return _header_size(source)


def _header_size(source: Image.Image | Path | io.BytesIO) -> tuple[int, int]:
    if not isinstance(source, Image.Image):
        try:
            with Image.open(source) as image:
                return _header_size(image)
        except (OSError, SyntaxError, EOFError) as error:
            raise ValueError(f"image {source} cannot be read: {error}") from error
    # The method of the base class: that of PNG files decodes the whole picture first.
    orientation = Image.Image.getexif(source).get(ExifTags.Base.Orientation)
    return source.size[::-1] if orientation in _QUARTER_TURNS else source.size


def row_from_dict(
    data: Mapping[str, Any],
    name: str,
    image_root: str | os.PathLike | None = None,
    columns: Mapping[str, str] | None = None,
    require_answers: bool = True,
) -> Row:
    """Check a row as it stands in a file.

    Args:
        data (`Mapping`): with `question`, `answers` (a list) or `answer`, and optionally `id`, `image` or `images`
            (paths or Pillow images), `evidence` (boxes of the image; with several images a list of boxes or null for
            each), `evidence_mode`, `key_boxes` or a single `key_box`, `width` and `height` of a single image, `task`,
            `set`, `difficulty`, `token_budget`, `suggested_budget` and `history` ([question, answer] pairs). Other
            fields are ignored.
        name (`str`): `id` of a row that has none.
        image_root (path, *optional*): folder that paths of images are relative to.
        columns (`Mapping[str, str]`, *optional*): for fields above, the names they have in `data`.
        require_answers (`bool`): whether a row without answers is an error.

    Raises:
        ValueError: A field is missing or malformed, or a text holds a control token such as `<|im_end|>`.
    """
    columns = columns or {}

    def field(key: str) -> Any:
        return data.get(columns.get(key, key))

    images = _images(field("image"), field("images"), image_root)
    sizes = _sizes(field("width"), field("height"), len(images))
    evidence = _evidence(field("evidence"), len(images))
    if sizes is not None and evidence is not None:
        _check_inside(evidence, sizes)
    mode = field("evidence_mode") or "all"
    if mode not in EVIDENCE_MODES:
        raise ValueError(f"evidence_mode must be one of {EVIDENCE_MODES}, found {mode!r}")
    identifier = field("id")
    return Row(
        id=name if identifier is None else str(identifier),
        question=_text(field("question"), "question"),
        answers=_answers(field("answers"), field("answer"), require_answers),
        images=images,
        sizes=sizes,
        evidence=evidence,
        evidence_mode=mode,
        key_boxes=_key_boxes(field("key_box"), field("key_boxes")),
        task=str(field("task") or ""),
        set=str(field("set") or ""),
        difficulty=field("difficulty"),
        token_budget=_budget(field("token_budget"), len(images)),
        suggested_budget=_suggestion(field("suggested_budget")),
        history=tuple((_text(asked, "history"), _text(told, "history")) for asked, told in field("history") or ()),
    )


def _text(value: Any, name: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be a text that is not empty, found {value!r}")
    if token := _CONTROL_TOKEN.search(value):
        raise ValueError(f"{name} holds the control token {token.group()!r}")
    return value


def _answers(answers: Any, answer: Any, required: bool) -> tuple[str, ...]:
    found = answers if answers is not None else answer
    found = [] if found is None else list(found) if isinstance(found, list | tuple) else [found]
    if not found and required:
        raise ValueError("answers (a list of texts) or answer is missing or empty")
    numbers = (int, float)
    return tuple(
        _text(str(one) if isinstance(one, numbers) and not isinstance(one, bool) else one, "answers") for one in found
    )


def _images(image: Any, images: Any, root: str | os.PathLike | None) -> tuple[ImageSource, ...]:
    if image is not None and images is not None:
        raise ValueError("image and images are both given")
    found = images if images is not None else image
    found = [] if found is None else list(found) if isinstance(found, list | tuple) else [found]
    return tuple(_as_source(one, root) for one in found)


def _as_source(value: Any, root: str | os.PathLike | None) -> ImageSource:
    if isinstance(value, Image.Image | StoredImage):
        return value
    if isinstance(value, str | os.PathLike) and str(value):
        return Path(value) if root is None else Path(root) / value
    raise ValueError(f"an image must be a path or a Pillow image, found {type(value).__name__} {value!r:.80}")


def _sizes(width: Any, height: Any, images: int) -> tuple[tuple[int, int], ...] | None:
    if width is None or height is None or images != 1:
        return None
    if type(width) is not int or type(height) is not int or min(width, height) < 1:
        raise ValueError(f"width and height must be pixels, found {width!r} and {height!r}")
    return ((width, height),)


def _box(value: Any) -> Box:
    numbers = [side for side in value] if isinstance(value, list | tuple) else []
    if len(numbers) != 4 or not all(
        isinstance(side, int | float) and not isinstance(side, bool) and math.isfinite(side) for side in numbers
    ):
        raise ValueError(f"a box must be [x0, y0, x1, y1] in pixels, found {value!r}")
    x0, y0, x1, y1 = (float(side) for side in numbers)
    if x0 >= x1 or y0 >= y1:
        raise ValueError(f"a box must have x0 < x1 and y0 < y1, found {value!r}")
    return (x0, y0, x1, y1)


def _evidence(value: Any, images: int) -> tuple[tuple[Box, ...] | None, ...] | None:
    """Boxes of each image; `None` if nothing is known about any."""
    if not value:
        return None
    if not isinstance(value, list | tuple):
        raise ValueError(f"evidence must be a list of boxes, found {value!r}")
    first = next((entry for entry in value if entry), None)
    if first is None:
        return None
    if isinstance(first, list | tuple) and isinstance(first[0], int | float):  # boxes of the only image
        value = [value]
    if len(value) != images:
        raise ValueError(f"evidence is given for {len(value)} images, but the row has {images}")
    return tuple(tuple(_box(box) for box in boxes) if boxes else None for boxes in value)


def _key_boxes(single: Any, several: Any) -> tuple[Box, ...]:
    if single is not None and several is not None:
        raise ValueError("expected key_box or key_boxes, found both")
    boxes = several if single is None else [single]
    if not isinstance(boxes, list | tuple | None):
        raise ValueError(f"key_boxes must be a list of boxes, found {boxes!r}")
    return tuple(map(_box, boxes or ()))


def _check_inside(evidence: Sequence[tuple[Box, ...] | None], sizes: Sequence[tuple[int, int]]) -> None:
    for boxes, (width, height) in zip(evidence, sizes, strict=True):
        for x0, y0, x1, y1 in boxes or ():
            if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
                raise ValueError(f"the box {[x0, y0, x1, y1]} lies outside the image of {width}x{height} pixels")


def _budget(value: Any, images: int) -> Any:
    check_token_budget(value)
    if not isinstance(value, list | tuple):
        return value
    if len(value) != images:
        raise ValueError(f"token_budget has {len(value)} entries for {images} images")
    return tuple(value)


def _suggestion(value: Any) -> int | None:
    if value is not None and (type(value) is not int or value < 1):
        raise ValueError(f"suggested_budget must be a number of tokens, found {value!r}")
    return value
