"""Input from strangers: a few cases of what a fuzz run tries, and sizes that nobody expects."""

from __future__ import annotations

import gzip
import tracemalloc
import unicodedata
from pathlib import Path
from random import Random

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf import InputError, files
from bahdanau_hf.data.readers import open_pairs
from bahdanau_hf.modeling import text_bahdanau
from bahdanau_hf.modeling.text_bahdanau import clean_text
from tests.stress import fuzz
from tests.stress.fuzz_targets import Targets

SEEDS = st.integers(0, 2**32)
MEBIBYTE = 2**20


@pytest.fixture(scope="module")
def targets(tmp_path_factory: pytest.TempPathFactory) -> Targets:
    return Targets(tmp_path_factory.mktemp("fuzz"))


@pytest.mark.parametrize(
    ("name", "examples"),
    [("data", 120), ("tokenizer", 80), ("config", 50), ("translate", 6), ("checkpoint", 6)],
)
def test_a_right_result_or_one_line(targets: Targets, name: str, examples: int) -> None:
    target = targets.all()[name]

    @settings(max_examples=examples, deadline=None, database=None)
    @given(SEEDS)
    def check(seed: int) -> None:
        target(Random(seed))

    check()


def test_a_finding_is_printed_with_the_command_that_repeats_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drawn = []

    def target(random: Random) -> bool:
        drawn.append(random.random())
        raise KeyError("x")

    assert fuzz._run(target, "data", 7, 3) is None
    out, err = capsys.readouterr()
    assert "python -m tests.stress.fuzz --target data --case 7 --seed 3" in out
    assert "KeyError" in err
    fuzz._run(target, "data", 7, 3)
    fuzz._run(target, "data", 8, 3)
    assert drawn[0] == drawn[1] != drawn[2]


def test_errors_show_no_control_characters() -> None:
    assert str(InputError("a\x1b[31m\nb\ud800 联 é")) == r"a\x1b[31m\nb\ud800 联 é"


# --- what fuzzing found --------------------------------------------------------------------------


def test_parquet_with_a_date_that_python_does_not_have(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    days = pa.array([2**31 - 1], pa.date32())
    pq.write_table(pa.table({"en": ["a"], "zh": ["b"], "day": days}), path)
    with pytest.raises(InputError, match=r"a\.parquet: row 1: not readable as Parquet"):
        list(open_pairs(str(path), "en", "zh"))


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suffix", "start"), [("tsv", "en\tzh\nHi\t"), ("jsonl", '{"en":"Hi","zh":"')]
)
def test_a_line_of_ten_megabytes(tmp_path: Path, suffix: str, start: str) -> None:
    path = tmp_path / f"a.{suffix}"
    path.write_text(start + "x" * 10**7 + ("\n" if suffix == "tsv" else '"}\n'))
    tracemalloc.start()
    try:
        assert [len(zh) for _, zh in open_pairs(str(path), "en", "zh")] == [10**7]
        assert tracemalloc.get_traced_memory()[1] < 120 * MEBIBYTE
    finally:
        tracemalloc.stop()


def test_a_line_without_end_is_refused_before_it_fills_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", MEBIBYTE)
    path = tmp_path / "a.tsv"
    path.write_bytes(b"en\tzh\nHi\t" + b"x" * (32 * MEBIBYTE))
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"a\.tsv:2: a line of more than 1,048,576"):
            list(open_pairs(str(path), "en", "zh"))
        assert tracemalloc.get_traced_memory()[1] < 8 * MEBIBYTE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("name", ["a.tsv.gz", "a.json.gz", "a.parquet.gz"])
def test_a_gzip_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(gzip.compress(b"[{}," + b"a\tb\n" * (2 * MEBIBYTE)))  # 8 MiB in 8 KiB
    monkeypatch.setattr(files, "UNPACKED_BYTES", MEBIBYTE)
    with pytest.raises(InputError, match=r"unpacks to more than 1 MiB, over 50 times its size"):
        list(open_pairs(str(path), "en", "zh"))


MILLION = {
    "one word": "a" * 10**6,
    "words": "ab c " * 200_000,
    "Chinese": "汉" * 10**6,
    "marks": "e" + "\u0301\u0327" * 500_000,
    "emoji": "👩‍👩‍👧" * 200_000,
    "zero-width": "\u200b" * 10**6,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", MILLION)
def test_a_sentence_of_a_million_characters(targets: Targets, name: str) -> None:
    tracemalloc.start()
    try:
        (found,) = targets.translator.translate(MILLION[name])
        assert found.truncated == (name != "zero-width")
        assert tracemalloc.get_traced_memory()[1] < 200 * MEBIBYTE
    finally:
        tracemalloc.stop()


def test_many_marks_in_a_row_are_ordered_as_unicode_says(monkeypatch: pytest.MonkeyPatch) -> None:
    random = Random(0)
    marks = [
        "\u0301",
        "\u0327",
        "\u0344",
        "\u0f71",
        "\u0f73",
        "\u05b0",
        "e",
        "\u1100",
        "\u1161",
        "가",
    ]
    for _ in range(200):
        text = "".join(random.choices(marks, k=30))
        monkeypatch.setattr(text_bahdanau, "_LONG", 0)
        assert clean_text(text) == unicodedata.normalize("NFC", text)
    monkeypatch.undo()
    # By the library's own ordering alone these take minutes.
    long = clean_text("e" + "\u0301\u0327" * 50_000)
    assert (long[:3], len(long)) == ("\u0229\u0327\u0327", 100_000)
