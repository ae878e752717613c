"""Receipts and invoices: what was sold, to whom, and what it cost."""

from __future__ import annotations

from . import fields, templates, values
from .decorations import barcode, logo, page_marks, scribble
from .dice import Dice
from .fields import Pair
from .layouts_tables import DOTTED, GRID, GRID_SHADED, PLAIN, RULES, ZEBRA, GridLook, TableData, draw_table
from .records import Grid, Runs, as_runs
from .sheet import Layout, Sheet, any_case


def _items(sheet: Sheet, count: int) -> list[tuple[str, int, float]]:
    """Different articles with quantity and unit price."""
    dice, found = sheet.dice, {}
    upper = dice.chance(0.5)
    for _ in range(count):
        name = values.product(dice, sheet.words)
        found[name.upper() if upper else name.capitalize()] = (dice.weighted((1, 2, 3, 6, 12), (6, 2, 1, 1, 1)), 0.0)
    return [(name, quantity, round(10 ** dice.uniform(0.0, 2.3), 2)) for name, (quantity, _) in found.items()]


def _fill_count(dice: Dice, room: int) -> int:
    """How many articles to print where ``room`` would fit: few, or enough to fill the paper."""
    most = max(1, min(room, 40))
    return dice.integer(max(1, most // 2), most) if dice.chance(0.6) else dice.integer(1, min(most, 8))


def _amount(value: float) -> str:
    return f"{value:,.2f}"


def _totals(dice: Dice, net: float, symbol: str) -> list[tuple[str, str, str]]:
    """Sums under a list of articles as (label, amount, role)."""
    rows, tax, total = [], round(net * dice.pick((0.05, 0.06, 0.1, 0.2)), 2), net
    if dice.chance(0.75):
        rows.append((dice.pick(templates.SUBTOTALS), _amount(net), ""))
        if dice.chance(0.7):
            rows.append((dice.pick(templates.TAXES), _amount(tax), ""))
            total = net + tax
    rows.append((dice.pick(templates.TOTALS), symbol + _amount(total), "total"))
    if dice.chance(0.6):
        paid = total + dice.pick((0.0, round(dice.uniform(0.1, 60), 2)))
        rows.append((dice.pick(templates.PAYMENTS), _amount(paid), ""))
        if paid > total or dice.chance(0.3):
            rows.append((dice.pick(templates.CHANGES), _amount(paid - total), ""))
    seen: dict[str, tuple[str, str, str]] = {}
    for row in rows:
        seen.setdefault(row[0].lower(), row)
    return list(seen.values())


def _block(sheet: Sheet, text: str, align: str, role: str, scale: float = 1.0, font: str = "value") -> None:
    """A piece of a letterhead, wrapped, with its role recorded."""
    glyphs, canvas = sheet.glyphs(font, scale), sheet.canvas
    lines = glyphs.wrap(text, sheet.width)
    if any(glyphs.width(line) > sheet.width for line in lines) or len(lines) * glyphs.height > sheet.room:
        return
    runs, sheet.y = canvas.paragraph(
        sheet.left, sheet.y, sheet.width, text, glyphs, sheet.theme.ink, 1.0, align, sheet.bottom
    )
    if role:
        sheet.entry("", (), text, runs, role)


def _receipt_head(sheet: Sheet, align: str) -> None:
    dice, words, canvas = sheet.dice, sheet.words, sheet.canvas
    upper = dice.chance(0.6)
    if dice.chance(0.25):
        size = min(sheet.width * 0.2, 60)
        logo(
            canvas,
            dice,
            (sheet.left + sheet.right - size) / 2 if align == "center" else sheet.left,
            sheet.y,
            size,
            sheet.theme.accent,
        )
        sheet.y += size + 6
    name = values.company(dice, words)
    _block(sheet, name.upper() if upper else name, align, "company", dice.pick((1.0, 1.2, 1.5)), "heading")
    if dice.chance(0.5):
        _block(sheet, f"({values.code(dice)})", align, "")
    if dice.chance(0.85):
        address = f"{values.street(dice, words)}, {values.town(dice, words)}"
        _block(sheet, address.upper() if upper else address, align, "address")
    for prefix, kind, share in (("Tel: ", "phone", 0.6), ("Fax: ", "phone", 0.2), ("GST Reg No: ", "code", 0.3)):
        if dice.chance(share):
            _block(sheet, prefix + values.value(kind, dice, words), align, "")
    if dice.chance(0.15):
        barcode(
            canvas,
            dice,
            sheet.left + sheet.width * 0.2,
            sheet.y,
            sheet.width * 0.6,
            sheet.glyphs().height * 1.6,
            sheet.theme.ink,
        )
        sheet.y += sheet.glyphs().height * 1.9
    if dice.chance(0.6):
        sheet.y += sheet.glyphs().height * 0.4
        sheet.title(any_case(dice, dice.pick(templates.RECEIPT_TITLES)), align, dice.pick((1.0, 1.2, 1.4)))


def _receipt_meta(sheet: Sheet) -> None:
    """Date, number, cashier … below the head."""
    dice = sheet.dice
    pairs = [Pair(sheet.dress("Date"), values.date(dice) if dice.chance(0.6) else _stamp(dice), "date")]
    for key, kind in dice.sample(templates.RECEIPT_META, dice.integer(0, 5)):
        pairs.append(Pair(sheet.dress(key), values.value(kind, dice, sheet.words)))
    split = dice.uniform(0.28, 0.45)
    draw = dice.pick((fields.inline, fields.columns))
    if dice.chance(0.12):  # the date alone, without a label
        _block(sheet, pairs.pop(0).value, dice.pick(("left", "center")), "date")
    for pair in dice.sample(pairs, len(pairs)):
        if sheet.room < sheet.glyphs().height * 3:
            return
        if draw is fields.columns:
            sheet.y = fields.columns(sheet, sheet.left, sheet.y, sheet.width, pair, split)
        else:
            sheet.y = draw(sheet, sheet.left, sheet.y, sheet.width, pair)


def _stamp(dice: Dice) -> str:
    return f"{dice.integer(1, 28):02d}/{dice.integer(1, 12):02d}/{dice.integer(2008, 2024)}"


def _divider(sheet: Sheet) -> None:
    y = round(sheet.y + 2)
    style = sheet.dice.weighted((0, 1, 4), (1, 1, 2))
    sheet.canvas.rule(sheet.left, y, sheet.right, y, sheet.theme.ink, 1, style)
    sheet.y += 6


def _receipt_items(sheet: Sheet, two_lines: bool) -> float:
    """Articles with prices flush right; returns the sum of those printed."""
    dice, canvas, glyphs, theme = sheet.dice, sheet.canvas, sheet.glyphs("value"), sheet.theme
    room = sheet.room - glyphs.height * 9
    per_item = glyphs.height * (2 if two_lines else 1)
    count = _fill_count(dice, int(room // per_item))
    net = 0.0
    names, name_runs, cells, cell_runs = [], [], [], []
    for name, quantity, price in _items(sheet, count):
        cost = _amount(quantity * price)
        space = sheet.width - glyphs.width(cost) - glyphs.size
        prefix = f"{quantity} x " if not two_lines and dice.chance(0.2) else ""
        shown = glyphs.fit(name, space - glyphs.width(prefix))
        if not shown or sheet.room < per_item or shown in names:
            continue
        lead = canvas.write(sheet.left, sheet.y, prefix.strip(), glyphs, theme.pen) if prefix else ()
        start = sheet.left + (glyphs.width(prefix) if lead else 0)
        run = canvas.write(start, sheet.y, shown, glyphs, theme.pen)
        if two_lines:
            sheet.y += glyphs.height
            detail = (
                f"{quantity} x {_amount(price)}"
                if dice.chance(0.7)
                else f"{values.digits(dice, 8)} {quantity} @ {price:.2f}"
            )
            detail = glyphs.fit(detail, space - glyphs.size)
            if detail:
                canvas.write(sheet.left + glyphs.size, sheet.y, detail, glyphs, theme.pen)
        price_run = canvas.write(sheet.right, sheet.y, cost, glyphs, theme.pen, "right")
        sheet.y += glyphs.height
        net += quantity * price
        if run and price_run:
            names.append(shown)
            name_runs.append((run,))
            cells.append((cost,))
            cell_runs.append(((price_run,),))
    if names:
        header: tuple[Runs, ...] = ((),)
        canvas.records.append(
            Grid("item", ("price",), header, tuple(names), tuple(name_runs), tuple(cells), tuple(cell_runs), (True,))
        )
    return net


def _receipt_table(sheet: Sheet) -> float:
    dice = sheet.dice
    items = _items(sheet, _fill_count(dice, int(sheet.room / sheet.glyphs("value").height / 1.2) - 9))
    headers = [
        dice.pick(templates.ITEM_HEADERS),
        dice.pick(templates.QUANTITY_HEADERS),
        dice.pick(templates.AMOUNT_HEADERS),
    ]
    cells = [[str(quantity), _amount(quantity * price)] for _, quantity, price in items]
    names = [sheet.glyphs("value").fit(name, sheet.width * 0.5) or name[:8] for name, _, _ in items]
    bottom, sheet.bottom = sheet.bottom, int(sheet.bottom - sheet.glyphs("value").height * 6)
    data = TableData("item", headers, names, cells, [True, True])
    shown = draw_table(sheet, data, dice.pick((PLAIN, RULES, DOTTED)), 1.0, True)
    sheet.bottom = bottom
    return sum(quantity * price for _, quantity, price in items) if shown else 0.0


def _sums(sheet: Sheet, net: float, symbol: str, x: float, width: float) -> None:
    """Total lines: label left or flush right, amount flush right; the total may be larger."""
    dice, canvas, theme = sheet.dice, sheet.canvas, sheet.theme
    flush = dice.chance(0.4)
    for label, amount, role in _totals(dice, net, symbol):
        big = role == "total" and dice.chance(0.5)
        glyphs = sheet.glyphs("heading" if big else "value", dice.pick((1.0, 1.25, 1.5)) if big else 1.0)
        key_text = any_case(dice, label) + theme.colon.strip(".")
        wide = glyphs.width(key_text) + glyphs.width(amount) + glyphs.size
        if wide > width or sheet.room < glyphs.height:
            continue
        key_x = x + width - glyphs.width(amount) - glyphs.size if flush else x
        key = canvas.write(key_x, sheet.y, key_text, glyphs, theme.ink, "right" if flush else "left")
        run = canvas.write(x + width, sheet.y, amount, glyphs, theme.ink, "right")
        if key and run:
            sheet.entry(key_text, (key,), amount, (run,), role)
        if role == "total" and run and dice.chance(0.08):
            x0, y0, x1, y1 = canvas.box_of(run)
            pad = glyphs.size
            canvas.ellipse((x0 - pad, y0 - pad * 0.6, x1 + pad, y1 + pad * 0.6), None, (30, 40, 140), 2)
        sheet.y += glyphs.height * dice.uniform(1.0, 1.2)


def _receipt_foot(sheet: Sheet, align: str) -> None:
    dice = sheet.dice
    sheet.y += sheet.glyphs().height * dice.uniform(0.2, 1.0)
    for text in dice.sample(templates.RECEIPT_FOOTERS, dice.integer(0, 4)):
        if sheet.room > sheet.glyphs("value").height * 2:
            _block(sheet, any_case(dice, text), align, "")
    height = sheet.glyphs().height * 1.8
    if dice.chance(0.25) and sheet.room > height + 4:
        barcode(
            sheet.canvas,
            dice,
            sheet.left + sheet.width * 0.15,
            sheet.y + 4,
            sheet.width * 0.7,
            height,
            sheet.theme.ink,
        )
    elif dice.chance(0.1) and sheet.room > height * 2:
        scribble(sheet.canvas, dice, sheet.left + 5, sheet.y + 5, sheet.width * 0.4, height, (30, 30, 120))


def _receipt(sheet: Sheet, align: str, items: str) -> None:
    dice = sheet.dice
    symbol = dice.pick(("", "", "$", "RM ", "USD "))
    meta_first = dice.chance(0.8)
    _receipt_head(sheet, align)
    if meta_first:
        sheet.y += 4
        _receipt_meta(sheet)
    _divider(sheet)
    if items == "table":
        net = _receipt_table(sheet)
    else:
        net = _receipt_items(sheet, items == "two")
    _divider(sheet)
    if net:
        _sums(sheet, net, symbol, sheet.left, sheet.width)
    if not meta_first:
        _divider(sheet)
        _receipt_meta(sheet)
    _receipt_foot(sheet, align)


def _invoice(sheet: Sheet, looks: tuple[GridLook, ...], head: str) -> None:
    """Seller, buyer, numbers, articles and sums."""
    dice, words, canvas, theme = sheet.dice, sheet.words, sheet.canvas, sheet.theme
    page_marks(sheet)
    left, right = sheet.left, sheet.right
    if head == "bar" and sheet.dark:
        canvas.frame(0, 0, canvas.width, sheet.y + sheet.glyphs("heading", 1.8).height, None, theme.accent)
        glyphs = sheet.glyphs("heading", 1.6)
        run = canvas.write(right, sheet.y, "INVOICE", glyphs, (255, 255, 255), "right")
        sheet.entry("", (), "INVOICE", as_runs(run), "title")
        sheet.y += sheet.glyphs("heading", 1.8).height + 8
    elif head == "side":
        band = sheet.width // 12
        canvas.frame(0, 0, band, canvas.height, None, theme.accent)
        sheet.left = left = max(left, band + 10)
    if dice.chance(0.4):
        logo(canvas, dice, right - 44, sheet.y, 40, theme.accent)
        sheet.right -= 50
    _block(sheet, values.company(dice, words), "left", "company", 1.3, "heading")
    _block(sheet, f"{values.street(dice, words)}, {values.town(dice, words)}", "left", "address")
    if dice.chance(0.6):
        _block(sheet, f"Tel: {values.phone(dice)}", "left", "")
    sheet.right = right
    if head != "bar" or not sheet.dark:
        sheet.title(
            dice.pick(("INVOICE", "Invoice", "TAX INVOICE", "Sales Invoice")),
            dice.pick(("left", "right", "center")),
            1.6,
        )
    sheet.y += 6
    _parties(sheet)
    bottom, sheet.bottom = sheet.bottom, int(sheet.bottom - sheet.glyphs("value").height * 6)
    items = _items(sheet, _fill_count(dice, int(sheet.room / sheet.glyphs("value").height / 1.3)))
    headers = [dice.pick(group) for group in (templates.ITEM_HEADERS, templates.QUANTITY_HEADERS)]
    headers += [dice.pick(templates.PRICE_HEADERS), dice.pick([h for h in templates.AMOUNT_HEADERS if h != "Amt"])]
    cells = [[str(quantity), _amount(price), _amount(quantity * price)] for _, quantity, price in items]
    data = TableData("item", headers, [name for name, _, _ in items], cells, [True, True, True])
    shown = draw_table(sheet, data, dice.pick(looks), dice.pick((0.9, 1.0)), True)
    sheet.bottom = bottom
    if shown:
        start = left + sheet.width * dice.uniform(0.4, 0.6)
        _sums(sheet, sum(q * p for _, q, p in items), dice.pick(("", "$", "EUR ")), start, right - start)
    for note in dice.sample(templates.INVOICE_NOTES, dice.integer(0, 2)):
        if sheet.room > sheet.glyphs().height * 2:
            _block(sheet, note, "left", "", 0.85, "label")


def _parties(sheet: Sheet) -> None:
    """Buyer on the left, invoice numbers on the right (or below on narrow pages)."""
    dice, words = sheet.dice, sheet.words
    wide = sheet.width > 380
    width = sheet.width * 0.48 if wide else sheet.width
    start = sheet.y
    for key in dice.sample(("Bill To", "Ship To", "Sold To"), dice.integer(1, 2)):
        text = f"{values.company(dice, words)}, {values.street(dice, words)}, {values.town(dice, words)}"
        sheet.y = fields.stacked(sheet, sheet.left, sheet.y, width, Pair(sheet.dress(key), text)) + 4
    low = sheet.y
    x = sheet.right - width if wide else sheet.left
    y = start if wide else low
    boxed = dice.chance(0.3)
    line = max(sheet.glyphs().height, sheet.glyphs("value").height)
    for key, kind in dice.sample(templates.INVOICE_META, dice.integer(2, 6)):
        pair = Pair(sheet.dress(key), values.value(kind, dice, words), "date" if key == "Invoice Date" else "")
        if boxed and y + line * 2.4 < sheet.bottom:
            fields.cell(sheet, round(x), round(y), round(width), round(line * 2.2), pair)
            y += line * 2.2
        elif not boxed:
            y = fields.columns(sheet, x, y, width, pair, 0.5)
    sheet.y = max(low, y) + line * 0.5


def _one_line(sheet: Sheet) -> None:
    _receipt(sheet, "center", "one")


def _two_lines(sheet: Sheet) -> None:
    _receipt(sheet, "center", "two")


def _tabular(sheet: Sheet) -> None:
    _receipt(sheet, "center", "table")


def _right_set(sheet: Sheet) -> None:
    _receipt(sheet, "right", sheet.dice.pick(("one", "two", "table")))


def _left_set(sheet: Sheet) -> None:
    _receipt(sheet, "left", sheet.dice.pick(("one", "two", "table")))


def _classic(sheet: Sheet) -> None:
    _invoice(sheet, (GRID, GRID_SHADED, RULES), "")


def _banner(sheet: Sheet) -> None:
    _invoice(sheet, (ZEBRA, RULES, GRID_SHADED), "bar")


def _side_band(sheet: Sheet) -> None:
    _invoice(sheet, (ZEBRA, DOTTED, GRID), "side")


RECEIPTS = (
    Layout("receipt-one-line", _one_line),
    Layout("receipt-two-lines", _two_lines),
    Layout("receipt-table", _tabular),
    Layout("receipt-right", _right_set),
    Layout("receipt-left", _left_set, heldout=True),
)
INVOICES = (
    Layout("invoice-classic", _classic),
    Layout("invoice-banner", _banner),
    Layout("invoice-side-band", _side_band, heldout=True),
)
