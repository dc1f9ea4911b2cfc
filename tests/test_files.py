"""Files that are written whole, and what is said of those that cannot be read or written."""

import os
from pathlib import Path

import pytest

from bahdanau_hf import InputError
from bahdanau_hf.errors import first_line
from bahdanau_hf.files import is_plain_name, read_json, sha256_of, write_json, write_whole, writing


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
        (b"[" * 99_999, "it is nested too deeply"),
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
