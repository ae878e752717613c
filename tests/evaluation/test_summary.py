"""Figures of a run against hand-worked items."""

import pytest

from arrcoc.evaluation.intervals import paired_difference
from arrcoc.evaluation.summary import plain_table, share_of, summarize, table_rows


def item(row, policy, budget, score, tokens=16.0, **more):
    found = {
        "task": "pages",
        "row": row,
        "policy": policy,
        "budget": budget,
        "id": f"id{row}",
        "image": row // 2,
        "paths": ["page.png"],
        "question": "What?",
        "answers": ["this"],
        "groups": {"domain": "form" if row < 4 else "chart"},
        "prediction": "this",
        "score": score,
        "scores": {"anls": score},
        "tokens": tokens,
        "native": 64,
        "milliseconds": 10.0 * (row + 1),
        "coverage": None,
        "error": None,
        "empty": False,
        "over_long": False,
        "leaves": [],
    }
    return found | more


NATIVE = [1, 1, 1, 0, 1, 1]
ARRCOC = [1, 1, 0, 0, 1, 1]
RESIZE = [0, 1, 0, 0, 0, 1]


def records():
    parts = (("native", "1.0", NATIVE, 64.0), ("arrcoc", "0.25", ARRCOC, 16.0), ("resize", "0.25", RESIZE, 15.0))
    return [item(row, p, b, float(score), t) for p, b, scores, t in parts for row, score in enumerate(scores)]


def header(**more):
    conditions = [["native", "1.0"], ["arrcoc", "0.25"], ["resize", "0.25"]]
    task = {"metric": "anls", "rows": 6, "unreadable": [], "instruction": ""}
    return {"model": "m", "reference": "arrcoc", "conditions": conditions, "tasks": {"pages": task}} | more


def figures(summary, policy):
    return next(entry for entry in summary["tasks"]["pages"]["conditions"] if entry["policy"] == policy)


def test_figures_of_a_condition():
    found = figures(summarize(records(), header(), 200), "arrcoc")
    assert (found["items"], found["images"], found["tokens"], found["native_tokens"]) == (6, 3, 16, 64)
    assert found["score"]["mean"] == pytest.approx(4 / 6) and found["score"]["low"] < 4 / 6 < found["score"]["high"]
    assert found["compression"] == 4 and found["milliseconds"] == 35  # the median of 10 to 60
    assert found["efficiency"] == pytest.approx((4 / 5) / (16 / 64))
    assert found["groups"]["domain"]["form"]["mean"] == 0.5 and found["groups"]["domain"]["chart"]["items"] == 2
    assert found["groups"]["tier"].keys() == {"1-64"}


def test_the_difficult_group_is_what_resizing_breaks():
    groups = figures(summarize(records(), header(), 200), "arrcoc")["groups"]["difficult"]
    assert groups["difficult"]["items"] == 3  # rows 0, 2 and 4: native answers them, resized does not
    assert groups["difficult"]["mean"] == pytest.approx(2 / 3)
    assert groups["other"]["items"] == 3


def test_differences_are_paired_over_images():
    found = summarize(records(), header(), 500)["tasks"]["pages"]["differences"]
    images = [0, 0, 1, 1, 2, 2]
    assert [(entry["policy"], entry["budget"], entry["reference"]) for entry in found] == [
        ("resize", "0.25", "arrcoc"),
        ("native", "0.25", "arrcoc"),  # at that budget, less native
    ]
    for entry, scores, mean in zip(found, (RESIZE, NATIVE), (2 / 6, -1 / 6), strict=True):
        expected = paired_difference(ARRCOC, scores, images, resamples=500)
        assert (entry["mean"], entry["low"], entry["high"]) == (expected.mean, expected.low, expected.high)
        assert entry["mean"] == pytest.approx(mean)


def test_chosen_budgets_are_compared_with_native_alone():
    more = [item(row, "arrcoc", "auto", 1.0) for row in range(6)]
    settings = header()
    settings["conditions"] = [*settings["conditions"], ["arrcoc", "auto"]]
    found = summarize(records() + more, settings, 200)["tasks"]["pages"]["differences"]
    assert [(entry["policy"], entry["mean"]) for entry in found if entry["budget"] == "auto"] == [("native", 1 / 6)]


def test_missing_items_are_refused():
    with pytest.raises(ValueError, match="5 of 6 items under resize at 0.25"):
        summarize(records()[:-1], header())


def test_errors_count_in_the_score_and_not_in_the_tokens():
    broken = records()
    broken[6] |= {"error": "gone", "score": 0.0, "tokens": None, "native": None, "milliseconds": None}
    found = figures(summarize(broken, header(), 200), "arrcoc")
    assert found["score"]["mean"] == pytest.approx(3 / 6)
    assert (found["tokens"], found["problems"]["error"]) == (16, ["id0"])


def test_chosen_budgets_are_compared_with_the_sweep():
    more = [
        item(row, "arrcoc", "auto", 1.0, tokens) for row, tokens in enumerate([64.0, 16.0, 16.0, 16.0, 64.0, 64.0])
    ]
    settings = header()
    settings["conditions"] = [*settings["conditions"], ["arrcoc", "auto"]]
    found = summarize(records() + more, settings, 200)["tasks"]["pages"]["chosen_budgets"]["auto"]
    # Needed: 16, 16, 64, never, 16, 16.
    assert found["sweep"] == [0.25, 1.0]
    assert (found["items"], found["unanswered"]) == (5, 1)
    assert (found["under"], found["exact"], found["over"]) == (1 / 5, 1 / 5, 3 / 5)


def test_table():
    lines = table_rows(summarize(records(), header(), 200)["tasks"]["pages"])
    assert [line[:4] for line in lines[1:]] == [
        ["native", "1.0", "64.0", "1.0x"],
        ["arrcoc", "0.25", "16.0", "4.0x"],
        ["resize", "0.25", "15.0", "4.3x"],
    ]
    assert lines[2][4].startswith("0.667 [") and lines[3][5].startswith("+0.333 [")
    assert lines[1][5] == "" and lines[2][5].startswith("(less native) -0.167 [")
    assert {len(line) for line in lines} == {len(lines[0])}
    assert plain_table([["a", "b"], ["ccc", "1"]]) == "a    b\nccc  1"


def test_order_of_budgets():
    assert sorted(["auto", "64", "0.05", "400", "1.0", "0.5"], key=share_of) == [
        "1.0",
        "0.5",
        "0.05",
        "400",
        "64",
        "auto",
    ]
