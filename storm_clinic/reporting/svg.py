"""Matplotlib drawings as inline SVG: same bytes for the same input, ids unique on the page."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from io import StringIO
from typing import Any

import matplotlib
from markupsafe import Markup, escape
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's palette, told apart with every common colour vision.
BLUE, ORANGE, GREEN, VERMILLION = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE = "#CC79A7"
DARKER = {ORANGE: "#8A5F00", PURPLE: "#8C3F6B", GREEN: "#00694D"}  # of these, for words on white
WIDTH_IN = 7.3  # of a figure that fills the page
INK, MUTED, RULE, PALE = "#1b2733", "#5b6875", "#c9d1d8", "#eef2f5"

_STYLE = {
    "font.family": ["DejaVu Sans"],  # ships with matplotlib, so that layouts agree everywhere
    "font.size": 8.0,
    "text.color": INK,
    "text.parse_math": False,  # a model called "$x$" is a name, not a formula
    "axes.labelcolor": INK,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 8.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 8.0,
    "axes.unicode_minus": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "lines.linewidth": 1.4,
    "svg.fonttype": "none",
    "savefig.transparent": True,
}
_FONTS = "'Helvetica Neue', Helvetica, Arial, 'Liberation Sans', sans-serif"
_ID = re.compile(r'\bid="([^"]+)"')
_STYLE_ELEMENT = re.compile(r"<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_REFERENCE = re.compile(r'(url\(#|xlink:href="#)')


def draw(
    paint: Callable[[Figure], None],
    *,
    slug: str,
    title: str,
    description: str,
    width_in: float,
    height_in: float,
) -> Markup:
    """Paint a figure and return it as one ``<svg>`` element.

    Parameters
    ----------
    paint : callable
        Given an empty figure; draws into it.
    slug : str
        Prefix of every id inside; must be unique on the page.
    title, description : str
        Read out by screen readers in place of the picture.
    width_in, height_in : float
        Size in inches of 72 points.
    """
    settings: Any = {**_STYLE, "svg.hashsalt": slug}
    # The context keeps a caller's own matplotlib settings out of the report, and ours inside it.
    with matplotlib.rc_context(), warnings.catch_warnings(), StringIO() as buffer:
        # Words stay words: the reader's own fonts draw what the layout's font lacks.
        warnings.filterwarnings("ignore", message=r"Glyph \d+ .* missing from font")
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(settings)
        figure = Figure(figsize=(width_in, height_in))
        FigureCanvasSVG(figure)
        paint(figure)
        absent = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=absent)
        text = buffer.getvalue()
    return Markup(_inline(text, slug, title, description, width_in))


def _inline(text: str, slug: str, title: str, description: str, width_in: float) -> str:
    body = text[text.index("<svg") :]
    body = body[body.index(">") + 1 :]
    box = re.search(r'viewBox="([^"]+)"', text)
    assert box is not None  # matplotlib always writes one
    # Matplotlib's one rule (* {stroke-linejoin: round}) would reach the whole page.
    body = _STYLE_ELEMENT.sub("", body, count=1)
    body = _ID.sub(rf'id="{slug}-\1"', body)
    body = _REFERENCE.sub(rf"\g<1>{slug}-", body)
    body = body.replace("'DejaVu Sans'", _FONTS)
    head = (
        f'<svg role="img" aria-labelledby="{slug}-title {slug}-desc" viewBox="{box.group(1)}" '
        f'width="{width_in * 96:.0f}" stroke-linejoin="round" xmlns="http://www.w3.org/2000/svg" '
        f'xmlns:xlink="http://www.w3.org/1999/xlink">'
        f'<title id="{slug}-title">{escape(title)}</title>'
        f'<desc id="{slug}-desc">{escape(description)}</desc>'
    )
    return head + body.strip()
