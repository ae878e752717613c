"""Values that stand next to a label: dates, amounts, codes, names, sentences … in the many ways people write them."""

from __future__ import annotations

from collections.abc import Callable

from . import templates, wordlists
from .dice import Dice
from .vocabulary import Lexicon


_LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_DIGITS = "0123456789"
_SYMBOLS = ("$", "$", "", "", "RM ", "USD ", "EUR ", "GBP ")
_UNITS = ("kg", "mm", "cm", "lbs", "g", "mg", "ml", "m", "in", "oz", "hrs", "min", "V", "kW", "C", "%", "psi", "mg/cc")


def digits(dice: Dice, count: int) -> str:
    """``count`` decimal digits, the first one not zero."""
    return str(dice.integer(1, 9)) + "".join(dice.pick(_DIGITS) for _ in range(count - 1))


_NOTATIONS = 12


def date(dice: Dice, notation: int | None = None) -> str:
    """A calendar date in one of twelve common notations, a random one if none is given."""
    day, month = dice.integer(1, 28), dice.integer(1, 12)
    year = dice.integer(1962, 2024)
    name = wordlists.MONTHS[month - 1]
    notation = dice.integer(0, _NOTATIONS - 1) if notation is None else notation
    return (
        f"{name} {day}, {year}",
        f"{name[:3]} {day}, {year}",
        f"{day} {name} {year}",
        f"{day} {name[:3]} {year}",
        f"{month}/{day}/{year % 100:02d}",
        f"{month:02d}/{day:02d}/{year}",
        f"{day:02d}/{month:02d}/{year}",
        f"{year}-{month:02d}-{day:02d}",
        f"{day:02d}-{month:02d}-{year}",
        f"{day:02d}.{month:02d}.{year}",
        f"{day:02d}-{name[:3].upper()}-{year % 100:02d}",
        f"{day:02d}-{name[:3].upper()}-{year}",
    )[notation]


def money(dice: Dice, symbol: str | None = None, ceiling: float = 4.5) -> str:
    """An amount with two decimals, thousands separators and maybe a currency in front."""
    amount = 10 ** dice.uniform(0.3, ceiling)
    return (dice.pick(_SYMBOLS) if symbol is None else symbol) + f"{amount:,.2f}"


def code(dice: Dice) -> str:
    """An identifier; always holds a digit, so that it never looks like a word."""
    letters = "".join(dice.pick(_LETTERS) for _ in range(dice.integer(1, 3)))
    draw = dice.integer(0, 7)
    if draw == 0:
        return digits(dice, dice.integer(4, 9))
    if draw == 1:
        return f"{letters}-{digits(dice, dice.integer(2, 5))}"
    if draw == 2:
        return f"{digits(dice, 2)}-{digits(dice, dice.integer(3, 4))}{dice.pick(_LETTERS)}"
    if draw == 3:
        return f"{letters}{digits(dice, dice.integer(4, 8))}"
    if draw == 4:
        return f"{letters}/{digits(dice, 2)}/{digits(dice, dice.integer(2, 4))}"
    if draw == 5:
        return f"{digits(dice, 3)}-{digits(dice, 2)}-{digits(dice, 4)}"
    if draw == 6:
        return f"#{digits(dice, dice.integer(3, 6))}"
    return f"{letters}.{digits(dice, 2)}.{digits(dice, 3)}"


def phone(dice: Dice) -> str:
    """A telephone number."""
    area, first, last = digits(dice, 3), digits(dice, 3), digits(dice, 4)
    return dice.pick(
        (
            f"({area}) {first}-{last}",
            f"{area}-{first}-{last}",
            f"{area}.{first}.{last}",
            f"+{digits(dice, 2)} {area} {first} {last}",
            f"0{digits(dice, 1)}-{digits(dice, 4)} {last}",
            f"{first}-{last}",
        )
    )


def person(dice: Dice, words: Lexicon) -> str:
    """A person's name."""
    first, last = dice.pick(words.first_names), words.surname(dice)
    return dice.pick(
        (
            f"{first} {last}",
            f"{first} {last}",
            f"{first[0]}. {last}",
            f"{first[0]}. {dice.pick(_LETTERS)}. {last}",
            f"{last}, {first}",
            f"Dr. {first} {last}",
            f"{first} {dice.pick(_LETTERS)}. {last}",
            last,
        )
    )


def company(dice: Dice, words: Lexicon) -> str:
    """A firm."""
    brand, industry = words.brand(dice), dice.pick(words.industries)
    form = dice.pick(wordlists.COMPANY_FORMS)
    return dice.pick(
        (
            f"{brand} {industry}",
            f"{brand} {industry} {form}",
            f"{brand} {form}",
            f"{brand} & {words.surname(dice)} {industry}",
            f"{words.place(dice)} {industry} {form}",
        )
    )


def street(dice: Dice, words: Lexicon) -> str:
    """House number and street."""
    name = dice.pick((words.place(dice), words.surname(dice), words.noun(dice).capitalize()))
    return f"{dice.integer(1, 9899)} {name} {dice.pick(wordlists.STREETS)}"


def town(dice: Dice, words: Lexicon) -> str:
    """Town with state and postal code."""
    return f"{words.place(dice)}, {dice.pick(wordlists.STATES)} {digits(dice, 5)}"


def sentence(dice: Dice, words: Lexicon) -> str:
    """A grammatical sentence of content words of the split."""
    frame = dice.pick(templates.FRAMES)
    parts = []
    for piece in frame.split(" "):
        start, end = piece.find("{"), piece.find("}")
        if start >= 0:
            slot = piece[start + 1 : end]
            filled = _slot(dice, words, slot.lower())
            filled = filled[0].upper() + filled[1:] if slot[0].isupper() else filled
            piece = piece[:start] + filled + piece[end + 1 :]
        parts.append(piece)
    return " ".join(parts)


def _slot(dice: Dice, words: Lexicon, slot: str) -> str:
    if slot == "noun":
        return words.noun(dice)
    if slot == "adj":
        return dice.pick(words.adjectives)
    if slot == "verb":
        return dice.pick(words.verbs)
    if slot == "place":
        return words.place(dice)
    if slot == "name":
        return f"{dice.pick(_LETTERS)}. {words.surname(dice)}"
    if slot == "company":
        return f"{words.brand(dice)} {dice.pick(words.industries)}"
    if slot == "month":
        return dice.pick(wordlists.MONTHS)
    if slot == "code":
        return code(dice)
    return str(dice.integer(2, 980))


def product(dice: Dice, words: Lexicon) -> str:
    """An article as receipts and invoices name it, one to four words."""
    item = dice.pick(words.products)
    name = dice.pick(
        (
            item,
            f"{dice.pick(words.adjectives)} {item}",
            f"{words.noun(dice)} {item}",
            f"{words.brand(dice)} {item}",
            f"{dice.pick(words.adjectives)} {words.noun(dice)} {item}",
        )
    )
    if dice.chance(0.15):
        name += dice.pick((f" {dice.integer(1, 9) * 50}g", f" {dice.integer(1, 12)} pcs", f" {dice.integer(1, 5)}L"))
    return name


def _words_value(dice: Dice, words: Lexicon) -> str:
    text = words.phrase(dice, dice.weighted((1, 2, 3, 4), (3, 5, 3, 1)))
    draw = dice.random()
    if draw < 0.55:
        return text.title()
    if draw < 0.7:
        return text.upper()
    return text.capitalize() if draw < 0.9 else f"{text.title()} {code(dice)}"


def _address(dice: Dice, words: Lexicon) -> str:
    return f"{street(dice, words)}, {town(dice, words)}" if dice.chance(0.8) else street(dice, words)


def _domain(dice: Dice, words: Lexicon) -> str:
    return f"{words.brand(dice).lower()}.{dice.pick(('com', 'org', 'net'))}"


def _email(dice: Dice, words: Lexicon) -> str:
    return f"{dice.pick(words.first_names).lower()}.{words.surname(dice).lower()}@{_domain(dice, words)}"


def _time(dice: Dice, words: Lexicon) -> str:
    hour, minute = dice.integer(1, 12), dice.integer(0, 59)
    return dice.pick((f"{hour}:{minute:02d} PM", f"{hour}:{minute:02d} AM", f"{hour + 11}:{minute:02d}"))


def _measure(dice: Dice, words: Lexicon) -> str:
    number = dice.pick((str(dice.integer(1, 999)), f"{dice.uniform(0.1, 99):.1f}", f"{dice.uniform(0.1, 9):.2f}"))
    return f"{number} {dice.pick(_UNITS)}"


def _sentence_value(dice: Dice, words: Lexicon) -> str:
    return " ".join(sentence(dice, words) for _ in range(dice.weighted((1, 2, 3), (6, 3, 1))))


_MAKERS: dict[str, Callable[[Dice, Lexicon], str]] = {
    "date": lambda dice, words: date(dice),
    "code": lambda dice, words: code(dice),
    "name": person,
    "company": company,
    "amount": lambda dice, words: money(dice),
    "phone": lambda dice, words: phone(dice),
    "email": _email,
    "website": lambda dice, words: f"www.{_domain(dice, words)}",
    "address": _address,
    "place": lambda dice, words: words.place(dice),
    "percent": lambda dice, words: f"{dice.uniform(0.2, 99):.{dice.integer(0, 1)}f}%",
    "integer": lambda dice, words: f"{int(10 ** dice.uniform(0.3, 4.4)):,}",
    "decimal": lambda dice, words: f"{dice.uniform(0.1, 60):.{dice.integer(1, 2)}f}",
    "measure": _measure,
    "time": _time,
    "words": _words_value,
    "sentence": _sentence_value,
    "short": lambda dice, words: dice.pick(
        (dice.pick(_LETTERS), str(dice.integer(1, 40)), f"{dice.pick(_LETTERS)}-2")
    ),
    "yesno": lambda dice, words: dice.pick(("Yes", "No", "YES", "NO")),
    "status": lambda dice, words: dice.pick(templates.STATUSES),
    "terms": lambda dice, words: dice.pick(templates.TERMS),
    "currency": lambda dice, words: dice.pick(("USD", "EUR", "GBP", "CAD")),
    "product": product,
}

VALUE_KINDS = tuple(_MAKERS)


def column(kind: str, count: int, dice: Dice, words: Lexicon) -> list[str]:
    """``count`` values of a table column: same currency, unit, notation and number of decimals.

    Raises:
        ValueError: unknown type.
    """
    if kind == "amount":
        symbol, ceiling = dice.pick(("", "", "$", "EUR ")), dice.uniform(2.0, 4.5)
        return [money(dice, symbol, ceiling) for _ in range(count)]
    if kind == "date":
        notation = dice.integer(0, _NOTATIONS - 1)
        return [date(dice, notation) for _ in range(count)]
    if kind in ("measure", "decimal", "percent"):
        unit = {"measure": f" {dice.pick(_UNITS)}", "decimal": "", "percent": "%"}[kind]
        decimals, top = dice.integer(0 if kind != "decimal" else 1, 2), 10 ** dice.uniform(0.6, 2.5)
        top = min(top, 99.0) if kind == "percent" else top
        return [f"{dice.uniform(top * 0.02, top):.{decimals}f}{unit}" for _ in range(count)]
    if kind == "integer":
        top = dice.uniform(1.0, 4.4)
        return [f"{int(10 ** dice.uniform(0.3, top)):,}" for _ in range(count)]
    return [value(kind, dice, words) for _ in range(count)]


def value(kind: str, dice: Dice, words: Lexicon) -> str:
    """A value of the given type.

    Args:
        kind: one of :data:`VALUE_KINDS`.
        dice: source of randomness.
        words: vocabulary of the split.

    Returns:
        Text of one or more words, single blanks between them.

    Raises:
        ValueError: unknown type.
    """
    if kind not in _MAKERS:
        raise ValueError(f"value type must be one of {VALUE_KINDS}, found {kind!r}")
    return _MAKERS[kind](dice, words)
