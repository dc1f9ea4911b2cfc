"""Files that are written whole, and what is said of those that cannot be read or written."""

import gzip
import io
import os
import re
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf import InputError, files
from bahdanau_hf.errors import first_line
from bahdanau_hf.files import (
    archive_members,
    checked_encoding,
    is_plain_name,
    read_json,
    read_text,
    sha256_of,
    text_lines,
    write_json,
    write_whole,
    writing,
)
from tests.helpers.pair_files import PACKERS, zipped


def test_json_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "values.json"
    write_json(path, {"字": [1, None]})
    assert path.read_text(encoding="utf-8") == '{\n  "字": [\n    1,\n    null\n  ]\n}\n'
    assert read_json(path) == {"字": [1, None]}
    assert read_json(tmp_path / "none.json") == {}
    assert read_json(tmp_path / "none.json", list) == []


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "Expecting property name"),
        (b"\xff", "can't decode byte 0xff"),
        (b"[1]", "it does not hold a dict"),
        (b"[" * 99_999, "maximum recursion depth exceeded"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(tmp_path: Path, content, reason) -> None:
    path = tmp_path / "values.json"
    path.write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(path)
    assert str(error.value).startswith(f"cannot read {path}: ")
    assert reason in str(error.value)


def test_a_reader_meets_the_old_file_or_the_new_one(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "text"
    write_whole(path, "old")

    def refuse(descriptor: int) -> None:
        assert path.read_text() == "old"
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(InputError, match=r"cannot write .*text: No space left on device\. Tidy up"):
        write_whole(path, "new", advice="Tidy up")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["text"]


def test_errors_of_the_system_and_others(tmp_path: Path) -> None:
    told = pytest.raises(InputError, match=r"^cannot write x: No space left on device$")
    with told, writing(Path("x")):
        raise RuntimeError("I/O error: No space left on device (os error 28)")
    with pytest.raises(RuntimeError, match="something else"), writing(Path("x")):
        raise RuntimeError("something else")


def test_small_things(tmp_path: Path) -> None:
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_of(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")
    assert [is_plain_name(name) for name in ("a.json", "..", "a/b", "a\\b", "c:", "", 3)] == [
        *(True, False, False, False, False, False, False)
    ]
    assert first_line(ValueError(" one.\ntwo")) == "one"
    assert first_line(KeyError()) == "KeyError"


# --- one reader of text --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("a\rb\r", ["a", "b"]),
        ("a\r\r b", ["a", "", " b"]),
        ("a\nb", ["a", "b"]),  # no end
        ("\n\na\n", ["", "", "a"]),
        ("\ufeffa\n\ufeffb\n", ["a", "\ufeffb"]),  # the first alone is none of the text
        ("a\rb\nc\r\n", ["a\rb", "c"]),  # where LF ends lines, CR does not
        ("a\u2028b\u2029c\x85d\x0be\x0cf\x1cg\n", ["a\u2028b\u2029c\x85d\x0be\x0cf\x1cg"]),
        ("", []),
        ("\ufeff", []),
    ],
)
def test_lines(tmp_path: Path, content: str, expected: list[str]) -> None:
    path = tmp_path / "text"
    path.write_bytes(content.encode())
    assert list(text_lines(path)) == expected
    assert list(text_lines(str(path), "UTF-8")) == expected
    assert read_text(path) == content.removeprefix("\ufeff")
    path.write_bytes(content.removeprefix("\ufeff").encode("utf-16"))
    assert list(text_lines(path, "utf-16")) == expected


LINE = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\n\r\0\ufeff"))


@given(st.lists(LINE), st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-be", "gb18030"]))
def test_lines_come_back_in_any_encoding(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], encoding: str
) -> None:
    path = tmp_path_factory.mktemp("text") / "text"
    path.write_bytes("".join(f"{line}\n" for line in lines).encode(encoding))
    assert list(text_lines(path, encoding)) == lines


CHINESE = "我们明天早上去北京开会，你要不要一起来？"
TRADITIONAL = "我們明天早上去臺北開會，你要不要一起來？"
JAPANESE = "明日の朝、東京へ行きます。一緒に来ませんか。"
GERMAN = "Die Größe des Gebäudes überraschte viele Gäste."
RUSSIAN = "Завтра утром мы едем в город, пойдёшь с нами?"


@pytest.mark.parametrize(
    ("text", "encoding", "look", "named"),
    [
        (CHINESE, "utf-16", "UTF-16", "utf-16"),
        ("Call us.", "utf-16", "UTF-16", "utf-16"),
        ("Call us.", "utf-16-le", "UTF-16", "utf-16-le"),
        ("Call us.", "utf-16-be", "UTF-16", "utf-16-be"),
        ("Call us.", "utf-32", "UTF-32", "utf-32"),
        (CHINESE, "gb18030", "GB18030 or GBK", "gb18030"),
        (CHINESE, "gb2312", "GB18030 or GBK", "gb18030"),
        ("Hi.\t嗨。", "gbk", "GB18030 or GBK", "gb18030"),
        (f"{GERMAN[:3]} {CHINESE}", "gbk", "GB18030 or GBK", "gb18030"),
        (TRADITIONAL, "big5", "Big5", "big5"),
        (JAPANESE, "shift_jis", "Shift JIS", "shift_jis"),
        (JAPANESE, "euc_jp", "EUC-JP", "euc_jp"),
        ("Die Größe.", "latin-1", "Latin-1 or Windows-1252", "cp1252"),
        (GERMAN, "latin-1", "Latin-1 or Windows-1252", "cp1252"),
        ("Un café, s’il vous plaît…", "cp1252", "Latin-1 or Windows-1252", "cp1252"),
        ("¿Qué hora es? ¡Mañana!", "latin-1", "Latin-1 or Windows-1252", "cp1252"),
        (RUSSIAN, "cp1251", "an encoding of one byte a character", None),
    ],
)
def test_what_bytes_look_like_is_told_and_reads_them(
    tmp_path: Path, text: str, encoding: str, look: str, named: str | None
) -> None:
    path = tmp_path / "text"
    path.write_bytes(f"{text}\n{text}\n".encode(encoding))
    with pytest.raises(InputError, match=f"this looks like {re.escape(look)}: ") as caught:
        list(text_lines(path))
    assert str(caught.value).startswith(f"{path}:1: not UTF-8 (byte 0x")
    found = re.search(r"give --encoding (\S+), or", str(caught.value))
    assert (found and found[1]) == named
    assert list(text_lines(path, named or encoding)) == [text, text]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"x" * 9999 + "café\n".encode("latin-1"), r":1: .*byte 0xe9 at 10003.*like Latin-1"),
        (b"one\ntwo \xff\n", r":2: not UTF-8 \(byte 0xff at 5\); this looks like Latin-1"),
        ("我们明天早上".encode()[:-1] + b"\n", r":1: .*UTF-8 with a damaged character: mend"),
        (b"Hi\n\xff" + "明天早上".encode(), r":2: .*with a damaged character"),
        (b"a\0b and so on\n", r":1: .*byte 0x00 at 2\); this looks like no text"),
        (zipped(b"x"), ":1: .*this looks like a zip file, as .docx and .xlsx are: mend or unpack"),
        (gzip.compress(b"x" * 999, mtime=0), ":1: .*this looks like a gzip file"),
    ],
)  # fmt: skip
def test_what_is_no_text(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        list(text_lines(path))


@pytest.mark.parametrize("encoding", ["gb18030", "utf-16", "ascii", "big5"])
def test_bytes_that_are_not_of_the_encoding_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"ok" + b"\n\xff\xff\xffa")
    with pytest.raises(InputError, match=rf"text:\d: not {encoding}"):
        list(text_lines(path, encoding))


@pytest.mark.parametrize(
    "name", ["klingon", "zip", "rot13", "hex", "undefined", "utf-9", "a\0b", " "]
)
def test_unknown_encodings_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=r"^--encoding .*: no such encoding; known are utf-8, "):
        checked_encoding(name)


@pytest.mark.parametrize(("name", "codec"), [(None, "utf-8"), ("UTF8", "utf-8"), ("GBK", "gbk")])
def test_known_encodings(name: str | None, codec: str) -> None:
    assert checked_encoding(name) == codec


def test_standard_input_is_read_as_it_comes_and_stays_open(monkeypatch) -> None:
    source, sink = os.pipe()
    with os.fdopen(source) as stdin:
        monkeypatch.setattr(sys, "stdin", stdin)
        lines = text_lines("-")
        for text in ("one", "two"):
            os.write(sink, f"{text}\n".encode())
            assert next(lines) == text  # before the next is written
        os.close(sink)
        assert list(lines) == []
        assert not stdin.closed
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(InputError, match="standard input is closed"):
        next(text_lines("-"))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a\n\xff\n")))
    with pytest.raises(InputError, match=r"^standard input:2: not UTF-8"):
        list(text_lines("-"))


# --- packed files --------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", PACKERS)
def test_packed_files_are_read_and_bombs_refused(tmp_path: Path, monkeypatch, ending: str) -> None:
    path = tmp_path / f"text{ending.upper()}"
    path.write_bytes(PACKERS[ending]("一\n二\n".encode()))
    assert list(text_lines(path)) == ["一", "二"]
    path.write_bytes(PACKERS[ending](b"a\n" * 2**21))
    monkeypatch.setattr(files, "UNPACKED_BYTES", 2**20)
    monkeypatch.setattr(files, "_UNPACKED_FACTOR", 2)
    with pytest.raises(InputError, match="unpacks to more than 1 MiB, over 2 times its size"):
        list(text_lines(path))


@pytest.mark.parametrize("ending", PACKERS)
@pytest.mark.parametrize("content", [b"no such thing\n", b""])
def test_packed_files_that_are_not_whole(tmp_path: Path, ending: str, content: bytes) -> None:
    path = tmp_path / f"text{ending}"
    path.write_bytes(content or PACKERS[ending](os.urandom(2**16).hex().encode())[:-1000])
    with pytest.raises(
        InputError, match=rf"text\{ending}.*: not a whole {files.PACKED[ending]} file"
    ):
        list(text_lines(path, "latin-1"))


def test_archives(tmp_path: Path) -> None:
    path = tmp_path / "many.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("b.txt", "folder/a.txt.gz", "__MACOSX/x", ".hidden", "_about.txt", "/etc/x"):
            archive.writestr(name, gzip.compress(b"A\n") if name.endswith("gz") else b"B\n")
        archive.writestr("../out.txt", b"")
        archive.writestr("C:\\out.txt", b"")
    assert archive_members(path) == [path / "b.txt", path / "folder" / "a.txt.gz"]
    assert [list(text_lines(member)) for member in archive_members(path)] == [["B"], ["A"]]
    with pytest.raises(
        InputError, match=r"many\.zip holds 2 files: b\.txt, a\.txt\.gz; name those"
    ):
        list(text_lines(path))
    with pytest.raises(InputError, match=r"no such file: .*many\.zip/c\.txt"):
        list(text_lines(path / "c.txt"))
