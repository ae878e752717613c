"""Questions: only what has one answer, and answers checked against a plain reading of the facts."""

import pytest

from arrcoc.synthetic import Question, bundled_face, suggested_budget
from arrcoc.synthetic.asking import Asker, Draft, accepted, bare, difficulty, finish, normalise, number_in
from arrcoc.synthetic.canvas import Canvas
from arrcoc.synthetic.charted import chart_compare, chart_value, shape_count, shape_relation
from arrcoc.synthetic.dice import Dice
from arrcoc.synthetic.fonts import TRANSFORMS, Style, glyph_set
from arrcoc.synthetic.questions import ask, checkbox, key_value, read_line, table_cell, table_compare, text_next
from arrcoc.synthetic.records import Chart, Choice, Entry, Grid, Shape, as_runs
from arrcoc.synthetic.vocabulary import lexicon


GLYPHS = glyph_set(Style(bundled_face(), TRANSFORMS[0]), 14)


def asker(canvas: Canvas, kind: str = "form", seed: int = 0) -> Asker:
    return Asker(canvas, kind, Dice(seed), lexicon("train"))


def page(*lines: str) -> Canvas:
    canvas = Canvas((600, 40 + 30 * len(lines)), gray=True)
    for number, line in enumerate(lines):
        assert canvas.write(20, 10 + 30 * number, line, GLYPHS)
    return canvas


def entry(canvas: Canvas, y: float, key: str, value: str) -> Entry:
    runs = as_runs(canvas.write(20, y, key, GLYPHS)), as_runs(canvas.write(300, y, value, GLYPHS))
    return Entry(key, runs[0], value, runs[1])


def drafts(make, count: int = 60) -> list[Draft]:
    return [draft for draft in (make(seed) for seed in range(count)) if draft is not None]


def test_normalise():
    assert normalise("  INVOICE No.:  #4711, ") == "invoice no 4711"
    assert normalise("...") == ""


def test_counting_phrases():
    asked = asker(page("Open Open sign", "Ship Date: 3 May", "Due Date: 4 May", "open."))
    assert asked.count("open") == 3  # neighbours are counted apart
    assert asked.count("Date:") == 2 and asked.count("ship date") == 1
    assert asked.count("pen") == 0 and asked.count(":") == 0
    assert asked.unique("SHIP DATE") and not asked.unique("Date")


def test_keys_that_stand_twice_or_inside_others_are_not_asked():
    canvas = Canvas((600, 200), gray=True)
    first, second = entry(canvas, 10, "Date:", "3 May"), entry(canvas, 50, "Due Date:", "4 May")
    third = entry(canvas, 90, "Total", "$1,204.50")
    asked = asker(canvas)
    assert key_value(asked, first) is None
    assert key_value(asked, second).answers == ("4 May",)
    draft = key_value(asked, third)
    assert draft.answers == ("$1,204.50", "1,204.50", "1204.50")
    assert draft.runs == third.value_runs and draft.key == third.key_runs


def test_accepted_answers_and_numbers():
    assert accepted("Wagner Ltd.") == ("Wagner Ltd.", "Wagner Ltd")
    assert accepted("12,000") == ("12,000", "12000")
    assert [number_in(text) for text in ("$1,204.5", "45%", "RM 3.20", "4/5/72", "B-2", "")] == [
        1204.5,
        45.0,
        3.2,
        None,
        None,
        None,
    ]


def test_bare_labels():
    assert bare("*Name of Event :") == "Name of Event"
    assert bare("3. Volume:") == "Volume" and bare("P.O.") == "P.O"


def grid() -> tuple[Canvas, Grid]:
    """Rows "alpha" … with a text and a number column; the last row's name is printed twice."""
    canvas = Canvas((600, 300), gray=True)
    headers = tuple(as_runs(canvas.write(x, 5, name, GLYPHS)) for x, name in ((200, "Code"), (400, "Price")))
    names, cells = ("alpha", "beta", "gamma", "gamma"), (("X1", "3.50"), ("Y2", "12.00"), ("", "7.25"), ("Z3", "8.00"))
    rows, runs = [], []
    for number, (name, (code, price)) in enumerate(zip(names, cells, strict=True)):
        y = 40 + 30 * number
        rows.append(as_runs(canvas.write(20, y, name, GLYPHS)))
        runs.append((as_runs(canvas.write(200, y, code, GLYPHS)), as_runs(canvas.write(400, y, price, GLYPHS))))
    found = Grid("row", ("Code", "Price"), headers, names, tuple(rows), cells, tuple(runs), (False, True))
    canvas.records.append(found)
    return canvas, found


def test_cells_of_rows_with_one_name():
    canvas, table = grid()
    found = drafts(lambda seed: table_cell(asker(canvas, "table", seed), table))
    texts = {(draft.answers[0], canvas.text_of(draft.runs), canvas.text_of(draft.key)) for draft in found}
    assert texts == {
        ("X1", "X1", "alpha Code"),
        ("3.50", "3.50", "alpha Price"),
        ("Y2", "Y2", "beta Code"),
        ("12.00", "12.00", "beta Price"),
    }
    assert all(draft.answers[0] in table.cells[table.rows.index(canvas.text_of(draft.key[:1]))] for draft in found)


def test_comparisons_of_numbers_only():
    canvas, table = grid()
    found = drafts(lambda seed: table_compare(asker(canvas, "table", seed), table))
    assert {draft.text.split()[4].rstrip(",") for draft in found} == {"price"}
    for draft in found:
        larger = "larger" in draft.text or "higher" in draft.text
        assert draft.answers == (("beta",) if larger else ("alpha",))
        assert len(draft.runs) == 2


def test_neighbours_on_a_line():
    canvas = page("alpha beta gamma", "delta epsilon", "beta zeta")
    follows = {"alpha": "beta", "gamma": None, "delta": "epsilon"}
    precedes = {"gamma": "beta", "epsilon": "delta", "zeta": "beta"}
    found = drafts(lambda seed: text_next(asker(canvas, "page", seed)))
    assert found
    for draft in found:
        word = canvas.text_of(draft.key)
        assert word != "beta"  # printed twice
        right = "right" in draft.text or "after" in draft.text
        assert draft.answers == ((follows if right else precedes)[word],)
        assert canvas.text_of(draft.runs) == draft.answers[0]


def test_lines_are_counted_from_the_top_whatever_the_drawing_order():
    canvas = Canvas((600, 200), gray=True)
    for y, x, text in ((130, 20, "third row"), (10, 20, "first row"), (70, 300, "right"), (70, 20, "left and")):
        canvas.write(x, y, text, GLYPHS)
    expected = ["first row", "left and right", "third row"]
    names = ("first", "second", "third")
    for draft in drafts(lambda seed: read_line(asker(canvas, "letter", seed))):
        number = next(i for i in range(3) if str(i + 1) in draft.text or names[i] in draft.text)
        assert draft.answers == (expected[number],)


def test_lines_that_overlap_half_are_not_counted():
    canvas = Canvas((600, 200), gray=True)
    canvas.write(20, 10, "left column", GLYPHS)
    canvas.write(300, 18, "right column", GLYPHS)
    canvas.write(20, 60, "below", GLYPHS)
    assert not drafts(lambda seed: read_line(asker(canvas, "letter", seed)))


def choice(canvas: Canvas, checked: tuple[bool, ...]) -> Choice:
    topic = as_runs(canvas.write(20, 10, "Payment Method", GLYPHS))
    labels = ("Cash", "Card", "Check")
    runs = tuple(as_runs(canvas.write(200 + 100 * i, 10, label, GLYPHS)) for i, label in enumerate(labels))
    regions = tuple(canvas.region(180 + 100 * i, 10, 195 + 100 * i, 25) for i in range(3))
    return Choice("Payment Method", topic, labels, runs, checked, regions)


def test_checkboxes():
    canvas = Canvas((600, 60), gray=True)
    record = choice(canvas, (False, True, False))
    found = drafts(lambda seed: checkbox(asker(canvas, seed=seed), record))
    answers = {draft.text: draft.answers[0] for draft in found}
    assert answers["Payment Method"] == "Card"
    assert {answer for text, answer in answers.items() if text.startswith("Is ")} == {"yes", "no"}
    for text, answer in answers.items():
        assert not text.startswith("Is ") or (answer == "yes") == ("Card" in text)


def test_several_marks_have_no_single_option():
    canvas = Canvas((600, 60), gray=True)
    record = choice(canvas, (True, True, False))
    assert all(draft.text.startswith("Is ") for draft in drafts(lambda s: checkbox(asker(canvas, seed=s), record)))


def chart(printed: bool, numbers: tuple[str, ...]) -> tuple[Canvas, Chart]:
    canvas = Canvas((600, 300), gray=True)
    labels = tuple(f"label{i}" for i in range(len(numbers)))
    label_runs = tuple(as_runs(canvas.write(20 + 150 * i, 250, text, GLYPHS)) for i, text in enumerate(labels))
    values = tuple(
        (as_runs(canvas.write(20 + 150 * i, 10, text, GLYPHS)) if printed else (),) for i, text in enumerate(numbers)
    )
    regions = tuple((canvas.region(20 + 150 * i, 60, 60 + 150 * i, 240),) for i in range(len(numbers)))
    return canvas, Chart(
        labels, label_runs, ("",), ((),), ("red",), tuple((text,) for text in numbers), values, regions
    )


def test_chart_values_and_comparisons():
    canvas, record = chart(True, ("12", "45", "30"))
    asked = [asker(canvas, "bar_chart", seed) for seed in range(40)]
    for draft in filter(None, (chart_value(each, record) for each in asked)):
        assert canvas.text_of(draft.runs) == draft.answers[0]
        assert draft.answers[0] == dict(zip(record.labels, ("12", "45", "30"), strict=True))[canvas.text_of(draft.key)]
    texts = {draft.text: draft.answers[0] for draft in filter(None, (chart_compare(each, record) for each in asked))}
    assert texts["Which label has the highest value?"] == "label1"
    assert texts["Which label has the lowest value?"] == "label0"


def test_marks_that_look_alike_are_not_compared_without_numbers():
    canvas, record = chart(False, ("44", "45"))
    assert not drafts(lambda seed: chart_compare(asker(canvas, "bar_chart", seed), record))
    assert not drafts(lambda seed: chart_value(asker(canvas, "bar_chart", seed), record))
    canvas, record = chart(False, ("20", "45"))
    assert drafts(lambda seed: chart_compare(asker(canvas, "bar_chart", seed), record))


def scene() -> Canvas:
    canvas = Canvas((400, 400), gray=False)
    for color, form, x, y in (
        ("red", "circle", 50, 50),
        ("red", "circle", 200, 60),
        ("blue", "star", 300, 300),
        ("red", "star", 60, 330),
    ):
        region = canvas.region(x - 20, y - 20, x + 20, y + 20)
        canvas.records.append(Shape(color, form, "small", region, (x, y)))
    return canvas


def test_shapes_are_counted_and_related():
    canvas = scene()
    counts = {d.text: (d.answers[0], len(d.regions)) for d in drafts(lambda s: shape_count(asker(canvas, "scene", s)))}
    assert counts["How many red shapes are there?"] == ("3", 3)
    assert counts["How many stars are there?"] == ("2", 2)
    assert counts["How many red circles are there?"] == ("2", 2)
    relations = {d.text: d.answers[0] for d in drafts(lambda s: shape_relation(asker(canvas, "scene", s)), 200)}
    assert relations["Is the blue star right of the red star?"] == "yes"
    assert relations["Is the blue star left of the red star?"] == "no"
    assert not any("above" in text or "circle" in text for text in relations)  # too level, or two of them


def test_difficulty_counts_what_is_hard():
    wide, small = [(0.0, 0.0, 50.0, 20.0)], [(0.0, 0.0, 50.0, 8.0)]
    assert difficulty("key_value", wide, 10, (512, 512), 0.0) == "easy"
    assert difficulty("key_value", small, 10, (512, 512), 0.0) == "medium"
    assert difficulty("compare", wide, 10, (512, 512), 0.0) == "medium"
    assert difficulty("compare", small, 100, (512, 512), 0.0) == "hard"
    assert difficulty("table_cell", small, 200, (512, 512), 0.5) == "very hard"
    assert difficulty("exists", [], 10, (512, 512), 0.0) == "easy"


def test_questions_with_lost_evidence_are_dropped():
    draft = Draft("key_value", "?", ("a b",), ((0, 1),), (0,), key=((2,),))
    words = [(0.0, 0.0, 9.96, 10.0), (15.0, 2.0, 30.0, 12.0), (40.0, 0.0, 50.0, 10.0)]
    question = finish(draft, words, [(5.0, 50.0, 9.0, 60.0)], (100, 100), 0.0)
    assert question.evidence == ((0.0, 0.0, 30.0, 12.0), (5.0, 50.0, 9.0, 60.0))
    assert question.key_boxes == ((40.0, 0.0, 50.0, 10.0),)
    for lost in range(3):
        fewer = [None if index == lost else box for index, box in enumerate(words)]
        assert finish(draft, fewer, [(5.0, 50.0, 9.0, 60.0)], (100, 100), 0.0) is None
    assert finish(draft, words, [None], (100, 100), 0.0) is None


def test_suggested_budgets():
    def question(boxes, level="easy", keys=()) -> Question:
        return Question("?", ("a",), tuple(boxes), "all", "key_value", level, keys)

    small, large = (512, 512), (1024, 1024)
    assert suggested_budget(question([(0, 0, 60, 20)]), small) == 64  # 2 cells and 254 / 16
    assert suggested_budget(question([(0, 0, 60, 20)], "hard"), small) == 100
    assert suggested_budget(question([(0, 0, 60, 20)]), large) == 100  # 2 cells and 1022 / 16 = 66
    # 31 columns x 3 rows of cells touched, one of them again by the key, and 931 / 16
    assert suggested_budget(question([(33, 10, 1024, 90)], keys=((40, 10, 50, 20),)), large) == 160
    assert suggested_budget(question([(0, 0, 1536, 1536)], "very hard"), (1536, 1536)) == 400


@pytest.mark.parametrize("most", [1, 3, 8])
def test_ask_keeps_to_the_number(most):
    canvas = Canvas((600, 400), gray=True)
    keys = ("Name", "Phone", "City", "Total", "Fax", "Terms", "Color", "Weight", "Depth", "Site")
    for number, key in enumerate(keys):
        canvas.records.append(entry(canvas, 10 + 30 * number, key, f"value{number}"))
    found = ask(asker(canvas), most)
    assert len(found) == most and len({draft.text for draft in found}) == most


def test_asker_needs_no_lines():
    empty = Canvas((300, 300), gray=True)
    assert asker(empty).lines == [] and text_next(asker(empty)) is None
