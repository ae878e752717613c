"""Images from files and of every Pillow mode, as plain 8-bit RGB, without surprises and with plain errors."""

import os
import struct
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


MAX_ASPECT_RATIO = 200  # of Qwen-VL's resizing
_WIDE_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def load_image(source: str | os.PathLike | Image.Image) -> Image.Image:
    """Open an image file and return its first frame, upright, as RGB.

    Args:
        source: Path of an image file in any format that Pillow reads, or an image that is already open.

    Returns:
        An image of mode `"RGB"`; see `to_rgb` for what becomes of other modes.

    Raises:
        FileNotFoundError: If there is no such file.
        IsADirectoryError: If it is a directory.
        ValueError: If it is no image, damaged, cut short, larger than `PIL.Image.MAX_IMAGE_PIXELS`, or more than 200
            times as long as wide.
    """
    if isinstance(source, Image.Image):
        check_aspect_ratio(source.size)
        return to_rgb(source)
    path = Path(source)
    if path.is_dir():
        raise IsADirectoryError(f"expected an image file, but {path} is a directory")
    if not path.exists():
        raise FileNotFoundError(f"image file {path} does not exist")
    try:
        with Image.open(path) as image:
            # Pillow only warns up to twice its limit, and a warning does not keep the memory from being used.
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(f"Image size ({image.width}x{image.height} pixels)")
            check_aspect_ratio(image.size, path)
            return to_rgb(ImageOps.exif_transpose(image))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(
            f"image file {path} is too large to be opened safely: {error}, and PIL.Image.MAX_IMAGE_PIXELS is "
            f"{Image.MAX_IMAGE_PIXELS}. If you trust the file, raise that limit (None for none) before loading"
        ) from error
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image file that Pillow can read") from error
    except (OSError, SyntaxError, EOFError, struct.error) as error:
        raise ValueError(f"image file {path} is damaged or cut short: {error}") from error


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to 8-bit RGB.

    RGB, gray, 1-bit, CMYK and the like are converted by Pillow. Transparency (RGBA, LA, PA, or a transparent colour of
    a palette) is laid over white, as on paper. Wide gray (16 and 32 bits, floating point) is scaled to 8 bits where
    Pillow would clip it: 16-bit modes from 0...65535; the modes `"I"` and `"F"`, which say nothing about their range,
    from the smallest of 0...1 (`"F"` only), 0...255 and 0...65535 that holds all values, or else from 0...maximum.

    Args:
        image: An image of any mode.

    Returns:
        An image of mode `"RGB"` and the same size.
    """
    if is_wide_gray(image):
        values = np.nan_to_num(np.asarray(image, np.float64))
        top = max(float(values.max()), 0.0)
        ranges = {"F": (1.0, 255.0, 65535.0), "I": (255.0, 65535.0)}.get(image.mode, (65535.0,))
        white = next((limit for limit in ranges if top <= limit), top)
        gray = np.rint(np.clip(values / white, 0, 1) * 255).astype(np.uint8)
        return Image.fromarray(gray).convert("RGB")
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image  # Pillow has no direct way from La
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, (255, 255, 255, 255))
        return Image.alpha_composite(paper, image).convert("RGB")
    return image.convert("RGB")


def is_wide_gray(image: Image.Image) -> bool:
    """Whether an image is gray of more than 8 bits, which Pillow's conversion to RGB would clip."""
    return image.mode in _WIDE_MODES


def check_aspect_ratio(size: tuple[int, int], path: Path | None = None) -> None:
    """Raise a `ValueError` if an image of `size` (width, height) is too long and thin for the image processor."""
    width, height = size
    if min(size) < 1 or max(size) > MAX_ASPECT_RATIO * min(size):
        raise ValueError(
            f"image{'' if path is None else f' file {path}'} of {width}x{height} pixels (width x height) is too long "
            f"and thin: one side may be at most {MAX_ASPECT_RATIO} times the other"
        )
