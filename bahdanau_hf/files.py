"""Files: written whole or not at all, and read with one line for what is wrong with them."""

from __future__ import annotations

import bz2
import codecs
import gzip
import hashlib
import io
import json
import lzma
import math
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from .errors import InputError, first_line

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "zstd", ".zip": "zip"}
"""What packs a file, by the end of its name."""
DAMAGED = (OSError, EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile)
"""What unpacking raises where a file is not whole."""
SURROGATE = re.compile("[\ud800-\udfff]")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
# Memory and disk stay bounded whatever a file holds. Text shrinks to a third or a tenth when it is
# packed; what shrinks to a fiftieth and is large was made to fill the disk of who unpacks it.
LONGEST_LINE = 2**28  # characters
UNPACKED_BYTES = 2**28
_UNPACKED_FACTOR = 50
# How files begin that are no UTF-8: what they are, and the encoding, if they are text.
_STARTS = {
    b"\xff\xfe\0\0": ("UTF-32", "utf-32"),
    b"\0\0\xfe\xff": ("UTF-32", "utf-32"),
    b"\xff\xfe": ("UTF-16", "utf-16"),
    b"\xfe\xff": ("UTF-16", "utf-16"),
    b"PK\3\4": ("a zip file, as .docx and .xlsx are", ""),
    b"\x1f\x8b": ("a gzip file", ""),
    b"%PDF": ("a PDF file", ""),
}
# Encodings by the bytes of their commonest characters, and which share of the bytes above 127 these
# hold at least. `%` is a byte that goes on with a character of UTF-8, `#` any byte above 127.
_COMMON = {
    "": ("UTF-8 with a damaged character", 0.7, rb"[\xc3-\xdf]%|[\xe0-\xef]%%|[\xf0-\xf4]%%%"),
    "cp1252": ("Latin-1 or Windows-1252", 0.5, rb"(?<!#)#(?!#)|(?<=[A-Za-z])##(?=[a-z])"),
    "gb18030": ("GB18030 or GBK", 0.8, rb"[\xa1-\xa3\xb0-\xd7][\xa1-\xfe]"),
    "euc_jp": ("EUC-JP", 0.8, rb"[\xa1\xa4\xa5\xb0-\xcf][\xa1-\xfe]"),
    "big5": ("Big5", 0.8, rb"[\xa1-\xc6][@-~\xa1-\xfe]"),
    "shift_jis": ("Shift JIS", 0.8, rb"[\x81-\x83\x88-\x97][@-~\x80-\xfc]"),
}


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
    except RecursionError:  # each Python has words of its own for it
        raise InputError(f"cannot read {path}: it is nested too deeply") from None
    except (OSError, ValueError) as error:
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


# --- reading text --------------------------------------------------------------------------------


def checked_encoding(name: str | None) -> str:
    """The codec of that name, of UTF-8 without one.

    Raises:
        InputError: there is none, or it is none of text.
    """
    try:
        codec = codecs.lookup(name or "utf-8").name
        "".encode(codec)
    except (LookupError, ValueError):
        raise InputError(
            f"--encoding {name!r:.40}: no such encoding; known are utf-8, utf-16, gb18030, big5, "
            "shift_jis, cp1252 and the others of Python"
        ) from None
    return codec.removesuffix("-sig")


def text_lines(
    path: str | Path, encoding: str | None = None, *, keep_ends: bool = False
) -> Iterator[str]:
    """Read a text file, or standard input if the path is `-`, line by line.

    LF and CR LF end a line, CR in a file that has no LF; U+2028 and the like stand inside. A byte
    order mark at the start is dropped. A packed file is unpacked, see `open_bytes`.

    Raises:
        InputError: unreadable, or on the way: a line that is no text in this encoding (by default
            UTF-8), with file, line and what its bytes look like; or one too long.
    """
    for line in lines_or_errors(path, encoding, keep_ends=keep_ends):
        if isinstance(line, InputError):
            raise line
        yield line


def read_text(path: str | Path, encoding: str | None = None) -> str:
    """All of a text file, with its line ends; else as `text_lines`."""
    return "".join(text_lines(path, encoding, keep_ends=True))


def lines_or_errors(
    path: str | Path, encoding: str | None = None, *, keep_ends: bool = False
) -> Iterator[str | InputError]:
    """As `text_lines`, but a line that is no text is yielded as the error that says so."""
    name = "standard input" if str(path) == "-" else str(path)
    codec = checked_encoding(encoding)
    number = 0
    with open_bytes(Path(path)) as file:
        # Bytes that are no text become lone surrogates, so that each line can be judged alone.
        text = io.TextIOWrapper(file, codec, "surrogateescape", newline="\n")
        try:
            lines = iter(partial(text.readline, LONGEST_LINE + 1), "")
            for number, line in enumerate(_parted(lines), start=1):
                if len(line) > LONGEST_LINE:
                    raise InputError(
                        f"{name}:{number}: a line of more than {LONGEST_LINE:,} characters; give a "
                        "pair a line, of JSON an object a line"
                    )
                if number == 1:
                    line = line.removeprefix("\ufeff")
                    if not line:
                        break
                if wrong := _NO_TEXT.search(line):
                    yield _not_text(f"{name}:{number}", line, wrong.start(), codec)
                else:
                    yield line if keep_ends else line.removesuffix("\n").removesuffix("\r")
        except UnicodeError as error:
            raise InputError(f"{name}:{number + 1}: not {codec}: {first_line(error)}") from None
        except DAMAGED as error:
            raise damaged(f"{name}:{number + 1}", error) from None
        finally:
            text.detach()  # or it would close standard input with itself


def _parted(lines: Iterator[str]) -> Iterator[str]:
    """Lines that end in LF; a file without any is parted where it has CR."""
    first = next(lines, "")
    if first and not first.endswith("\n") and len(first) <= LONGEST_LINE:
        yield from re.findall("[^\r]*\r|[^\r]+", first)
    elif first:
        yield first
    yield from lines


def _not_text(where: str, line: str, place: int, codec: str) -> InputError:
    """What is wrong with a line that has no character at a place, and what its bytes look like."""
    if codec != "utf-8":
        return InputError(f"{where}: not {codec}: give another --encoding, or none for UTF-8")
    before = line[:place].encode("utf-8", "surrogateescape")
    found = f"byte 0x{ord(line[place]) % 256:02x} at {len(before) + 1}"
    around = line[max(0, place - 2000) : place + 2000]
    look, name = _look(around.encode("utf-8", "surrogateescape"))
    advice = f"give --encoding {name}, or convert the file to UTF-8"
    if name is None:
        advice = "name it with --encoding, or convert the file to UTF-8"
    elif not name:
        advice = "mend or unpack it"
    return InputError(f"{where}: not UTF-8 ({found}); this looks like {look}: {advice}")


def _look(raw: bytes) -> tuple[str, str | None]:
    """What these bytes look like, and the name of the encoding; empty for what is no text."""
    for start, answer in _STARTS.items():
        if raw.startswith(start):
            return answer
    even, odd = raw[::2].count(0), raw[1::2].count(0)
    if even or odd:
        if 5 * (even + odd) < len(raw) or 3 * min(even, odd) > max(even, odd):
            return "no text or damaged text", ""
        return "UTF-16", "utf-16-le" if odd > even else "utf-16-be"
    runs = re.findall(rb"[\x80-\xff]+", raw)
    high = sum(map(len, runs))
    for name, (title, share, common) in _COMMON.items():
        common = common.replace(b"%", rb"[\x80-\xbf]").replace(b"#", rb"[\x80-\xff]")
        if sum(byte > 127 for found in re.findall(common, raw) for byte in found) > share * high:
            return title, name
    for name in ("gb18030", "big5", "shift_jis"):
        try:
            codecs.getincrementaldecoder(name)().decode(raw)
        except UnicodeDecodeError:
            continue
        return _COMMON[name][0], name
    return "an encoding of one byte a character", None


# --- unpacking -----------------------------------------------------------------------------------


@contextmanager
def open_bytes(path: Path) -> Iterator[BinaryIO]:
    """Open what a file holds, unpacked where its name says that it is packed.

    `-` is standard input, `archive.zip/name` a file of an archive, `archive.zip` its only one.

    Raises:
        InputError: it cannot be opened; on the way: it unpacks to far more than text would.
    """
    if str(path) == "-":
        if sys.stdin is None:
            raise InputError("standard input is closed: there is nothing to read")
        yield sys.stdin.buffer
        return
    if path.suffix.lower() == ".zip":
        members = archive_members(path)
        if len(members) != 1:
            raise InputError(f"{path} holds {len(members)} files: {name_members(members)}")
        path = members[0]
    archive = archive_of(path)
    with ExitStack() as stack:
        try:
            if archive is None:
                file: Any = stack.enter_context(path.open("rb"))
            else:
                packed = stack.enter_context(zipfile.ZipFile(archive))
                file = stack.enter_context(packed.open(path.relative_to(archive).as_posix()))
            if path.suffix.lower() in _UNPACK:
                file = stack.enter_context(_UNPACK[path.suffix.lower()](file))
        except KeyError:
            raise InputError(f"no such file: {path}") from None
        except (*DAMAGED, RuntimeError) as error:  # the latter of one that needs a password
            raise damaged(str(path), error) from None
        if archive or path.suffix.lower() in _UNPACK:
            file = io.BufferedReader(_Unpacked(file, archive or path), 2**16)
        yield file


def archive_of(path: Path) -> Path | None:
    """The zip file that a path such as `archive.zip/name` leads into."""
    return next((p for p in path.parents if p.suffix.lower() == ".zip" and p.is_file()), None)


def archive_members(path: Path) -> list[Path]:
    """The files in a zip file, as `path/name`, without those that are hidden or lead out of it."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except DAMAGED as error:
        raise damaged(str(path), error) from None
    names = [name for name in names if not re.search(r"[\\:]|(^|/)[._]|^/", name)]
    return [path / name for name in names]


def name_members(members: Sequence[Path]) -> str:
    """What to do with an archive of several files, for a message."""
    names = [path.name for path in members]
    return f"{', '.join(names[:8])}; name those you want, as archive.zip/NAME"


def suffix_of(path: Path) -> str:
    """What kind of file it is by its name, leaving aside what packs it: `.tsv` of `a.TSV.gz`."""
    return Path(unpacked_name(path)).suffix.lower()


def unpacked_name(path: Path) -> str:
    """The name of a file without the ending of what packs it."""
    return path.stem if path.suffix.lower() in PACKED else path.name


def damaged(where: str, error: Exception) -> InputError:
    """What a `DAMAGED` error comes to: the system cannot read the file, or nothing unpacks it."""
    if isinstance(error, OSError) and error.errno is not None:
        return InputError(f"cannot read {where}: {error.strerror}")
    packing = next((kind for end, kind in PACKED.items() if end in where.lower()), "packed")
    return InputError(f"{where}: not a whole {packing} file: {first_line(error)}")


class _Unpacked(io.RawIOBase):
    """What a packed file holds, up to a size that text can have."""

    def __init__(self, file: Any, path: Path) -> None:
        self._file, self._path, self._bytes = file, path, 0
        self._most = max(UNPACKED_BYTES, _UNPACKED_FACTOR * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = int(self._file.readinto(buffer))
        self._bytes += size
        if self._bytes > self._most:
            raise InputError(
                f"{self._path} unpacks to more than {self._most // 2**20:,} MiB, over "
                f"{_UNPACKED_FACTOR} times its size: unpack it yourself if you trust it"
            )
        return size


def _zstd(file: BinaryIO) -> Any:
    import pyarrow as pa  # type: ignore[import-untyped]

    return pa.CompressedInputStream(pa.PythonFile(file, "r"), "zstd")


_UNPACK: dict[str, Callable[[Any], Any]] = {
    ".gz": lambda file: gzip.GzipFile(fileobj=file),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstd,
}
