"""Pairs are cleaned, split and encoded as stated, and whatever is left out is counted."""

from __future__ import annotations

import pickletools
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from datasets.utils._dill import dumps
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from bahdanau_hf.data import preprocessing as data_module
from bahdanau_hf.data import sources as sources_module
from bahdanau_hf.data.preprocessing import (
    DroppedPairs,
    clean_pairs,
    encode_pairs,
    pair_lengths,
    split_validation,
)
from bahdanau_hf.data.sources import hash_shares
from bahdanau_hf.data.tokenization import target_vocab_size
from bahdanau_hf.data.vocabulary import train_tokenizer
from bahdanau_hf.errors import InputError
from bahdanau_hf.training.arguments import DataArguments
from bahdanau_hf.training.pairs import RunPairs, cleaning_options, encoding_options, load_pairs
from tests.helpers.made_pairs import PAIRS, Pairs, rows, table, write_tsv

pytestmark = pytest.mark.usefixtures("quiet_and_private")


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(*zip(*PAIRS, strict=True), vocab_size=400)


# --- cleaning ------------------------------------------------------------------------------------


def test_cleaning_counts_by_reason() -> None:
    pairs = [
        ("  Call\u00a0us. ", "联系我们。"),
        ("", "空"),
        ("Only spaces", " \u3000"),
        ("Hi", "长" * 19),
        ("Hi", "长" * 18),  # exactly nine times as long
        ("x" * 65, "y" * 60),
        ("e\u0301", "e"),
    ]
    args = DataArguments(max_source_length=1, max_target_length=9)
    cleaned, dropped = clean_pairs(table(pairs), **cleaning_options(args))
    assert rows(cleaned) == [("Call us.", "联系我们。"), ("Hi", "长" * 18), ("é", "e")]
    expected = {"read": 7, "empty": 2, "too_long": 1, "unequal_lengths": 1, "kept": 3}
    assert dropped.as_dict() == {**expected, "unknown_labels": 0}
    assert list(cleaned.features) == ["translation"]
    truncating = DataArguments(max_source_length=1, truncate_long_pairs=True)
    _, dropped = clean_pairs(table(pairs), **cleaning_options(truncating))
    assert dropped.counts["too long"] == 0
    scored, dropped = clean_pairs(table(pairs), **cleaning_options(args), training=False)
    assert dropped.counts == {"empty": 2}
    assert len(scored) == 5


def test_nothing_dropped_nothing_changed() -> None:
    cleaned, dropped = clean_pairs(table(PAIRS))
    assert rows(cleaned) == PAIRS
    assert (dropped.total, dropped.kept) == (len(PAIRS), len(PAIRS))


@pytest.mark.parametrize(
    ("script", "expected"),
    [("keep", "汉語"), ("simplified", "汉语"), ("traditional", "漢語")],
)
def test_chinese_script(script: str, expected: str) -> None:
    if script != "keep":
        pytest.importorskip("opencc")
    for languages in (("en", "zh"), ("zh-Hans", "en")):
        args = DataArguments(
            chinese_script=script, source_lang=languages[0], target_lang=languages[1]
        )
        chinese_first = languages[0] != "en"
        pair = ("汉語", "語 hanyu") if chinese_first else ("語 hanyu", "汉語")
        cleaned, _ = clean_pairs(table([pair], *languages), **cleaning_options(args))
        wanted = (expected, "語 hanyu") if chinese_first else ("語 hanyu", expected)
        assert rows(cleaned, *languages) == [wanted]  # only the Chinese side is touched


def test_chinese_script_mistakes(monkeypatch: pytest.MonkeyPatch) -> None:
    args = DataArguments(chinese_script="simplified", source_lang="en", target_lang="de")
    with pytest.raises(InputError, match="neither language is Chinese"):
        clean_pairs(table([("a", "b")], "en", "de"), **cleaning_options(args))
    monkeypatch.setitem(sys.modules, "opencc", None)
    data_module.script_converter.cache_clear()
    with pytest.raises(InputError, match=r"needs OpenCC: pip install 'bahdanau-hf\[zh\]'"):
        clean_pairs(table(PAIRS), **cleaning_options(DataArguments(chinese_script="simplified")))


def test_dropped_pairs_add_up_and_print() -> None:
    first, second = DroppedPairs(), DroppedPairs()
    first.count([0, 0, 1, 3, 0, 0])
    second.count([0, 2, 0, 0], {"unknown_labels": [5, 0, 0, 1]})
    both = first + second
    assert (both.total, both.kept, both.unknown_labels) == (6, 3, 6)
    assert first.counts == {"empty": 1, "unequal lengths": 1}  # unchanged by the sum
    pairs = RunPairs({}, {"train": [first, second], "test": [first]})
    rows = [line.rsplit(maxsplit=2) for line in pairs.dropped_table().splitlines()]
    assert rows == [
        ["train", "test"],
        ["read", "6", "6"],
        ["empty", "1", "1"],
        ["too long", "1", "0"],
        ["unequal lengths", "1", "1"],
        ["kept", "3", "4"],
        ["unknown labels", "6", "0"],
    ]
    assert len({len(line) for line in pairs.dropped_table().splitlines()}) == 1  # columns


@pytest.mark.parametrize("way", ["table", "stream"])
def test_entities_and_marks_are_counted(way: str) -> None:
    pairs = [
        ("Tom &amp; Ann", "汤姆&#21644;安"),
        ("R&D, a&b;c?x=1&copy=2", "研发和问题"),  # no entities
        ("left\u200eto\u200fright\u202e", "甲\u2066乙\u2069\u200b"),
        ("so\u00adft", "软"),
        ("&nbsp;", "空"),
    ]
    made = table(pairs) if way == "table" else table(pairs).to_iterable_dataset()
    args = DataArguments(unescape_html=True)
    cleaned, dropped = clean_pairs(made, **cleaning_options(args))
    expected = [("Tom & Ann", "汤姆和安"), ("R&D, a&b;c?x=1&copy=2", "研发和问题")]
    assert rows(cleaned) == [*expected, ("lefttoright", "甲乙"), ("soft", "软")]
    counts = {"html_entities": 2, "invisible_marks": 2}
    reasons = {"read": 5, "empty": 1, "too_long": 0, "unequal_lengths": 0, "kept": 4}
    assert dropped.as_dict() == {**reasons, "unknown_labels": 0, **counts}
    kept, dropped = clean_pairs(table(pairs), **cleaning_options(DataArguments()))
    assert rows(kept)[0] == pairs[0]
    assert dropped.as_dict()["html_entities"] == 2


@pytest.mark.parametrize("way", ["memory", "mapped", "stream"])
def test_bad_rows_are_counted_apart_from_empty_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "mapped":
        monkeypatch.setattr(sources_module, "_IN_MEMORY_BYTES", 0)
    path = tmp_path / "a.tsv"
    path.write_text("en\tzh\nHi\t嗨\na\tb\tc\n\t空\nd\nRun\t跑\n", encoding="utf-8")
    args = DataArguments(
        train_file=str(path),
        validation_file=write_tsv(tmp_path / "dev.tsv", PAIRS[:2]),
        skip_bad_rows=True,
        streaming=way == "stream",
    )
    pairs = RunPairs.load(args)
    assert rows(pairs.texts["train"]) == [("Hi", "嗨"), ("Run", "跑")]
    counts = {"read": 5, "empty": 1, "too_long": 0, "unequal_lengths": 0, "bad_rows": 2}
    assert pairs.dropped["train"].as_dict() == {**counts, "kept": 2, "unknown_labels": 0}
    lines = [line.rsplit(maxsplit=2) for line in pairs.dropped_table().splitlines()]
    assert ["bad rows", "2", "0"] in lines
    strict = DataArguments(**{**vars(args), "skip_bad_rows": False})
    with pytest.raises(InputError, match=r"a\.tsv:3: 3 columns where line 1 has 2"):
        list(RunPairs.load(strict).texts["train"])


# --- splitting -----------------------------------------------------------------------------------


@pytest.mark.parametrize("percentage", [5, 20, 60])
def test_split_validation(percentage: float) -> None:
    many = [(f"{a} {n}", f"{b}{n}") for n in range(25) for a, b in PAIRS]
    # English sentences shared by neighbours: "I can run today. 0" has two translations, and so on.
    many += [(a, b + "了") for a, b in many[::7]]
    train, validation = split_validation(table(many), percentage)
    assert sorted(rows(train) + rows(validation)) == sorted(many)
    assert len(validation) / len(many) == pytest.approx(percentage / 100, abs=0.03)
    for side in (0, 1):
        assert not {r[side] for r in rows(train)} & {r[side] for r in rows(validation)}
    # What is in validation stays there when other pairs come or go, but for the largest hashes, for
    # which the share may have no room.
    _, fewer = split_validation(table(many[:1000]), percentage)
    gone = sorted(set(rows(fewer)) - set(rows(validation)))
    assert len(gone) <= 0.1 * len(fewer)
    assert all(share > 0.8 * percentage / 100 for share in hash_shares(gone))


def one_group(pairs: int, name: str) -> list[tuple[str, str]]:
    return [(f"{name} {n}", f"好的{name}") for n in range(pairs)]


@pytest.mark.parametrize(
    ("groups", "percentage"),
    [
        ([1] * 200 + [150], 5),
        ([1] * 200 + [150], 50),
        ([1] * 30 + [10] * 17, 5),
        ([3] * 100, 5),
        ([40, 40, 2], 5),
        ([1] * 19, 5),
        ([1] * 1000, 5),
        ([2, 1], 99),
    ],
)
def test_the_share_is_kept_over_groups(groups: list[int], percentage: float) -> None:
    """Whatever their hashes, so with several sets of sentences: at most it, and groups whole."""
    for trial in range(9):
        pairs = [p for i, size in enumerate(groups) for p in one_group(size, f"{trial}x{i}")]
        train, validation = split_validation(table(pairs), percentage)
        assert 1 <= len(validation) <= max(1, len(pairs) * percentage / 100)
        assert sorted(rows(train) + rows(validation)) == sorted(pairs)
        assert not {b for _, b in rows(train)} & {b for _, b in rows(validation)}
        backwards = split_validation(table(pairs[::-1]), percentage)[1]
        assert sorted(rows(backwards)) == sorted(rows(validation))


def test_groups_too_large_for_the_share_are_refused() -> None:
    pairs = one_group(50, "a") + one_group(60, "b")
    with pytest.raises(
        InputError, match=r"of 5 % from 110 pairs: .*\(2 groups\); give --validation_"
    ):
        split_validation(table(pairs), 5)
    assert sorted(len(part) for part in split_validation(table(pairs), 50)) == [50, 60]


def test_split_validation_of_few_pairs() -> None:
    pairs = [("one", "一"), ("two", "二"), ("three", "三")]
    train, validation = split_validation(table(pairs), 0.001)
    assert (len(train), len(validation)) == (2, 1)
    for hopeless in (pairs[:1], [("one", "一"), ("One!", "壹")]):
        with pytest.raises(InputError, match=r"cannot cut a validation split .* --validation_file"):
            split_validation(table(hopeless), 50)


def test_split_validation_of_a_stream() -> None:
    many = [(f"{a} {n}", f"{b}{n}") for n in range(9) for a, b in PAIRS]
    train, validation = split_validation(table(many).to_iterable_dataset(), 10)
    assert isinstance(validation, Dataset)
    assert sorted(rows(train) + rows(validation)) == sorted(many)
    assert len(validation) / len(many) == pytest.approx(0.1, abs=0.04)
    assert not {en for en, _ in rows(train)} & {en for en, _ in rows(validation)}
    reverse = table([(b, a) for a, b in many], "zh", "en").to_iterable_dataset()
    assert rows(split_validation(reverse, 10)[1]) == rows(validation)


def test_load_pairs(tmp_path: Path) -> None:
    dirty = [*PAIRS, ("", "空"), ("Hi", "长" * 90)]
    args = DataArguments(train_file=write_tsv(tmp_path / "train.tsv", dirty))
    splits, dropped = load_pairs(args)
    assert set(splits) == {"train", "validation"}
    assert sorted(rows(splits["train"]) + rows(splits["validation"])) == sorted(PAIRS)
    assert (dropped["train"].total, dropped["train"].kept) == (len(dirty), len(PAIRS))
    args = DataArguments(
        train_file=args.train_file,
        test_file=write_tsv(tmp_path / "test.tsv", [("Hi", "长" * 90)]),
        max_eval_samples=3,
    )
    splits, _ = load_pairs(args)
    assert len(splits["validation"]) == 3
    assert rows(splits["test"]) == [("Hi", "长" * 90)]  # never made easier by cleaning
    args = DataArguments(train_file=write_tsv(tmp_path / "bad.tsv", [("", "空"), ("", "无")]))
    with pytest.raises(InputError, match=r"^no pair of train is left after cleaning \(2 empty\)$"):
        load_pairs(args)


def test_sizes_of_all_splits_are_true(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    """What is trained on is what is counted: without validation, and without what is too long."""
    long = ("go " * 60, "走" * 60)
    args = DataArguments(
        train_file=write_tsv(tmp_path / "train.tsv", [*PAIRS, ("", "空"), long]),
        test_file=write_tsv(tmp_path / "test.tsv", [*PAIRS[:7], ("", "空")]),
        validation_split_percentage=10,
        max_source_length=40,
        max_target_length=40,
    )
    pairs = RunPairs.load(args)
    held = len(pairs.texts["validation"])
    assert 0 < held <= 12
    whole = len(PAIRS) + 1 - held
    assert pairs.sizes() == f"Pairs: train {whole}, validation {held}, test 7; left out 2"
    pairs.encode(tokenizer, args)
    is_cut = long in rows(pairs.texts["validation"])
    assert len(pairs.encoded["train"]) == whole - (not is_cut)
    assert pairs.sizes() == (
        f"Pairs: train {len(pairs.encoded['train'])}, validation {held}, test 7; "
        f"left out {2 + (not is_cut)}"
    )
    streamed = DataArguments(train_file=args.train_file, streaming=True)
    assert RunPairs.load(streamed).sizes().startswith("Pairs: train a stream, validation ")


# --- encoding ------------------------------------------------------------------------------------


def test_encoding_is_the_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    encoded, dropped = encode_pairs(table(PAIRS), tokenizer)
    assert len(encoded) == dropped.total == dropped.kept == len(PAIRS)
    assert set(encoded.features) == {"input_ids", "attention_mask", "labels"}
    for row, (source, target) in zip(encoded, PAIRS, strict=True):
        assert row == dict(tokenizer(source, text_target=target))
    sources, targets = pair_lengths(encoded)
    assert sources.tolist() == [len(row["input_ids"]) for row in encoded]
    assert targets.tolist() == [len(row["labels"]) for row in encoded]
    chosen = encoded.select([5, 3, 3, 11])
    assert pair_lengths(chosen)[0].tolist() == sources[[5, 3, 3, 11]].tolist()


def test_encoding_the_other_way(tokenizer: PreTrainedTokenizerFast) -> None:
    args = DataArguments(source_lang="zh", target_lang="en")
    pairs = [(b, a) for a, b in PAIRS]
    reverse = train_tokenizer(*zip(*pairs, strict=True), vocab_size=400)
    encoded, dropped = encode_pairs(table(pairs, "zh", "en"), reverse, **encoding_options(args))
    assert dropped.unknown_labels == 0
    assert reverse.decode(encoded[0]["labels"], skip_special_tokens=True) == PAIRS[0][0]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("truncate", [True, False])
def test_long_pairs(tokenizer: PreTrainedTokenizerFast, training: bool, truncate: bool) -> None:
    pairs = [("I can run", "我会跑"), ("I can run today", "我会跑"), ("I can run", "我会跑了又跑")]
    full = [tokenizer(a, text_target=b) for a, b in pairs]
    most = (len(full[0]["input_ids"]), len(full[0]["labels"]))
    args = DataArguments(
        max_source_length=most[0], max_target_length=most[1], truncate_long_pairs=truncate
    )
    # What an earlier call left in the tokenizer does not matter.
    tokenizer(["I", "I can run"], padding=True, truncation=True, max_length=2)
    encoded, dropped = encode_pairs(
        table(pairs), tokenizer, **encoding_options(args), training=training
    )
    if training and not truncate:
        assert dropped.as_dict()["too_long"] == 2
        assert len(encoded) == 1
        return
    assert dropped.kept == 3
    for row, whole in zip(encoded, full, strict=True):
        for name, length in zip(("input_ids", "labels"), most, strict=True):
            if len(whole[name]) <= length:
                assert row[name] == whole[name]
            else:
                assert row[name] == [*whole[name][: length - 1], tokenizer.eos_token_id]
        assert row["attention_mask"] == [1] * len(row["input_ids"])


def test_labels_outside_the_target_part_become_unknown(tokenizer: PreTrainedTokenizerFast) -> None:
    size = target_vocab_size(tokenizer)
    target = "我 can run 猫"
    whole = tokenizer(target)["input_ids"]
    outside = [i for i in whole if i >= size]
    assert outside
    encoded, dropped = encode_pairs(table([("can run", target)]), tokenizer)
    assert encoded[0]["labels"] == [i if i < size else 3 for i in whole]
    assert max(encoded[0]["input_ids"]) >= size  # the source may use the whole vocabulary
    assert dropped.unknown_labels == len(outside)
    long = DataArguments(max_target_length=2)
    assert (
        encode_pairs(table([("can run", target)]), tokenizer, **encoding_options(long))[
            1
        ].unknown_labels
        == 0
    )


def test_unknown_words_of_word_char_are_counted() -> None:
    tokenizer = train_tokenizer(*zip(*PAIRS, strict=True), kind="word-char")
    _, dropped = encode_pairs(table([("zebra", "斑马和我")]), tokenizer)
    assert dropped.unknown_labels == 3


def test_workers_change_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [*PAIRS, ("", "空"), ("I can run猫", "我 can run")]
    results = []
    for workers in (None, 2):
        args = DataArguments(preprocessing_num_workers=workers, max_target_length=7)
        cleaned, first = clean_pairs(table(pairs), **cleaning_options(args))
        encoded, second = encode_pairs(cleaned, tokenizer, **encoding_options(args))
        results.append((encoded[:], (first + second).as_dict()))
    assert results[0] == results[1]


def test_stream_equals_table(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = [*PAIRS, ("", "空"), ("Hi", "长" * 60), ("I can run", "我 can run " * 3)] * 9
    args = DataArguments(max_target_length=9)
    cleaned, first = clean_pairs(table(pairs), **cleaning_options(args))
    encoded, second = encode_pairs(cleaned, tokenizer, **encoding_options(args))
    stream, stream_first = clean_pairs(table(pairs).to_iterable_dataset(), **cleaning_options(args))
    stream, stream_second = encode_pairs(stream, tokenizer, **encoding_options(args))
    assert stream_first.total == stream_second.total == 0  # nothing is read yet
    assert list(stream) == list(encoded)
    assert (stream_first + stream_second).as_dict() == (first + second).as_dict()
    assert second.counts["too long"] > 0


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9)), min_size=1, max_size=9))
def test_every_pair_is_kept_or_counted(tokenizer: PreTrainedTokenizerFast, pairs: Pairs) -> None:
    pairs = [
        (a.encode("utf-8", "ignore").decode(), b.encode("utf-8", "ignore").decode())
        for a, b in pairs
    ]
    args = DataArguments(max_source_length=6, max_target_length=6)
    cleaned, first = clean_pairs(table(pairs), **cleaning_options(args))
    assert first.total == len(pairs)
    assert first.kept == len(cleaned)
    if len(cleaned):
        encoded, second = encode_pairs(cleaned, tokenizer, **encoding_options(args))
        assert (first + second).kept == len(encoded)
        sources, targets = pair_lengths(encoded)
        assert np.all((sources >= 2) & (sources <= 6) & (targets >= 2) & (targets <= 6))


def test_a_cache_of_cleaned_and_encoded_pairs_is_found_again(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    functions = []
    monkeypatch.setattr(data_module, "_map_and_drop", lambda _, f, *rest: functions.append(f))
    clean_pairs(table(PAIRS))
    encode_pairs(table(PAIRS), tokenizer)
    assert len(functions) == 2
    for function in functions:  # the order of a set differs from process to process
        operations = {operation.name for operation, _, _ in pickletools.genops(dumps(function))}
        assert not operations & {"FROZENSET", "EMPTY_SET"}
