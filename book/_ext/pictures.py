"""Pictures that stay legible: each knows how wide it must be for letters of
nine pixels, and on a narrow screen scrolls in its box before it shrinks below.

A PNG says its own smallest letters in points (``Lettering``, written by
``tools/notebooks.py``) and its pixels per inch; an SVG has its letters in it.
"""

import base64
import math
import re
import struct
from pathlib import Path

SMALLEST = 9  # CSS pixels
NARROW = 250  # what no screen is narrower than, in a frame
LETTERS, DPI = (
    9.0,
    90.0,
)  # of a picture that does not say: points, pixels per inch
DATA = "data:image/png;base64,"


def chunks(png):
    """The chunks of a PNG before its pixels: (kind, content)."""
    place = 8
    while png[place + 4 : place + 8] not in (b"IDAT", b""):
        (length,) = struct.unpack(">I", png[place : place + 4])
        yield png[place + 4 : place + 8], png[place + 8 : place + 8 + length]
        place += 12 + length


def of_png(png):
    """Width in inches, and the smallest letters in points."""
    width, dpi, letters = 0, DPI, LETTERS
    for kind, content in chunks(png):
        if kind == b"IHDR":
            width = struct.unpack(">I", content[:4])[0]
        elif kind == b"pHYs" and content[8] == 1:
            dpi = struct.unpack(">I", content[:4])[0] * 0.0254
        elif kind in (b"tEXt", b"iTXt") and content.startswith(b"Lettering\0"):
            letters = float(content.split(b"\0")[-1])
    return width / dpi, letters


def of_svg(svg):
    """The same of an SVG, whose letters are texts or scaled outlines."""
    box = re.search(r'viewBox="[\d.-]+ [\d.-]+ ([\d.]+)', svg)
    sizes = re.findall(r"font(?:-size)?: ?(?:\w+ )*([\d.]+)px", svg)
    sizes += re.findall(r'font-size="([\d.]+)', svg)
    outlines = re.findall(r'id="text_\d+".*?scale\(([\d.]+) -', svg, re.DOTALL)
    letters = [float(size) for size in sizes] + [
        100 * float(size) for size in outlines
    ]
    return float(box[1]) / 72 if box else None, min(letters, default=LETTERS)


def measures(source, folder):
    """Inches and points of what an ``img`` shows, or None."""
    if source.startswith(DATA):
        return of_png(
            base64.b64decode(source[len(DATA) :][:4096])
        )  # the chunks before the pixels
    path = Path(folder, source)
    if path.suffix == ".png" and path.exists():
        return of_png(path.read_bytes())
    if path.suffix == ".svg" and path.exists():
        return of_svg(path.read_text())
    return None


def legible_width(inches, letters):
    return math.ceil(SMALLEST * 72 * inches / letters)


def set_widths(app, pagename, templatename, context, doctree):
    images = {
        name: Path(app.srcdir, path)
        for path, name in app.builder.images.items()
    }

    def widen(tag):
        source = tag[0].partition('src="')[2].partition('"')[0]
        if "/_images/" in source:
            source = str(images.get(source.rpartition("/")[2], source))
        found = measures(source, "")
        if not found or not found[0]:
            return tag[0]
        width = legible_width(*found)
        if width < NARROW:
            return tag[0]
        box = f'<span class="picture" style="--legible: {width}px">'
        return f"{box}{tag[0]}</span>"

    if "body" in context:
        context["body"] = re.sub(r"<img\b[^>]*>", widen, context["body"])


def setup(app):
    app.connect("html-page-context", set_widths)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
