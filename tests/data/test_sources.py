"""Every source gives the same form of pairs, and splits by hash never share a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import (
    Dataset,
    DatasetDict,
    Features,
    IterableDataset,
    IterableDatasetDict,
    Translation,
    TranslationVariableLanguages,
    Value,
)
from datasets.exceptions import DataFilesNotFoundError, DatasetNotFoundError
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.data import sources as pair_sources
from bahdanau_hf.data.sources import (
    bundled_pairs,
    check_languages,
    hash_shares,
    pair_texts,
    sentence_key,
)
from bahdanau_hf.data.tables import say_once
from bahdanau_hf.errors import InputError
from bahdanau_hf.training.arguments import DataArguments, parse_arguments
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


# --- data sets as other people have them ---------------------------------------------------------


def hub(monkeypatch: pytest.MonkeyPatch, splits: dict[str, Dataset]) -> None:
    """Let these splits be the data set of every name, streamed where asked."""

    def load(name: str, configuration: str | None, *, streaming: bool) -> Any:
        if streaming:
            return IterableDatasetDict({k: v.to_iterable_dataset() for k, v in splits.items()})
        return DatasetDict(splits)

    monkeypatch.setattr(pair_sources, "load_hub_dataset", load)


VARIED = [
    {"en": "One.", "zh": "一。", "fr": "Un."},
    {"en": "Two.", "zh": ["二。", "两个。"]},
    {"fr": "Trois.", "zh": "三。"},
]
ENCODED = [TranslationVariableLanguages(["en", "fr", "zh"]).encode_example(row) for row in VARIED]
VARIED_PAIRS = [("One.", "一。"), ("Two.", "两个。"), ("Two.", "二。"), ("", "三。")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("is_plain", [False, True])
def test_translations_of_varying_languages(
    monkeypatch: pytest.MonkeyPatch, is_plain: bool, streaming: bool
) -> None:
    """Also where a file has their form without their feature."""
    feature = TranslationVariableLanguages(["en", "fr", "zh"])
    features = None if is_plain else Features({"translation": feature})
    made = {"translation": [{k: [*v] for k, v in row.items()} for row in ENCODED]}
    hub(monkeypatch, {"train": Dataset.from_dict(made, features=features)})
    args = DataArguments(dataset_name="x", streaming=streaming)
    assert sorted(rows(read_pairs(args)["train"])) == sorted(VARIED_PAIRS)
    args = DataArguments(dataset_name="x", target_lang="de", streaming=streaming)
    with pytest.raises(InputError, match="no columns for en and de; it has: 'en', 'fr', 'zh'"):
        read_pairs(args)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("names", "flags"),
    [
        (("en", "zh"), {}),
        (("source", "target"), {}),
        (("sourceString", "targetString"), {}),
        (("sentence_eng_Latn", "sentence_zho_Hans"), {}),
        (("en", "translation"), {}),  # a text, not a pair
        (("text", "translation"), {"source_column": "text", "target_column": "translation"}),
        (("text", "translation"), {"target_column": "2"}),
        (("mt", "pe"), {"source_column": "mt", "target_column": "pe"}),
        (("mt", "pe"), {"source_column": "1", "target_column": "2"}),
    ],
)
def test_columns_of_any_name(
    monkeypatch: pytest.MonkeyPatch, names: tuple[str, str], flags: dict[str, str], streaming: bool
) -> None:
    made = dict(zip(names, zip(*PAIRS, strict=True), strict=True))
    if flags != {"target_column": "2"}:
        made["score"] = [0.5] * len(PAIRS)
    hub(monkeypatch, {"train": Dataset.from_dict(made)})
    args = DataArguments(dataset_name="x", streaming=streaming, **flags)
    assert rows(read_pairs(args)["train"]) == PAIRS


@pytest.mark.parametrize(
    ("names", "advice"),
    [
        ("en fr", "Give --target_lang fr, or say which by --source_column and --target_column"),
        ("mt pe", "Say which by --source_column and --target_column, a name or a number"),
        ("text translation", "Say which by --source_column"),
    ],
)
def test_advice_on_columns_fits_the_data_set_of_someone_else(
    monkeypatch: pytest.MonkeyPatch, names: str, advice: str
) -> None:
    hub(monkeypatch, {"train": Dataset.from_dict({name: ["a"] for name in names.split()})})
    with pytest.raises(InputError, match=r"^x \(train\): no columns for en and zh; .*" + advice):
        read_pairs(DataArguments(dataset_name="x"))


def test_a_column_that_holds_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    hub(monkeypatch, {"train": Dataset.from_dict({"en": ["a"], "zh": [7]})})
    with pytest.raises(InputError, match="column 'zh' must hold text, not 7"):
        read_pairs(DataArguments(dataset_name="x"))
    missing = Dataset.from_dict(
        {"translation": [{"en": None, "zh": "甲"}, None]},
        features=Features({"translation": {"en": Value("string"), "zh": Value("string")}}),
    )
    hub(monkeypatch, {"train": missing})
    assert rows(read_pairs(DataArguments(dataset_name="x"))["train"]) == [("", "甲"), ("", "")]


@pytest.mark.parametrize("streaming", [False, True])
def test_splits_by_name(monkeypatch: pytest.MonkeyPatch, streaming: bool) -> None:
    """A data set for evaluation has no train split: another one can be trained on."""
    parts = {"test": PAIRS[:60], "validation": PAIRS[60:90], "extra": PAIRS[90:]}
    hub(monkeypatch, {name: table(pairs) for name, pairs in parts.items()})
    with pytest.raises(
        InputError,
        match="no split 'train', only: test, validation, extra; name one with --train_sp",
    ):
        read_pairs(DataArguments(dataset_name="x", streaming=streaming))
    for flags, expected in [
        ({"train_split": "test"}, {"train": "test", "validation": "validation"}),
        ({"train_split": "validation"}, {"train": "validation", "test": "test"}),
        (
            {"train_split": "test", "validation_split": "extra", "test_split": "validation"},
            {"train": "test", "validation": "extra", "test": "validation"},
        ),
    ]:
        args = DataArguments(dataset_name="x", streaming=streaming, **flags)
        found = read_pairs(args)
        assert {split: rows(found[split]) for split in found} == {
            split: parts[name] for split, name in expected.items()
        }
    for flags, message in [
        (
            {"train_split": "trian"},
            "no split 'trian', only: test, validation, extra; .*--train_split",
        ),
        ({"train_split": "test", "test_split": "test"}, "no split 'test' left, only"),
    ]:
        with pytest.raises(InputError, match=message):
            read_pairs(DataArguments(dataset_name="x", streaming=streaming, **flags))


CONFIGURATIONS = [f"de-{a}{b}" for a in "abcdefghij" for b in "abcdefghij"] + ["en-zh", "eng-cmn"]


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            ValueError(
                "Config name is missing.\nPlease pick one among the available configs: "
                f"{CONFIGURATIONS}\nExample of usage:\n\t`load_dataset('x', 'de-aa')`"
            ),
            "Config name is missing: give --dataset_config_name, such as en-zh, eng-cmn (100 more)",
        ),
        (
            ValueError(f"BuilderConfig 'v1.0' not found. Available: {CONFIGURATIONS[:30]}"),
            "BuilderConfig 'v1.0' not found: give --dataset_config_name, such as "
            f"{', '.join(CONFIGURATIONS[:20])} (10 more; none names both languages)",
        ),
        (
            ValueError("BuilderConfig 'x' not found. Available: ['default']"),
            "BuilderConfig 'x' not found: give --dataset_config_name, such as default",
        ),
        (
            RuntimeError("Dataset scripts are no longer supported, but found x.py"),
            "Dataset scripts are no longer supported, but found x.py",
        ),
        (
            DatasetNotFoundError("Dataset 'x' doesn't exist on the Hub or cannot be accessed."),
            "Dataset 'x' doesn't exist on the Hub or cannot be accessed.",
        ),
        (
            DataFilesNotFoundError("No (supported) data files found in x\nsecond line"),
            "No (supported) data files found in x second line",
        ),
        (ConnectionError(), "ConnectionError"),
        (KeyError("translation"), "'translation'"),
        (OSError("y" * 9999 + " end"), "[...]"),
    ],
)
def test_what_the_library_says_is_told_in_one_bounded_line(
    monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(pair_sources, "load_hub_dataset", fail)
    with pytest.raises(InputError) as caught:
        read_pairs(DataArguments(dataset_name="x"))
    told = str(caught.value)
    assert told.startswith("cannot load the data set x: ")
    assert len(told) < 1000
    assert told == f"cannot load the data set x: {message}" or f"y {message} y" in told


def test_the_real_list_of_configurations(tmp_path: Path) -> None:
    """A folder as the Hub's: configurations are declared in its README, with the features."""
    configs = ["de-en", "en-zh"]
    lines = []
    for name in configs:
        (tmp_path / name).mkdir()
        source, target = name.split("-")
        Dataset.from_dict(
            {"translation": [{source: "Hi.", target: "x"}]},
            features=Features({"translation": Translation(languages=[source, target])}),
        ).to_parquet(tmp_path / name / "test.parquet")
        lines += [
            f"- config_name: {name}",
            f"  data_files: [{{split: test, path: {name}/test.parquet}}]",
        ]
    (tmp_path / "README.md").write_text("\n".join(["---", "configs:", *lines, "---"]))
    args = DataArguments(dataset_name=str(tmp_path), train_split="test")
    with pytest.raises(InputError, match="give --dataset_config_name, such as en-zh "):
        read_pairs(args)
    args.dataset_config_name = "zh-en"
    with pytest.raises(InputError, match="'zh-en' not found: give --dataset_config_name, such as"):
        read_pairs(args)
    args.dataset_config_name = "en-zh"
    assert rows(read_pairs(args)["train"]) == [("Hi.", "x")]


# --- what is said --------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["memory", "mapped", "stream", "hub"])
def test_how_sides_were_told_is_logged_with_the_first_pair(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    way: str,
) -> None:
    caplog.set_level("INFO", "bahdanau_hf")
    if way == "hub":
        hub(monkeypatch, {"train": Dataset.from_dict({"src": ["Hi."], "tgt": ["嗨。"]})})
        read_pairs(DataArguments(dataset_name="x"))
        assert caplog.messages == [
            "x (train): source: column 'src', target: column 'tgt', by the names; first pair: "
            "'Hi.' -> '嗨。'"
        ]
        return
    if way == "mapped":
        monkeypatch.setattr(pair_sources, "_IN_MEMORY_BYTES", 0)
    train, more, dev = (tmp_path / f"{name}.tsv" for name in ("train", "more", "dev"))
    train.write_text("嗨。\tHi.\n走吧。\tLet's go.\n", encoding="utf-8")
    more.write_text("zh\ten\n火！\tFire!\n", encoding="utf-8")
    dev.write_text("1\t2\n", encoding="utf-8")  # which tells nothing by itself
    args = DataArguments(train_file=f"{train},{more}", validation_file=str(dev))
    args.streaming = way == "stream"
    for _ in range(2):  # the second time what was mapped comes from the cache
        caplog.clear()
        splits = read_pairs(args)
        assert caplog.messages == [
            f"{train}: source: column 2, target: column 1, by their scripts; first pair: "
            "'Hi.' -> '嗨。'",
            f"{more}: source: column 'en', target: column 'zh', by the header; first pair: "
            "'Fire!' -> '火！'",
            f"{dev}: source: column 2, target: column 1, in the order of the file before; first "
            "pair: '2' -> '1'",
        ]
        assert rows(splits["train"])[0] == ("Hi.", "嗨。")
        assert rows(splits["validation"]) == [("2", "1")]


def test_flags_turn_the_columns_of_every_file(tmp_path: Path) -> None:
    for name in ("train.tsv", "test.tsv"):
        (tmp_path / name).write_text("Hallo.\tHello.\nJa.\tYes.\n")
    files = {f"{name}_file": str(tmp_path / f"{name}.tsv") for name in ("train", "test")}
    args = DataArguments(**files, source_lang="en", target_lang="de")
    assert rows(read_pairs(args)["test"], "en", "de")[0] == ("Hallo.", "Hello.")
    args.source_column = "2"
    for split in read_pairs(args).values():
        assert rows(split, "en", "de") == [("Hello.", "Hallo."), ("Yes.", "Ja.")]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--train_split=test", "--train_split needs --dataset_name, and no --train_file"),
        ("--test_split=x --dataset_name=x --test_file=y", "--test_split needs .*, and no --test_f"),
        ("--validation_split=dev --train_file=x", "--validation_split needs --dataset_name"),
        ("--source_column=1", "--source_column and --target_column need --train_file or --data"),
    ],
)
def test_flags_that_would_have_no_effect(flags: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_arguments(flags.split())


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("graphemes", None),
        ("src", None),
        ("zh-Hans", None),
        ("eng_Latn", None),
        ("German", "--source_lang 'German' is no language code: give de"),
        ("klingon", "--source_lang 'klingon' is no language code: give tlh"),
        ("Chinese (Simplified)", "is no language code: give zh"),
        ("", "--source_lang '' is no language code, such as en, zh or zh-Hant"),
        ("d e", "is no language code, such as"),
        ("7", "is no language code, such as"),
    ],
)
def test_codes_of_languages_and_other_labels(code: str, message: str | None) -> None:
    if message is None:
        check_languages(code, "en")
        return
    with pytest.raises(InputError) as caught:
        check_languages(code, "en")
    assert message in str(caught.value)


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


def test_a_mistyped_language_is_hinted_at(caplog: pytest.LogCaptureFixture) -> None:
    say_once.cache_clear()
    check_languages("graphemes", "de-AT")
    assert caplog.text == ""
    for _ in range(2):
        check_languages("en", "deutch")
    (message,) = (record.message for record in caplog.records)
    assert message == "--target_lang deutch is a label, no language; if German is meant, give de"
