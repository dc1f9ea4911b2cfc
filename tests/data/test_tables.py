"""Tables as people save them: quotes, delimiters and line ends of all kinds, and flaws in rows."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.data import tables
from bahdanau_hf.data.columns import ROWS_LOOKED_AT
from bahdanau_hf.data.readers import LEFT_OUT, open_pairs
from bahdanau_hf.errors import InputError
from tests.helpers.pair_files import Pairs

SAID = "fields are quoted as in CSV; the quotes are taken off"


def read(path: Path, **options: object) -> Pairs:
    return list(open_pairs(str(path), "en", "zh", **options))  # type: ignore[arg-type]


# --- quotes --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        # Doubled quotes inside quoted fields tell.
        ('"He said ""no""."\t"他说""不""。"\n', [('He said "no".', '他说"不"。')]),
        ('Hi.\t嗨。\n"""No."""\t不。\n', [("Hi.", "嗨。"), ('"No."', "不。")]),
        ('"a\tb"\t甲\n', [("a\tb", "甲")]),
        ('"a\nb"\t甲\nc\t乙\n', [("a\nb", "甲"), ("c", "乙")]),
        # So do quotes around everything.
        ('"Hi."\t"嗨。"\n"Run!"\t"跑！"\n', [("Hi.", "嗨。"), ("Run!", "跑！")]),
        ('"Hi."\t""\n"Run!"\t"跑！"\n', [("Hi.", ""), ("Run!", "跑！")]),
    ],
)
def test_quotes_of_a_whole_file_are_taken_off(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: str, expected: Pairs
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"en\tzh\n{rows}", encoding="utf-8")
    assert read(path) == expected
    assert read(path) == expected
    assert [record.getMessage() for record in caplog.records] == [f"{path}: {SAID}"]


@pytest.mark.parametrize(
    "rows",
    [
        'He said "no".\t他说"不"。\n',
        '"Hi."\t“嗨。”\nRun!\t跑！\n',  # a sentence in quotes, and one without
        '"Hi." he said.\t嗨。\n"He said ""no""."\t不。\n',  # one quote that is none of CSV
        '5" is long\t五\n"a ""b"""\t甲\n',
        '"Hi.\t嗨。\n',
        '"Hi\t"嗨\n',
        '""\t嗨。\nRun!\t跑！\n',
        '"Hi."\t"嗨。"\n',  # a single row tells nothing
    ],
)
def test_quotes_inside_a_tsv_file_are_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, rows: str
) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"en\tzh\n{rows}", encoding="utf-8")
    assert read(path) == [tuple(row.split("\t")) for row in rows.splitlines()]
    assert not caplog.records


CELLS = st.text('"a\t\n 甲', max_size=6)


@given(st.lists(st.tuples(CELLS, CELLS), min_size=1, max_size=5))
def test_what_the_csv_library_writes_with_tabs_is_read(
    tmp_path_factory: pytest.TempPathFactory, pairs: Pairs
) -> None:
    """Wherever the library has quoted a field, it has done so for what only quotes can hold."""
    path = tmp_path_factory.mktemp("tsv") / "a.tsv"
    text = io.StringIO()
    writer = csv.writer(text, delimiter="\t", lineterminator="\n")
    writer.writerows([("en", "zh"), *pairs])
    path.write_text(text.getvalue(), encoding="utf-8")
    blank = [("", "") if not (a + b).strip() else (a, b) for a, b in pairs]
    found = [("", "") if not (a + b).strip() else (a, b) for a, b in read(path)]
    assert found == blank


# --- delimiters ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("en;zh\nHi, you;嗨\nOne, two, three;一二三\n",
         [("Hi, you", "嗨"), ("One, two, three", "一二三")]),
        ("en,zh\nHi; you,嗨\n", [("Hi; you", "嗨")]),
        ("en|zh\nHi|嗨\n", [("Hi", "嗨")]),
        ("en\tzh\nHi, you\t嗨\n", [("Hi, you", "嗨")]),
        ('en;zh\n"Hi; you";"嗨"\n', [("Hi; you", "嗨")]),
        ("en,zh\rHi,嗨\rRun,跑\r", [("Hi", "嗨"), ("Run", "跑")]),
        ("Hi;嗨\nRun;跑\n", [("Hi", "嗨"), ("Run", "跑")]),
    ],
)  # fmt: skip
def test_delimiters(tmp_path: Path, content: str, expected: Pairs) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode())
    assert read(path) == expected


def test_the_first_row_says_the_delimiter_where_the_rows_do_not_agree(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("en;zh\nHi;嗨\na;b;c\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"a\.csv:3: 3 columns where line 1 has 2"):
        read(path)


def test_tsv_with_line_ends_of_old_macs(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_bytes("en\tzh\rHi\t嗨\rRun\t跑".encode())
    assert read(path) == [("Hi", "嗨"), ("Run", "跑")]


# --- bad rows ------------------------------------------------------------------------------------


BAD_ROWS = {
    "tsv": (b"en\tzh\nHi\t\xe5\x97\xa8\na\tb\tc\nalone\nx\t\xff\nRun\t\xe8\xb7\x91\n", (3, 4, 5)),
    "csv": (b'en,zh\nHi,\xe5\x97\xa8\na,b,c\nx,\xff\n"y"z,b\nRun,\xe8\xb7\x91\n', (3, 4, 5)),
    "jsonl": (
        b'{"en": "Hi", "zh": "\xe5\x97\xa8"}\n{"en": "a"}\n{"en": \n[]\n{"en": 7, "zh": "b"}\n'
        b'{"en": "\\ud83d", "zh": "b"}\n{"en": "\xff", "zh": "b"}\n'
        b'{"en":"Run","zh":"\xe8\xb7\x91"}\n',
        (2, 3, 4, 5, 6, 7),
    ),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
def test_bad_rows_are_left_out_counted_and_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kind: str
) -> None:
    content, places = BAD_ROWS[kind]
    path = tmp_path / f"a.{kind}"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.{kind}:{places[0]}: "):
        read(path)
    found = read(path, skip_bad_rows=True)
    assert [pair for pair in found if pair != LEFT_OUT] == [("Hi", "嗨"), ("Run", "跑")]
    assert found.count(LEFT_OUT) == len(places)
    said = [record.getMessage() for record in caplog.records]
    for place, line in zip(places[:5], said, strict=False):
        assert line.startswith(f"left out: {path}:{place}: ")
        assert "--skip_bad_rows" not in line
    assert said[5:] == (["left out 6 bad rows in all"] if len(places) > 5 else [])


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("tsv", "Hi\t嗨\nRun\t跑\n"),
        ("csv", "Hi,嗨\nRun,跑\n"),
        ("jsonl", '{"en": "Hi", "zh": "嗨"}\n{"en": "Run", "zh": "跑"}\n'),
    ],
)
def test_a_file_that_begins_with_many_bad_rows_is_read_on(
    tmp_path: Path, kind: str, rows: str
) -> None:
    path, bad = tmp_path / f"a.{kind}", ROWS_LOOKED_AT + 50
    path.write_bytes(b"\xff\n" * bad + rows.encode())
    found = read(path, skip_bad_rows=True)
    assert found == [LEFT_OUT] * bad + [("Hi", "嗨"), ("Run", "跑")]


def test_a_bad_line_of_one_side_takes_the_other_with_it(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_bytes(b"one\n\xff\nthree\n")
    (tmp_path / "a.zh").write_bytes("一\n二\n三\n".encode())
    spec = Path(f"{tmp_path}/a.en,{tmp_path}/a.zh")
    assert read(spec, skip_bad_rows=True) == [("one", "一"), LEFT_OUT, ("three", "三")]


def test_a_table_without_the_columns_is_no_bad_row(tmp_path: Path) -> None:
    for name, content in (("a.tsv", "en\tde\nHi\tHallo\n"), ("a.jsonl", '{"en":"Hi","de":"x"}\n')):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match="no columns for en and zh"):
            read(tmp_path / name, skip_bad_rows=True)


@pytest.mark.parametrize("name", ["a.tsv", "a.csv", "a.jsonl"])
def test_messages_are_bounded(tmp_path: Path, name: str) -> None:
    """One line of 340,000 characters, as CR line ends once made of a whole file."""
    path = tmp_path / name
    path.write_text("word, word\tword; " * 20_000)
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value).startswith(f"{path}:1: ")
    assert len(str(caught.value)) <= 1000


def test_what_is_said_once_is_said_again_of_another_file(caplog: pytest.LogCaptureFixture) -> None:
    for name in ("one", "two", "one"):
        tables.say_once(f"{name} of this test")
    assert [record.getMessage()[:3] for record in caplog.records] == ["one", "two"]
