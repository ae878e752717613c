"""Figures of a run: scores, tokens and times with intervals, differences to ARR-COC, and what went wrong."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean, median
from typing import Any

from .efficiency import budget_calibration, compression_ratio, token_efficiency
from .intervals import bootstrap_interval, paired_difference
from .policies import ARRCOC, NATIVE
from .records import HEADER, SUMMARY, Record, read_json, read_records, write_json
from .run import EVIDENCE_METRIC
from .tasks import difficult_items, grouped_intervals, tier_of


PROBLEMS = {
    "error": "could not be used (missing or broken image, unusable question); scored worst",
    "empty": "empty answer",
    "over_long": "answer cut off at the longest length",
}
# Groups are many and small.
GROUP_RESAMPLES = 2000
ANSWERED = 0.5  # score from which on an item counts as answered

Key = tuple[str, str]  # policy and budget


def share_of(budget: str) -> float:
    """A key to sort budgets by: shares from 1.0 down, then numbers of tokens, then what is chosen."""
    try:
        return (-float(budget) if "." in budget else 1e6 - int(budget)) if budget[0].isdigit() else 1e9
    except ValueError:
        return 1e9


def _figures(records: Sequence[Record], resamples: int) -> dict[str, Any]:
    """Figures of one policy at one budget."""
    images = [record["image"] for record in records]
    scores = [record["score"] for record in records]
    used = [record for record in records if record["error"] is None]
    named = list(dict.fromkeys(name for record in records for name in record["scores"]))
    figures: dict[str, Any] = {
        "items": len(records),
        "images": len(set(images)),
        "score": asdict(bootstrap_interval(scores, images, resamples=resamples)),
        "scores": {name: fmean(record["scores"][name] for record in records) for name in named},
        "problems": {name: [record["id"] for record in records if record[name]] for name in PROBLEMS},
    }
    if used:
        tokens, native = [record["tokens"] for record in used], [record["native"] for record in used]
        figures |= {
            "tokens": fmean(tokens),
            "native_tokens": fmean(native),
            "compression": compression_ratio(native, tokens),
            "milliseconds": median(record["milliseconds"] for record in used),
        }
    if covered := [record for record in used if record["coverage"] is not None]:
        figures["coverage"] = {"items": len(covered)} | {
            name: fmean(record["coverage"][name] for record in covered) for name in ("full_detail", "resolution")
        }
    return figures


def _groups(records: Sequence[Record], difficult: Mapping[int, bool] | None) -> dict[str, Any]:
    """Mean and interval of each group, by the name of the grouping."""
    labels: dict[str, dict[int, str]] = defaultdict(dict)
    for record in records:
        for name, label in record["groups"].items():
            labels[name][record["row"]] = label or "-"
        if record["tokens"] is not None:
            labels["tier"][record["row"]] = tier_of(max(1, round(record["tokens"] / max(1, len(record["paths"])))))
        if difficult is not None:
            labels["difficult"][record["row"]] = "difficult" if difficult[record["row"]] else "other"
    found = {}
    for name, label in labels.items():
        chosen = [record for record in records if record["row"] in label]
        intervals = grouped_intervals(
            [record["score"] for record in chosen],
            [label[record["row"]] for record in chosen],
            [record["image"] for record in chosen],
            resamples=GROUP_RESAMPLES,
        )
        found[name] = {group: {"items": count} | asdict(interval) for group, (count, interval) in intervals.items()}
    return found


def _differences(conditions: Mapping[Key, Sequence[Record]], reference: str, resamples: int) -> list[dict[str, Any]]:
    """Score of the reference at each budget, less that of each other policy there and less the native one."""
    own = {budget: records for (policy, budget), records in conditions.items() if policy == reference}
    others = [(key, records) for key, records in conditions.items() if key[0] not in (reference, NATIVE)]
    for (policy, _), records in conditions.items():
        if policy == NATIVE:
            others += [((NATIVE, budget), records) for budget in own]
    found = []
    for (policy, budget), records in others:
        if budget not in own:
            continue
        interval = paired_difference(
            [record["score"] for record in own[budget]],
            [record["score"] for record in records],
            [record["image"] for record in records],
            resamples=resamples,
        )
        found.append({"reference": reference, "policy": policy, "budget": budget} | asdict(interval))
    return found


def _chosen_budgets(conditions: Mapping[Key, Sequence[Record]], reference: str) -> dict[str, Any]:
    """How budgets that were chosen compare with what the items needed in the sweep of the given budgets.

    Both are shares of the native tokens: a number of tokens is another share of each image.
    """
    own = {budget: found for (policy, budget), found in conditions.items() if policy in (reference, NATIVE)}
    given = [records for budget, records in own.items() if budget[0].isdigit()]
    found = {}
    for budget, chosen in own.items():
        rows = [row for row, record in enumerate(chosen) if record["tokens"]]
        if budget[0].isdigit() or len(given) < 2 or not rows:
            continue
        shares = {fmean(records[row]["tokens"] / records[row]["native"] for row in rows): records for records in given}
        steps = sorted(shares)
        table = [[shares[step][row]["score"] for step in steps] for row in rows]
        if any(scores[-1] >= ANSWERED for scores in table):
            taken = [chosen[row]["tokens"] / chosen[row]["native"] for row in rows]
            found[budget] = {"sweep": steps} | asdict(budget_calibration(taken, steps, table, ANSWERED))
    return found


def summarize(records: Sequence[Record], header: Mapping[str, Any], resamples: int = 10_000) -> dict[str, Any]:
    """Figures of all items of a run.

    Args:
        records (`Sequence`): all items of all tasks under all conditions.
        header (`Mapping`): settings of the run.
        resamples (`int`): of the bootstrap, of images with all of their questions.

    Returns:
        `dict`: `settings`, and by task `metric`, `conditions` (figures and groups of each policy at each budget),
        `differences` and `chosen_budgets`; all values of JSON.

    Raises:
        ValueError: if an item is missing under one of the conditions.
    """
    reference = header.get("reference", ARRCOC)
    tasks: dict[str, Any] = {}
    for name, settings in header["tasks"].items():
        conditions: dict[Key, list[Record]] = {(policy, budget): [] for policy, budget in header["conditions"]}
        for record in records:
            if record["task"] == name:
                conditions[record["policy"], record["budget"]].append(record)
        for (policy, budget), found in conditions.items():
            if [record["row"] for record in found] != list(range(settings["rows"])):
                raise ValueError(
                    f"{name} has {len(found)} of {settings['rows']} items under {policy} at {budget}; run the same "
                    "`arrcoc eval` again to complete them"
                )
        native = next((found for (policy, _), found in conditions.items() if policy == NATIVE), None)
        answered = settings["metric"] != EVIDENCE_METRIC
        native_score = None if native is None else fmean(record["score"] for record in native)
        rows = []
        for (policy, budget), found in conditions.items():
            figures = {"policy": policy, "budget": budget} | _figures(found, resamples)
            if native_score and answered and "tokens" in figures:
                figures["efficiency"] = token_efficiency(
                    figures["score"]["mean"], native_score, figures["native_tokens"], figures["tokens"]
                )
            small = conditions.get(("resize", budget))
            difficult = None
            if native is not None and small is not None and answered:
                is_difficult = difficult_items([r["score"] for r in native], [r["score"] for r in small], ANSWERED)
                difficult = dict(enumerate(is_difficult))
            rows.append(figures | {"groups": _groups(found, difficult)})
        tasks[name] = {
            "metric": settings["metric"],
            "unreadable": settings["unreadable"],
            "without_evidence": settings.get("without_evidence"),
            "conditions": rows,
            "differences": _differences(conditions, reference, resamples),
            "chosen_budgets": _chosen_budgets(conditions, reference) if answered else {},
        }
    return {"settings": dict(header), "tasks": tasks}


def write_summary(folder: Path, resamples: int = 10_000) -> dict[str, Any]:
    """Summarise a run that is complete, into its folder.

    Raises:
        FileNotFoundError, ValueError: if the folder holds no run, or items are missing.
    """
    summary = summarize(read_records(folder), read_json(folder / HEADER), resamples)
    write_json(folder / SUMMARY, summary)
    return summary


def table_rows(task: Mapping[str, Any]) -> list[list[str]]:
    """A task's figures as texts, a header first: one line a policy and budget, by budget and then by score."""
    metric = task["metric"]
    head = ["policy", "budget", "tokens", "fewer", f"{metric} [95 %]", "ARR-COC less it [95 %]"]
    covered = any("coverage" in figures for figures in task["conditions"])
    answered = metric != EVIDENCE_METRIC
    timed = any(figures.get("milliseconds") for figures in task["conditions"])
    head += ["full detail"] * covered + ["evidence"] * (covered and answered) + ["ms"] * timed
    head += ["errors", "empty", "cut off"]
    difference = {(entry["policy"], entry["budget"]): entry for entry in task["differences"]}
    lines = [head]
    order = sorted(task["conditions"], key=lambda f: (share_of(f["budget"]), -f["score"]["mean"]))
    for figures in order:
        entry = difference.get((figures["policy"], figures["budget"]))
        native = difference.get((NATIVE, figures["budget"]))
        if native is not None and figures["policy"] == native["reference"]:
            told = f"(less native) {interval_text(native, sign='+')}"
        else:
            told = "" if entry is None else interval_text(entry, sign="+")
        line = [
            figures["policy"],
            figures["budget"],
            _number(figures.get("tokens"), "{:.1f}"),
            _number(figures.get("compression"), "{:.1f}x"),
            interval_text(figures["score"]),
            told,
        ]
        shown = ("full_detail", "resolution") if answered else ("full_detail",)  # the other one is the score
        for name in shown if covered else ():
            line.append(_number(figures.get("coverage", {}).get(name), "{:.3f}"))
        if timed:
            line.append(_number(figures.get("milliseconds"), "{:.0f}"))
        lines.append([*line, *(str(len(figures["problems"][name])) for name in PROBLEMS)])
    return lines


def interval_text(interval: Mapping[str, float], sign: str = "") -> str:
    """A mean and its bounds, three decimals each."""
    mean, low, high = (format(interval[name], f"{sign}.3f") for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def plain_table(lines: Sequence[Sequence[str]]) -> str:
    """Lines of cells as columns of text, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    texts = [
        "  ".join(cell.ljust(width) if index < 1 else cell.rjust(width) for index, (cell, width) in enumerate(columns))
        for columns in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join(text.rstrip() for text in texts)


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)
