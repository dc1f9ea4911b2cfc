"""What is translated of a document, what is copied, and how it is put together again.

A format is a function from a document's text to its `Segment`s. What must come through a sentence
unharmed, such as `%s` or a tag, is a mark while it is translated: `⟦0⟧` if it may move, `⟪1⟫` if it
must keep its order. Marks have no white space and no stops: sentences are not cut in them.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Mapping, Sequence
from itertools import islice
from typing import NamedTuple

from ..modeling.text_bahdanau import ADDRESS

logger = logging.getLogger(__name__)

# What a translation must hold exactly once, wherever it stands in a sentence.
MARK = r"⟦\d+⟧|⟪\d+⟫"

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
    ⟦\d+⟧|⟪\d+⟫|\t                                                     # what looks like a mark
    |\{\{.*?\}\}|\{%.*?%\}                                             # templates
    |\{\s*\w+\s*,(?:[^{}]|\{(?:[^{}]|\{[^{}]*+\})*+\})*+\}             # ICU: {n, plural, ...}
    |\$?\{(?:[^{}\s]*|[^{}\w\s][^{}]*)\}|\$[A-Za-z_]\w*                # {name}, ${name}, $name
    |%%|(?<!\d)%(?:\(\w+\)|\d+\$)?[-+\#0]*\d*(?:\.\d+)?(?:hh?|ll?|[qjzt])?[diouxXeEfFgGcCrsSpan@]
    |(?<!\d)%L?\d\d?(?!\w)                                             # %1 of Qt
"""
_PLACEHOLDER = re.compile(f"{_SPELT}|{ADDRESS.pattern}", re.VERBOSE)
_UNNAMED = re.compile(r"%(?!\(|\d+\$|L?\d+$|%)")  # which of several it is, its place tells
_EDGE = re.compile(r"(?:\s|⟪\d+⟫)+")


class Segment(NamedTuple):
    """A part of a document.

    Attributes:
        raw: the part as it stands in the document.
        text: what is to be translated, with marks; empty: nothing, the part is copied.
        kept: what the marks stand for, as the document spells it.
        write: spells a translation as the document does, its marks untouched.
        before, after: what stands around the translation.
    """

    raw: str
    text: str = ""
    kept: Mapping[str, str] = {}
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
    kept: dict[str, str] = {}

    def mark(spelt: str, in_order: bool) -> str:
        name = f"⟪{len(kept)}⟫" if in_order else f"⟦{len(kept)}⟧"
        kept[name] = spelt
        return name

    def plain(part: str) -> str:
        return _PLACEHOLDER.sub(
            lambda found: mark(write(found[0]), bool(_UNNAMED.match(found[0]))), read(part)
        )

    text = raw if text is None else text
    parts, place = [], 0
    for found in re.finditer(rf"(?P<code>{code})|(?:{markup})+", text):
        parts.append(plain(text[place : found.start()]))
        parts.append(mark(keep(found[0]), in_order=found["code"] is None))
        place = found.end()
    marked = "".join([*parts, plain(text[place:])])
    if not any(char.isalpha() for char in re.sub(MARK, "", marked)):
        return Segment(raw)
    edges = [
        edge.span()
        for edge in _EDGE.finditer(marked)
        if not any(_UNNAMED.match(kept[name]) for name in re.findall(MARK, edge[0]))
    ]
    start = edges[0][1] if edges and edges[0][0] == 0 else 0
    end = edges[-1][0] if edges and edges[-1][1] == len(marked) else len(marked)
    before, after = (_fill(keep(edge), kept) for edge in (marked[:start], marked[end:]))
    return Segment(raw, marked[start:end], kept, write, before, after)


def _fill(text: str, kept: Mapping[str, str]) -> str:
    return re.sub(MARK, lambda found: kept[found[0]], text)


def translate_segments(segments: Sequence[Segment], translate: Callable[[str], str]) -> str:
    """Translate what is text, all of it in one call, and put the document together.

    A text whose translation is the text itself stays as it is spelt. So does one whose translation
    is empty or lost a mark, and a warning says of how many this is true.

    Args:
        segments: a document's.
        translate: translates a text and keeps its line breaks.
    """
    texts = [segment.text for segment in segments if segment.text]
    lines = iter(translate("\n".join(texts)).split("\n") if texts else [])
    written, num_lost = [], 0
    for segment in segments:
        translation = "\n".join(islice(lines, segment.text.count("\n") + bool(segment.text)))
        result = segment.raw if translation == segment.text else _written(segment, translation)
        num_lost += result is None
        written.append(segment.raw if result is None else result)
    if num_lost:
        logger.warning(
            f"{num_lost} of {len(texts)} texts stay as they are: their translation is empty or "
            "lost a tag or placeholder"
        )
    return "".join(written)


def _written(segment: Segment, translation: str) -> str | None:
    marks = re.findall(MARK, segment.text)
    found = re.findall(MARK, translation)
    if not translation.strip() or sorted(found) != sorted(marks):
        return None
    in_order = iter([mark for mark in marks if mark[0] == "⟪"])
    kept = {mark: segment.kept[next(in_order) if mark[0] == "⟪" else mark] for mark in found}
    return segment.before + _fill(segment.write(translation), kept) + segment.after
