"""`arrcoc report`: plots and pages of a run of `arrcoc eval`."""

import json
import os
from pathlib import Path

from arrcoc.evaluation.page import html_page, markdown_page
from arrcoc.evaluation.plots import KINDS, draw_plots, png
from arrcoc.evaluation.records import read_records, write_text
from arrcoc.evaluation.summary import write_summary

from .files import replaced_folder


PAGE = "index.html"


def report(
    run: Path,
    out: Path | None = None,
    markdown: Path | None = None,
    hardest: int = 12,
    resamples: int = 10_000,
    as_json: bool = False,
) -> None:
    """Draw a run's plots and write its page.

    Args:
        run (`Path`): folder of a complete run.
        out (`Path`, *optional*): folder for `index.html` and the plots, which takes the place of an earlier one;
            `report` in the run's folder if not given.
        markdown (`Path`, *optional*): page to write besides, with the plots in a folder of its name beside it, which
            takes the place of an earlier one.
        hardest (`int`): items to show.
        resamples (`int`): of the bootstrap.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the folder holds no run, items are missing, or a folder to write to holds anything but
            an earlier report.
    """
    out = run / "report" if out is None else out
    targets = [out] if markdown is None else [out, markdown.with_suffix("")]
    for target in targets:
        check_replaceable(target)
    summary, records = write_summary(run, resamples), read_records(run)
    drawn = draw_plots(summary)
    plots = {task: {kind: png(figure) for kind, figure in found.items()} for task, found in drawn.items()}
    names = {task: {kind: f"{task}-{kind}.png" for kind in found} for task, found in plots.items()}
    page = html_page(summary, records, plots, hardest)
    for target in targets:
        with replaced_folder(target) as folder:
            for task, found in plots.items():
                for kind, plot in found.items():
                    (folder / names[task][kind]).write_bytes(plot)
            if target == out:
                (folder / PAGE).write_text(page, encoding="utf-8")
    if markdown is not None:
        pictures = {
            task: {kind: f"{markdown.stem}/{name}" for kind, name in found.items()} for task, found in names.items()
        }
        command = f"arrcoc report {os.path.relpath(run)} --markdown {os.path.relpath(markdown)}"
        write_text(markdown, markdown_page(summary, pictures, command))
    written = [str(out / PAGE), *(str(out / name) for found in names.values() for name in found.values())]
    written += [] if markdown is None else [str(markdown)]
    print(json.dumps({"run": str(run), "written": written}, ensure_ascii=False) if as_json else "\n".join(written))


def check_replaceable(folder: Path) -> None:
    """Make sure that a folder which is about to be replaced holds an earlier report and nothing else.

    Raises:
        FileExistsError: if it holds more, such as the run itself.
    """
    known = (PAGE, *(f"-{kind}.png" for kind in KINDS))
    names = sorted(path.name for path in folder.iterdir()) if folder.exists() else []
    if other := [name for name in names if not name.endswith(known)]:
        raise FileExistsError(f"{folder} would be replaced, and holds {other[0]}, which is no part of a report")
