"""Draw the bundled pages: an invoice with a letterhead, a table, a photograph, a stamp and much blank paper, and a
small form in large print.

    python examples/draw_demo_document.py              # writes both into modeling_arrcoc/assets
    python examples/draw_demo_document.py --out DIR    # writes both into DIR

Every company, person and number in it is invented. Needs Pillow 11.2 or newer (strokes thinner than a pixel).
"""

import argparse
import math
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageFont


ASSETS = Path(__file__).parent.parent / "modeling_arrcoc" / "assets"
WIDTH, HEIGHT = 1024, 1344
MARGIN = 88
INK, GRAY, TEAL, RED = (34, 36, 40), (120, 124, 130), (22, 96, 108), (176, 42, 48)

ITEMS = [
    ("LX-204", "Field lens, coated, 48 mm", 4, 86.50),
    ("LX-118", "Relay lens pair, achromatic", 2, 142.00),
    ("MT-031", "Kinematic mirror mount", 6, 37.25),
    ("FB-900", "Fibre patch cable, 3 m", 5, 18.40),
    ("CL-007", "Alignment and cleaning", 1, 95.00),
]
TAX_RATE = 0.19

FORM_SIDE = 256
FORM_TITLE = "Mooring Permit"
ENTRIES = [
    ("Captain", "Tessa Ferris"),
    ("Boat", "Sea Otter"),
    ("Berth", "4127"),
    ("Until", "17-OCT-2024"),
    ("Fee", "86.50"),
]


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def money(amount: float) -> str:
    return f"{amount:,.2f}"


def right_text(paint: ImageDraw.ImageDraw, right: int, top: int, text: str, size: int, fill=INK, bold=False) -> None:
    left = right - font(size).getlength(text)
    paint.text((left, top), text, fill=fill, font=font(size), stroke_width=0.5 if bold else 0)


def draw_letterhead(page: Image.Image) -> None:
    paint = ImageDraw.Draw(page)
    for ring, radius in enumerate((44, 31, 18)):
        box = (MARGIN + 44 - radius, 108 - radius, MARGIN + 44 + radius, 108 + radius)
        paint.ellipse(box, fill=TEAL if ring % 2 == 0 else "white")
    paint.text((MARGIN + 108, 68), "Meridian Optics", fill=TEAL, font=font(46), stroke_width=0.6)
    paint.text((MARGIN + 110, 124), "Precision lenses and instruments", fill=GRAY, font=font(18))
    for row, line in enumerate(("14 Harbour Lane", "4021 Port Ellery", "accounts@meridian.example")):
        right_text(paint, WIDTH - MARGIN, 74 + 24 * row, line, 16, GRAY)
    paint.line((MARGIN, 178, WIDTH - MARGIN, 178), fill=TEAL, width=3)


def draw_parties(page: Image.Image) -> None:
    paint = ImageDraw.Draw(page)
    paint.text((MARGIN, 232), "INVOICE", fill=INK, font=font(34), stroke_width=0.6)
    paint.text((MARGIN, 290), "Bill to", fill=GRAY, font=font(15))
    for row, line in enumerate(("Northgate Observatory", "Dr. Amelia Okafor", "7 Summit Road, 3310 Vale")):
        paint.text((MARGIN, 312 + 25 * row), line, fill=INK, font=font(18))
    facts = (("Invoice number", "MO-2024-0817"), ("Date", "17 August 2024"), ("Due date", "16 September 2024"))
    for row, (name, value) in enumerate(facts):
        paint.text((620, 290 + 32 * row), name, fill=GRAY, font=font(16))
        right_text(paint, WIDTH - MARGIN, 289 + 32 * row, value, 18)


def draw_table(page: Image.Image) -> None:
    paint = ImageDraw.Draw(page)
    top, right = 470, WIDTH - MARGIN
    paint.rectangle((MARGIN, top, right, top + 38), fill=TEAL)
    paint.text((MARGIN + 14, top + 9), "Item", fill="white", font=font(17))
    paint.text((MARGIN + 130, top + 9), "Description", fill="white", font=font(17))
    for edge, name in ((600, "Qty"), (730, "Unit price"), (right - 14, "Amount")):
        right_text(paint, edge, top + 9, name, 17, "white")
    for row, (code, name, count, price) in enumerate(ITEMS):
        y = top + 38 + 42 * row
        paint.text((MARGIN + 14, y + 11), code, fill=GRAY, font=font(16))
        paint.text((MARGIN + 130, y + 10), name, fill=INK, font=font(18))
        right_text(paint, 600, y + 10, str(count), 18)
        right_text(paint, 730, y + 10, money(price), 18)
        right_text(paint, right - 14, y + 10, money(count * price), 18)
        paint.line((MARGIN, y + 42, right, y + 42), fill=(214, 217, 221), width=1)


def draw_totals(page: Image.Image) -> None:
    paint = ImageDraw.Draw(page)
    right = WIDTH - MARGIN
    net = sum(count * price for _, _, count, price in ITEMS)
    tax = round(net * TAX_RATE, 2)
    for row, (name, value) in enumerate((("Subtotal", net), (f"VAT {TAX_RATE:.0%}", tax))):
        paint.text((620, 742 + 32 * row), name, fill=GRAY, font=font(17))
        right_text(paint, right - 14, 741 + 32 * row, money(value), 18)
    paint.line((620, 812, right, 812), fill=INK, width=2)
    paint.text((620, 826), "Total due (EUR)", fill=INK, font=font(21), stroke_width=0.5)
    right_text(paint, right - 14, 823, money(net + tax), 25, INK, bold=True)


def draw_photograph(page: Image.Image) -> None:
    """A made-up landscape at dusk: ridges under a graded sky, with film grain."""
    width, height = 250, 176
    rng = np.random.default_rng(7)
    x, y = np.meshgrid(np.arange(width), np.arange(height))
    sky = np.clip(1 - y / height, 0, 1)[..., None] * np.array([70, 96, 150]) + np.array([150, 110, 90])
    for depth, (level, roughness) in enumerate(((0.42, 9), (0.6, 14), (0.78, 18))):
        waves = sum(
            roughness / order * np.sin(x[0] * order * 0.023 + rng.uniform(0, 2 * math.pi)) for order in range(1, 7)
        )
        ridge = height * level + waves
        shade = np.array([96, 92, 112]) * (1 - 0.33 * depth) * (0.85 + 0.15 * np.sin(x / 5 + y / 7))[..., None]
        sky = np.where((y > ridge)[..., None], shade, sky)
    grain = rng.normal(0, 5, size=(height, width, 1))
    photo = Image.fromarray(np.clip(sky + grain, 0, 255).astype(np.uint8)).filter(ImageFilter.GaussianBlur(0.6))
    page.paste(photo, (MARGIN, 900))
    ImageDraw.Draw(page).text((MARGIN, 1084), "View from the assembly hall", fill=GRAY, font=font(14))


def draw_stamp(page: Image.Image) -> None:
    """A rubber stamp, turned and unevenly inked."""
    size = 216
    ink = Image.new("L", (size, size), 0)
    paint = ImageDraw.Draw(ink)
    paint.ellipse((6, 6, size - 7, size - 7), outline=255, width=6)
    paint.ellipse((24, 24, size - 25, size - 25), outline=255, width=2)
    for top, text, points in ((58, "RECEIVED", 25), (94, "21 AUG 2024", 21), (128, "Northgate", 20)):
        left = (size - font(points).getlength(text)) / 2
        paint.text((left, top), text, fill=255, font=font(points), stroke_width=0.5)
    ink = ink.rotate(14, resample=Image.Resampling.BICUBIC)
    rng = np.random.default_rng(3)
    patches = Image.fromarray(rng.integers(120, 256, size=(27, 27), dtype=np.uint8)).resize((size, size))
    page.paste(RED, (430, 884), ImageChops.multiply(ink, patches))


def draw_signature(page: Image.Image) -> None:
    paint = ImageDraw.Draw(page)
    steps = np.linspace(0, 1, 240)
    x = 716 + 170 * steps + 14 * np.sin(31 * steps)
    y = 1034 - 26 * np.sin(19 * steps) * (1 - steps) - 12 * np.cos(47 * steps) * steps
    paint.line(list(zip(x.tolist(), y.tolist(), strict=True)), fill=(28, 44, 110), width=3, joint="curve")
    paint.line((700, 1072, WIDTH - MARGIN, 1072), fill=GRAY, width=1)
    paint.text((700, 1080), "H. Lindqvist, Accounts", fill=GRAY, font=font(15))


def draw_footer(page: Image.Image) -> None:
    paint = ImageDraw.Draw(page)
    paint.line((MARGIN, 1256, WIDTH - MARGIN, 1256), fill=(190, 194, 199), width=1)
    lines = (
        "Payment within 30 days to account 0042 7781 9035, Harbour Bank, reference MO-2024-0817.",
        "Goods remain property of Meridian Optics until paid in full. Registered in Port Ellery, no. 118 204.",
    )
    for row, line in enumerate(lines):
        paint.text((MARGIN, 1268 + 20 * row), line, fill=GRAY, font=font(13))


def draw_document() -> Image.Image:
    """Draw the page.

    Returns:
        `PIL.Image.Image` (RGB) of 1024 by 1344 pixels.
    """
    page = Image.new("RGB", (WIDTH, HEIGHT), (253, 253, 251))
    for draw in (
        draw_letterhead,
        draw_parties,
        draw_table,
        draw_totals,
        draw_photograph,
        draw_stamp,
        draw_signature,
        draw_footer,
    ):
        draw(page)
    return page


def draw_form() -> Image.Image:
    """Draw the form, with letters as large as the bundled model has learned to read.

    Returns:
        `PIL.Image.Image` (RGB) of 256 by 256 pixels.
    """
    page = Image.new("RGB", (FORM_SIDE, FORM_SIDE), "white")
    paint = ImageDraw.Draw(page)
    left = (FORM_SIDE - font(24).getlength(FORM_TITLE)) / 2
    paint.text((left, 16), FORM_TITLE, fill=INK, font=font(24), stroke_width=0.4)
    for row, (key, value) in enumerate(ENTRIES):
        top = 70 + 34 * row
        paint.text((18, top), f"{key}:", fill=INK, font=font(18))
        paint.text((104, top), value, fill=INK, font=font(18))
        paint.line((100, top + 24, FORM_SIDE - 18, top + 24), fill=GRAY)
    return page


PAGES = {"demo_document.png": draw_document, "demo_form.png": draw_form}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ASSETS, help="folder to write to")
    out = parser.parse_args().out
    for name, draw in PAGES.items():
        draw().save(out / name, optimize=True)
        print(f"{out / name}: {(out / name).stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
