"""Plots of a summary: quality against tokens and time, quality by tier, and chosen budgets against needed ones."""

import io
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from matplotlib.figure import Figure

from .peers import PEERS
from .policies import ARRCOC, NATIVE
from .summary import share_of


# Okabe & Ito (2008): told apart with every common colour blindness. The reference is drawn strong, all others thin.
COLORS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#999999")
MARKERS = "osv^DPX"
SIZE, DPI = (7.0, 4.6), 130
KINDS = ("quality-tokens", "quality-milliseconds", "tiers", "calibration")


def _curves(task: Mapping[str, Any]) -> dict[str, list[Mapping[str, Any]]]:
    """Figures of each policy by falling budget, the native point first in all of them; chosen budgets left out."""
    curves: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    native = [figures for figures in task["conditions"] if figures["policy"] == NATIVE and "tokens" in figures]
    for figures in sorted(task["conditions"], key=lambda figures: share_of(figures["budget"])):
        if figures["policy"] != NATIVE and figures["budget"][0].isdigit() and "tokens" in figures:
            curves[figures["policy"]].append(figures)
    return {policy: native + found for policy, found in curves.items()} or ({NATIVE: native} if native else {})


def _quality(task: Mapping[str, Any], name: str, axis: str, label: str) -> Figure | None:
    """Score against a figure of each condition, with intervals of the reference."""
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    curves = _curves(task)
    if axis == "milliseconds":  # methods that mask tokens between layers save no time here, whatever they could save
        curves = {
            policy: found
            for policy, found in curves.items()
            if PEERS.get(policy) is None or PEERS[policy].stage != "language_model"
        }
        if not any(figures[axis] for found in curves.values() for figures in found):
            return None
    for number, (policy, found) in enumerate(curves.items()):
        color = COLORS[number % len(COLORS)]
        own = policy.startswith(ARRCOC)
        style: dict[str, Any] = {"linewidth": 2.4 if policy == ARRCOC else 1.1, "alpha": 1.0 if own else 0.8}
        x = [figures[axis] for figures in found]
        y = [figures["score"]["mean"] for figures in found]
        marker = MARKERS[number // len(COLORS) % len(MARKERS)]
        axes.plot(x, y, color=color, marker=marker, markersize=4, label=policy, zorder=3 if own else 2, **style)
        if policy == ARRCOC:
            low = [figures["score"]["low"] for figures in found]
            high = [figures["score"]["high"] for figures in found]
            axes.vlines(x, low, high, color=color, linewidth=1.2, zorder=3)
    if axis == "tokens":
        axes.set_xscale("log")
    axes.set(xlabel=label, ylabel=task["metric"], title=name)
    _finish(figure, axes)
    return figure


def _tiers(task: Mapping[str, Any], name: str) -> Figure | None:
    """Score of the reference by the range of tokens that an image took, all budgets together."""
    found: dict[str, list[tuple[str, Mapping[str, float]]]] = defaultdict(list)
    for figures in task["conditions"]:
        if figures["policy"] in (ARRCOC, NATIVE):
            for tier, interval in figures["groups"].get("tier", {}).items():
                found[tier].append((figures["budget"], interval))
    if not found:
        return None
    figure = Figure(figsize=SIZE, layout="constrained")
    axes = figure.subplots()
    tiers = sorted(found, key=lambda tier: int(tier.split("-")[0]))
    budgets = sorted({budget for entries in found.values() for budget, _ in entries}, key=share_of)
    width = 0.8 / len(budgets)
    for number, budget in enumerate(budgets):
        bars = [(place, dict(found[tier]).get(budget)) for place, tier in enumerate(tiers)]
        drawn = [(place + (number + 0.5) * width - 0.4, interval) for place, interval in bars if interval is not None]
        x, mean = [place for place, _ in drawn], [interval["mean"] for _, interval in drawn]
        errors = [
            [max(0.0, interval["mean"] - interval["low"]) for _, interval in drawn],
            [max(0.0, interval["high"] - interval["mean"]) for _, interval in drawn],
        ]
        axes.bar(x, mean, width, yerr=errors, color=COLORS[number % len(COLORS)], label=f"budget {budget}", capsize=2)
    axes.set_xticks(range(len(tiers)), tiers)
    axes.set(xlabel="visual tokens an image", ylabel=task["metric"], title=f"{name}: {ARRCOC} by tier")
    _finish(figure, axes)
    return figure


def _calibration(task: Mapping[str, Any], name: str) -> Figure | None:
    """Shares of items whose chosen budget was too small, right and too large."""
    chosen = task["chosen_budgets"]
    if not chosen:
        return None
    figure = Figure(figsize=(SIZE[0], 1.6 + 0.6 * len(chosen)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(chosen)
    labels = [f"{budget} ({entry['items']} items)" for budget, entry in chosen.items()]
    for part, color in (("under", COLORS[5]), ("exact", COLORS[2]), ("over", COLORS[0])):
        shares = [entry[part] for entry in chosen.values()]
        axes.barh(labels, shares, left=left, color=color, label=part)
        left = [start + share for start, share in zip(left, shares, strict=True)]
    axes.set(xlim=(0, 1), xlabel="share of the items that some budget answers", title=f"{name}: chosen against needed")
    _finish(figure, axes)
    return figure


def _finish(figure: Figure, axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right upper", fontsize=8, frameon=False)


def draw_plots(summary: Mapping[str, Any]) -> dict[str, dict[str, Figure]]:
    """All plots of a summary, by task and by what they show, of `KINDS` those that there is something to draw for.

    Args:
        summary (`Mapping`): as `write_summary` writes it.
    """
    found: dict[str, dict[str, Figure]] = {}
    for name, task in summary["tasks"].items():
        figures = (
            _quality(task, name, "tokens", "visual tokens a question"),
            _quality(task, name, "milliseconds", "milliseconds a question, pictures prepared"),
            _tiers(task, name),
            _calibration(task, name),
        )
        plots = zip(KINDS, figures, strict=True)
        found[name] = {kind: figure for kind, figure in plots if figure is not None}
    return found


def png(figure: Figure) -> bytes:
    """A plot as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=DPI)
    return buffer.getvalue()
