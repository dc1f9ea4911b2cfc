"""Every kind of file gives the same pairs, and every flaw is told with file and line."""

from __future__ import annotations

import gzip
import io
import re
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf import files
from bahdanau_hf.data.columns import ROWS_LOOKED_AT
from bahdanau_hf.data.readers import file_stamp, open_pairs, pair_paths
from bahdanau_hf.errors import InputError
from tests.helpers.pair_files import (
    PACKERS,
    WRITERS,
    Pairs,
    Writer,
    json_lines,
    sgm,
    tsv,
    zipped,
)

PAIRS = [
    ("Call us.", "联系我们。"),
    ('He said "NA", twice.', "他说了两次“NA”。"),
    ("null", "空"),
    ("a\u2028b\x85c", "甲\u3000乙"),  # no line ends for us
    ("  spaces  ", "空格"),
]


def read(path: Path | str, source: str = "en", target: str = "zh") -> Pairs:
    return list(open_pairs(str(path), source, target))


@pytest.mark.parametrize("packing", ["", *PACKERS])
@pytest.mark.parametrize(("suffix", "write"), WRITERS)
def test_every_kind_of_file_gives_the_same_pairs(
    tmp_path: Path, suffix: str, write: Writer, packing: str
) -> None:
    content = write(PAIRS)
    if packing == ".zip":
        content = zipped(content, f"folder/inside.{suffix}")
    elif packing:
        content = PACKERS[packing](content)
    path = tmp_path / f"pairs.{suffix}{packing}"
    path.write_bytes(content)
    assert read(path) == PAIRS
    assert read(path, "zh", "en") == [(b, a) for a, b in PAIRS]


@pytest.mark.parametrize("names", ["a.en,b.zh", "b.zh, a.en", "a.txt,b.txt", "a.en.gz,b.zh"])
def test_aligned_text_files(tmp_path: Path, names: str) -> None:
    for name in names.split(","):
        side = 0 if name.strip()[0] == "a" else 1
        content = "".join(pair[side] + "\n" for pair in PAIRS).encode()
        path = tmp_path / name.strip()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    spec = ",".join(str(tmp_path / name.strip()) for name in names.split(","))
    assert read(spec) == PAIRS
    assert read(spec, "zh", "en") == [(b, a) for a, b in PAIRS]


def test_a_comma_may_be_part_of_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a,b.tsv"
    path.write_bytes(tsv(PAIRS))
    assert read(path) == PAIRS


LINES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\t\n\r\0")).filter(
    lambda text: not text.startswith(("\ufeff", '"'))
)


@given(st.lists(st.tuples(LINES, LINES), min_size=1))
def test_tsv_round_trip(tmp_path_factory: pytest.TempPathFactory, pairs: Pairs) -> None:
    path = tmp_path_factory.mktemp("tsv") / "pairs.tsv"
    path.write_bytes(tsv(pairs))
    assert read(path) == pairs


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("Hi.\t嗨。\nRun!\t跑！\n", [("Hi.", "嗨。"), ("Run!", "跑！")]),  # no header
        ("嗨。\tHi.\n跑！\tRun!\n", [("Hi.", "嗨。"), ("Run!", "跑！")]),  # script tells
        ("Hi.\t嗨。\tCC-BY Attribution: x\nRun!\t跑！\ty\n", [("Hi.", "嗨。"), ("Run!", "跑！")]),
        ("\ufeffEnglish\tChinese\r\nHi.\t嗨。\r\n", [("Hi.", "嗨。")]),  # BOM, CR LF
        ("id\tsource\ttarget\n1\tHi.\t嗨。", [("Hi.", "嗨。")]),  # no last line end
        (
            "en\tzh\nHi.\t\n\n \t \nRun!\t跑！\n",
            [("Hi.", ""), ("", ""), (" ", " "), ("Run!", "跑！")],
        ),
        ("Chinese\t中文\nEnglish\t英文\n", [("Chinese", "中文"), ("English", "英文")]),
        ('en\tzh\n"Hi\t"嗨\n', [('"Hi', '"嗨')]),  # quotes mean nothing
    ],
)
def test_tsv_forms(tmp_path: Path, content: str, expected: Pairs) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(content.encode())
    assert read(path) == expected


def test_source_and_target_without_script(tmp_path: Path) -> None:
    path = tmp_path / "pairs.txt"
    path.write_text("hallo\thello\n")
    assert read(path, "de", "en") == [("hallo", "hello")]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.tsv", b"", r"a\.tsv is empty"),
        ("a.tsv", b"en\tzh\n", r"a\.tsv holds no pair"),
        (
            "a.tsv",
            b"en\tzh\nHi.\t\xe5\x97\xa8\nHi.\t\xe5\x97\xa8\tx\n",
            r"a\.tsv:3: 3 columns where",
        ),
        ("a.tsv", b"Hi.\tA.\nHi. B.\n", r"a\.tsv:2: 1 column where line 1 has 2"),
        ("a.tsv", b"en\tzh\nHi.\t\xff\xfeA\n", r"a\.tsv:2: not UTF-8 \(byte 0xff at 5\)"),
        (
            "a.tsv",
            "en\tzh\nHi.\t嗨。\n".encode("utf-16"),
            r"a\.tsv:1: not .* like UTF-16",
        ),
        ("a.tsv", "en\tzh\nHi.\t嗨。\n".encode("gb18030"), r"a\.tsv:2: not UTF-8"),
        ("a.tsv", b"en\tzh\nHi.\tA\0B\n", r"a\.tsv:2: not UTF-8 \(byte 0x00 at 6\)"),
        (
            "a.tsv",
            b"en\tde\nHi.\tHallo.\n",
            r"a\.tsv:1: no columns for en and zh; it has: 'en', 'de'",
        ),
        ("a.tsv", b"Hi.\tB.\tC.\n", r"a\.tsv:1: no columns .* it has: 'Hi\.', 'B\.', 'C\.'"),
        ("a.tsv", b"One sentence alone.\n", r"a\.tsv:1: no columns .*'One sentence alone\.'"),
        ("a.csv", b'en,zh\n"Hi\nthere",A\n"open,B\n', r"a\.csv:4: unexpected end"),
        ("a.csv", b"en,zh\nHi,A,B\n", r"a\.csv:2: 3 columns where line 1 has 2"),
        (
            "a.jsonl",
            b'{"en": "Hi", "zh": "A"}\n{"en": "Hi", "zh": \n',
            r"a\.jsonl:2: not valid JSON",
        ),
        ("a.jsonl", b'{"en": "Hi", "zh": "A"}\n\n{"en": "Hi"}\n', r"a\.jsonl:3: no columns"),
        ("a.jsonl", b'{"en": "Hi", "zh": 7}\n', r"a\.jsonl:1: 'zh' must be text, not 7"),
        (
            "a.jsonl",
            b'{"en": "Hi", "zh": "A"}\n["x"]\n',
            r"a\.jsonl:2: expected an object .* a list",
        ),
        ("a.jsonl", b'{"translation": "Hi"}\n', r"a\.jsonl:1: 'translation' must hold an object"),
        (
            "a.jsonl",
            b'{"en": "Hi", "zh": "A\\ud83d"}\n',
            r"a\.jsonl:1: 'zh' is no text: half a character \(\\ud83d\) at 2",
        ),
        ("a.jsonl", b'{"en":' * 99_999, r"a\.jsonl:1: JSON nested too deep"),
        ("a.json", b'{"en":' * 99_999, r"a\.json:1: JSON nested too deep"),
        ("a.jsonl", b'{"en": ' + b"1" * 5000 + b"}", r"a\.jsonl:1: a number in the JSON is too"),
        ("a.json", b'[\n\n{"en": "Hi" "zh": "A"}]', r"a\.json:3: not valid JSON"),
        ("a.json", b'{\n"rows": []}', r"a\.json: expected JSON Lines"),
        ("a.json", b'[{"en": "A", "zh": "B"}, {"en": []}]', r"a\.json: item 2: no columns"),
        ("a.parquet", b"PAR1 but no more", r"a\.parquet: row 1: not readable as Parquet"),
        ("a.tsv.gz", b"en\tzh\n", r"a\.tsv\.gz:1: not a whole gzip file"),
        (
            "a.tsv.gz",
            # Without the time, which pytest would put into the test's name.
            gzip.compress(tsv(PAIRS * 99), mtime=0)[:-20],
            r"a\.tsv\.gz:\d+: not a whole gzip file",
        ),
        ("a.parquet.gz", b"PAR1", r"a\.parquet\.gz: row 1: not readable"),
        ("a.docx", b"x", r"a\.docx: unknown kind of file; known: \.tsv"),
    ],
)
def test_flaws_name_file_and_line(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert re.search(message, str(caught.value)), str(caught.value)
    assert "\n" not in str(caught.value)


def test_flaws_of_aligned_files(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "b.zh").write_text("一\n二\n三\n四\n五\n")
    for names, counts in (("a.en,b.zh", r"3 lines .* 5:"), ("b.zh,a.en", r"5 lines .* 3:")):
        spec = ",".join(str(tmp_path / name) for name in names.split(","))
        with pytest.raises(InputError, match=counts):
            read(spec)
    (tmp_path / "b.zh").write_bytes("一\n二\n".encode() + b"\xe4\n")
    with pytest.raises(InputError, match=r"b\.zh:3: not UTF-8"):
        read(f"{tmp_path}/a.en,{tmp_path}/b.zh")
    with pytest.raises(InputError, match=r"no such file: .*c\.zh"):
        read(f"{tmp_path}/a.en,{tmp_path}/c.zh")


def test_missing_files_are_told_before_reading(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file: .*nowhere\.tsv"):
        open_pairs(str(tmp_path / "nowhere.tsv"), "en", "zh")
    with pytest.raises(InputError, match="is not a file"):
        open_pairs(str(tmp_path), "en", "zh")


def test_nothing_is_executed(tmp_path: Path) -> None:
    marker = tmp_path / "executed"
    text = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    path = tmp_path / "pairs.tsv"
    path.write_bytes(tsv([(text, "=cmd()"), ("!!python/object/apply:os.system ['x']", "甲")]))
    assert read(path)[0] == (text, "=cmd()")
    assert not marker.exists()


def test_stamp_changes_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "pairs.tsv"
    path.write_bytes(tsv(PAIRS))
    before = file_stamp(str(path))
    assert file_stamp(str(path)) == before
    path.write_bytes(tsv(PAIRS[1:]))
    assert file_stamp(str(path)) != before


# --- what a mutation tester found untested (tests/mutations.md) ----------------------------------


@pytest.mark.parametrize("names", ["English\tGerman", "source\tid", "translation\tid"])
def test_a_header_of_other_columns_is_no_pair(tmp_path: Path, names: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"{names}\nHi.\tHallo.\n")
    with pytest.raises(InputError, match="no columns for en and zh"):
        read(path)


@pytest.mark.parametrize(("length", "shown"), [(39, "x" * 39), (40, "x" * 36 + " ...")])
def test_long_names_of_columns_are_cut(tmp_path: Path, length: int, shown: str) -> None:
    path = tmp_path / "a.tsv"
    path.write_text(f"en\t{'x' * length}\nHi.\tHallo.\n")
    with pytest.raises(InputError, match=re.escape(f"it has: 'en', '{shown}'.")):
        read(path)


@pytest.mark.parametrize(("in_first", "is_swapped"), [(3, True), (2, False)])
@pytest.mark.parametrize("target", ["zh", "en"])
def test_a_side_is_chinese_with_over_twice_as_many_lines_of_it(
    tmp_path: Path, target: str, in_first: int, is_swapped: bool
) -> None:
    rows = [("甲", "a")] * in_first + [("b", "乙")]
    path = tmp_path / "a.tsv"
    source = "en" if target == "zh" else "zh"
    if target == "en":
        rows = [row[::-1] for row in rows]
    path.write_text("".join(f"{a}\t{b}\n" for a, b in rows), encoding="utf-8")
    expected = [row[::-1] for row in rows] if is_swapped else rows
    assert read(path, source, target) == expected


def test_names_of_aligned_files_decide_where_the_script_does_not(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("yes\n")
    (tmp_path / "b.de").write_text("ja\n")
    assert read(f"{tmp_path}/b.de,{tmp_path}/a.en", "en", "de") == [("yes", "ja")]


@pytest.mark.parametrize("suffixes", [("en", "zh"), ("txt", "txt")])
def test_aligned_files_longer_than_what_is_looked_at(
    tmp_path: Path, suffixes: tuple[str, str]
) -> None:
    number = ROWS_LOOKED_AT + 3
    paths = [tmp_path / f"{name}.{suffix}" for name, suffix in zip("ab", suffixes, strict=True)]
    for path, letter in zip(paths, "x甲", strict=True):
        path.write_text("".join(f"{letter}{i}\n" for i in range(number)), encoding="utf-8")
    expected = [(f"x{i}", f"甲{i}") for i in range(number)]
    assert read(",".join(map(str, paths))) == expected


def test_aligned_files_of_unknown_names_and_unequal_length(tmp_path: Path) -> None:
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("one\ntwo\nthree\n")
    b.write_text("一\n二\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read(f"{a},{b}")
    assert str(caught.value) == f"{a} has 3 lines and {b} has 2: aligned files need the same number"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"translation": "Hi"}', "'translation' must hold an object, not text"),
        ('{"translation": null}', "'translation' must hold an object, not null"),
        ('{"en": {}, "zh": "A"}', "'en' must be text, not an object"),
        (f'{{"en": "Hi", "zh": {"7" * 50}}}', f"'zh' must be text, not {'7' * 40}"),
        (
            '{"id": 1}',
            "no columns for en and zh; it has: 'id'. Say which by "
            "--source_column and --target_column, a name or a number",
        ),
    ],
)
def test_flaws_of_records_in_full(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == f"{path}:1: {message}"


def test_a_column_of_text_may_be_called_translation(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(
        '{"en": "Hi", "translation": "n", "zh": "A"}\n{"en": "b", "translation": null, "zh": "B"}\n'
    )
    assert read(path) == [("Hi", "A"), ("b", "B")]


def test_null_in_a_record_is_an_empty_text(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"en": null, "zh": "A"}\n')
    assert read(path) == [("", "A")]


def test_json_of_nothing_but_space(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(" \n\n")
    with pytest.raises(InputError, match=r"a\.json holds no pair$"):
        read(path)


def test_a_list_may_begin_with_space_whatever_the_file_is_called(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('  [\n{"en": "Hi",\n"zh": "A"}]')
    assert read(path) == [("Hi", "A")]


def test_flaws_of_parquet_name_the_row_and_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"en": [["A"]] * 3, "zh": ["B"] * 3}), path)
    with pytest.raises(InputError, match=r"a\.parquet: row 1: 'en' must be text, not a list$"):
        read(path)
    rows = [*[{"en": "A", "zh": "B"}] * 2, None]
    pq.write_table(pa.table({"translation": pa.array(rows)}), path)
    with pytest.raises(InputError, match=r"a\.parquet: row 3: 'translation' must hold an object"):
        read(path)
    path.write_bytes(b"PAR1 but no more")
    with pytest.raises(InputError, match=r"row 1: not readable as Parquet: .*[Pp]arquet .*$"):
        read(path)


def test_stamp_of_two_files(tmp_path: Path) -> None:
    paths = [tmp_path / "a.en", tmp_path / "b.zh"]
    for path in paths:
        path.write_text("x\n")
    first, second = (f"2:{path.stat().st_mtime_ns}" for path in paths)
    assert file_stamp(",".join(map(str, paths))) == f"{first} {second}"


def test_a_large_gzip_file_that_shrank_as_text_does_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "UNPACKED_BYTES", 100)
    path = tmp_path / "a.tsv.gz"
    pairs = [(f"sentence {i}", f"句子 {i}") for i in range(99)]
    path.write_bytes(gzip.compress(tsv(pairs)))
    assert read(path) == pairs


def test_a_row_too_long_in_full(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("en\tzh\na\tb\tc\n")
    with pytest.raises(InputError) as caught:
        read(path)
    assert str(caught.value) == (
        f"{path}:2: 3 columns where line 1 has 2; a tab or comma too many or too few? "
        "(--skip_bad_rows leaves such rows out)"
    )


@pytest.mark.parametrize("names", ["a.tsv", "a.txt,b.txt"])
def test_pairs_come_before_the_file_is_read_to_its_end(tmp_path: Path, names: str) -> None:
    """A file of any size is looked at, not held."""
    line = b"x\ty\n" if names == "a.tsv" else b"x\n"
    paths = [tmp_path / name for name in names.split(",")]
    for path in paths:
        path.write_bytes(line * (ROWS_LOOKED_AT + 5) + b"\xff\n")
    pairs = open_pairs(",".join(map(str, paths)), "en", "zh")
    assert len([next(pairs) for _ in range(ROWS_LOOKED_AT + 5)]) == ROWS_LOOKED_AT + 5
    with pytest.raises(InputError, match=rf"a\.t..:{ROWS_LOOKED_AT + 6}: not UTF-8"):
        next(pairs)


def test_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "a.tsv"
    path.write_text("en\tzh\n\ufeffHi.\t嗨。\n", encoding="utf-8-sig")
    assert read(path) == [("\ufeffHi.", "嗨。")]  # the first alone is none of the text
    path.write_bytes("\ufeffen\tzh\n".encode("utf-16-be"))
    with pytest.raises(InputError, match="looks like UTF-16: give --encoding utf-16, or"):
        read(path)
    path.write_bytes(b"en\tzh\n\xff\n")
    with pytest.raises(
        InputError,
        match=r"\(byte 0xff at 1\); .* or convert the file to UTF-8$",
    ):
        read(path)


def test_lines_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 2**20)
    path = tmp_path / "a.tsv"
    long = "x" * (2**20 - 3)  # with a tab, a letter and the line's end: the limit
    path.write_text(f"en\tzh\n{long}\ty\n")
    assert read(path) == [(long, "y")]
    path.write_text(f"en\tzh\n{long}x\ty\n")
    message = "a line of more than 1,048,576 characters; give a pair a line, of JSON an object"
    with pytest.raises(InputError, match=rf"a\.tsv:2: {message} a line$"):
        read(path)


# --- several files -------------------------------------------------------------------------------


def write_parts(folder: Path) -> None:
    """Two parts of every kind, of two pairs each."""
    for part in (0, 1):
        pairs = PAIRS[2 * part : 2 * part + 2]
        for suffix, write in WRITERS:
            (folder / f"part{part}.{suffix}").write_bytes(write(pairs))
        (folder / f"part{part}.txt").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
        (folder / f"lines{part}.txt").write_bytes(json_lines(pairs))
        for side, lang in enumerate(("en", "zh")):
            text = "".join(f"{pair[side]}\n" for pair in pairs)
            (folder / f"text{part}.{lang}").write_text(text)
            (folder / f"set{part}.{lang}.sgm").write_bytes(sgm(side, "")(pairs))
    (folder / "moses.zip").write_bytes(moses(PAIRS[:4]))


def moses(pairs: Pairs) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        for side, lang in enumerate(("en", "zh")):
            archive.writestr(f"c.en-zh.{lang}", "".join(f"{pair[side]}\n" for pair in pairs))
        for name in ("README", "LICENSE", "c.en-zh.xml", "c.en-zh.ids", "__MACOSX/._c.en-zh.en"):
            archive.writestr(name, "other")
    return sink.getvalue()


@pytest.mark.parametrize(
    "spec",
    [
        *sorted({f"part*.{suffix}" for suffix, _ in WRITERS}),
        "part0.tsv,part1.tsv",
        "part0.jsonl, part1.csv",
        "part0.txt,part1.txt",  # with tabs, as Anki's
        "lines0.txt,lines1.txt",  # JSON under another name
        "part[01].tsv",
        "part0.tmx,part1.parquet",
        "text*.en,text*.zh",
        "text*.zh,text*.en",
        "set*.en.sgm,set*.zh.sgm",
        "moses.zip",
        "moses.zip/c.en-zh.en,moses.zip/c.en-zh.zh",
    ],
)
def test_several_files_are_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    write_parts(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read(spec) == PAIRS[:4]
    assert read(spec, "zh", "en") == [(b, a) for a, b in PAIRS[:4]]
    assert all(path.is_file() for path in pair_paths(spec))
    assert file_stamp(spec).count(":") == len(pair_paths(spec))


def test_one_glob_may_find_two_aligned_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert read("text0.*") == PAIRS[:2]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("part0.tsv,text0.zh", r"text0\.zh holds one side of pairs and part0\.tsv holds both"),
        (
            "text0.en,text0.zh,text1.en",
            "text0.en and the other 2 files hold one side of pairs each",
        ),
        ("text*.en,text0.zh", "give two, or as many of both sides, as in 'a"),
        ("text0.en", r"text0\.en: unknown kind of file; known: \.tsv"),
        ("set0.en.sgm", r"set0\.en\.sgm holds one side of pairs: give the other too"),
        ("none*.tsv", r"no such file: none\*\.tsv"),
        ("part0.tsv,none.tsv", r"no such file: none\.tsv"),
        ("part0.tsv,", "give files with commas between, and no comma at the end"),
        ("moses.zip/none.tsv", r"no such file: moses\.zip/none\.tsv"),
        ("empty.zip", r"empty\.zip holds no file of pairs"),
        ("damaged.zip", r"damaged\.zip: not a whole zip file"),
    ],
)
def test_files_that_do_not_go_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, message: str
) -> None:
    write_parts(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty.zip").write_bytes(zipped(b"x", "README"))
    (tmp_path / "damaged.zip").write_bytes(moses(PAIRS)[:-50])
    with pytest.raises(InputError, match=message):
        read(spec)


def test_the_second_file_is_not_opened_before_the_first_is_read(tmp_path: Path) -> None:
    for name, end in (("a.tsv", b""), ("b.tsv", b"\xff\n")):
        (tmp_path / name).write_bytes(tsv(PAIRS) + end)
    pairs = open_pairs(f"{tmp_path}/a.tsv,{tmp_path}/b.tsv", "en", "zh")
    assert [next(pairs) for _ in range(2 * len(PAIRS))] == 2 * PAIRS
    with pytest.raises(InputError, match=rf"b\.tsv:{len(PAIRS) + 2}: not UTF-8"):
        next(pairs)


@pytest.mark.parametrize(("suffix", "write"), WRITERS)
def test_files_in_another_encoding(tmp_path: Path, suffix: str, write: Writer) -> None:
    if suffix == "parquet":
        return
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(write(PAIRS).decode().encode("gb18030"))
    assert list(open_pairs(str(path), "en", "zh", encoding="gb18030")) == PAIRS
