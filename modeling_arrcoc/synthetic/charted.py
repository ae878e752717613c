"""Questions about charts and scenes of shapes."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .asking import Asker, Draft, Maker, accepted, normalise, number_in
from .records import Chart, Runs, Shape


_CLEARLY = 1.12  # without printed numbers, marks must differ by this factor to be compared by eye
_MARKS = {"bar_chart": "bar", "line_chart": "point", "pie_chart": "slice"}


def _distinct(texts: tuple[str, ...]) -> bool:
    return len({normalise(text) for text in texts}) == len(texts)


def chart_value(asker: Asker, chart: Chart) -> Draft | None:
    """The printed number of one mark."""
    dice = asker.dice
    index, part = dice.integer(0, len(chart.labels) - 1), dice.integer(0, len(chart.series) - 1)
    runs, label = chart.value_runs[index][part], chart.labels[index]
    if not runs or not chart.label_runs[index] or not _distinct(chart.labels) or not _distinct(chart.series):
        return None
    series = chart.series[part]
    if series and not chart.series_runs[part]:
        return None
    phrasings = (
        ("What is the value of {series} for {label}?", "{series}, {label}", "How much is {series} in {label}?")
        if series
        else ("What is the value for {label}?", "What is the value of {label}?", "{label}", "How much is {label}?")
    )
    text = dice.pick(phrasings).format(series=series, label=label)
    return Draft("chart_value", text, accepted(chart.values[index][part]), runs, key=chart.label_runs[index])


def chart_compare(asker: Asker, chart: Chart) -> Draft | None:
    """Which of two marks is larger, or which of all is the largest or smallest."""
    dice = asker.dice
    part = dice.integer(0, len(chart.series) - 1)
    numbers = [number_in(row[part]) or 0.0 for row in chart.values]
    if len(numbers) < 2 or not all(chart.label_runs) or not _distinct(chart.labels) or not _distinct(chart.series):
        return None
    about = f" for {chart.series[part]}" if chart.series[part] else ""
    if about and not chart.series_runs[part]:
        return None
    printed = all(row[part] for row in chart.value_runs)
    among = sorted(range(len(numbers)), key=lambda index: numbers[index])
    pair = dice.chance(0.5)
    if pair:
        among = sorted(dice.sample(among, 2), key=lambda index: numbers[index])
    largest = dice.chance(0.6)
    winner, rival = (among[-1], among[-2]) if largest else (among[0], among[1])
    low, high = sorted((numbers[winner], numbers[rival]))
    if low == high or (not printed and high < low * _CLEARLY):
        return None
    if pair:
        word = "larger" if largest else "smaller"
        first, second = dice.sample(among, 2)
        text = f"Which is {word}{about}, {chart.labels[first]} or {chart.labels[second]}?"
        regions: tuple[int, ...] = (chart.regions[first][part], chart.regions[second][part])
    else:
        text = f"Which label has the {'highest' if largest else 'lowest'} value{about}?"
        regions = (chart.regions[winner][part],)
    return Draft("compare", text, (chart.labels[winner],), chart.label_runs[winner], regions)


def chart_count(asker: Asker, chart: Chart) -> Draft:
    """How many marks or curves there are."""
    if asker.kind == "line_chart" and len(chart.series) > 1:
        legend = tuple(run for runs in chart.series_runs for run in runs)
        return Draft("count", "How many lines are drawn in the chart?", (str(len(chart.series)),), legend)
    mark = _MARKS[asker.kind]
    count = len(chart.labels) * len(chart.series)
    regions = tuple(region for row in chart.regions for region in row)
    text = asker.dice.pick((f"How many {mark}s are there in the chart?", f"How many {mark}s does the chart show?"))
    if asker.kind == "bar_chart" and len(chart.series) > 1:
        return Draft("count", "How many labels are on the axis?", (str(len(chart.labels)),), _flat(chart.label_runs))
    return Draft("count", text, (str(count),), (), regions)


def _flat(runs: tuple[Runs, ...]) -> Runs:
    return tuple(run for part in runs for run in part)


def chart_color(asker: Asker, chart: Chart) -> Draft | None:
    """The colour of a series, of a slice, or of the bars."""
    dice = asker.dice
    if chart.series[0]:
        part = dice.integer(0, len(chart.series) - 1)
        if not chart.series_runs[part] or not _distinct(chart.series):
            return None
        regions = tuple(row[part] for row in chart.regions)
        text = dice.pick(("Which color stands for {name}?", "What color is {name}?")).format(name=chart.series[part])
        return Draft("attribute", text, (chart.colors[part],), (), regions, "any", chart.series_runs[part])
    if asker.kind == "pie_chart":
        index = dice.integer(0, len(chart.labels) - 1)
        if not chart.label_runs[index] or not _distinct(chart.labels):
            return None
        text = f"What color is the slice of {chart.labels[index]}?"
        return Draft(
            "attribute", text, (chart.colors[index],), (), chart.regions[index], "all", chart.label_runs[index]
        )
    thing = "line" if asker.kind == "line_chart" else "bars"
    regions = tuple(row[0] for row in chart.regions)
    text = f"What color {'is the line' if thing == 'line' else 'are the bars'}?"
    return Draft("attribute", text, (chart.colors[0],), (), regions, "any")


def chart_label(asker: Asker, chart: Chart) -> Draft | None:
    """Where a label is."""
    index = asker.dice.integer(0, len(chart.labels) - 1)
    label, runs = chart.labels[index], chart.label_runs[index]
    if not runs or not asker.unique(label):
        return None
    phrasings = (
        'Where is the label "{label}" in the chart?',
        'Where is the label "{label}"?',
        "Find the label {label}.",
    )
    return Draft("locate_text", asker.dice.pick(phrasings).format(label=label), (label,), runs)


def chart_makers(asker: Asker, chart: Chart) -> list[Maker]:
    """Makers for one chart."""
    values: list[Maker] = [partial(chart_value, asker, chart)] * 4
    return [
        *values,
        partial(chart_compare, asker, chart),
        partial(chart_compare, asker, chart),
        partial(chart_count, asker, chart),
        partial(chart_color, asker, chart),
        partial(chart_label, asker, chart),
    ]


def _shapes(asker: Asker) -> list[Shape]:
    return [record for record in asker.canvas.records if isinstance(record, Shape)]


def _named(shape: Shape) -> str:
    return f"{shape.color} {shape.form}"


def _article(name: str) -> str:
    return "an" if name[0] in "aeiou" else "a"


def _plural(form: str) -> str:
    return f"{form}es" if form == "cross" else f"{form}s"


def _alone(asker: Asker) -> list[Shape]:
    """Shapes that colour and form name uniquely."""
    shapes = _shapes(asker)
    names = [_named(shape) for shape in shapes]
    return [shape for shape in shapes if names.count(_named(shape)) == 1]


def shape_count(asker: Asker) -> Draft:
    """How many shapes have a form, a colour or a size."""
    dice, shapes = asker.dice, _shapes(asker)
    model = dice.pick(shapes)
    options: tuple[tuple[str, Callable[[Shape], bool]], ...] = (
        (_plural(model.form), lambda shape: shape.form == model.form),
        (f"{model.color} shapes", lambda shape: shape.color == model.color),
        (f"{model.color} {_plural(model.form)}", lambda shape: _named(shape) == _named(model)),
        (f"{model.size} shapes", lambda shape: shape.size == model.size),
        ("shapes", lambda shape: True),
    )
    sizes = {shape.size for shape in shapes}
    words, accept = dice.pick(options if len(sizes) > 1 else options[:3] + options[4:])
    chosen = [shape for shape in shapes if accept(shape)]
    return Draft("count", f"How many {words} are there?", (str(len(chosen)),), (), tuple(s.region for s in chosen))


def shape_attribute(asker: Asker) -> Draft | None:
    """Colour of the only shape of a form, or form of the only shape of a colour."""
    dice, shapes = asker.dice, _shapes(asker)
    shape = dice.pick(shapes)
    if dice.chance(0.5):
        if sum(other.form == shape.form for other in shapes) != 1:
            return None
        return Draft("attribute", f"What color is the {shape.form}?", (shape.color,), (), (shape.region,))
    if sum(other.color == shape.color for other in shapes) != 1:
        return None
    thing = dice.pick(("object", "shape"))
    return Draft("attribute", f"Which form has the {shape.color} {thing}?", (shape.form,), (), (shape.region,))


def shape_relation(asker: Asker) -> Draft | None:
    """Whether one shape is left, right, above or below another, or which of two is."""
    dice, alone = asker.dice, _alone(asker)
    if len(alone) < 2:
        return None
    first, second = dice.sample(alone, 2)
    axis = dice.integer(0, 1)
    apart = first.center[axis] - second.center[axis]
    if abs(apart) < 0.12 * (asker.canvas.width, asker.canvas.height)[axis]:
        return None
    words = (("left of", "right of"), ("above", "below"))[axis]
    asked = dice.integer(0, 1)
    regions = (first.region, second.region)
    if dice.chance(0.5):
        answer = "yes" if (apart < 0) == (asked == 0) else "no"
        return Draft(
            "relation", f"Is the {_named(first)} {words[asked]} the {_named(second)}?", (answer,), (), regions
        )
    side = (("further left", "further right"), ("higher", "lower"))[axis][asked]
    winner = first if (apart < 0) == (asked == 0) else second
    text = f"Which is {side}, the {_named(first)} or the {_named(second)}?"
    return Draft("relation", text, (_named(winner),), (), regions)


def shape_exists(asker: Asker) -> Draft | None:
    """Whether a colour and form occur together; "no" mixes colours and forms of the scene."""
    dice, shapes = asker.dice, _shapes(asker)
    first, second = dice.pick(shapes), dice.pick(shapes)
    wanted = f"{first.color} {second.form}"
    chosen = tuple(shape.region for shape in shapes if _named(shape) == wanted)
    return Draft("exists", f"Is there {_article(wanted)} {wanted}?", ("yes" if chosen else "no",), (), chosen, "any")


def shape_locate(asker: Asker) -> Draft | None:
    """Where a shape is."""
    alone = _alone(asker)
    if not alone:
        return None
    shape = asker.dice.pick(alone)
    text = asker.dice.pick(("Where is the {name}?", "Find the {name}.")).format(name=_named(shape))
    return Draft("locate_object", text, (_named(shape),), (), (shape.region,))


def scene_makers(asker: Asker) -> list[Maker]:
    """Makers for a scene of shapes."""
    kinds = (shape_count, shape_attribute, shape_relation, shape_exists, shape_locate)
    return [partial(kind, asker) for kind in kinds for _ in range(2)]
