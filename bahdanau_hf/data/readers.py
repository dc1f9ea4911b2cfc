"""Reads sentence pairs from files, strictly: whatever is wrong is told with file and line.

TSV, CSV, JSON, JSON Lines and Parquet, plain or gzipped, or two aligned text files. Nothing in a
file is ever executed. A reader yields `(source, target)` strings as they stand in the file; an
absent value or a blank line is an empty string, left for cleaning to drop and count.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Any, BinaryIO

from ..errors import InputError, first_line
from .columns import ROWS_LOOKED_AT, named_columns, no_columns, table_columns, target_is_first

Pair = tuple[str, str]
Row = tuple[int, list[str]]  # line number, from 1, and its fields
Record = tuple[str, Any]  # where it stands, and what should be a mapping

SUFFIXES = (".tsv", ".txt", ".csv", ".json", ".jsonl", ".ndjson", ".parquet")
# Memory and disk stay bounded whatever a file holds. Text shrinks to a third or a tenth when it is
# zipped; what shrinks to a fiftieth and is large was made to fill the disk of who unpacks it.
_LONGEST_LINE_BYTES = 2**28
_UNZIPPED_BYTES = 2**28
_UNZIPPED_FACTOR = 50
_SURROGATE = re.compile("[\ud800-\udfff]")


def open_pairs(spec: str, source_lang: str, target_lang: str, **columns: Any) -> Iterator[Pair]:
    """Read one file, or two aligned text files named with a comma between.

    Args:
        spec: `pairs.tsv`, `pairs.jsonl.gz`, ... or `a.en,a.zh`.
        source_lang: of the first text of each pair that is read.
        target_lang: of the second.
        columns: `source_column`, `target_column` and `told` of `table_columns`.

    Raises:
        InputError: a file that is missing, empty, of an unknown kind or in the wrong encoding, a
            row with too many or too few columns, files of unequal length; with file and line.
            What is wrong inside a file is raised on the way.
    """
    paths = pair_paths(spec)
    for path in paths:
        if not path.exists():
            raise InputError(f"no such file: {path}")
        if not path.is_file():
            raise InputError(f"{path} is not a file")
        if path.stat().st_size == 0:
            raise InputError(f"{path} is empty")
    return _not_empty(_pairs(paths, source_lang, target_lang, columns), paths)


def pair_paths(spec: str) -> list[Path]:
    """The one file or the two aligned files that `spec` names."""
    if "," not in spec or Path(spec).exists():
        return [Path(spec)]
    names = [name.strip() for name in spec.split(",")]
    if len(names) != 2 or not all(names):
        raise InputError(f"{spec!r}: give one file, or two aligned ones with a comma between")
    return [Path(name) for name in names]


def _pairs(
    paths: Sequence[Path], source_lang: str, target_lang: str, columns: dict[str, Any]
) -> Iterator[Pair]:
    if len(paths) == 2:
        return _read_aligned(paths, source_lang, target_lang, columns)
    path = paths[0]
    suffix = _suffix(path)
    if suffix in (".tsv", ".txt"):
        rows = ((number, line.split("\t")) for number, line in _lines(path))
        return _read_table(path, rows, source_lang, target_lang, columns)
    if suffix == ".csv":
        return _read_table(path, _csv_rows(path), source_lang, target_lang, columns)
    if suffix in (".json", ".jsonl", ".ndjson"):
        return _read_records(_json_records(path), source_lang, target_lang, columns)
    if suffix == ".parquet":
        return _read_records(_parquet_records(path), source_lang, target_lang, columns)
    raise InputError(f"{path}: unknown kind of file; known: {' '.join(SUFFIXES)}, each also .gz")


def _not_empty(pairs: Iterator[Pair], paths: Sequence[Path]) -> Iterator[Pair]:
    first = next(pairs, None)
    if first is None:
        raise InputError(f"{paths[0]} holds no pair")
    yield first
    yield from pairs


def _suffix(path: Path) -> str:
    name = path.with_suffix("") if path.suffix.lower() == ".gz" else path
    return name.suffix.lower()


# --- lines ---------------------------------------------------------------------------------------


class _Unzipped(io.RawIOBase):
    """What a gzip file holds, up to a size that text can have."""

    def __init__(self, path: Path) -> None:
        self._file, self._path, self._bytes = gzip.GzipFile(path), path, 0
        self._most = max(_UNZIPPED_BYTES, _UNZIPPED_FACTOR * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = self._file.readinto(buffer)
        self._bytes += size
        if self._bytes > self._most:
            raise InputError(
                f"{self._path} unpacks to more than {self._most // 2**20:,} MiB, over "
                f"{_UNZIPPED_FACTOR} times its size: unpack it yourself if you trust it"
            )
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


def _open(path: Path) -> BinaryIO:
    try:
        if path.suffix.lower() == ".gz":
            return io.BufferedReader(_Unzipped(path), 2**16)
        return path.open("rb")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines without their ends. Only LF and CR LF end a line, as in every aligned file."""
    with _open(path) as file:
        number = 0
        try:
            lines = iter(partial(file.readline, _LONGEST_LINE_BYTES + 1), b"")
            for number, raw in enumerate(lines, start=1):
                if len(raw) > _LONGEST_LINE_BYTES:
                    raise InputError(
                        f"{path}:{number}: a line of more than {_LONGEST_LINE_BYTES // 2**20} MiB; "
                        "give a pair a line, of JSON an object a line"
                    )
                yield number, _decode(raw.removesuffix(b"\n").removesuffix(b"\r"), path, number)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise InputError(f"{path}:{number + 1}: not a whole gzip file: {error}") from None


def _decode(raw: bytes, path: Path, number: int) -> str:
    if number == 1 and raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise InputError(f"{path}:1: the file is in UTF-16; save it as UTF-8")
    if b"\0" in raw:
        raise InputError(f"{path}:{number}: NUL byte; the file is not UTF-8 text")
    try:
        return raw.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise InputError(
            f"{path}:{number}: not UTF-8 (byte 0x{raw[error.start]:02x} at {error.start + 1}); "
            "convert the file to UTF-8"
        ) from None


def _csv_rows(path: Path) -> Iterator[Row]:
    reader = csv.reader((line + "\n" for _, line in _lines(path)), strict=True)
    while True:
        start = reader.line_num + 1
        try:
            yield start, next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{path}:{start}: {error}") from None


# --- tables --------------------------------------------------------------------------------------


def _read_table(
    path: Path, rows: Iterator[Row], source_lang: str, target_lang: str, options: dict[str, Any]
) -> Iterator[Pair]:
    """Rows of a TSV or CSV file, with a header if the first row names columns that we know."""
    head = list(islice(rows, ROWS_LOOKED_AT))
    if not head:
        return
    names = head[0][1]
    first_rows = [fields for _, fields in head]
    columns = table_columns(f"{path}:1", first_rows, source_lang, target_lang, **options)
    rows = chain(head, rows)
    if columns.has_header:
        next(rows)
    for number, fields in rows:
        if len(fields) == len(names):
            yield fields[columns.source], fields[columns.target]
        elif not any(field.strip() for field in fields):
            yield "", ""
        else:
            columns_here = "1 column" if len(fields) == 1 else f"{len(fields)} columns"
            raise InputError(
                f"{path}:{number}: {columns_here} where line 1 has {len(names)}; "
                "a tab or comma too many or too few?"
            )


def _read_aligned(
    paths: Sequence[Path], source_lang: str, target_lang: str, options: dict[str, Any]
) -> Iterator[Pair]:
    """Two text files, line by line; suffixes tell which is which, else script, else order."""
    sides = [_lines(path) for path in paths]
    heads = [list(islice(side, ROWS_LOOKED_AT)) for side in sides]
    rows = [[a[1], b[1]] for a, b in zip(*heads, strict=False)]
    names = [path.name.removesuffix(".gz") for path in paths]
    swap = target_is_first(names, rows, source_lang, target_lang, **options)
    left, right = (chain(head, side) for head, side in zip(heads, sides, strict=True))
    count = 0
    for count, (a, b) in enumerate(zip_longest(left, right), start=1):
        if a is None or b is None:
            longer = count + sum(1 for _ in (left if b is None else right))
            sizes = (longer, count - 1) if b is None else (count - 1, longer)
            raise InputError(
                f"{paths[0]} has {sizes[0]} lines and {paths[1]} has {sizes[1]}: "
                "aligned files need the same number"
            )
        yield (b[1], a[1]) if swap else (a[1], b[1])


# --- records -------------------------------------------------------------------------------------


def _read_records(
    records: Iterator[Record], source_lang: str, target_lang: str, options: dict[str, Any]
) -> Iterator[Pair]:
    """JSON objects or Parquet rows, flat or with both texts under `translation`."""
    columns: Pair | None = None
    for where, record in records:
        if not isinstance(record, dict):
            raise InputError(f"{where}: expected an object with two texts, not {_kind(record)}")
        texts = record.get("translation", record)
        if not isinstance(texts, dict):
            raise InputError(f"{where}: 'translation' must hold an object, not {_kind(texts)}")
        if columns is None:
            columns = named_columns(where, list(texts), source_lang, target_lang, **options)
        if not texts.keys() >= set(columns):
            raise no_columns(where, texts, source_lang, target_lang)
        source, target = columns
        yield _text(texts[source], source, where), _text(texts[target], target, where)


def _text(value: Any, name: str, where: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} must be text, not {_kind(value)}")
    if found := _SURROGATE.search(value):  # JSON can spell them; UTF-8 cannot
        raise InputError(
            f"{where}: {name!r} is no text: half a character (\\u{ord(found[0]):x}) at "
            f"{found.start() + 1}"
        )
    return value


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", type(None): "null"}
    return names.get(type(value), repr(value)[:40])


def _json_records(path: Path) -> Iterator[Record]:
    """JSON Lines, or one list of objects, or an object with that list under `data`."""
    lines = ((number, line) for number, line in _lines(path) if line.strip())
    number, first = next(lines, (1, ""))
    if not first:
        return
    if _is_record(first, path):
        for place, line in chain([(number, first)], lines):
            yield f"{path}:{place}", _json(line, path, place)
        return
    content = _json("\n".join(line for _, line in _lines(path)), path, 1)
    if isinstance(content, dict):
        content = content.get("data")
    if not isinstance(content, list):
        raise InputError(f"{path}: expected JSON Lines, a list of objects, or one under 'data'")
    for number, record in enumerate(content, start=1):
        yield f"{path}: item {number}", record


def _is_record(line: str, path: Path) -> bool:
    """Whether a file that begins with this line is JSON Lines."""
    if line.lstrip().startswith("["):
        return False
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return _suffix(path) != ".json"
    return isinstance(record, dict) and not isinstance(record.get("data"), list)


def _json(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        raise InputError(f"{path}:{line}: not valid JSON: {error.msg}") from None
    except ValueError:  # Python's limit on digits
        raise InputError(f"{path}:{number}: a number in the JSON is too long") from None
    except RecursionError:
        raise InputError(f"{path}:{number}: JSON nested too deep") from None


def _parquet_records(path: Path) -> Iterator[Record]:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with _open(path) as file:
            zipped = path.suffix.lower() == ".gz"
            table = pq.ParquetFile(io.BytesIO(file.read()) if zipped else file)
            for batch in table.iter_batches(batch_size=10_000):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except InputError:
        raise
    # Damaged, or of values that Python does not have, such as a date after the year 9999.
    except (pa.ArrowException, OSError, EOFError, zlib.error, ValueError, OverflowError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: row {number + 1}: not readable as Parquet: {reason}") from None


def file_stamp(spec: str) -> str:
    """A short description of the files' state, so that a cache knows when they have changed."""
    states = [os.stat(path) for path in pair_paths(spec)]
    return " ".join(f"{state.st_size}:{state.st_mtime_ns}" for state in states)
