"""Files: written whole or not at all, and read with one line for what is wrong with them."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, first_line


def unfinished(path: Path) -> Path:
    """Where something is written that will be renamed to `path` when it is whole."""
    return path.with_name(f".{path.name}.unfinished-{os.getpid()}")


@contextmanager
def writing(path: Path, advice: str = "") -> Iterator[None]:
    """Tell in one line, with advice on how to go on, that a disk is full or broken.

    Raises:
        InputError: the operating system refused to write; any other error passes through.
    """
    try:
        yield
    except Exception as error:
        # Libraries written in Rust have errors of their own, with the system's in brackets.
        match = re.search(r"([^:]+) \(os error \d+\)", str(error))
        if not isinstance(error, OSError) and match is None:
            raise
        reason = match[1].strip() if match else getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot write {path}: {reason}" + (f". {advice}" if advice else "")
        ) from None


@contextmanager
def writing_whole(path: Path, advice: str = "") -> Iterator[BinaryIO]:
    """Write a file so that a reader never meets half of it.

    Raises:
        InputError: as `writing`.
    """
    if path.exists() and not path.is_file():  # a device, which must stay what it is
        with writing(path, advice), path.open("wb") as file:
            yield file
        return
    aside = unfinished(path)
    with writing(path, advice):
        try:
            with aside.open("wb") as file:
                yield file
            flush_to_disk(aside)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def write_whole(path: Path, text: str, advice: str = "") -> None:
    """Write a text file as `writing_whole`; a lone surrogate, which none can hold, becomes `?`."""
    with writing_whole(path, advice) as file:
        file.write(text.encode(errors="replace"))


def write_json(path: Path, value: Any, advice: str = "") -> None:
    """Write a value as readable JSON, as `write_whole`."""
    write_whole(path, json.dumps(value, ensure_ascii=False, indent=2) + "\n", advice)


def read_json(path: Path, kind: type = dict) -> Any:
    """What a JSON file holds, a `dict` or a `list`; an empty one if there is no file.

    Raises:
        InputError: it cannot be read, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return kind()
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"cannot read {path}: {first_line(error)}") from None
    if not isinstance(value, kind):
        raise InputError(f"cannot read {path}: it does not hold a {kind.__name__}")
    return value


def as_mapping(value: Any) -> Mapping[str, Any]:
    """What JSON has by names; nothing, where it has something else."""
    return value if isinstance(value, Mapping) else {}


def is_number(value: Any) -> bool:
    """Whether JSON has a finite number here."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def flush_to_disk(path: Path) -> None:
    """Wait until a file, or a folder's list of names, stands on the disk itself."""
    if os.name == "nt" and path.is_dir():  # a folder cannot be opened there
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def is_plain_name(name: object) -> bool:
    """Whether this names a file of a folder, and nothing outside it on any system."""
    return isinstance(name, str) and name not in ("", ".", "..") and not set(name) & set("/\\:\0")
