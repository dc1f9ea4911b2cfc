"""Which column of a table, and which of two aligned files, holds the source and which the target.

The readers hand over names and the first rows; nothing here opens a file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..errors import InputError
from ..languages import CODE_NAMES, HAN, base_language

ROWS_LOOKED_AT = 200
_ROLE_NAMES = (("source", "target"), ("src", "tgt"), ("src", "trg"))
_HAN = re.compile(f"[{HAN}]")
_NAME = re.compile("[a-z][a-z0-9-]*")
_MOST_NAMES = 10  # in a message


class Columns(NamedTuple):
    """The places of source and target in a row, and whether the first row names the columns."""

    source: int
    target: int
    has_header: bool


def table_columns(
    where: str, head: Sequence[Sequence[str]], source_lang: str, target_lang: str
) -> Columns:
    """The columns of a table without names of its own, whose first rows are `head`.

    Raises:
        InputError: nothing tells.
    """
    names = head[0]
    columns = find_columns(names, source_lang, target_lang)
    if columns is not None:
        return Columns(names.index(columns[0]), names.index(columns[1]), True)
    if _is_header(names) or not (len(names) == 2 or _is_attributed(names)):
        raise no_columns(where, names, source_lang, target_lang)
    chinese_first = _chinese_first(head, source_lang, target_lang)
    return Columns(*((1, 0) if chinese_first else (0, 1)), False)


def named_columns(
    where: str, names: Sequence[str], source_lang: str, target_lang: str
) -> tuple[str, str]:
    """The names of source and target among those of a record.

    Raises:
        InputError: nothing tells.
    """
    columns = find_columns(names, source_lang, target_lang)
    if columns is None:
        raise no_columns(where, names, source_lang, target_lang)
    return columns


def target_is_first(
    names: Sequence[str], head: Sequence[Sequence[str]], source_lang: str, target_lang: str
) -> bool:
    """Whether the first of two aligned files, of these names and first lines, is the target."""
    suffixes = [name.rpartition(".")[2] for name in names]
    columns = find_columns(suffixes, source_lang, target_lang)
    if columns is not None:
        return columns[0] != suffixes[0]
    return _chinese_first(head, source_lang, target_lang)


def find_columns(
    names: Sequence[str], source_lang: str, target_lang: str
) -> tuple[str, str] | None:
    """Which two of `names` hold the source and the target, or None.

    Tried in turn: the language codes themselves, their names or variants (`zh-CN`, `Chinese`),
    `non_english` for what is not English, `source` and `target`. A name that fits twice does not
    count.
    """
    source = _language_column(names, source_lang)
    target = _language_column(names, target_lang)
    other = [name for name in names if _plain(name) in ("non-english", "nonenglish")]
    if len(other) == 1:
        if target is None and base_language(source_lang) == "en":
            target = other[0]
        if source is None and base_language(target_lang) == "en":
            source = other[0]
    if source is not None and target is not None and source != target:
        return source, target
    plain = {_plain(name): name for name in names}
    for first, second in _ROLE_NAMES:
        if first in plain and second in plain:
            return plain[first], plain[second]
    return None


def no_columns(where: str, names: Iterable[str], source_lang: str, target_lang: str) -> InputError:
    """The error for a table in which `find_columns` finds nothing."""
    shown = [repr(name if len(name) < 40 else name[:36] + " ...") for name in names]
    more = len(shown) - _MOST_NAMES
    found = ", ".join(shown[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
    return InputError(
        f"{where}: no columns for {source_lang} and {target_lang}; it has: {found}. "
        f"Name them {source_lang} and {target_lang}, or source and target"
    )


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")


def _language_column(names: Sequence[str], lang: str) -> str | None:
    exact = [name for name in names if _plain(name) == _plain(lang)]
    close = [name for name in names if base_language(_plain(name)) == base_language(lang)]
    found = exact or close
    return found[0] if len(found) == 1 else None


def _is_header(fields: Sequence[str]) -> bool:
    """Whether these are names of columns, at least one of them a name that we know."""
    known = set(CODE_NAMES).union(*CODE_NAMES.values(), *_ROLE_NAMES, ["translation"])
    words = [_plain(field) for field in fields]
    return any(word in known for word in words) and all(_NAME.fullmatch(word) for word in words)


def _is_attributed(fields: Sequence[str]) -> bool:
    """Tatoeba's export: two sentences and whom to thank for them."""
    return len(fields) == 3 and "attribution" in fields[2].lower()


def _chinese_first(rows: Sequence[Sequence[str]], source_lang: str, target_lang: str) -> bool:
    """Whether the target side stands first, as far as the script tells."""
    first = sum(1 for fields in rows if _HAN.search(fields[0]))
    second = sum(1 for fields in rows if len(fields) > 1 and _HAN.search(fields[1]))
    if base_language(target_lang) == "zh":
        return first > 2 * second
    if base_language(source_lang) == "zh":
        return second > 2 * first
    return False
