"""Reads sentence pairs from files, strictly: whatever is wrong is told with file and line.

Tables and mark-up hold pairs, plain text files one side each; all of them may be packed. Nothing in
a file is ever executed. A reader yields `(source, target)` strings as they stand in the file; an
absent value or a blank line is an empty string, left for cleaning to drop and count.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import (
    PACKED,
    SURROGATE,
    archive_members,
    archive_of,
    checked_encoding,
    lines_or_errors,
    name_members,
    suffix_of,
    unpacked_name,
)
from . import markup
from .columns import ROWS_LOOKED_AT, Sides
from .tables import Record, Row, csv_rows, json_records, parquet_records, say_once, tsv_rows

Pair = tuple[str, str]
PairOrError = Pair | InputError
Group = tuple[Path, ...]  # one file of pairs, or two of one side each

LEFT_OUT = ("\0", "\0")
"""Stands where a bad row was, for cleaning to count; no text that is read has this character."""
_TABLES = (".tsv", ".txt", ".csv", ".json", ".jsonl", ".ndjson", ".parquet")
_MARKUP = (".tmx", ".xlf", ".xliff", ".po", ".xml", ".sgm", ".sgml")
_PLACES_NAMED = 5
_HINT = " (--skip_bad_rows leaves such rows out)"
# What lies beside the pairs in an archive.
_BESIDE = re.compile(r"(readme|licen[cs]e|copying|changelog)\b.*|.*\.(ids|scores|md|pdf)", re.I)


def open_pairs(
    spec: str,
    source_lang: str,
    target_lang: str,
    *,
    encoding: str | None = None,
    skip_bad_rows: bool = False,
    **columns: Any,
) -> Iterator[Pair]:
    """Read files of pairs one after the other, or aligned text files line by line.

    Args:
        spec: `pairs.tsv`, `a.jsonl.gz,b.csv`, `part*.tmx`; or aligned files, `a.en,a.zh`, or as
            many of each side, `part*.en,part*.zh`; or a zip file that holds such.
        source_lang: of the first text of each pair that is read.
        target_lang: of the second.
        encoding: of the text, if it is not UTF-8.
        skip_bad_rows: log the first places of rows that cannot be used, and yield `LEFT_OUT` there.
        columns: `source_column`, `target_column` and `told`, as those of `Sides`.

    Raises:
        InputError: a file that is missing, empty, of an unknown kind or in the wrong encoding, a
            row with too many or too few columns, files of unequal length; with file and line.
            What is wrong inside a file is raised on the way.
    """
    opened, sides = _opened(spec, source_lang, target_lang, encoding, **columns)
    return _judged(opened, skip_bad_rows, sides)


def tell_sides(
    spec: str, source_lang: str, target_lang: str, *, skip_bad_rows: bool = False, **reading: Any
) -> None:
    """Read of each file as far as its first pair, so that `told` is filled. As `open_pairs`."""
    opened, sides = _opened(spec, source_lang, target_lang, **reading)
    for file in opened:
        next((p for p in _judged([file], skip_bad_rows, sides) if p is not LEFT_OUT), None)


def _opened(
    spec: str, source_lang: str, target_lang: str, encoding: str | None = None, **columns: Any
) -> tuple[list[tuple[Path, Iterator[PairOrError]]], Sides]:
    """The pairs of each file or two aligned ones, unread, and what tells their sides apart."""
    checked_encoding(encoding)
    for path in pair_paths(spec):
        if not path.exists():
            raise InputError(f"no such file: {path}")
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
    sides = Sides(source_lang, target_lang, **columns)
    # Known at once, before anything is read: which files belong together, and what kind they are.
    groups = _groups(spec, encoding)
    return [(group[0], _pairs(group, encoding, sides)) for group in groups], sides


def _judged(
    opened: Iterable[tuple[Path, Iterator[PairOrError]]], skip_bad_rows: bool, sides: Sides
) -> Iterator[Pair]:
    """Raise what is wrong with a row, or leave the row out and name the first places."""
    bad = 0
    for path, pairs in opened:
        pair: PairOrError | None = None
        for pair in pairs:
            if not isinstance(pair, InputError):
                if sides.told[-1].pair is None:
                    sides.show(pair)
                yield pair
                continue
            if not skip_bad_rows:
                raise pair
            bad += 1
            if bad <= _PLACES_NAMED:
                say_once(f"left out: {pair}".removesuffix(_HINT))
            yield LEFT_OUT
        if pair is None:
            raise InputError(f"{path} holds no pair")
    if bad > _PLACES_NAMED:
        say_once(f"left out {bad:,} bad rows in all")


# --- which files belong together -----------------------------------------------------------------


def pair_paths(spec: str) -> list[Path]:
    """The files on the disk that `spec` names."""
    return [archive_of(path) or path for part in _parts(spec) for path in part]


def file_stamp(spec: str) -> str:
    """A short description of the files' state, so that a cache knows when they have changed."""
    states = [os.stat(path) for path in pair_paths(spec)]
    return " ".join(f"{state.st_size}:{state.st_mtime_ns}" for state in states)


def _parts(spec: str) -> list[list[Path]]:
    """The files that each part of `spec` names, the parts standing between commas."""
    names = [spec] if os.path.exists(spec) else [name.strip() for name in spec.split(",")]
    if not all(names):
        raise InputError(f"{spec!r}: give files with commas between, and no comma at the end")
    parts = []
    for name in names:
        found = [name]
        if glob.has_magic(name) and not os.path.exists(name):
            found = sorted(glob.glob(name, recursive=True))
            if not found:
                raise InputError(f"no such file: {name}")
        parts.append([Path(path) for path in found])
    return parts


def _groups(spec: str, encoding: str | None) -> list[Group]:
    """What is read together: each file of pairs alone, aligned files by two."""
    parts = [[p for path in part for p in _unzipped(path)] for part in _parts(spec)]
    paths = [path for part in parts for path in part]
    sides = [path for path in paths if _kind(path, encoding) == "side"]
    if len(paths) == 1 or not sides:
        return [(path,) for path in paths]
    if len(sides) < len(paths):
        other = next(path for path in paths if path not in sides)
        raise InputError(
            f"{sides[0]} holds one side of pairs and {other} holds both: give two aligned files, "
            "or files of pairs"
        )
    if len(paths) == 2:
        return [(paths[0], paths[1])]
    if len(parts) != 2 or len(parts[0]) != len(parts[1]):
        raise InputError(
            f"{sides[0]} and the other {len(sides) - 1} files hold one side of pairs each: give "
            "two, or as many of both sides, as in 'a*.en,a*.zh'"
        )
    return [*zip(*parts, strict=True)]


def _unzipped(path: Path) -> list[Path]:
    """The files of pairs in an archive, or the two of aligned text as Moses has them."""
    if path.suffix.lower() != ".zip":
        return [path]
    members = [p for p in archive_members(path) if not _BESIDE.fullmatch(p.name)]
    sides = [p for p in members if suffix_of(p) not in _TABLES + _MARKUP]
    known = [p for p in members if p not in sides]
    tables = [p for p in known if suffix_of(p) != ".xml"]  # which may be links between lines
    members = tables or (sides if len(sides) == 2 else known) or members
    if not members:
        raise InputError(f"{path} holds no file of pairs: {name_members(archive_members(path))}")
    return members


def _kind(path: Path, encoding: str | None) -> str:
    """What a file is read as: a suffix of the tables or of mark-up, or `side`."""
    suffix = suffix_of(path)
    if suffix in (".sgm", ".sgml"):
        return "side"
    if suffix in _TABLES + _MARKUP and suffix not in (".txt", ".xml"):
        return suffix
    lines = islice(lines_or_errors(path, encoding), ROWS_LOOKED_AT)
    head = [line for line in lines if not isinstance(line, InputError) and line.strip()]
    if suffix == ".xml":
        return "side" if any(map(markup.SIDE.search, head)) else suffix
    if head and all(re.fullmatch(r"\s*\{.*\}\s*", line) for line in head):
        return ".jsonl"
    is_tabbed = 2 * sum("\t" in line for line in head) > len(head)
    return ".tsv" if suffix == ".txt" and is_tabbed else "side"


# --- from a file to its pairs --------------------------------------------------------------------


def _pairs(paths: Group, encoding: str | None, sides: Sides) -> Iterator[PairOrError]:
    if len(paths) == 2:
        return _read_aligned(paths, encoding, sides)
    (path,) = paths
    kind, languages = _kind(path, encoding), sides.languages
    if kind == ".tsv" or (kind == "side" and suffix_of(path) == ".txt"):
        return _read_table(path, tsv_rows(path, encoding), sides)
    if kind == ".csv":
        return _read_table(path, csv_rows(path, encoding), sides)
    if kind in (".json", ".jsonl", ".ndjson"):
        return _read_records(json_records(path, encoding), sides)
    if kind == ".parquet":
        return _read_records(parquet_records(path), sides)
    if kind == ".po":
        return _read_records(markup.po_records(path, encoding, languages), sides)
    if kind in _MARKUP:
        return _read_records(markup.xml_records(path, encoding, languages), sides)
    if suffix_of(path) in _MARKUP:
        raise InputError(
            f"{path} holds one side of pairs: give the other too, with a comma between"
        )
    raise InputError(
        f"{path}: unknown kind of file; known: {' '.join(_TABLES + _MARKUP)}, each also packed as "
        f"{' '.join(PACKED)}"
    )


def _pair(source: str | InputError, target: str | InputError) -> PairOrError:
    """A pair, or what is wrong with the first of its texts that has something wrong."""
    if isinstance(source, InputError):
        return source
    return target if isinstance(target, InputError) else (source, target)


def _read_table(path: Path, rows: Iterator[Row], sides: Sides) -> Iterator[PairOrError]:
    """Rows of a TSV or CSV file, with a header if the first row names columns that we know."""
    for row in rows:
        if not isinstance(row[1], InputError):
            break
        yield row[1]
    else:
        return
    head = [row, *islice(rows, ROWS_LOOKED_AT - 1)]
    first_rows = [fields for _, fields in head if not isinstance(fields, InputError)]
    first, names = row[0], first_rows[0]
    source, target, has_header = sides.of_table(f"{path}:{first}", first_rows)
    for number, fields in chain(head[has_header:], rows):
        if isinstance(fields, InputError):
            yield fields
        elif len(fields) == len(names):
            yield fields[source], fields[target]
        elif not any(field.strip() for field in fields):
            yield "", ""
        else:
            columns_here = "1 column" if len(fields) == 1 else f"{len(fields)} columns"
            yield InputError(
                f"{path}:{number}: {columns_here} where line {first} has {len(names)}; "
                f"a tab or comma too many or too few?{_HINT}"
            )


def _read_records(records: Iterator[Record], sides: Sides) -> Iterator[PairOrError]:
    """JSON objects, rows of Parquet or units of mark-up, flat or with both texts in one column."""
    columns: Pair | None = None
    for where, record in records:
        texts = _texts(record, where)
        if isinstance(texts, InputError):
            yield texts
            continue
        columns = columns or sides.of_names(where, list(texts))
        if texts.keys() >= set(columns):
            yield _pair(*(_text(texts[name], name, where) for name in columns))
        else:
            yield sides.no_columns(where, texts)


def _texts(record: Any, where: str) -> dict[str, Any] | InputError:
    """The mapping that holds the two texts of a record: its own, or what `translation` holds."""
    if isinstance(record, InputError):
        return record
    if not isinstance(record, dict):
        return InputError(f"{where}: expected an object with two texts, not {_what(record)}")
    texts = record.get("translation", record)
    if isinstance(texts, dict):
        return texts
    if len(record) > 1:  # a column of that name
        return record
    return InputError(f"{where}: 'translation' must hold an object, not {_what(texts)}")


def _text(value: Any, name: str, where: str) -> str | InputError:
    if value is None:
        return ""
    if not isinstance(value, str):
        return InputError(f"{where}: {name!r} must be text, not {_what(value)}")
    if found := SURROGATE.search(value):  # JSON can spell them; UTF-8 cannot
        return InputError(
            f"{where}: {name!r} is no text: half a character (\\u{ord(found[0]):x}) at "
            f"{found.start() + 1}"
        )
    return value


def _what(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), repr(value)[:40])


def _read_aligned(
    paths: Sequence[Path], encoding: str | None, sides: Sides
) -> Iterator[PairOrError]:
    """Two files of one side each, line by line or, in test sets, segment by segment."""
    files = [_side(path, encoding) for path in paths]
    heads = [list(islice(file, ROWS_LOOKED_AT)) for file in files]
    rows = [
        ["" if isinstance(text, InputError) else text for _, text in row]
        for row in zip(*heads, strict=False)
    ]
    names = [unpacked_name(path) for path in paths]
    if names[0] == names[1]:  # as in de/train.txt,en/train.txt
        names = [str(path) for path in paths]
    swap = sides.target_is_first(names, rows)
    left, right = map(chain, heads, files)
    for count, (a, b) in enumerate(zip_longest(left, right), start=1):
        if a is None or b is None:
            longer = count + sum(1 for _ in (left if b is None else right))
            sizes = (longer, count - 1) if b is None else (count - 1, longer)
            raise InputError(
                f"{paths[0]} has {sizes[0]} lines and {paths[1]} has {sizes[1]}: "
                "aligned files need the same number"
            )
        if a[0] and b[0] and a[0] != b[0]:
            raise InputError(
                f"segment {count} is {a[0]} in {paths[0]} and {b[0]} in {paths[1]}: aligned files "
                "need the same"
            )
        pair = _pair(a[1], b[1])
        yield pair[::-1] if swap and isinstance(pair, tuple) else pair


def _side(path: Path, encoding: str | None) -> Iterator[tuple[str, str | InputError]]:
    """The lines of a file of one side, or its segments with their names."""
    if suffix_of(path) in _MARKUP:
        yield from markup.segments(path, encoding)
        return
    lines = lines_or_errors(path, encoding)
    first = list(islice(lines, 1))
    is_tagged = any(isinstance(line, str) and markup.TAG_LINE.match(line) for line in first)
    if is_tagged:  # IWSLT's training files
        say_once(f"{path}: lines in tags are left out")
    for line in chain(first, lines):
        if not (is_tagged and isinstance(line, str) and markup.TAG_LINE.match(line)):
            yield "", line
