"""Attention maps as text: a terminal's table, an HTML table, an SVG picture.

Rows are target tokens, columns source tokens, and the darker a cell the more of that row's
attention it has, as in figure 3 of Bahdanau et al. 2015. No package is needed, and no font: the
reader's own fonts show the Chinese.
"""

from __future__ import annotations

import base64
import hashlib
import html
import textwrap
import unicodedata
from collections.abc import Sequence
from string import Template

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


ALIGNMENT_CSS, _SVG_CSS = map(_style_sheet, ("pages/alignment.css", "pages/alignment_svg.css"))


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
    rows = [
        (visible(token), [*zip(source, map(_kind, weights), weights, strict=True)])
        for token, weights in zip(alignment.target_tokens, alignment.weights, strict=True)
    ]
    known = [*sentences(alignment), ("reference", visible(reference))]
    element = render(
        "alignment.html",
        title=title,
        sentences=known if reference else known[:-1],
        columns=zip(source, directions(source), strict=True),
        rows=rows,
        focusable=focusable,
        how_to_read=HOW_TO_READ,
    )
    if not standalone:
        return element
    css = (
        ":root { color-scheme: light dark; } body { margin: 1.5rem; background: #ffffff; }\n"
        "@media (prefers-color-scheme: dark) { body { background: #1a1a19; color: #f6f5f1; } }\n"
        f"h3 {{ font: 600 1.1rem {FONT_STACK}; }}"
    )
    return html_page(Text(title) if title else text("Attention map"), css, element)


def html_page(title: Text, css: str, body: str) -> str:
    """A whole page with `ALIGNMENT_CSS`, in the browser's language; the body is HTML."""
    css = ALIGNMENT_CSS + css
    return render("page.html", title=title, css=css, body=body, script=SPEAK, policy=_POLICY)


def alignment_svg(alignment: Alignment, *, title: str | None = None) -> str:
    """Draw the map as an SVG document with real text, which the reader's own fonts show.

    It follows the reader's light or dark setting, and shows a cell's number on hovering; the
    larger weights carry theirs at all times, unless the map is too large for that.
    """
    source = [visible(token) for token in alignment.source_tokens]
    target = [visible(token) for token in alignment.target_tokens]
    longest = max(len(source), len(target))
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
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="map" width="{width:.0f}" '
        f'height="{height:.0f}" viewBox="0 0 {width:.0f} {height:.0f}" role="img">\n'
        f"<title>{_escape(title or 'Attention map')}</title>\n<style>\n{_SVG_CSS}</style>\n"
        f'<rect class="page" width="100%" height="100%"/>\n'
    ]
    if title:
        parts.append(_svg_text(16, 28, title, "title"))
    y: float
    for number, (name, line) in enumerate(lines, start=1):
        y = heading - 20 * (len(lines) - number) - 6
        parts.append(_svg_text(16, y, name, "quiet") if name else "")
        parts.append(_svg_text(_NAMES, y, line, "text"))
    parts.append(_svg_text(left - 10, top - 22, "source →", "quiet", "end"))
    parts.append(_svg_text(left - 10, top - 7, "target ↓", "quiet", "end"))
    for column, (token, way) in enumerate(zip(source, ways, strict=True)):
        x, y = left + (column + 0.5) * cell, top - 9
        if way == "turned":
            turn = f' transform="rotate(-90 {x + 4.5:.1f} {y:.1f})"'
            parts.append(_svg_text(x + 4.5, y, token, "word", more=turn))
        elif way == "stacked" and len(token) > 1:
            down = ' style="writing-mode: vertical-rl"'
            parts.append(_svg_text(x, y, token, "word", "end", down))
        else:
            parts.append(_svg_text(x, y, token, "word", "middle"))
    for row, token in enumerate(target):
        y = top + (row + 0.5) * cell
        parts.append(_svg_text(left - 10, y + 5, token, "word", "end"))
        for column, weight in enumerate(alignment.weights[row]):
            x = left + column * cell
            hint = f"{_escape(token)} ← {_escape(source[column])}: {weight:.2f}"
            box = _svg_cell(weight, x + 1, y - cell / 2 + 1, cell - 2, cell - 2)
            parts.append(f"<g><title>{hint}</title>{box}</g>\n")
            if cell >= 28 and weight >= NUMBER_FROM:
                name = "number hot" if weight >= HOT_FROM else "number"
                parts.append(_svg_text(x + cell / 2, y + 4, f"{weight:.2f}", name, "middle"))
    y = top + cell * len(target) + 20
    parts += [_svg_cell(step / 4, left + 1 + 18 * step, y, 16, 12) + "\n" for step in range(5)]
    parts.append(_svg_text(left - 10, y + 10, "0", "quiet", "end"))
    parts.append(_svg_text(left + 96, y + 10, "1 attention weight", "quiet"))
    for number, line in enumerate(_LEGEND):
        parts.append(_svg_text(16, y + 32 + 16 * number, line, "quiet"))
    return "".join(parts) + "</svg>\n"


def wrapped(sentence: str) -> list[str]:
    """A sentence in lines that a picture is wide enough for."""
    width = _LINE * len(sentence) // max(1, display_width(sentence))
    return textwrap.wrap(sentence, max(1, width))


def _kind(weight: float) -> str:
    """Of a cell, by its weight: one with a number, in either colour, or without."""
    return "hot" if weight >= HOT_FROM else "number" if weight >= NUMBER_FROM else ""


def _escape(token: str) -> str:
    return html.escape(visible(token))


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


def sentences(alignment: Alignment) -> list[tuple[str, str]]:
    """Sentence and translation by their names, where they are known."""
    texts = (("source", alignment.source), ("translation", alignment.target))
    return [(name, visible(sentence)) for name, sentence in texts if sentence]


def _text_pixels(token: str) -> float:
    """About the width of a token at 15 pixels; no font can be asked."""
    return 8.2 * display_width(token)


def _svg_cell(weight: float, x: float, y: float, width: int, height: int) -> str:
    box = f'x="{x:.1f}" y="{y:.1f}" width="{width}" height="{height}" rx="3"'
    return f'<rect class="empty" {box}/><rect class="weight" fill-opacity="{weight:.3f}" {box}/>'


def _svg_text(
    x: float, y: float, text: str, name: str, anchor: str = "start", more: str = ""
) -> str:
    return (
        f'<text class="{name}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more} '
        f'xml:space="preserve">{_escape(text)}</text>\n'
    )
