"""Attention maps as text: a terminal's table, an HTML table, an SVG picture.

Rows are target tokens, columns source tokens, and the darker a cell the more of that row's
attention it has, as in figure 3 of Bahdanau et al. 2015. No package is needed, and no font: the
reader's own fonts show the Chinese.
"""

from __future__ import annotations

import base64
import hashlib
import textwrap
import unicodedata
from collections.abc import Sequence
from string import Template
from typing import Any

from ..alignment.record import Alignment
from .wording import SPEAK, Text, read_asset, render, text

FONT_STACK = (
    'system-ui, "PingFang SC", "Noto Sans CJK SC", "Noto Sans SC", "Microsoft YaHei", '
    '"WenQuanYi Micro Hei", sans-serif'
)
# Full weight on a light page and on a dark one; less weight lets the page shine through.
EMPTY, LIGHT_HOT = (238, 242, 249), (12, 64, 144)
_DARK_EMPTY, _DARK_HOT = (36, 39, 46), (125, 182, 250)
# From here on a number in a cell is read better in the page's colour than in the text's.
HOT_FROM = 0.62
# Weights below this are left without a number where numbers are always shown.
NUMBER_FROM = 0.1
HOW_TO_READ = (
    "Each row is a word of the translation; its numbers say how much of the attention each word of "
    "the source had."
)
_LINE = 64  # columns of a picture's text
_NAMES = 88  # pixels of the names before a picture's texts
_LEGEND = textwrap.wrap(HOW_TO_READ, _LINE)
_POLICY = base64.b64encode(hashlib.sha256(SPEAK.encode()).digest()).decode()
_BIDI_CONTROLS = frozenset(
    "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
)


def _style_sheet(name: str) -> str:
    ramp = {"empty": EMPTY, "hot": LIGHT_HOT, "dark_empty": _DARK_EMPTY, "dark_hot": _DARK_HOT}
    channels = {f"{step}_channels": " ".join(map(str, colour)) for step, colour in ramp.items()}
    fonts = FONT_STACK.replace('"', "'")
    return Template(read_asset(name)).substitute(fonts=fonts, **ramp, **channels)


ALIGNMENT_CSS = _style_sheet("pages/alignment.css")
_PAGE_CSS, _SVG_CSS = map(_style_sheet, ("pages/alignment_page.css", "pages/alignment_svg.css"))


def visible(token: str) -> str:
    r"""Make a token fit to be shown: nothing invisible, nothing that steers a terminal or a line.

    A lone space becomes ␣, an empty token ∅; control characters, marks that turn the direction of
    writing, and code points that no file or XML may hold are written as escapes (`\u001b`).
    """
    shown = "".join(
        f"\\u{ord(c):04x}"
        if unicodedata.category(c) in ("Cc", "Cs", "Cn", "Zl", "Zp") or c in _BIDI_CONTROLS
        else c
        for c in token
    )
    return shown.replace(" ", "␣") if shown.strip() == "" and shown else shown or "∅"


def display_width(text: str) -> int:
    """Columns that a text takes in a terminal: 2 for a wide character, 0 for a combining one."""
    return sum(
        0 if unicodedata.combining(c) or unicodedata.category(c) in ("Mn", "Me", "Cf")
        else 2 if unicodedata.east_asian_width(c) in "WF"
        else 1
        for c in text
    )  # fmt: skip


def alignment_text(alignment: Alignment) -> str:
    """Draw the map as lines of text for a terminal; weights below 0.05 are a dot.

    Columns stay aligned where Chinese characters take two cells. Above stand sentence and
    translation, where they are known, and how the map is read.
    """
    source = [visible(token) for token in alignment.source_tokens]
    target = [visible(token) for token in alignment.target_tokens]
    widths = [max(map(display_width, target)), *(max(4, display_width(t)) for t in source)]
    rows = [["", *source]]
    for token, weights in zip(target, alignment.weights, strict=True):
        rows.append([token, *(f"{weight:.2f}" if weight >= 0.05 else "·" for weight in weights)])
    head = [f"{name}: {text}\n" for name, text in sentences(alignment)]
    head.append(f"{HOW_TO_READ} · is less than 0.05.\n\n")
    for row in rows:
        cells = (" " * (n - display_width(c)) + c for c, n in zip(row, widths, strict=True))
        head.append("  ".join(cells).rstrip() + "\n")
    return "".join(head)


def alignment_html(
    alignment: Alignment,
    standalone: bool = False,
    *,
    title: str | None = None,
    reference: str = "",
    focusable: bool = False,
) -> str:
    """Draw the map as an HTML table; hovering over a cell, or touching it, shows a small number.

    Args:
        alignment: what to draw; tokens are escaped.
        standalone: a whole page instead of an element for a page that holds `ALIGNMENT_CSS`.
        title: heading of the map.
        reference: another translation to show beside the map's own.
        focusable: the Tab key goes from row to row.
    """
    source = [visible(token) for token in alignment.source_tokens]
    element = render(
        "alignment.html",
        title=title,
        sentences=sentences(alignment, reference),
        columns=zip(source, directions(source), strict=True),
        rows=_rows(alignment),
        focusable=focusable,
        how_to_read=HOW_TO_READ,
    )
    if not standalone:
        return element
    return html_page(Text(title) if title else text("Attention map"), _PAGE_CSS, element)


def html_page(title: Text, css: str, body: str, **header: Any) -> str:
    """A whole page with `ALIGNMENT_CSS`, in the browser's language; the body is HTML."""
    css, spoken = ALIGNMENT_CSS + css, {"script": SPEAK, "policy": _POLICY}
    return render("page.html", title=title, css=css, body=body, **spoken, **header)


def alignment_svg(alignment: Alignment, *, title: str | None = None) -> str:
    """Draw the map as an SVG document with real text, which the reader's own fonts show.

    It follows the reader's light or dark setting, and shows a cell's number on hovering; the
    larger weights carry theirs at all times, unless the map is too large for that.
    """
    source = [visible(token) for token in alignment.source_tokens]
    target = [visible(token) for token in alignment.target_tokens]
    longest = max(alignment.weights.shape)
    cell = 36 if longest <= 24 else 28 if longest <= 48 else 18
    ways = directions(source)
    tall = max(
        17 if way == "upright" else _text_pixels(t) for t, way in zip(source, ways, strict=True)
    )
    left = max(84, 30 + max(_text_pixels(token) for token in target))
    lines = [
        ("" if number else name, line)
        for name, sentence in sentences(alignment)
        for number, line in enumerate(wrapped(sentence))
    ]
    heading = (40 if title else 8) + 20 * len(lines)
    top = heading + max(36, tall + 19)
    longest_text = max(
        9 * display_width(title or ""),
        *(_NAMES + _text_pixels(line) for _, line in lines),
        *(6.6 * display_width(line) for line in _LEGEND),
    )
    width = max(left + max(cell * len(source), 210), longest_text) + 20
    height = top + cell * len(target) + 80
    return render(
        "alignment.svg",
        **{"title": visible(title) if title else "", "css": _SVG_CSS, "legend": _LEGEND},
        **{"width": width, "height": height, "left": left, "top": top, "cell": cell},
        **{"lines": lines, "heading": heading, "names": _NAMES},
        columns=zip(source, ways, strict=True),
        rows=_rows(alignment),
    )


def wrapped(sentence: str) -> list[str]:
    """A sentence in lines that a picture is wide enough for."""
    width = _LINE * len(sentence) // max(1, display_width(sentence))
    return textwrap.wrap(sentence, max(1, width))


def _rows(alignment: Alignment) -> list[tuple[str, list[tuple[str, str, float]]]]:
    """Target tokens with their cells: source token, whether and how a number shows, weight."""
    source = [visible(token) for token in alignment.source_tokens]
    rows = []
    for token, weights in zip(alignment.target_tokens, alignment.weights.tolist(), strict=True):
        kinds = ["hot" if w >= HOT_FROM else "number" if w >= NUMBER_FROM else "" for w in weights]
        rows.append((visible(token), [*zip(source, kinds, weights, strict=True)]))
    return rows


def directions(tokens: Sequence[str]) -> list[str]:
    """How the heading of each column is written: all of them `upright`, or none.

    Chinese is then `stacked`, downwards with its characters upright; other words are `turned`.
    """
    shown = [visible(token) for token in tokens]
    if all(map(_is_upright, shown)):
        return ["upright"] * len(shown)
    return ["stacked" if display_width(token) > len(token) else "turned" for token in shown]


def _is_upright(token: str) -> bool:
    """Fits upright into a column: one character, or two wide ones."""
    return len(token) == 1 or (len(token) == 2 and display_width(token) == 4)


def sentences(alignment: Alignment, reference: str = "") -> list[tuple[str, str]]:
    """Sentence, translation and reference by their names, where they are known."""
    texts = {"source": alignment.source, "translation": alignment.target, "reference": reference}
    return [(name, visible(sentence)) for name, sentence in texts.items() if sentence]


def _text_pixels(token: str) -> float:
    """About the width of a token at 15 pixels; no font can be asked."""
    return 8.2 * display_width(token)
