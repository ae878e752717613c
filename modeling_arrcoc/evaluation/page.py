"""A run as one self-contained page of HTML, and as a page of Markdown; every number comes from the run's files."""

import base64
import html
import io
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from PIL import Image

from arrcoc.cli.viewer import draw_allocation, draw_detail, fit_cell_size
from arrcoc.training.data.rows import open_image

from .documents import Documents, read_documents
from .leaves import allocation_of
from .policies import ARRCOC
from .records import Record
from .summary import PROBLEMS, interval_text, share_of, table_rows


STYLE = """
body{font:16px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#202124;background:#fff}
table{border-collapse:collapse;font-size:14px;font-variant-numeric:tabular-nums;display:block;overflow-x:auto}
td,th{padding:.2rem .6rem;text-align:right;border-bottom:1px solid #e3e5e8;white-space:nowrap}
td:first-child,th:first-child{text-align:left}tr.own td{font-weight:600}
img{max-width:100%;height:auto}.item{border-top:1px solid #e3e5e8;padding:1rem 0}
.pair{display:flex;gap:1rem;flex-wrap:wrap}.pair figure{margin:0;flex:1 1 20rem}figcaption,.muted{color:#5f6368}
"""
PICTURE_SIDE = 480  # pixels
SETTINGS = (
    "model",
    "weights",
    "block",
    "dtype",
    "host",
    "seed",
    "batch_size",
    "max_new_tokens",
    "min_pixels",
    "max_pixels",
)


def data_uri(picture: Image.Image | bytes) -> str:
    """A picture, or the bytes of a PNG, inside a URI."""
    if isinstance(picture, Image.Image):
        buffer = io.BytesIO()
        picture.save(buffer, format="png", optimize=True)
        picture = buffer.getvalue()
    return "data:image/png;base64," + base64.b64encode(picture).decode()


def hardest_items(records: Sequence[Record], count: int) -> list[list[Record]]:
    """The rows that all conditions together answer worst, with their items: those of ARR-COC first, by falling budget.

    Of one image only the hardest row is taken.
    """
    rows: dict[tuple[str, int], list[Record]] = defaultdict(list)
    for record in records:
        rows[record["task"], record["row"]].append(record)
    found: dict[tuple[str, int], list[Record]] = {}
    for items in sorted(rows.values(), key=lambda items: fmean(item["score"] for item in items)):
        found.setdefault((items[0]["task"], items[0]["image"]), items)
        if len(found) == count:
            break
    order = [
        sorted(items, key=lambda item: (item["policy"] != ARRCOC, share_of(item["budget"])))
        for items in found.values()
    ]
    return order


def html_page(
    summary: Mapping[str, Any], records: Sequence[Record], plots: Mapping[str, Mapping[str, bytes]], hardest: int
) -> str:
    """The page.

    Args:
        summary (`Mapping`): of the run.
        records (`Sequence`): its items.
        plots (`Mapping`): by task and kind of plot, its PNG.
        hardest (`int`): items to show.
    """
    settings = summary["settings"]
    model = settings["model"] or f"no model; cells of {settings['host']}"
    parts = [f"<h1>Evaluation</h1><p>{html.escape(str(model))}</p>"]
    for name, task in summary["tasks"].items():
        parts.append(f"<h2>{html.escape(name)}</h2>{_html_table(table_rows(task))}<p class=muted>{_notes(task)}</p>")
        parts += [f'<p><img alt="{kind}" src="{data_uri(plot)}"></p>' for kind, plot in plots[name].items()]
    parts.append(f"<h2>Hardest items, and where {ARRCOC} looked</h2>")
    for items in hardest_items(records, hardest):
        parts.append(_html_item(items, settings["tasks"][items[0]["task"]].get("documents")))
    body = "\n".join(parts)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>ARR-COC evaluation</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{STYLE}</style></head>'
        f"<body>{body}</body></html>\n"
    )


def markdown_page(summary: Mapping[str, Any], pictures: Mapping[str, Mapping[str, str]], command: str) -> str:
    """The tables and plots as Markdown.

    Args:
        summary (`Mapping`): of the run.
        pictures (`Mapping`): by task and kind of plot, its path relative to the page.
        command (`str`): what writes the page.
    """
    settings = summary["settings"]
    lines = ["# Results", "", f"Written by `{command}`; no number is typed by hand.", ""]
    for name in SETTINGS:
        if settings.get(name) not in (None, {}):
            value = Path(settings[name]).name if name == "model" else settings[name]
            lines.append(f"- {name.replace('_', ' ')}: `{value}`")
    for name, task in summary["tasks"].items():
        head, *rows = table_rows(task)
        lines += ["", f"## {name}", "", "| " + " | ".join(head) + " |", "|---" + "|---:" * (len(head) - 1) + "|"]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", _notes(task)]
        if documents := settings["tasks"][name].get("documents"):
            lines += ["", f"Documents of `--data synthetic:{documents}`, of the held-out split if none is named."]
        lines += _markdown_groups(task)
        lines += [f"\n![{kind}]({path})" for kind, path in pictures[name].items()]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_groups(task: Mapping[str, Any]) -> list[str]:
    """Scores of the reference by group, one table a grouping."""
    lines: list[str] = []
    own = [figures for figures in task["conditions"] if figures["policy"] in (ARRCOC, "native")]
    own.sort(key=lambda figures: share_of(figures["budget"]))
    for grouping in dict.fromkeys(name for figures in own for name in figures["groups"]):
        groups = sorted({group for figures in own for group in figures["groups"].get(grouping, {})})
        if len(groups) < 2:
            continue
        lines += ["", f"By {grouping}, {ARRCOC}:", "", f"| budget | {' | '.join(groups)} |"]
        lines.append("|---" + "|---:" * len(groups) + "|")
        for figures in own:
            found = figures["groups"].get(grouping, {})
            cells = [f"{interval_text(found[g])} ({found[g]['items']})" if g in found else "" for g in groups]
            lines.append(f"| {figures['budget']} | {' | '.join(cells)} |")
    return lines


def _notes(task: Mapping[str, Any]) -> str:
    """What was counted, in words."""
    notes = [f"{task['conditions'][0]['items']} questions about {task['conditions'][0]['images']} images."]
    notes += [f"{len(task['unreadable'])} rows of the file could not be read."] if task["unreadable"] else []
    notes += [f"{task['without_evidence']} rows without evidence are left out."] if task["without_evidence"] else []
    for name, meaning in PROBLEMS.items():
        count = sum(len(figures["problems"][name]) for figures in task["conditions"])
        notes += [f"{count} items: {meaning}."] if count else []
    return " ".join(notes)


def _html_table(lines: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in lines[0])
    rows = [
        ("<tr class=own>" if line[0] == ARRCOC else "<tr>") + "".join(f"<td>{html.escape(cell)}</td>" for cell in line)
        for line in lines[1:]
    ]
    return f"<table><tr>{head}</tr>{''.join(rows)}</table>"


def _html_item(items: Sequence[Record], documents: str | None) -> str:
    first = items[0]
    answers = ", ".join(first["answers"])
    mean = fmean(item["score"] for item in items)
    parts = [
        f"<div class=item><h3>{html.escape(first['question'])}</h3><p>{html.escape(first['id'])}, {first['task']}; "
        f"expected <b>{html.escape(answers)}</b>; mean score {mean:.3f}</p>"
    ]
    told = [item for item in items if item["policy"] == first["policy"]]
    for item in told:
        said = item["error"] or (item["prediction"] if item["prediction"] is not None else "")
        flags = ", ".join(name.replace("_", " ") for name in PROBLEMS if item[name])
        parts.append(
            f"<p><b>{item['policy']} {item['budget']}</b> score {item['score']:.3f}: {html.escape(said)} "
            f"<span class=muted>{flags}</span></p>"
        )
        if item["leaves"]:
            parts += _html_looks(item, documents)
    return "".join(parts) + "</div>"


def _html_looks(item: Record, documents: str | None) -> list[str]:
    """Each image with its leaves, and with what they can hold."""
    found = []
    for place, leaves in zip(item["paths"], item["leaves"], strict=True):
        try:
            picture = _picture(place, documents)
        except ValueError as error:
            found.append(f"<p class=muted>{html.escape(str(error))}</p>")
            continue
        allocation = allocation_of(leaves)
        rows, cols = allocation.grids[0].tolist()
        cell = fit_cell_size((rows, cols), PICTURE_SIDE, PICTURE_SIDE)
        tokens = f"{len(allocation.boxes)} of {rows * cols} tokens"
        where = data_uri(draw_allocation(picture, allocation, 0, cell))
        what = data_uri(draw_detail(picture, allocation, 0, cell))
        found.append(
            f'<div class=pair><figure><img alt="where" src="{where}"><figcaption>{tokens}</figcaption></figure>'
            f'<figure><img alt="what" src="{what}"><figcaption>what they can hold</figcaption></figure></div>'
        )
    return found


def _picture(place: str | int | None, documents: str | None) -> Image.Image:
    """An item's picture: from its path, or drawn again from the seed of a document.

    A machine with other typefaces than the one that ran draws another.

    Raises:
        ValueError: if it cannot be read, or the run does not say where it is.
    """
    if isinstance(place, str):
        return open_image(Path(place))
    if place is None or documents is None:
        raise ValueError("The picture is not among the files of the run.")
    return Documents(read_documents(documents))[place]["image"]
