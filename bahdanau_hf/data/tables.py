"""Rows of TSV and CSV, records of JSON, JSON Lines and Parquet. Nothing in a file is executed.

What is wrong with a row or a record stands in its place, as the error that says so.
"""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from itertools import chain, islice
from pathlib import Path
from typing import Any

from ..errors import InputError, first_line
from ..files import DAMAGED, PACKED, archive_of, lines_or_errors, open_bytes, suffix_of, text_lines
from .columns import ROWS_LOOKED_AT

Row = tuple[int, list[str] | InputError]  # line number, from 1, and its fields
Record = tuple[str, Any]  # where it stands, and what should be a mapping

logger = logging.getLogger(__name__)

_DELIMITERS = ",;|\t"
_QUOTED = r'"([^"]*+(?:""[^"]*+)*+)"'
_QUOTED_CELL = re.compile(rf"(?:^|(?<=\t)){_QUOTED}(?=\t|$)")
_WELL_QUOTED = re.compile(rf'(?:{_QUOTED}|[^"\t]*+)(?:\t(?:{_QUOTED}|[^"\t]*+))*+')
_LONGEST_QUOTED_ROW = 2**16


@lru_cache(maxsize=1000)
def say_once(message: str) -> None:
    """Log what a person should know of a file, however often it is read."""
    logger.warning(message)


def tsv_rows(path: Path, encoding: str | None) -> Iterator[Row]:
    """Rows with tabs between their fields; quotes are text unless the whole file uses them."""
    if _is_quoted(path, encoding):
        say_once(f"{path}: fields are quoted as in CSV; the quotes are taken off")
        yield from csv_rows(path, encoding, "\t")
        return
    for number, line in enumerate(lines_or_errors(path, encoding), start=1):
        yield number, line if isinstance(line, InputError) else line.split("\t")


def _is_quoted(path: Path, encoding: str | None) -> bool:
    """Whether every quote of a TSV file is one of CSV: around a field, and doubled inside it.

    Sentences have quotes too. So at least one field must hold what only a quoted one can, doubled
    quotes, a tab or a line's end; or all fields after the first line are quoted.
    """
    with suppress(*DAMAGED), open_bytes(path) as file:  # what is not whole is told by who reads it
        if not any(b'"' in block for block in iter(partial(file.read, 2**20), b"")):
            return False
    is_told, quoted, bare, row = False, 0, 0, ""
    for number, line in enumerate(lines_or_errors(path, encoding)):
        if isinstance(line, InputError):
            continue
        if not row and '"' not in line:
            bare += bool(number and line.strip())
            continue
        row += line + "\n"
        if row.count('"') % 2 and len(row) < _LONGEST_QUOTED_ROW:
            continue  # it goes on in the next line
        if not _WELL_QUOTED.fullmatch(row[:-1]):
            return False
        quoted += 1
        cells = _QUOTED_CELL.findall(row[:-1])
        is_told = is_told or any(set('"\t\n') & set(cell) for cell in cells)
        bare += len(cells) < 2 or _QUOTED_CELL.sub("", row[:-1]).strip("\t") != ""
        row = ""
    return not row and (is_told or (quoted > 1 and not bare))


def csv_rows(path: Path, encoding: str | None, delimiter: str = "") -> Iterator[Row]:
    """Rows of a CSV file, with the delimiter that the first rows have unless one is given."""
    bad: list[InputError] = []

    def lines() -> Iterator[str]:
        for line in lines_or_errors(path, encoding):
            if isinstance(line, InputError):
                bad.append(line)
            else:
                yield line + "\n"

    if not delimiter:
        delimiter = _delimiter(list(islice(lines(), ROWS_LOOKED_AT)))
        bad.clear()
    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    skipped = 0
    while True:
        start = reader.line_num + skipped + 1
        row: list[str] | InputError | None
        try:
            row = next(reader, None)
        except csv.Error as error:
            row = InputError(f"{path}:{start + len(bad)}: {error}")
        yield from ((start, error) for error in bad)
        start += len(bad)
        skipped += len(bad)
        bad.clear()
        if row is None:
            return
        yield start, row


def _delimiter(head: list[str]) -> str:
    """What parts each of the first rows into the same number of fields; else the first row."""
    for delimiter in _DELIMITERS:
        try:
            widths = {len(row) for row in csv.reader(head, delimiter=delimiter, strict=True) if row}
        except csv.Error:
            continue
        if len(widths) == 1 and widths > {1}:
            return delimiter
    return max(_DELIMITERS, key=(head or [""])[0].count)


# --- records -------------------------------------------------------------------------------------


def json_records(path: Path, encoding: str | None) -> Iterator[Record]:
    """JSON Lines, or one list of objects, or an object with that list under `data`."""
    lines = (
        (number, line)
        for number, line in enumerate(lines_or_errors(path, encoding), start=1)
        if isinstance(line, InputError) or line.strip()
    )
    first = next(lines, None)
    if first is None:
        return
    if isinstance(first[1], InputError) or _is_record(first[1], path):
        for number, line in chain([first], lines):
            where = f"{path}:{number}"
            yield where, line if isinstance(line, InputError) else _json(line, path, number)
        return
    content = _json("\n".join(text_lines(path, encoding)), path, 1)
    if isinstance(content, InputError):
        raise content
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
        return suffix_of(path) != ".json"
    return isinstance(record, dict) and not isinstance(record.get("data"), list)


def _json(text: str, path: Path, number: int) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        line = number + error.lineno - 1
        return InputError(f"{path}:{line}: not valid JSON: {error.msg}")
    except ValueError:  # Python's limit on digits
        return InputError(f"{path}:{number}: a number in the JSON is too long")
    except RecursionError:
        return InputError(f"{path}:{number}: JSON nested too deep")


def parquet_records(path: Path) -> Iterator[Record]:
    """The rows of a Parquet file."""
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    number = 0
    try:
        with open_bytes(path) as file:
            packed = path.suffix.lower() in PACKED or archive_of(path)
            table = pq.ParquetFile(io.BytesIO(file.read()) if packed else file)
            for batch in table.iter_batches(batch_size=10_000):
                for record in batch.to_pylist():
                    number += 1
                    yield f"{path}: row {number}", record
    except InputError:
        raise
    # Damaged, or of values that Python does not have, such as a date after the year 9999.
    except (pa.ArrowException, *DAMAGED, ValueError, OverflowError) as error:
        reason = first_line(error)
        raise InputError(f"{path}: row {number + 1}: not readable as Parquet: {reason}") from None
