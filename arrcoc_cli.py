"""The `arrcoc` command: its arguments, and one line on stderr for a user's mistake.

A module of its own, outside the package, because `import arrcoc` loads torch and transformers: help, usage errors and
completion answer at once, and only a command that runs pays for them. What the commands do is in `arrcoc.cli`.
"""

import argparse
import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any


USER_ERROR = 2
INTERRUPTED = 130
HOSTS = ("qwen3_vl", "qwen2_5_vl")
POLICIES = ("lod", "tiers", "uniform", "random", "topk")
STAGES = ("features", "pixels")
QUERY_SCORERS = ("attention", "cosine", "none")
SPLITS = ("train", "validation", "heldout")
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


def build_parser() -> argparse.ArgumentParser:
    """The parser of `arrcoc`. Options of a command carry the names of its function's parameters in `arrcoc.cli`."""
    parser = argparse.ArgumentParser(
        prog="arrcoc", description="Qwen vision-language models with an exact visual-token budget."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('arrcoc')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    budget_help = "visual tokens of the image: a number, a share of the native count (0.25), or auto"

    inspect = commands.add_parser(
        "inspect",
        help="draw where the visual tokens of an image go",
        description="Divide an image into exactly K visual tokens and draw the result. Without --model it needs no "
        "weights: pixels say what is there, place words of the question (top left, footer, total) where to look.",
    )
    inspect.add_argument("--image", required=True, type=Path, metavar="FILE", help="the image")
    inspect.add_argument("--question", default="", metavar="TEXT", help="the question")
    inspect.add_argument("--token-budget", type=token_budget, default=256, metavar="K", help=f"{budget_help} (256)")
    inspect.add_argument("--out", required=True, type=new_picture, metavar="PNG", help="the picture to write")
    inspect.add_argument("--policy", choices=POLICIES, help="how tokens are placed (lod, or what the model says)")
    source = inspect.add_mutually_exclusive_group()
    source.add_argument("--host", choices=HOSTS, default=argparse.SUPPRESS, help="whose cells to use (qwen3_vl)")
    source.add_argument("--model", metavar="DIR", help="use the maps of this checkpoint")
    inspect.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")

    ask = commands.add_parser(
        "ask",
        help="ask a question about an image under a token budget",
        description="Answer a question about an image with a wrapped or stock checkpoint, and say what it took.",
    )
    ask.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder, or its name on the Hub")
    ask.add_argument("--image", required=True, type=Path, metavar="FILE", help="the image")
    ask.add_argument("--question", required=True, metavar="TEXT", help="the question")
    ask.add_argument("--token-budget", type=token_budget, metavar="K", help=f"{budget_help} (the checkpoint's own)")
    ask.add_argument("--max-new-tokens", type=whole_number(1), default=128, metavar="N", help="longest answer (128)")
    ask.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (an accelerator if there is one)")
    ask.add_argument("--show", type=new_picture, metavar="PNG", help="draw where the tokens went")
    ask.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")

    wrap = commands.add_parser(
        "wrap",
        help="make an ARR-COC checkpoint of a stock Qwen2.5-VL or Qwen3-VL",
        description="Add the ARR-COC block to a stock checkpoint and save model and processor. The weights, their "
        "precision and the size of their files stay as they are.",
    )
    wrap.add_argument("stock", metavar="STOCK", help="folder of the stock checkpoint, or its name on the Hub")
    wrap.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist or be empty")
    wrap.add_argument("--stage", choices=STAGES, help="compress after the vision tower (features) or before (pixels)")
    wrap.add_argument("--policy", choices=POLICIES, help="how tokens are placed")
    wrap.add_argument("--query-scorer", choices=QUERY_SCORERS, help="how the question is compared with the image")
    wrap.add_argument("--max-level", type=whole_number(0), metavar="L", help="coarsest leaf: 2^L cells a side")
    wrap.add_argument("--token-budget", type=token_budget, metavar="K", help="the processor's default budget")
    wrap.add_argument("--overwrite", action="store_true", help="replace OUT if it holds anything")

    synth = commands.add_parser(
        "synth",
        help="write synthetic documents with questions, answers and evidence boxes",
        description="Draw documents and write OUT/SPLIT.jsonl, one question a line, and OUT/images. OUT appears when "
        "all of it is written.",
    )
    synth.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make; new or empty")
    synth.add_argument("--n", type=whole_number(1), default=1000, metavar="N", help="number of documents (1000)")
    synth.add_argument("--seed", type=whole_number(0), default=0, metavar="S", help="seed of the first document (0)")
    synth.add_argument("--split", choices=SPLITS, default="train", help="words, layouts and faces (train)")
    synth.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds of documents (all)")
    synth.add_argument("--size", metavar="PX", help="512, 512x768 or a range such as 256-1024 (256-1536)")
    synth.add_argument(
        "--format", dest="picture_format", choices=("png", "jpg"), default="png", help="file type (png)"
    )
    synth.add_argument("--workers", type=whole_number(1), default=2, metavar="N", help="processes (2)")

    preflight = commands.add_parser(
        "preflight",
        help="compare compressed tokens with the host's own before any training",
        description="Say for each level of detail how far compressed tokens are from those that the host makes of the "
        "whole image, and whether an adapter must be trained.",
    )
    preflight.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder, or its name on the Hub")
    preflight.add_argument(
        "--data", required=True, type=Path, metavar="FILE", help="JSON lines with the fields image and question"
    )
    preflight.add_argument("--images", type=whole_number(1), default=16, metavar="N", help="images to use (16)")
    preflight.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: what stands after `arrcoc` on the command line; defaults to `sys.argv[1:]`.

    Returns:
        `int`: exit status; 0 for success, 2 for a mistake in what the user gave (argparse exits with 2 by itself).
    """
    options = vars(build_parser().parse_args(arguments))
    command = options.pop("command")
    try:
        with warnings.catch_warnings():
            _show_notes()
            getattr(importlib.import_module(f"arrcoc.cli.{command}"), command)(**options)
            sys.stdout.flush()
    except BrokenPipeError:  # the reader of a pipe such as `| head` has left; nothing may be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        print("arrcoc: interrupted", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, ImportError) as error:
        print(f"arrcoc: {_one_line(error)}", file=sys.stderr)
        return USER_ERROR
    return 0


def _one_line(message: object) -> str:
    """A message without line breaks; the name of its type where it is empty."""
    return " ".join(str(message).split()) or type(message).__name__


def _show_notes() -> None:
    """Show warnings that are meant for the user as one line; others keep their usual form."""
    # Pillow's warning of a large image comes before the error with which `load_image` refuses it.
    warnings.filterwarnings("ignore", message=".*decompression bomb")
    usual = warnings.showwarning

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category is UserWarning:
            print(f"arrcoc: note: {_one_line(message)}", file=sys.stderr)
        else:
            usual(message, category, *where, **more)

    warnings.showwarning = show


if __name__ == "__main__":
    sys.exit(main())
