"""Types of the arguments of the `arrcoc` command: what a text says, or a usage error that says what was expected.

Beside the command, outside the package, whose import loads torch.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any


PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")


def token_budget(text: str) -> int | float | str:
    """Read a token budget: a number of tokens (`256`), a share of the native count (`0.25`), `auto`, also with the
    name of its strategy (`auto:two_mode`), or `learned`, also with the most the model may choose (`learned:400`).

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    if re.fullmatch(r"auto(:\w+)?|learned(:[1-9]\d*)?", text):
        return text
    try:
        tokens = int(text)
    except ValueError:
        try:
            share = float(text)
        except ValueError:
            share = float("nan")
        if 0 < share <= 1:
            return share
    else:
        if tokens >= 1:
            return tokens
    raise argparse.ArgumentTypeError(
        f"found {text!r}; expected a number of tokens (256), a share of the native count up to 1.0 (0.25), auto or "
        "learned"
    )


def whole_number(least: int) -> Callable[[str], int]:
    """An argument type: a whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"found {text!r}; expected a whole number of at least {least}")
        return value

    return read


def new_picture(text: str) -> Path:
    """Read the path of a picture to write.

    Raises:
        argparse.ArgumentTypeError: if its suffix names no known format, or its folder does not exist.
    """
    path = Path(text)
    if path.suffix.lower() not in PICTURE_SUFFIXES:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a name that ends in {', '.join(PICTURE_SUFFIXES)}")
    if not path.absolute().parent.is_dir():
        raise argparse.ArgumentTypeError(f"the folder {path.absolute().parent} does not exist")
    return path


def comma_separated(read: Callable[[str], Any]) -> Callable[[str], list[Any]]:
    """An argument type: values of another type, with commas between them."""

    def read_all(text: str) -> list[Any]:
        return [read(part.strip()) for part in text.split(",")]

    return read_all


def fraction(text: str) -> float:
    """Read a number between 0 and 1, neither of them included.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"found {text!r}; expected a number between 0 and 1")
    return value


def variant(text: str) -> tuple[str, dict[str, Any]]:
    """Read a variant: its name, a colon, and what it changes, as `plain:query_weight=0,pair_worth=null`.

    Raises:
        argparse.ArgumentTypeError: for anything else.
    """
    name, _, options = text.partition(":")
    parts = [part.partition("=") for part in options.split(",")]
    if not re.fullmatch(r"[\w.-]+", name) or not all(key.isidentifier() and value for key, _, value in parts):
        raise argparse.ArgumentTypeError(f"found {text!r}; expected NAME:OPTION=VALUE,OPTION=VALUE")
    return name, {key: _option_value(value) for key, _, value in parts}


def _option_value(text: str) -> int | float | str | None:
    if text == "null":
        return None
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            pass
    return text
