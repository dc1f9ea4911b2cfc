"""Marked-up texts: HTML and Markdown."""

from __future__ import annotations

import re
from functools import partial
from html import escape, unescape
from itertools import pairwise
from typing import Any

from ..errors import InputError
from .segments import CODE, TAGS, Segment, make_segment

_NAME = re.compile(r"</?([\w-]+)")
# Elements inside a sentence; all others end it.
_INLINE_NAMES = """
    a abbr acronym b bdi bdo big cite code data del dfn em font i img ins kbd mark math q s samp
    small span strike strong sub sup svg time tt u var wbr
"""
_INLINE = frozenset(_INLINE_NAMES.split())
_FRONT_MATTER = re.compile(r"(?s)(---|\+\+\+)[ \t]*\r?\n(?:.*?\n)??\1[ \t]*(?:\r?\n|\Z)")
_LINE = re.compile(r"[^\r\n]*(?:\r\n?|\n|\Z)")
_DIRECTIVE = re.compile(r"!!!|\?\?\?|:::")  # of MkDocs, Docusaurus
_TARGET = r"""\((?:\\.|[^()\\]|\((?:\\.|[^()\\])*+\))*+\)"""
_MARKDOWN = (
    r"(?s:(?<![`\\])(?P<ticks>`++).{1,2000}?(?<!`)(?P=ticks)(?!`))|\$\$.{1,2000}?\$\$|\[\^[^\]\s]+\]:?"
    rf"|\\[!-/:-@\[-`{{-~]|\\$|&\#?\w+;|{CODE}|{TAGS}"
    rf"|\[[ xX]\]\s+|!?\[|\](?:{_TARGET}|\[[^\]]*\])?"
    r"|\*+|~~|(?<!\w)_+(?=\S)|(?<=\S)_+(?!\w)"
)


def read_html(text: str) -> list[Segment]:
    """The texts between tags that end a sentence; other tags are placeholders in them.

    Tags, comments, and elements that hold code are copied. Entities become the characters that they
    stand for; of these, translations have `&`, `<` and `>` as entities again.
    """
    segments, place = [], 0
    for markup in re.finditer(f"{CODE}|{TAGS}", text):
        name = _NAME.match(markup[0])
        if name is not None and name[1].lower() not in _INLINE:
            segments += [*_html_run(text[place : markup.start()]), Segment(markup[0])]
            place = markup.end()
    return segments + _html_run(text[place:])


def _html_run(text: str) -> list[Segment]:
    start, end = len(text) - len(text.lstrip()), len(text.rstrip())
    said = make_segment(
        text[start:end],
        read=lambda run: re.sub(r"\s+", " ", unescape(run)),
        write=partial(escape, quote=False),
    )
    return [Segment(text[:start]), said, Segment(text[max(start, end) :])]


def read_markdown(text: str) -> list[Segment]:
    """The texts of paragraphs, headings, list items, quotes and table cells.

    Front matter, code, link targets, references and HTML tags are copied. A paragraph that is
    translated becomes one line, or several if it has hard line breaks.

    Raises:
        InputError: the extra [documents] is not installed.
    """
    try:
        from markdown_it import MarkdownIt
    except ImportError:
        raise InputError("Markdown needs pip install 'bahdanau-hf[documents]'") from None
    front = _FRONT_MATTER.match(text)
    place = front.end() if front else 0
    starts = [line.start() for line in _LINE.finditer(text, place)] + [len(text)]
    found: dict[str, Any] = {}
    tokens = MarkdownIt("commonmark").enable("table").parse(text[place:], found)
    # What stands for a link's label as it is must stay as it is.
    labels = "|".join(re.escape(label) for label in found.get("references", ()))
    copied = rf"(?i:!?\[(?:{labels})\](?:\[\])?(?![(\[]))|{_MARKDOWN}" if labels else _MARKDOWN
    segments = [Segment(text[:place])]
    for token in tokens:
        if token.map is None or token.type not in ("inline", "html_block"):
            continue
        first, last = token.map
        if token.type == "html_block":
            block = text[starts[first] : starts[last]]
            if block.split() == token.content.split():  # nothing of a quote stands in between
                segments += [Segment(text[place : starts[first]]), *read_html(block)]
                place = starts[last]
            continue
        for spans in _markdown_lines(text, place, starts[first : last + 1], token.content):
            begin, end = spans[0][0], spans[-1][1]
            said = " ".join(text[slice(*span)] for span in spans)
            segments.append(Segment(text[place:begin]))
            segments.append(make_segment(text[begin:end], said, copied=copied))
            place = end
    return [*segments, Segment(text[place:])]


def _markdown_lines(
    text: str, place: int, starts: list[int], content: str
) -> list[list[tuple[int, int]]]:
    """Where the lines of a block stand in a text, from `place` on; a list for each hard break."""
    groups: list[list[tuple[int, int]]] = [[]]
    for (start, end), line in zip(pairwise(starts), content.split("\n"), strict=False):
        bare = line.strip()
        # In a cell of a table a bar is escaped, of which the parser says nothing.
        spelt = re.compile(re.escape(bare).replace(r"\|", r"\\?\|"))
        found = spelt.search(text, max(place, start), end)
        if not bare or found is None or _DIRECTIVE.match(bare):
            groups.append([])
            continue
        groups[-1].append(found.span())
        place = found.end()
        if line.endswith(("  ", "\\")):
            groups.append([])
    return [group for group in groups if group]
