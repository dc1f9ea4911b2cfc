"""Texts of programs: gettext's catalogs (.po), and strings in JSON."""

from __future__ import annotations

import json
import re

from ..data.markup import PO_ESCAPES
from ..errors import InputError
from .segments import Segment, make_segment

_STRING = r'"(?:[^"\\\r\n]|\\.)*+"'
_STRINGS = rf"{_STRING}(?:\s+{_STRING})*+"  # which are read as one
_ENTRY = re.compile(
    r"^(?P<comments>(?:#(?!~)[^\r\n]*+\s++)*+)"
    rf"(?:msgctxt\s+{_STRINGS}\s+)?msgid\s+(?P<one>{_STRINGS})\s+"
    rf"(?:msgid_plural\s+(?P<many>{_STRINGS})\s+)?"
    rf"(?P<translations>(?:msgstr(?:\[\d+\])?\s+{_STRINGS}\s*)+)",
    re.MULTILINE,
)
_TRANSLATION = re.compile(rf"msgstr(?:\[(?P<form>\d+)\])?\s+(?P<text>{_STRINGS})")
_FUZZY = re.compile(r"^#,.*\bfuzzy\b", re.MULTILINE)
_SPELT = {char: f"\\{letter}" for letter, char in PO_ESCAPES.items()} | {'"': '\\"', "\\": "\\\\"}
_JSON_STRING = re.compile(r'"((?:[^"\\]|\\.)*+)"(\s*:)?')


def read_catalog(text: str) -> list[Segment]:
    """The empty translations of a catalog, to be filled from what they translate.

    Of several plural forms the first is filled from the singular, the others, or a single one, from
    the plural. Entries that are translated, fuzzy or obsolete are copied, and so is the header. An
    entry whose translation would be the text itself stays empty, which says the same.

    Raises:
        InputError: it has no entries.
    """
    segments, place = [], 0
    for entry in _ENTRY.finditer(text):
        if (entry["one"] == '""' and not entry["many"]) or _FUZZY.search(entry["comments"]):
            continue
        forms = list(_TRANSLATION.finditer(text, *entry.span("translations")))
        for form in forms:
            if _unquoted(form["text"]):
                continue
            is_plural = entry["many"] and (form["form"] != "0" or len(forms) == 1)
            said = _unquoted(entry["many" if is_plural else "one"])
            made = make_segment(form["text"], said, write=_escaped, keep=_escaped)
            made = made._replace(before=f'"{made.before}', after=f'{made.after}"')
            segments += [Segment(text[place : form.start("text")]), made]
            place = form.end("text")
    if not segments and not _ENTRY.search(text):
        raise InputError("it has no entries of gettext's: msgid and msgstr")
    return [*segments, Segment(text[place:])]


def _unquoted(quoted: str) -> str:
    joined = "".join(string[1:-1] for string in re.findall(_STRING, quoted))
    return re.sub(r"\\(.)", lambda found: PO_ESCAPES.get(found[1], found[1]), joined)


def _escaped(text: str) -> str:
    return "".join(_SPELT.get(char, char) for char in text)


def read_json_strings(text: str) -> list[Segment]:
    """The strings among the values of JSON, nested ones too; keys, numbers and layout are copied.

    Raises:
        InputError: it is not JSON.
    """
    try:
        json.loads(text, parse_int=str)
    except json.JSONDecodeError as error:
        raise InputError(f"line {error.lineno} is not JSON: {error.msg}") from None
    except RecursionError:
        raise InputError("its values are nested too deep") from None
    segments, place = [], 0
    for string in _JSON_STRING.finditer(text):
        if string[2] is None:
            said = json.loads(f'"{string[1]}"')
            segments.append(Segment(text[place : string.start(1)]))
            segments.append(make_segment(string[1], said, write=_json_escaped, keep=_json_escaped))
            place = string.end(1)
    return [*segments, Segment(text[place:])]


def _json_escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
