"""What is translated of a document, what is copied, and how it is put together again.

A format is a function from a document's text to its `Segment`s. What must come through a sentence
unharmed, such as `%s` or a tag, is a mark while it is translated: one character of those that
Unicode leaves to private use. Marks keep their order, so that they need no names.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import NamedTuple

from ..inference.segmentation import CLOSING_TAG, MARKS, OPENING_TAG, PLACEHOLDER
from ..modeling.text_bahdanau import ADDRESS

_ATTRIBUTES = r"""(?:=\s*"[^"]*"|=\s*'[^']*'|[^<>])*+"""  # a value may hold ">"
# An element whose content is no text; one that is not closed goes on to the end.
CODE = (
    r"(?si:<(?P<element>code|kbd|samp|var|tt|math|svg|pre|script|style|textarea)(?![\w-])"
    rf"{_ATTRIBUTES}(?<!/)>.*?(?:</(?P=element)\s*>|\Z))"
)
TAGS = (
    r"(?s:<!--.*?(?:-->|\Z)|<!\[CDATA\[.*?\]\]>)|<[!?][^<>]*>"
    rf"|</?[A-Za-z]{_ATTRIBUTES}>|</?\d[^<>\s]*>"
)
_SPELT = r"""
    \t|\{\{.*?\}\}|\{%.*?%\}                                             # templates
    |\{\s*\w+\s*,(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}             # ICU: {n, plural, ...}
    |\$?\{(?:[^{}\s]*|[^{}\w\s][^{}]*)\}|\$[A-Za-z_]\w*                # {name}, ${name}, $name
    |%%|(?<!\d)%(?:\(\w+\)|\d+\$)?[-+\#0]*\d*(?:\.\d+)?(?:hh?|ll?|[qjzt])?[diouxXeEfFgGcCrsSpan@]
    |(?<!\d)%L?\d\d?(?!\w)                                             # %1 of Qt
"""
_PLACEHOLDER = re.compile(f"{_SPELT}|{ADDRESS.pattern}|[{MARKS}]", re.VERBOSE)
_EDGE = re.compile(rf"[\s{OPENING_TAG}{CLOSING_TAG}]+")


class Segment(NamedTuple):
    """A part of a document.

    Attributes:
        raw: the part as it stands in the document.
        text: what is to be translated, with marks; empty: nothing, the part is copied.
        kept: what the marks of `before`, `text` and `after` stand for, as the document spells it.
        write: spells a translation as the document does, and keeps its marks.
        before, after: what stands around the translation.
    """

    raw: str
    text: str = ""
    kept: Sequence[str] = ()
    write: Callable[[str], str] = str
    before: str = ""
    after: str = ""


def make_segment(
    raw: str,
    text: str | None = None,
    *,
    code: str = CODE,
    markup: str = TAGS,
    read: Callable[[str], str] = str,
    write: Callable[[str], str] = str,
    keep: Callable[[str], str] = str,
) -> Segment:
    """Make a segment of what may be text; without a letter it is copied.

    Args:
        raw: as it stands in the document.
        text: what it says, if that is another.
        code: regular expression of what is copied as a whole.
        markup: of what stands between words; at both ends it is no matter of the translation.
        read: from the document's spelling to plain text; for what is neither code nor markup.
        write: the other way round; for translations and placeholders.
        keep: the other way round, for code, markup and white space at both ends.
    """
    kept: list[str] = []

    def mark(spelt: str, is_markup: bool = False) -> str:
        ends = spelt.startswith(("</", "]")) or (spelt[0] in "*_~" and kept.count(spelt) % 2 == 1)
        kept.append(spelt)
        return (CLOSING_TAG if ends else OPENING_TAG) if is_markup else PLACEHOLDER

    def plain(part: str) -> str:
        return _PLACEHOLDER.sub(lambda found: mark(write(found[0])), read(part))

    text = raw if text is None else text
    parts, place = [], 0
    for found in re.finditer(rf"(?P<code>{code})|(?:{markup})+", text):
        parts.append(plain(text[place : found.start()]))
        parts.append(mark(keep(found[0]), is_markup=found["code"] is None))
        place = found.end()
    marked = "".join([*parts, plain(text[place:])])
    if not any(char.isalpha() for char in marked):
        return Segment(raw)
    edges = [edge.span() for edge in _EDGE.finditer(marked)]
    start = edges[0][1] if edges and edges[0][0] == 0 else 0
    end = edges[-1][0] if edges and edges[-1][1] == len(marked) else len(marked)
    before, after = keep(marked[:start]), keep(marked[end:])
    return Segment(raw, marked[start:end], kept, write, before, after)


def _fill(text: str, kept: Iterable[str]) -> str:
    """Put what marks stand for into their places."""
    spelt = iter(kept)
    return re.sub(f"[{MARKS}]", lambda _: next(spelt), text)


def translate_segments(segments: Sequence[Segment], translate: Callable[[str], str]) -> str:
    """Translate what is text, all of it in one call, and put the document together.

    A text whose translation is the text itself stays as it is spelt.

    Args:
        segments: a document's.
        translate: translates a text and keeps its line breaks, and its marks in their order.
    """
    texts = [segment.text for segment in segments if segment.text]
    lines = iter(translate("\n".join(texts)).split("\n") if texts else [])
    written = []
    for segment in segments:
        translation = "\n".join(islice(lines, segment.text.count("\n") + bool(segment.text)))
        if translation == segment.text:
            written.append(segment.raw)
        else:
            spelt = segment.before + segment.write(translation) + segment.after
            written.append(_fill(spelt, segment.kept))
    return "".join(written)
