"""Questions about text: values of labels, titles and dates, checkboxes, tables, lines and places of words.

Every maker returns None where the page does not answer the question in exactly one way.
"""

from __future__ import annotations

from functools import partial

from . import charted
from .asking import Asker, Draft, Maker, accepted, bare, normalise, number_in
from .document import DOCUMENT_WORDS
from .records import Chart, Choice, Entry, Grid, Heading, Lines, Run, Runs, Shape
from .vocabulary import words_in


_KEY_PHRASINGS = (
    "{exact}",
    "{exact}",
    "{exact}",
    "{bare}",
    "{bare}",
    "{bare}?",
    "What is the {lower}?",
    "What is the {bare}?",
    'What is written next to "{bare}"?',
    'What is the value of "{bare}"?',
    "Find the {lower}.",
    "Give the {lower} on this {noun}.",
    "what is the {lower}",
    'Which entry belongs to "{exact}"?',
)
_ROLE_PHRASINGS = {
    "title": ("What is the title of this {noun}?", "What is the heading of the {noun}?", "Title of the {noun}"),
    "author": ("Who wrote this {noun}?", "Who is the author of this {noun}?", "author of the {noun}"),
    "date": (
        "What is the date on this {noun}?",
        "What date does the {noun} bear?",
        "When was this {noun} made?",
        "date of the {noun}",
    ),
    "company": (
        "What is the name of the company on this {noun}?",
        "Which company issued this {noun}?",
        "Who issued the {noun}?",
        "company name",
    ),
    "address": (
        "What is the address on this {noun}?",
        "What is the address of the company on this {noun}?",
        "Where is the company located?",
    ),
    "total": (
        "What is the total amount on this {noun}?",
        "How much is the total?",
        "What is the total of this {noun}?",
        "total amount",
    ),
}
_CELL_PHRASINGS = (
    "What is the {column} of {row}?",
    "What is the {column} for {row}?",
    "{column} of {row}",
    "{row}: {column}?",
    'Which value stands in row "{row}" and column "{column}"?',
    "What does the table give as {column} for {row}?",
)
_PRICE_PHRASINGS = ("How much is the {row}?", "What is the price of {row}?", "price of {row}", "What does {row} cost?")
_LOCATE_PHRASINGS = (
    'Where does the text "{text}" appear?',
    'Where does the phrase "{text}" appear on this page?',
    'Find "{text}".',
    'Where is "{text}" written?',
    'Locate the text "{text}".',
)


def key_value(asker: Asker, entry: Entry) -> Draft | None:
    """The value that stands with a printed label."""
    if not asker.unique(entry.key):
        return None
    exact, short = entry.key, bare(entry.key)
    fields = {"exact": exact, "bare": short, "lower": short.lower(), "noun": asker.noun}
    text = asker.dice.pick(_KEY_PHRASINGS).format(**fields)
    return Draft("key_value", text, accepted(entry.value), entry.value_runs, key=entry.key_runs)


def doc_field(asker: Asker, entry: Entry) -> Draft | None:
    """Title, author, date, company, address or total of the document."""
    entries = [record for record in asker.canvas.records if isinstance(record, Entry)]
    rivals = [other for other in entries if other.role == entry.role or entry.role in words_in(other.key)]
    if any(other is not entry for other in rivals):
        return None
    phrasings = _ROLE_PHRASINGS[entry.role]
    if entry.role == "author" and asker.kind == "letter":
        phrasings += ("Who signed this {noun}?",)
    text = asker.dice.pick(phrasings).format(noun=asker.noun)
    return Draft("doc_field", text, accepted(entry.value), entry.value_runs, key=entry.key_runs)


def doc_type(asker: Asker) -> Draft | None:
    """What kind of document this is; the whole page is the evidence, so no box is given."""
    text = asker.dice.pick(("What kind of document is this?", "What type of document is shown?", "What is this?"))
    return Draft("doc_type", text, DOCUMENT_WORDS[asker.kind])


def checkbox(asker: Asker, choice: Choice) -> Draft | None:
    """Which box of a topic is marked, or whether a box is."""
    dice = asker.dice
    chosen = [index for index, marked in enumerate(choice.checked) if marked]
    if choice.topic and asker.unique(choice.topic) and len(chosen) == 1 and dice.chance(0.6):
        index = chosen[0]
        phrasings = ('Which box is checked for "{topic}"?', "{topic}", 'Which option is marked at "{topic}"?')
        text = dice.pick(phrasings).format(topic=choice.topic)
        answers, region = (choice.labels[index],), (choice.regions[index],)
        return Draft("checkbox", text, answers, choice.label_runs[index], region, key=choice.topic_runs)
    index = dice.integer(0, len(choice.labels) - 1)
    if not asker.unique(choice.labels[index]):
        return None
    phrasings = ('Is "{label}" checked?', 'Is the box "{label}" marked?', "Is {label} selected?")
    text = dice.pick(phrasings).format(label=choice.labels[index])
    answer = "yes" if choice.checked[index] else "no"
    return Draft("checkbox", text, (answer,), (), (choice.regions[index],), key=choice.label_runs[index])


def table_cell(asker: Asker, grid: Grid) -> Draft | None:
    """One cell, by the names of its row and column."""
    row, column = asker.dice.integer(0, len(grid.rows) - 1), asker.dice.integer(0, len(grid.headers) - 1)
    name, header, value = grid.rows[row], grid.headers[column], grid.cells[row][column]
    if not value or not grid.cell_runs[row][column] or not grid.row_runs[row]:
        return None
    if not asker.unique(name) or [normalise(h) for h in grid.headers].count(normalise(header)) != 1:
        return None
    printed = bool(grid.header_runs[column])
    phrasings = _CELL_PHRASINGS if printed else _PRICE_PHRASINGS
    lower = header.lower() if asker.dice.chance(0.4) else header
    text = asker.dice.pick(phrasings).format(row=name, column=lower)
    key = (*grid.row_runs[row], *grid.header_runs[column])
    return Draft("table_cell", text, accepted(value), grid.cell_runs[row][column], key=key)


def table_compare(asker: Asker, grid: Grid) -> Draft | None:
    """Which of two rows has the larger or smaller number in a column."""
    column = asker.dice.integer(0, len(grid.headers) - 1)
    numbers = {
        row: number
        for row in range(len(grid.rows))
        if grid.numeric[column]
        and (number := number_in(grid.cells[row][column])) is not None
        and grid.cell_runs[row][column]
        and asker.unique(grid.rows[row])
    }
    if len(numbers) < 2 or [normalise(h) for h in grid.headers].count(normalise(grid.headers[column])) != 1:
        return None
    first, second = asker.dice.sample(tuple(numbers), 2)
    if numbers[first] == numbers[second]:
        return None
    larger = asker.dice.chance(0.6)
    winner = first if (numbers[first] > numbers[second]) == larger else second
    word = asker.dice.pick(("larger", "higher") if larger else ("smaller", "lower"))
    text = f"Which has the {word} {grid.headers[column].lower()}, {grid.rows[first]} or {grid.rows[second]}?"
    runs = grid.cell_runs[first][column] + grid.cell_runs[second][column]
    return Draft("compare", text, (grid.rows[winner],), runs, key=grid.row_runs[winner])


def table_count(asker: Asker, grid: Grid) -> Draft | None:
    """How many rows a table has, if it is the only one."""
    grids = [record for record in asker.canvas.records if isinstance(record, Grid)]
    runs = tuple(run for row in grid.row_runs for run in row)
    if len(grids) != 1 or len(runs) != len(grid.rows) or len(runs) > 12:
        return None
    options = (
        ("How many items are listed?", "How many different items are on this {noun}?")
        if grid.name == "item"
        else (
            "How many rows does the table have below its header?",
            "How many rows are in the table, without the header?",
        )
    )
    return Draft("count", asker.dice.pick(options).format(noun=asker.noun), (str(len(runs)),), runs)


def _unique_words(asker: Asker) -> tuple[Run, int] | None:
    """A line of at least two words and the position of a word in it that is printed once."""
    lines = [line for line in asker.lines if len(line) > 1]
    for _ in range(6):
        if not lines:
            return None
        line = asker.dice.pick(lines)
        position = asker.dice.integer(0, len(line) - 1)
        text = normalise(asker.canvas.words[line[position]].text)
        if len(text) > 2 and asker.unique(text):
            return line, position
    return None


def text_next(asker: Asker) -> Draft | None:
    """The right or left neighbour of a word on its line."""
    found = _unique_words(asker)
    if found is None:
        return None
    line, position = found
    right = position == 0 or (position < len(line) - 1 and asker.dice.chance(0.7))
    word = asker.canvas.words[line[position]].text
    target = line[position + 1] if right else line[position - 1]
    side = "right" if right else "left"
    phrasings = (
        'Which word comes directly to the {side} of "{word}"?',
        'Which word is next to "{word}" on its {side}?',
        'What stands directly {side} of "{word}"?',
        'What is the next word after "{word}"?' if right else 'Which word comes before "{word}"?',
    )
    text = asker.dice.pick(phrasings).format(side=side, word=word)
    answer = asker.canvas.words[target].text
    return Draft("text_next", text, accepted(answer), ((target,),), key=((line[position],),))


def locate_text(asker: Asker) -> Draft | None:
    """Where one to four successive words are."""
    found = _unique_words(asker)
    if found is None:
        return None
    line, position = found
    end = min(len(line), position + asker.dice.integer(1, 4))
    run = line[position:end]
    phrase = asker.text(run)
    text = asker.dice.pick(_LOCATE_PHRASINGS).format(text=phrase)
    return Draft("locate_text", text, (phrase,), (run,)) if asker.unique(phrase) else None


def locate_heading(asker: Asker, heading: Heading) -> Draft | None:
    """Where a heading or caption is, or what a caption says."""
    if not asker.unique(heading.text):
        return None
    if heading.noun == "caption":
        start = " ".join(heading.text.split()[:2])
        if not asker.unique(start):
            return None
        text = f'What does the caption that starts with "{start}" say?'
        return Draft("locate_text", text, accepted(heading.text), heading.runs)
    text = f'Where is the {heading.noun} "{heading.text}"?'
    return Draft("locate_text", text, (heading.text,), heading.runs)


def _rows(asker: Asker, most: int) -> list[list[Run]]:
    """The first printed lines of the page from the top, pieces side by side joined; stops where it is ambiguous."""
    boxes = sorted(((asker.canvas.box_of(run), run) for run in asker.lines), key=lambda item: item[0][1])
    rows: list[list[Run]] = []
    top = bottom = -1.0
    for box, run in boxes:
        shared = min(bottom, box[3]) - max(top, box[1])
        ratio = shared / max(1.0, min(bottom - top, box[3] - box[1]))
        if rows and ratio > 0.5:
            rows[-1].append(run)
            top, bottom = min(top, box[1]), max(bottom, box[3])
        elif rows and ratio > 0.1:
            return rows[:-1]
        else:
            if len(rows) > most:
                break
            rows.append([run])
            top, bottom = box[1], box[3]
    return [sorted(row, key=lambda run: asker.canvas.words[run[0]].box[0]) for row in rows]


def read_line(asker: Asker) -> Draft | None:
    """The n-th line from the top."""
    if any(
        isinstance(record, Lines) and not record.numbered for record in asker.canvas.records if asker.kind == "page"
    ):
        return None
    rows = _rows(asker, 8)[:8]
    if len(rows) < 2:
        return None
    index = asker.dice.integer(0, len(rows) - 1)
    runs = tuple(rows[index])
    names = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth")
    phrasings = ("Read line {n}.", "What does line {n} say?", "What is the text of the {name} line?", "read line {n}")
    text = asker.dice.pick(phrasings).format(n=index + 1, name=names[index])
    return Draft("read_line", text, accepted(asker.canvas.text_of(runs)), runs)


def exists(asker: Asker) -> Draft | None:
    """Whether a word or label is on the page; "no" has no evidence."""
    dice = asker.dice
    if dice.chance(0.5):
        found = _unique_words(asker)
        if found is None:
            return None
        run: Run = (found[0][found[1]],)
        runs: Runs = (run,)
        shown, answer = asker.text(run), "yes"
    else:
        shown = dice.pick((asker.words.noun(dice), asker.words.key(dice)[0], asker.words.surname(dice)))
        runs, answer = (), "no"
        if asker.count(shown):
            return None
    phrasings = (
        'Is "{word}" written on this {noun}?',
        'Does the {noun} contain "{word}"?',
        'Is there a text "{word}"?',
    )
    return Draft("exists", dice.pick(phrasings).format(word=shown.strip(".,:;"), noun=asker.noun), (answer,), runs)


def makers(asker: Asker) -> list[Maker]:
    """All question makers for the facts of a page; a maker may still find nothing to ask."""
    found: list[Maker] = []
    for record in asker.canvas.records:
        if isinstance(record, Entry):
            if record.key:
                found.append(partial(key_value, asker, record))
            if record.role:
                found.append(partial(doc_field, asker, record))
        elif isinstance(record, Choice):
            found += [partial(checkbox, asker, record)] * 2
        elif isinstance(record, Grid):
            found += [partial(table_cell, asker, record)] * min(6, len(record.rows))
            found += [partial(table_compare, asker, record), partial(table_count, asker, record)]
        elif isinstance(record, Heading):
            found.append(partial(locate_heading, asker, record))
        elif isinstance(record, Chart):
            found += charted.chart_makers(asker, record)
    if any(isinstance(record, Shape) for record in asker.canvas.records):
        return found + charted.scene_makers(asker)
    common = [partial(text_next, asker), partial(locate_text, asker), partial(exists, asker)]
    if asker.kind in ("sign", "page", "letter"):
        common += [partial(text_next, asker), partial(locate_text, asker)]
    if asker.kind in ("receipt", "letter", "page"):
        common.append(partial(read_line, asker))
    if asker.kind not in ("sign", "scene") and asker.dice.chance(0.3):
        common.append(partial(doc_type, asker))
    return found + common


def ask(asker: Asker, most: int) -> list[Draft]:
    """Up to ``most`` different questions about a page, of as many kinds as it offers."""
    shuffled = asker.dice.sample(makers(asker), 10_000)
    drafts: list[Draft] = []
    spare: list[Draft] = []
    seen: set[str] = set()
    for maker in shuffled:
        if len(drafts) >= most:
            break
        draft = maker()
        if draft is None or draft.text in seen:
            continue
        seen.add(draft.text)
        limit = most - 3 if draft.kind == "key_value" else most // 2
        crowded = sum(other.kind == draft.kind for other in drafts) >= max(2, limit)
        (spare if crowded else drafts).append(draft)
    return [*drafts, *spare][:most]
