"""`arrcoc report`: plots and pages of a run of `arrcoc eval`."""

import json
import os
from pathlib import Path

from arrcoc.evaluation.page import html_page, markdown_page
from arrcoc.evaluation.plots import DPI, draw_plots
from arrcoc.evaluation.records import read_records, write_text
from arrcoc.evaluation.summary import write_summary

from .files import replaced_folder


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
        out (`Path`, *optional*): folder for `index.html` and the plots; `report` in the run's folder if not given.
        markdown (`Path`, *optional*): page to write besides, with the plots in a folder of its name beside it.
        hardest (`int`): items to show.
        resamples (`int`): of the bootstrap.
        as_json (`bool`): print one JSON object.

    Raises:
        OSError, ValueError: if the folder holds no run, or items are missing.
    """
    summary, records = write_summary(run, resamples), read_records(run)
    plots = draw_plots(summary)
    names = {task: {kind: f"{task}-{kind}.png" for kind in found} for task, found in plots.items()}
    out = run / "report" if out is None else out
    page = html_page(summary, records, plots, hardest)
    targets = [out] if markdown is None else [out, markdown.with_suffix("")]
    for target in targets:
        with replaced_folder(target) as folder:
            for task, found in plots.items():
                for kind, figure in found.items():
                    figure.savefig(folder / names[task][kind], dpi=DPI)
            if target == out:
                (folder / "index.html").write_text(page, encoding="utf-8")
    if markdown is not None:
        pictures = {
            task: {kind: f"{markdown.stem}/{name}" for kind, name in found.items()} for task, found in names.items()
        }
        command = f"arrcoc report {run.name} --markdown {os.path.relpath(markdown)}"
        write_text(markdown, markdown_page(summary, pictures, command))
    written = [str(out / "index.html"), *(str(out / name) for found in names.values() for name in found.values())]
    written += [] if markdown is None else [str(markdown)]
    print(json.dumps({"run": str(run), "written": written}, ensure_ascii=False) if as_json else "\n".join(written))
