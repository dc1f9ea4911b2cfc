"""Texts out of mark-up: TMX, XLIFF, WMT's XML and PO hold pairs; SGM and IWSLT's files one side.

Entities that a file declares are refused, nothing outside of it is ever fetched. Codes inside a
sentence (`<ph>`, `<bpt>`) are left out; what they enclose as text stays.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial
from html.parser import HTMLParser
from itertools import chain, groupby, islice
from pathlib import Path
from typing import NamedTuple
from xml.parsers import expat

from ..errors import InputError
from ..files import DAMAGED, damaged, open_bytes, text_lines
from ..languages import base_language
from .columns import ROWS_LOOKED_AT

Names = tuple[str, str]
TextRecord = tuple[str, dict[str, str]]  # where it stands, and texts by language
Segment = tuple[str, str]  # document and number, if it has both, and the text

_LEAVES = {"seg", "source", "target"}
_UNITS = {"tu", "trans-unit", "segment", "doc"}
_ASIDE = {"alt-trans", "matches", "ignorable", "hyp"}  # proposals, what no one translates
_CODES = {"bpt", "ept", "ph", "it", "ut", "sub"}
_UNCLOSED = {"p", "hl"}  # in SGM; they say nothing that is needed
_MOST_DEPTH = 1000
SIDE = re.compile(r"<(mteval|srcset|refset|tstset)\b", re.IGNORECASE)
"""In the head of a file that holds the segments of one language."""
TAG_LINE = re.compile(
    r"\s*</?(url|doc|speaker|talkid|title|description|keywords|reviewer|translator)\b[^<>]*>"
)
_PO_LINE = re.compile(r'(?:(msgctxt|msgid|msgid_plural|msgstr(?:\[\d+\])?)\s+)?"(.*)"')
PO_ESCAPES = dict(zip("abfnrtv", "\a\b\f\n\r\t\v", strict=True))
"""What letters after a backslash stand for in PO; any other character stands for itself."""


class Piece(NamedTuple):
    """The text of one element, and where it stands."""

    line: int
    unit: int  # the number of the unit that it belongs to
    inside: tuple[str, ...]  # the names of the elements around it and its own
    attributes: dict[str, str]  # of all those; the innermost counts
    text: str


class _Collector(HTMLParser):
    """Makes pieces of what a parser meets: itself, which forgives as SGM needs it, or expat."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Piece] = []
        self._open: list[tuple[str, dict[str, str]]] = []
        self._text: list[str] | None = None
        self._unit = 0

    def handle_starttag(self, tag: str, attrs: Iterable[tuple[str, str | None]]) -> None:
        around = self._open[-1][1] if self._open else {}
        own = {_local(name): value or "" for name, value in attrs}
        name = _local(tag)
        if name in _UNCLOSED:
            return
        if name in _LEAVES:
            own.setdefault("id", "")  # and not the number of what it stands in
            self._text = []
        self._unit += name in _UNITS
        self._open.append((name, {**around, **own}))
        if len(self._open) > _MOST_DEPTH:
            raise ValueError(f"elements nested more than {_MOST_DEPTH} deep")

    def handle_endtag(self, tag: str) -> None:
        name = _local(tag)
        if all(opened != name for opened, _ in reversed(self._open)):
            return
        opened, attributes = self._open.pop()
        while opened != name:  # what is in it ends with it
            opened, attributes = self._open.pop()
        if name in _LEAVES and self._text is not None:
            inside = (*(opened for opened, _ in self._open), name)
            if not _ASIDE.intersection(inside):
                text = "".join(self._text)
                self.found.append(Piece(self.line(), self._unit, inside, attributes, text))
            self._text = None

    def handle_data(self, data: str) -> None:
        if self._text is not None and not any(name in _CODES for name, _ in self._open):
            self._text.append(data)

    def line(self) -> int:
        return self.getpos()[0]


@lru_cache(maxsize=1000)
def _local(name: str) -> str:
    return name.rpartition(":")[2].lower()


# --- one side ------------------------------------------------------------------------------------


def segments(path: Path, encoding: str | None) -> Iterator[Segment]:
    """The `<seg>` elements of a test set, each document's first translation alone."""
    parser, seen = _Collector(), set()
    for line in text_lines(path, encoding, keep_ends=True):
        try:
            parser.feed(line)
        except (ValueError, AssertionError) as error:
            raise InputError(f"{path}:{parser.line()}: not readable as SGM: {error}") from None
        for piece in parser.found:
            if piece.inside[-1] != "seg":
                continue
            name = (piece.attributes.get("docid"), piece.attributes["id"])
            key = " ".join(map(str, name)) if all(name) else ""
            if not key or key not in seen:
                seen.add(key)
                yield key, piece.text
        parser.found.clear()


# --- pairs ---------------------------------------------------------------------------------------


def xml_records(path: Path, encoding: str | None, languages: Names) -> Iterator[TextRecord]:
    """The units of TMX, XLIFF 1.2 and 2, and WMT's test sets, of which the first reference counts.

    Every record has the languages of the first ones; a text that a unit lacks is empty.
    """
    records = _xml_units(path, encoding, languages)
    head = list(islice(records, ROWS_LOOKED_AT))
    texts = dict.fromkeys(chain.from_iterable(record for _, record in head), "")
    for where, record in chain(head, records):
        yield where, texts | record


def _xml_units(path: Path, encoding: str | None, languages: Names) -> Iterator[TextRecord]:
    for _, unit in groupby(_xml_pieces(path, encoding), key=lambda piece: piece.unit):
        records: dict[str, TextRecord] = {}  # of a document by the number of its segments
        for piece in unit:
            attributes = piece.attributes
            lang = attributes.get("lang", "?").lower()
            if piece.inside[-1] != "seg":
                source = attributes.get("source-language") or attributes.get("srclang")
                target = attributes.get("target-language") or attributes.get("trglang")
                lang = _names(source, target, languages)[piece.inside[-1] == "target"]
            number = attributes.get("id", "") if "doc" in piece.inside else ""
            _, texts = records.setdefault(number, (f"{path}:{piece.line}", {}))
            texts.setdefault(lang, piece.text)
        yield from records.values()


def _names(source: str | None, target: str | None, languages: Names) -> Names:
    """What to call the sides of a file that tells the languages of both, of one, or of none."""
    if source and target:
        return source, target
    known = source or target
    if known is None:
        return "source", "target"
    others = {base_language(a): b for a, b in (languages, languages[::-1])}
    other = others.get(base_language(known), "?")
    return (known, other) if source else (other, known)


def _xml_pieces(path: Path, encoding: str | None) -> Iterator[Piece]:
    collector = _Collector()
    parser = expat.ParserCreate(None if encoding is None else "utf-8")

    def refuse(name: str, *_: object) -> None:
        raise ValueError(f"the entity {name!r:.40} is not one of XML's own, and is not read")

    collector.line = lambda: parser.CurrentLineNumber  # type: ignore[method-assign]
    parser.buffer_text = True
    parser.StartElementHandler = lambda tag, attrs: collector.handle_starttag(tag, attrs.items())
    parser.EndElementHandler = collector.handle_endtag
    parser.CharacterDataHandler = collector.handle_data
    parser.EntityDeclHandler = parser.SkippedEntityHandler = refuse
    try:
        for chunk in chain(_chunks(path, encoding), [b""]):
            parser.Parse(chunk, not chunk)
            yield from collector.found
            collector.found.clear()
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise InputError(f"{path}:{error.lineno}: not well-formed XML: {reason}") from None
    except DAMAGED as error:
        raise damaged(f"{path}:{parser.CurrentLineNumber}", error) from None
    except InputError:
        raise
    except (LookupError, ValueError) as error:  # ours, or of an encoding that expat lacks
        raise InputError(f"{path}:{parser.CurrentLineNumber}: {error}") from None


def _chunks(path: Path, encoding: str | None) -> Iterator[bytes]:
    """The bytes of a file, which says itself what encoding they are in unless one is given."""
    if encoding is not None:
        yield from (line.encode() for line in text_lines(path, encoding, keep_ends=True))
        return
    with open_bytes(path) as file:
        yield from iter(partial(file.read, 2**16), b"")


def po_records(path: Path, encoding: str | None, languages: Names) -> Iterator[TextRecord]:
    """The messages of a PO file; what is marked as fuzzy counts as not translated."""
    names: Names = ("source", "target")
    for number, entry in _po_entries(path, encoding):
        forms = [text for key, text in entry.items() if key.startswith("msgstr")]
        if not entry.get("msgid"):
            header = dict(re.findall(r"^([\w-]+): *(.*)$", forms[0], re.MULTILINE))
            names = _names(header.get("X-Source-Language"), header.get("Language"), languages)
            continue
        if "fuzzy" in entry:
            forms = [""]
        yield f"{path}:{number}", dict(zip(names, (entry["msgid"], forms[0]), strict=True))
        if "msgid_plural" in entry:
            texts = (entry["msgid_plural"], forms[-1])
            yield f"{path}:{number}", dict(zip(names, texts, strict=True))


def _po_entries(path: Path, encoding: str | None) -> Iterator[tuple[int, dict[str, str]]]:
    """Each message with its line: strings by their keyword, and `fuzzy` if it is so marked."""
    entry: dict[str, str] = {}
    keyword, start = "", 1
    for number, line in enumerate(chain(text_lines(path, encoding), ["#"]), start=1):
        match = _PO_LINE.fullmatch(line.strip())
        begins = line.startswith("#") or (match and match[1] in ("msgctxt", "msgid"))
        if begins and any(key.startswith("msgstr") for key in entry):
            yield start, entry
            entry = {}
        if line.startswith("#,") and "fuzzy" in line:
            entry["fuzzy"] = ""
        if match:
            if match[1]:
                keyword = match[1]
                start = number if keyword == "msgid" else start
            text = re.sub(r"\\(.)", lambda m: PO_ESCAPES.get(m[1], m[1]), match[2])
            entry[keyword] = entry.get(keyword, "") + text
        elif line.strip() and not line.startswith("#"):
            raise InputError(f"{path}:{number}: no line of a PO file: {line!r:.60}")
