"""What is translated of a document, what is copied, and how it is put together again.

A format is a function from a document's text to its `Segment`s. What must come through a sentence
unharmed, such as `%s` or a tag, is a mark while it is translated: one character of those that
Unicode leaves to private use, of which a segment can have 2,048.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import islice
from typing import NamedTuple

from ..inference.segmentation import CLOSING_TAGS, MARKS, OPENING_TAGS, PLACEHOLDERS
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
    \t|\{\{.{0,300}?\}\}|\{%.{0,300}?%\}                               # templates
    |\{\s*\w+\s*,(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}             # ICU: {n, plural, ...}
    |\$?\{(?:[^{}\s]*|[^{}\w\s][^{}]*)\}|\$[A-Za-z_]\w*                # {name}, ${name}, $name
    |%%|(?<!\d)%(?:\(\w+\)|\d+\$)?[-+\#0]*\d*(?:\.\d+)?(?:hh?|ll?|[qjzt])?[diouxXeEfFgGcCrsSpan@]
    |(?<!\d)%L?\d\d?(?!\w)                                             # %1 of Qt
"""
_PLACEHOLDER = re.compile(f"{_SPELT}|{ADDRESS.pattern}|[{MARKS}]", re.VERBOSE)
_OPENING_TAG = re.compile(
    r"<(?!(?:br|hr|img|input|wbr)\b|\w[\w.+-]*[:@]|(?s:.*)</)[A-Za-z][^>]*+(?<!/)>"
    r"|!?\[(?!\^|[ xX]\])|[*_~]+\Z"
)
_MOST_MARKS = 2048


class Segment(NamedTuple):
    """A part of a document.

    Attributes:
        raw: the part as it stands in the document.
        text: what is to be translated, with marks; empty: nothing, the part is copied.
        kept: what the marks stand for, as the document spells it.
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
    copied: str = f"{CODE}|{TAGS}",
    read: Callable[[str], str] = str,
    write: Callable[[str], str] = str,
    keep: Callable[[str], str] = str,
) -> Segment:
    """Make a segment of what may be text; without a letter it is copied.

    Args:
        raw: as it stands in the document.
        text: what it says, if that is another.
        copied: regular expression of code and markup in it.
        read: from the document's spelling to plain text, without code and markup.
        write: the other way round; for translations and placeholders.
        keep: the other way round, for code, markup and white space at both ends.
    """
    kept: list[str] = []

    def mark(spelt: str) -> str:
        kind = PLACEHOLDERS
        if spelt.startswith(("</", "]")) or (spelt[0] in "*_~" and kept.count(spelt) % 2):
            kind = CLOSING_TAGS
        elif _OPENING_TAG.match(spelt):
            kind = OPENING_TAGS
        kept.append(spelt)
        return chr(ord(kind[0]) + (len(kept) - 1) % _MOST_MARKS)

    def plain(part: str) -> str:
        return _PLACEHOLDER.sub(lambda found: mark(write(found[0])), read(part))

    text = raw if text is None else text
    marked, place = "", 0
    for found in re.finditer(copied, text):
        marked += plain(text[place : found.start()])
        marked += mark(keep(found[0]))
        place = found.end()
    marked += plain(text[place:])
    if not any(char.isalpha() for char in marked) or len(kept) > _MOST_MARKS:
        return Segment(raw)
    start, end = len(marked) - len(marked.lstrip()), len(marked.rstrip())
    before, after = keep(marked[:start]), keep(marked[end:])
    return Segment(raw, marked[start:end], kept, write, before, after)


def translate_segments(segments: Sequence[Segment], translate: Callable[[str], str]) -> str:
    """Translate what is text, all of it in one call, and put the document together.

    `translate` must keep line breaks and all marks. A text whose translation is the text itself
    stays as it is spelt.
    """
    texts = [segment.text for segment in segments if segment.text]
    lines = iter(translate("\n".join(texts)).split("\n") if texts else [])
    written = []
    for segment in segments:
        translation = "\n".join(islice(lines, segment.text.count("\n") + bool(segment.text)))
        if translation == segment.text:
            written.append(segment.raw)
            continue
        spelt = segment.before + segment.write(translation) + segment.after
        parts = re.split(f"([{MARKS}])", spelt)  # every other one is a mark
        parts[1::2] = (segment.kept[ord(mark) % _MOST_MARKS] for mark in parts[1::2])
        written += parts
    return "".join(written)
