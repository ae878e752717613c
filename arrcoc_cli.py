"""The `arrcoc` command: its arguments, and one line on stderr for a user's mistake.

A module of its own, outside the package, because `import arrcoc` loads torch and transformers: help, usage errors and
completion answer at once, and only a command that runs pays for them. What the commands do is in `arrcoc.cli`.
"""

import argparse
import importlib
import os
import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from arrcoc_arguments import comma_separated, fraction, new_picture, token_budget, variant, whole_number


USER_ERROR = 2
INTERRUPTED = 130
BUNDLED = "arrcoc-tiny"
HOSTS = ("qwen3_vl", "qwen2_5_vl")
POLICIES = ("lod", "foveated", "tiers", "uniform", "random", "topk")
STAGES = ("features", "pixels")
QUERY_SCORERS = ("attention", "cosine", "none")
SPLITS = ("train", "validation", "heldout")
BUDGET_HELP = "visual tokens of the image: a number, a share of the native count (0.25), auto or learned"


def add_inspect(commands: Any) -> None:
    parser = commands.add_parser(
        "inspect",
        help="draw where the visual tokens of an image go",
        description="Divide an image into exactly K visual tokens and draw the result. Without --model it needs no "
        "weights: pixels say what is there, place words of the question (top left, footer, total) where to look.",
    )
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="the image")
    parser.add_argument("--question", default="", metavar="TEXT", help="the question")
    parser.add_argument("--token-budget", type=token_budget, default=256, metavar="K", help=f"{BUDGET_HELP} (256)")
    parser.add_argument("--out", required=True, type=new_picture, metavar="PNG", help="the picture to write")
    parser.add_argument("--policy", choices=POLICIES, help="how tokens are placed (lod, or what the model says)")
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--host", choices=HOSTS, default=argparse.SUPPRESS, help="whose cells to use (qwen3_vl)")
    source.add_argument("--model", metavar="DIR", help="use the maps of this checkpoint")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def add_bundled_model(parser: argparse.ArgumentParser) -> None:
    """The checkpoint, where one that comes with the package will do."""
    parser.add_argument(
        "--model",
        default=BUNDLED,
        metavar="DIR",
        help=f"checkpoint folder, or its name on the Hub ({BUNDLED}, bundled)",
    )


def add_ask(commands: Any) -> None:
    parser = commands.add_parser(
        "ask",
        help="ask a question about an image under a token budget",
        description="Answer a question about an image with a wrapped or stock checkpoint, and say what it took.",
    )
    add_bundled_model(parser)
    parser.add_argument("--image", required=True, type=Path, metavar="FILE", help="the image")
    parser.add_argument("--question", required=True, metavar="TEXT", help="the question")
    parser.add_argument("--token-budget", type=token_budget, metavar="K", help=f"{BUDGET_HELP} (the checkpoint's own)")
    parser.add_argument(
        "--max-new-tokens", type=whole_number(1), default=128, metavar="N", help="longest answer (128)"
    )
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (an accelerator if there is one)")
    parser.add_argument("--show", type=new_picture, metavar="PNG", help="draw where the tokens went")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def add_demo(commands: Any) -> None:
    parser = commands.add_parser(
        "demo",
        help="let the bundled model answer about the bundled form at several budgets",
        description="Ask three questions about a form at 100, 25 and 10 % of its visual tokens, and write pictures of "
        "where the model looked.",
    )
    parser.add_argument("--out", type=Path, default=Path("demo_out"), metavar="DIR", help="for pictures (demo_out)")
    add_bundled_model(parser)


def add_wrap(commands: Any) -> None:
    parser = commands.add_parser(
        "wrap",
        help="make an ARR-COC checkpoint of a stock Qwen2.5-VL or Qwen3-VL",
        description="Add the ARR-COC block to a stock checkpoint and save model and processor. The weights, their "
        "precision and the size of their files stay as they are.",
    )
    parser.add_argument("stock", metavar="STOCK", help="folder of the stock checkpoint, or its name on the Hub")
    parser.add_argument("out", metavar="OUT", type=Path, help="folder to make; must not exist or be empty")
    parser.add_argument(
        "--stage", choices=STAGES, help="compress after the vision tower (features) or before (pixels)"
    )
    parser.add_argument("--policy", choices=POLICIES, help="how tokens are placed")
    parser.add_argument("--query-scorer", choices=QUERY_SCORERS, help="how the question is compared with the image")
    parser.add_argument("--max-level", type=whole_number(0), metavar="L", help="coarsest leaf: 2^L cells a side")
    parser.add_argument(
        "--set",
        dest="settings",
        action="append",
        metavar="NAME=VALUE",
        help="any other option of ArrCocConfig, such as relevance=learned",
    )
    parser.add_argument("--token-budget", type=token_budget, metavar="K", help="the processor's default budget")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT if it holds anything")


def add_synth(commands: Any) -> None:
    parser = commands.add_parser(
        "synth",
        help="write synthetic documents with questions, answers and evidence boxes",
        description="Draw documents and write OUT/SPLIT.jsonl, one question a line, and OUT/images. OUT appears when "
        "all of it is written.",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder to make; new or empty")
    parser.add_argument("--n", type=whole_number(1), default=1000, metavar="N", help="number of documents (1000)")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="S", help="seed of the first document (0)")
    parser.add_argument("--split", choices=SPLITS, default="train", help="words, layouts and faces (train)")
    parser.add_argument("--kinds", nargs="+", metavar="KIND", help="kinds of documents (all)")
    parser.add_argument("--size", metavar="PX", help="512, 512x768 or a range such as 256-1024 (256-1536)")
    parser.add_argument(
        "--format", dest="picture_format", choices=("png", "jpg"), default="png", help="file type (png)"
    )
    parser.add_argument("--clear", action="store_true", help="letters of 16 px at least, on clean or scanned pages")
    parser.add_argument("--workers", type=whole_number(1), default=2, metavar="N", help="processes (2)")


def add_preflight(commands: Any) -> None:
    parser = commands.add_parser(
        "preflight",
        help="compare compressed tokens with the host's own before any training",
        description="Say for each level of detail how far compressed tokens are from those that the host makes of the "
        "whole image, and whether an adapter must be trained.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder, or its name on the Hub")
    parser.add_argument(
        "--data", required=True, type=Path, metavar="FILE", help="JSON lines with the fields image and question"
    )
    parser.add_argument("--images", type=whole_number(1), default=16, metavar="N", help="images to use (16)")
    parser.add_argument(
        "--save", type=Path, metavar="DIR", help="write the host's statistics there, such as the checkpoint's folder"
    )
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def add_teach(commands: Any) -> None:
    parser = commands.add_parser(
        "teach",
        help="measure where a host looks when it answers, for training",
        description="Measure a host's attention from answers to visual tokens at its native number of tokens, once "
        "for each row, and keep it in OUT. The same command goes on where it was cut off.",
    )
    parser.add_argument("--model", required=True, metavar="DIR", help="checkpoint folder, or its name on the Hub")
    parser.add_argument("--data", required=True, type=Path, metavar="FILE", help="rows with ids, images and answers")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="folder for the maps")
    parser.add_argument("--batch-size", type=whole_number(1), default=4, metavar="N", help="rows at a time (4)")
    parser.add_argument("--shard-rows", type=whole_number(1), default=512, metavar="N", help="rows of a file (512)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def add_train(commands: Any) -> None:
    parser = commands.add_parser(
        "train",
        help="train what ARR-COC adds to a host, phase by phase",
        description="Run the phases of a YAML file, one after another. The same command goes on where a run was cut "
        "off. Values of the file may be changed, for example phases.0.steps=100.",
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file; examples/configs has some")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE", help="changes of single values")


def add_task_options(parser: argparse.ArgumentParser) -> None:
    """Options of commands that ask the questions of tasks."""
    parser.add_argument(
        "--data",
        required=True,
        nargs="+",
        metavar="TASK",
        help="a file or folder of rows; NAME=FOLDER or NAME:SPLIT=FOLDER for a published benchmark (docvqa, "
        "infographicvqa, chartqa, textvqa, stvqa, vqav2, gqa, ocrbench, fox); or synthetic for documents drawn on the "
        "spot, with options such as synthetic:1000,size=512,kinds=form+receipt,split=heldout,clear",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="RUN", help="folder of the run; continued if begun")
    # torchrun takes `--n` of a program that it starts for one of its own options.
    questions = "questions a task, drawn at random (all)"
    parser.add_argument("--n", "--questions", type=whole_number(1), metavar="N", help=questions)
    parser.add_argument("--metric", metavar="NAME", help="score of rows from files (anls)")
    parser.add_argument("--instruction", default="", metavar="TEXT", help="what follows the question of such rows")
    parser.add_argument("--max-new-tokens", type=whole_number(1), default=64, metavar="N", help="longest answer (64)")
    parser.add_argument("--batch-size", type=whole_number(1), default=1, metavar="N", help="questions at a time (1)")
    parser.add_argument("--seed", type=whole_number(0), default=0, metavar="S", help="of all draws (0)")
    parser.add_argument("--resamples", type=whole_number(1), default=10_000, metavar="N", help="of intervals (10000)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def add_eval(commands: Any) -> None:
    parser = commands.add_parser(
        "eval",
        help="measure quality, tokens and time under budgets, with other methods in the same run",
        description="Answer the questions of tasks under all policies and budgets, and print a table with 95 % "
        "intervals. Without --model only the coverage of evidence is measured, of policies that need no weights. A "
        "run that was cut off is continued by the same command; processes started by accelerate or torchrun share it.",
    )
    parser.set_defaults(command="evaluate")
    parser.add_argument(
        "--model", metavar="DIR", help=f"checkpoint folder, its name on the Hub, or {BUNDLED} for the bundled one"
    )
    parser.add_argument(
        "--budgets",
        type=comma_separated(token_budget),
        default=[1.0, 0.5, 0.25, 0.1, 0.05],
        metavar="K,K",
        help="shares of the native tokens, numbers of tokens, or auto (1.0,0.5,0.25,0.1,0.05)",
    )
    parser.add_argument(
        "--policies",
        type=comma_separated(str),
        metavar="P,P",
        help="arrcoc (as the checkpoint is configured), arrcoc-lod and its other policies, and the methods to compare "
        "with: resize, random, pooling, visionzip, ... (all, and with a model only arrcoc of ARR-COC's own)",
    )
    parser.add_argument(
        "--variant",
        dest="variants",
        type=variant,
        action="append",
        default=[],
        metavar="NAME:O=V,O=V",
        help="one more policy arrcoc:NAME: ARR-COC with other options of its block (null: not given), or of the "
        "checkpoint model=DIR; may be given several times",
    )
    parser.add_argument("--host", choices=HOSTS, default="qwen3_vl", help="without --model, whose cells (qwen3_vl)")
    for name, which in (("min", "least"), ("max", "most")):
        text = f"{which} pixels that pictures are resized to (the checkpoint's)"
        parser.add_argument(f"--{name}-pixels", type=whole_number(1), metavar="N", help=text)
    add_task_options(parser)


def add_report(commands: Any) -> None:
    parser = commands.add_parser(
        "report",
        help="draw the plots of a run of eval, and write its page",
        description="Draw quality against tokens and time, quality by tier and chosen budgets, and write one "
        "self-contained page with the hardest items and where the model looked.",
    )
    parser.add_argument("run", type=Path, metavar="RUN", help="folder of a complete run")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder to write (RUN/report)")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="page of Markdown to write besides")
    parser.add_argument("--hardest", type=whole_number(0), default=12, metavar="N", help="items to show (12)")
    parser.add_argument("--resamples", type=whole_number(1), default=10_000, metavar="N", help="of intervals (10000)")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def add_calibrate(commands: Any) -> None:
    parser = commands.add_parser(
        "calibrate",
        help="find the least budget of each kind of question, for token_budget auto",
        description="Find on a validation set the least budget that keeps a share of native accuracy, for each kind "
        "of question, and save it in the checkpoint's processor; kinds without one are native.",
    )
    parser.add_argument("--model", required=True, type=Path, metavar="DIR", help="folder of a wrapped checkpoint")
    parser.add_argument(
        "--budgets",
        type=comma_separated(token_budget),
        default=[0.75, 0.5, 0.35, 0.25, 0.15, 0.1, 0.05],
        metavar="K,K",
        help="to test besides native: all shares or all numbers of tokens (0.75,0.5,0.35,0.25,0.15,0.1,0.05)",
    )
    parser.add_argument("--keep", type=fraction, default=0.98, metavar="S", help="share of native accuracy (0.98)")
    parser.add_argument("--confidence", type=fraction, default=0.95, metavar="S", help="that it is kept (0.95)")
    add_task_options(parser)


def add_bench(commands: Any) -> None:
    parser = commands.add_parser(
        "bench",
        help="time the parts of a model under every policy",
        description="Time to the first token by part, tokens a second after it, memory, cache and operations: medians "
        "of runs in turn, and ratios to the stock model at native budget.",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", metavar="DIR", help="checkpoint folder, or its name on the Hub")
    source.add_argument(
        "--like", choices=("Qwen3-VL-2B", "Qwen3-VL-4B", "Qwen3-VL-8B", "tiny"), help="random weights of these widths"
    )
    parser.add_argument(
        "--grid", type=whole_number(1), nargs=2, default=(32, 32), metavar=("ROWS", "COLS"), help="cells (32 32)"
    )
    parser.add_argument(
        "--budgets",
        type=comma_separated(token_budget),
        default=[0.5, 0.25, 0.1, 0.05],
        metavar="K,K",
        help="shares of the native tokens, or numbers of tokens (0.5,0.25,0.1,0.05)",
    )
    parser.add_argument("--policies", type=comma_separated(str), metavar="P,P", help="some of those timed (all)")
    parser.add_argument(
        "--batch-sizes",
        type=comma_separated(whole_number(1)),
        default=[1],
        metavar="N,N",
        help="prompts at a time (1)",
    )
    parser.add_argument("--rounds", type=whole_number(1), default=5, metavar="N", help="timed runs of each (5)")
    parser.add_argument("--new-tokens", type=whole_number(2), default=16, metavar="N", help="tokens to generate (16)")
    parser.add_argument("--text-tokens", type=whole_number(1), default=60, metavar="N", help="of the question (60)")
    parser.add_argument("--device", metavar="NAME", help="cpu, cuda, cuda:1, mps (an accelerator if there is one)")
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16", help="of random weights")
    parser.add_argument("--out", type=Path, metavar="FILE", help="file for the figures, as JSON")
    parser.add_argument("--json", dest="as_json", action="store_true", help="print one JSON object")


def build_parser() -> argparse.ArgumentParser:
    """The parser of `arrcoc`. Options of a command carry the names of its function's parameters in `arrcoc.cli`."""
    parser = argparse.ArgumentParser(
        prog="arrcoc", description="Qwen vision-language models with an exact visual-token budget."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {version('arrcoc')}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    for add in (
        add_inspect,
        add_ask,
        add_demo,
        add_wrap,
        add_synth,
        add_preflight,
        add_teach,
        add_train,
        add_eval,
        add_report,
        add_calibrate,
        add_bench,
    ):
        add(commands)
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
