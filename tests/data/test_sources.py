"""Every source gives the same form of pairs, and splits by hash never share a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset, Features, IterableDataset, Translation
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.data import sources as pair_sources
from bahdanau_hf.data.sources import (
    bundled_pairs,
    hash_shares,
    pair_texts,
    sentence_key,
)
from bahdanau_hf.errors import InputError
from bahdanau_hf.training.arguments import DataArguments
from bahdanau_hf.training.pairs import read_pairs
from tests.helpers.made_pairs import PAIRS, Pairs, rows, table, write_tsv

pytestmark = pytest.mark.usefixtures("quiet_and_private")


# --- reading -------------------------------------------------------------------------------------


@pytest.mark.parametrize("languages", [("en", "zh"), ("zh", "en")])
def test_pair_table_holds_the_pairs(languages: tuple[str, str]) -> None:
    made = table(PAIRS, *languages)
    assert rows(made, *languages) == PAIRS
    assert sorted(made.features["translation"].languages) == ["en", "zh"]
    assert pair_texts(made, *languages) == tuple(map(list, zip(*PAIRS, strict=True)))
    assert pair_texts(made, *languages, limit=2)[0] == [PAIRS[0][0], PAIRS[1][0]]


@pytest.mark.parametrize("given", ["bundled", "file", "stream"])
def test_every_source_has_the_features_of_a_translation(tmp_path: Path, given: str) -> None:
    file = None if given == "bundled" else str(write_tsv(tmp_path / "pairs.tsv", PAIRS))
    arguments = DataArguments(train_file=file, streaming=given == "stream")
    for split in read_pairs(arguments).values():
        assert split.features == Features({"translation": Translation(languages=["en", "zh"])})


@pytest.mark.parametrize("way", ["memory", "mapped", "stream"])
def test_files_in_memory_mapped_and_streamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "mapped":
        monkeypatch.setattr(pair_sources, "_IN_MEMORY_BYTES", 0)
    files = {
        "train_file": write_tsv(tmp_path / "train.tsv", PAIRS),
        "validation_file": write_tsv(tmp_path / "dev.tsv", PAIRS[3:9]),
        "test_file": write_tsv(tmp_path / "test.tsv", PAIRS[:5]),
    }
    splits = read_pairs(DataArguments(**files, streaming=way == "stream"))
    assert list(splits) == ["train", "validation", "test"]
    expected = {"memory": Dataset, "mapped": Dataset, "stream": IterableDataset}[way]
    assert isinstance(splits["train"], expected)
    assert bool(getattr(splits["train"], "cache_files", [])) == (way == "mapped")
    assert [rows(split) for split in splits.values()] == [PAIRS, PAIRS[3:9], PAIRS[:5]]
    reverse = DataArguments(**files, source_lang="zh", target_lang="en")
    assert rows(read_pairs(reverse)["test"], "zh", "en") == [(b, a) for a, b in PAIRS[:5]]
    few = DataArguments(**files, streaming=way == "stream", max_train_samples=7, max_eval_samples=2)
    assert [rows(split) for split in read_pairs(few).values()] == [PAIRS[:7], PAIRS[3:5], PAIRS[:2]]
    # A changed file is read anew, whatever a cache holds of it.
    write_tsv(tmp_path / "train.tsv", PAIRS[1:])
    again = read_pairs(DataArguments(**files, streaming=way == "stream"))
    assert rows(again["train"]) == PAIRS[1:]


@pytest.mark.parametrize("way", ["memory", "mapped", "stream"])
def test_flaws_of_files_come_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    if way == "mapped":
        monkeypatch.setattr(pair_sources, "_IN_MEMORY_BYTES", 0)
    path = write_tsv(tmp_path / "train.tsv", [*PAIRS, ("one\ttab", "too many")])
    with pytest.raises(InputError, match=rf"train\.tsv:{len(PAIRS) + 2}: 3 columns"):
        list(read_pairs(DataArguments(train_file=path, streaming=way == "stream"))["train"])


COLUMNS = [("english", "non_english"), ("zh", "en"), ("source", "target"), ("translation", "")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("columns", COLUMNS)
def test_data_set_with_columns_of_any_known_name(
    tmp_path: Path, columns: tuple[str, str], streaming: bool
) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    for name, pairs in (("train", PAIRS), ("dev", PAIRS[:4])):
        lines = []
        for number, (en, zh) in enumerate(pairs):
            texts = {columns[0]: en, columns[1]: zh}
            if columns == ("zh", "en"):
                texts = {"en": en, "zh": zh}
            elif columns[0] == "translation":
                texts = {"translation": {"zh": zh, "en": en}}
            lines.append(json.dumps({"id": number, **texts}))
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    args = DataArguments(dataset_name=str(folder), streaming=streaming, max_eval_samples=3)
    splits = read_pairs(args)
    assert list(splits) == ["train", "validation"]
    assert isinstance(splits["train"], IterableDataset if streaming else Dataset)
    assert isinstance(splits["validation"], Dataset)
    assert rows(splits["train"]) == PAIRS
    assert rows(splits["validation"]) == PAIRS[:3]
    assert list(next(iter(splits["train"]))) == ["translation"]


def test_mistakes_in_sources(tmp_path: Path) -> None:
    folder = tmp_path / "corpus"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"text": "a", "label": 1}\n')
    with pytest.raises(
        InputError, match=r"\(train\): no columns for en and zh; .* 'text', 'label'"
    ):
        read_pairs(DataArguments(dataset_name=str(folder)))
    with pytest.raises(InputError, match=r"^cannot load the data set .*nowhere: [^\n]+$"):
        read_pairs(DataArguments(dataset_name=str(tmp_path / "nowhere")))
    (folder / "train.jsonl").rename(folder / "test.jsonl")
    with pytest.raises(InputError, match="no split 'train', only: test"):
        read_pairs(DataArguments(dataset_name=str(folder)))
    with pytest.raises(InputError, match="--target_lang 'klingon' is no language code"):
        read_pairs(DataArguments(target_lang="klingon"))


# --- bundled pairs -------------------------------------------------------------------------------


@pytest.fixture
def bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many = [(f"{a} Number {n}.", f"{b}{n}号。") for n in range(9) for a, b in PAIRS]
    write_tsv(tmp_path / "pairs.tsv", many)
    monkeypatch.setattr(pair_sources, "BUNDLED_PAIRS", tmp_path / "pairs.tsv")


@pytest.mark.usefixtures("bundled")
def test_bundled_pairs_are_split_by_hash() -> None:
    splits = bundled_pairs()
    sizes = {name: len(split) for name, split in splits.items()}
    total = sum(sizes.values())
    assert total == 9 * len(PAIRS)
    assert 0.85 < sizes["train"] / total < 0.95
    assert min(sizes.values()) > 0.02 * total
    for side in (0, 1):
        seen = [{sentence_key(row[side]) for row in rows(split)} for split in splits.values()]
        assert len(set.union(*seen)) == sum(map(len, seen))
    reverse = read_pairs(DataArguments(source_lang="zh", target_lang="en"))
    assert {k: len(v) for k, v in reverse.items()} == sizes
    assert rows(reverse["test"], "zh", "en") == [(b, a) for a, b in rows(splits["test"])]
    streamed = read_pairs(DataArguments(streaming=True))
    assert isinstance(streamed["train"], IterableDataset)
    assert rows(streamed["train"]) == rows(splits["train"])


def test_the_real_bundled_pairs() -> None:
    splits = bundled_pairs()
    assert sum(map(len, splits.values())) >= 3000
    assert min(map(len, splits.values())) >= 100
    for side in (0, 1):
        seen = [{row[side] for row in rows(split)} for split in splits.values()]
        assert len(set.union(*seen)) == sum(map(len, seen))


@pytest.mark.usefixtures("bundled")
def test_bundled_pairs_know_two_languages() -> None:
    with pytest.raises(InputError, match="no columns for en and de; it has: 'en', 'zh'"):
        bundled_pairs("en", "de")


# --- hashes --------------------------------------------------------------------------------------

WORDS = st.sampled_from(["a", "A.", "b", "c!", "d", "e", "f"])
CHINESE = st.sampled_from(["甲", "甲。", "乙", "丙", "丁", "戊"])


@given(st.lists(st.tuples(WORDS, CHINESE), max_size=12), st.randoms())
def test_pairs_that_share_a_sentence_share_a_number(pairs: Pairs, random: Any) -> None:
    shares = hash_shares(pairs)
    keys = [tuple(map(sentence_key, pair)) for pair in pairs]
    group = list(range(len(pairs)))  # the oracle: spread the smallest number until nothing changes
    while True:
        spread = [
            min(group[j] for j in range(len(pairs)) if set(keys[i]) & set(keys[j]))
            for i in range(len(pairs))
        ]
        if spread == group:
            break
        group = spread
    for i in range(len(pairs)):
        for j in range(len(pairs)):
            assert (shares[i] == shares[j]) == (group[i] == group[j])
    order = list(range(len(pairs)))
    random.shuffle(order)
    assert hash_shares([pairs[i] for i in order]) == [shares[i] for i in order]
    assert hash_shares([(b, a) for a, b in pairs]) == shares
    assert all(0 <= share < 1 for share in shares)


def test_hash_shares_are_fixed() -> None:
    """A stored answer: another hash would move pairs between splits of existing runs."""
    assert hash_shares([("Call us.", "联系我们。"), ("Hi!", "嗨。")]) == pytest.approx(
        [0.924715173580843, 0.55962009876799], abs=1e-12
    )


def test_sentence_key() -> None:
    same = ["Call us.", "call  us", " CALL US!", "ｃａｌｌ us"]
    assert len({sentence_key(text) for text in same}) == 1
    assert sentence_key("?!") == "?!"
    assert sentence_key("联系我们。") == "联系我们"
