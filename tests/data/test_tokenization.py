"""Nothing is lost on the way through the tokenizer, and the target side has the low ids."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import unicodedata
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import AddedToken
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from bahdanau_hf.data import tokenization
from bahdanau_hf.data.tokenization import (
    SPECIAL_TOKENS,
    clean_text,
    for_targets,
    load_tokenizer,
    side_kinds,
    target_vocab_size,
    tokenizer_settings,
)
from bahdanau_hf.data.vocabulary import extend_tokenizer, train_tokenizer
from bahdanau_hf.errors import InputError
from bahdanau_hf.modeling.text_bahdanau import BYTE_TOKENS

PAIRS = [
    ("Call us.", "联系我们。"),
    ("They called us again.", "他们又给我们打电话了。"),
    ("Don't call us!", "别给我们打电话！"),
    ("Us? No, them.", "我们？不，他们。"),
    ("I don't know, I'm sorry.", "我不知道，对不起。"),
    ("Tom's book is well-known.", "汤姆的书很有名。"),
    ("Do you use Python 3?", "你用 Python 3 吗？"),
    ("I use Python (and C).", "我用 Python 和 C。"),
    ("Python runs here.", "Python在这里运行。"),
    ("He runs again and again.", "他跑了又跑。"),
    ("The well is here.", "井在这里。"),
    ("The books are here, too.", "书也在这里。"),
]
SOURCES = [source for source, _ in PAIRS]
TARGETS = [target for _, target in PAIRS]
TRICKY = [
    "",
    " ",
    "  two  spaces ",
    "line\n\nline\t\u3000wide",
    "<eos> and <pad>, <0x41>, ▁ and ##",
    "e\u0301 \u212b",
    "\u0301 first",
    "𠮷野家",
    "👩\u200d👧 ok",
    "我爱machine learning和 C 。",
    "'S 's ’t don’t",
    "\x00\x7f",
    "كلمات और",
]


@pytest.fixture(scope="module")
def bpe() -> PreTrainedTokenizerFast:
    return train_tokenizer(SOURCES, TARGETS, vocab_size=460, min_frequency=1)


@pytest.fixture(scope="module")
def word_char() -> PreTrainedTokenizerFast:
    return train_tokenizer(SOURCES, TARGETS, kind="word-char")


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text)["input_ids"]


# --- clean_text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  Call\tus. \r\n", "Call us."),
        ("今天\u3000天气\u00a0好", "今天 天气 好"),
        ("\ufeffHi\u200b \u2060there\xad", "Hi there"),
        ("a\x00b\x1bc\x7f", "abc"),
        ("e\u0301", "é"),
        ("e\u200b\u0301", "é"),  # composed although something invisible stood between
        ("\u2028one\u2029two\x85three", "one two three"),
        ("bad \ud800 half", "bad half"),
        ("👩\u200d👧", "👩\u200d👧"),  # this joiner is part of a character
        (" \ufeff \u200b ", ""),
    ],
)
def test_clean_text_known_answers(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@given(st.text())
def test_clean_text_is_idempotent_and_normal(text: str) -> None:
    cleaned = clean_text(text)
    assert clean_text(cleaned) == cleaned
    assert unicodedata.is_normalized("NFC", cleaned)
    assert cleaned == " ".join(cleaned.split())
    assert not any(unicodedata.category(char) in ("Cc", "Cs") for char in cleaned)


# --- bpe -----------------------------------------------------------------------------------------

# Unassigned characters may be composed by one Unicode version and not yet by another.
ANY_TEXT = st.text(st.characters(exclude_categories=("Cs", "Cn")))
MIXED_TEXT = st.lists(st.sampled_from([*"我们用书。，！ .'’-(", " us", "Call", "Python", "3"])).map(
    "".join
)


@given(st.one_of(ANY_TEXT, MIXED_TEXT, st.sampled_from(TRICKY)))
@example("".join(TRICKY))
def test_bpe_round_trip_is_lossless(bpe: PreTrainedTokenizerFast, text: str) -> None:
    decoded = bpe.decode(ids_of(bpe, text), skip_special_tokens=True)
    assert decoded == unicodedata.normalize("NFC", text)


@pytest.mark.parametrize("text", TRICKY)
def test_bpe_never_needs_unknown(bpe: PreTrainedTokenizerFast, text: str) -> None:
    ids = ids_of(bpe, text)
    assert bpe.unk_token_id not in ids
    assert ids.index(bpe.eos_token_id) == len(ids) - 1  # "<eos>" in the text is only text


def test_bpe_batch_decode(bpe: PreTrainedTokenizerFast) -> None:
    texts = ["我用 Python 3 吗？", "联系我们。", "machine learning 和 C", "Don't call us, Tom!"]
    ids = bpe(texts, padding=True)["input_ids"]
    assert bpe.batch_decode(ids, skip_special_tokens=True) == texts


def test_bpe_pieces(bpe: PreTrainedTokenizerFast) -> None:
    assert bpe.tokenize("Don't call us.") == [" Don", "'t", " call", " us", "."]
    assert bpe.tokenize("我用 Python 和C") == ["我", "用", " Python", " ", "和", "C"]
    first, inside = bpe.tokenize("Python"), bpe.tokenize("use Python")
    assert len(first) == 1
    assert inside[-1:] == first
    assert bpe.tokenize("us.")[:1] == bpe.tokenize("us")


def test_bpe_never_merges_chinese() -> None:
    tokenizer = train_tokenizer(["ab"] * 9, ["我们我们"] * 9, vocab_size=300)
    assert tokenizer.tokenize("我们我们") == list("我们我们")
    assert " ab" in tokenizer.get_vocab()  # the same repetition does merge letters
    assert not [token for token in tokenizer.get_vocab() if "我们" in token]


def test_bpe_leaves_rare_characters_to_bytes() -> None:
    tokenizer = train_tokenizer(["a b", "a b"], ["猫狗", "猫"], vocab_size=300, min_frequency=2)
    assert "猫" in tokenizer.get_vocab()
    assert tokenizer.tokenize("狗") == [f"<0x{byte:02X}>" for byte in "狗".encode()]
    everything = train_tokenizer(["a b"], ["猫狗"], vocab_size=300, min_frequency=1)
    assert everything.tokenize("狗") == ["狗"]
    small = train_tokenizer(["bb a"], ["狗猫猫猫"], vocab_size=262, min_frequency=1)
    assert set(small.get_vocab()) == {*SPECIAL_TOKENS, *BYTE_TOKENS, "猫", " "}


def test_bpe_lowercase() -> None:
    tokenizer = train_tokenizer(SOURCES, TARGETS, vocab_size=460, lowercase_source=True)
    assert tokenizer.decode(ids_of(tokenizer, "Call US. ÉCOLE"), True) == "call us. école"
    assert tokenizer.tokenize("CALL") == tokenizer.tokenize("call")


@pytest.mark.parametrize("text", ["Il boit de l'eau À Paris.", "我用Python和C。", "ÉCOLE", "İ ẞ ς"])
def test_lower_case_is_for_sources_alone(text: str, tmp_path: Path) -> None:
    tokenizer = train_tokenizer(
        SOURCES, [*TARGETS, "À Paris, il boit."], vocab_size=460, lowercase_source=True
    )
    tokenizer.save_pretrained(tmp_path)
    for own in (tokenizer, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        twin = for_targets(own)
        labels = own(text_target=text)["input_ids"]
        assert labels == twin(text)["input_ids"] == twin(text_target=text)["input_ids"]
        assert own(text, text_target=text)["labels"] == labels
        assert own.decode(labels, skip_special_tokens=True) == text
        assert own(text)["input_ids"] == own(text.lower())["input_ids"], "and a source afterwards"


def test_what_reads_targets_is_made_once_and_again_when_something_changes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = Mock(side_effect=for_targets)
    monkeypatch.setattr(tokenization, "for_targets", made)
    tokenizer = train_tokenizer(SOURCES, TARGETS, vocab_size=460, lowercase_source=True)
    expected = ids_of(for_targets(tokenizer), "我 X y")
    for _ in range(3):
        assert tokenizer(text_target="我 X y")["input_ids"] == expected
    assert made.call_count == 1
    tokenizer.add_tokens("Xy")
    assert tokenizer(text_target="Xy")["input_ids"][0] == len(tokenizer) - 1
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", special_tokens=[])
    assert tokenizer(text_target="Xy")["input_ids"] == [len(tokenizer) - 1]
    assert made.call_count == 3


def test_lower_case_learns_the_same_words_as_text_in_lower_case() -> None:
    made = {"vocab_size": 460, "min_frequency": 1}
    one = train_tokenizer(SOURCES, TARGETS, lowercase_source=True, **made)
    other = train_tokenizer([text.lower() for text in SOURCES], TARGETS, **made)
    assert one.get_vocab() == other.get_vocab()


# --- kinds by side -------------------------------------------------------------------------------

WORDS, PHONES = ["cœur", "naïf", "ice cream", "각도"], ["k œ ʁ", "n a i f", "a ɪ s", "k a k̚ t o"]


@pytest.mark.parametrize(
    ("kinds", "source", "target"),
    [
        (("char", "word"), ["n", "a", "i", "\u0308", "f"], ["n", "a", "k̚"]),
        (("char", "char"), ["i", "c", "e", " ", "c"], ["n", " ", "a"]),
        (("word", "char"), ["ice", "cream"], ["k", " ", "a"]),
        (("word", "word"), ["ice", "cream"], ["k̚", "œ"]),
        (("word-char", "word"), ["ice", "cream"], ["k̚", "œ"]),
        (("char", "char"), ["\u1100", "\u1161", "\u11a8"], ["ʁ"]),  # the letters of a syllable
    ],
)
def test_each_side_has_its_kind(kinds: tuple[str, str], source: list[str], target: list[str]):
    made = dict(zip(("source_kind", "target_kind"), kinds, strict=True))
    tokenizer = train_tokenizer(WORDS, PHONES, min_frequency=1, **made)
    joint = "" if kinds[0] == "char" else " "
    ids = tokenizer(joint.join(source))["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == [*source, "<eos>"]
    text = ("" if kinds[1] == "char" else " ").join(target)
    labels = tokenizer(text_target=text)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(labels) == [*target, "<eos>"]
    assert tokenizer.decode(labels, skip_special_tokens=True) == text
    assert max(labels) < target_vocab_size(tokenizer)
    assert side_kinds(tokenizer) == kinds
    assert tokenizer_settings(tokenizer) == {
        **{
            "tokenizer_kind": "bpe",
            "min_frequency": 1,
            "lowercase_source": kinds[0] == "word-char",
        },
        **{"vocab_size": len(tokenizer), **made},
    }


@pytest.mark.parametrize("kinds", [("bpe", "word"), ("char", "bpe"), ("bpe", "word-char")])
def test_bpe_joins_both_sides(kinds: tuple[str, str]) -> None:
    with pytest.raises(InputError, match=f"kinds {kinds[0]} and {kinds[1]} do not go together"):
        train_tokenizer(WORDS, PHONES, source_kind=kinds[0], target_kind=kinds[1])


@pytest.mark.parametrize("value", [3, "word", {"normalizer": {"type": "Nonsense"}}, [1]])
def test_a_damaged_target_encoding_is_refused(value: object, tmp_path: Path) -> None:
    train_tokenizer(WORDS, PHONES, source_kind="char", target_kind="word").save_pretrained(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "target_encoding": value}))
    with pytest.raises(InputError, match="does not make sense: target_encoding"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("size", [261, 262, 275, 300, 340, 8000])
def test_vocab_size_is_an_upper_bound(size: int) -> None:
    tokenizer = train_tokenizer(SOURCES, TARGETS, vocab_size=size)
    assert len(tokenizer) <= size
    assert len(tokenizer) == size or size == 8000  # used where there is enough to learn
    vocab = tokenizer.get_vocab()
    assert sorted(vocab.values()) == list(range(len(tokenizer)))
    assert all(token in vocab for token in BYTE_TOKENS)
    assert tokenizer.decode(ids_of(tokenizer, "Call 我们 <0x00>"), True) == "Call 我们 <0x00>"


# --- word-char -----------------------------------------------------------------------------------


def test_word_char_pieces(word_char: PreTrainedTokenizerFast) -> None:
    assert word_char.tokenize("Don't  CALL us!") == ["don't", "call", "us", "<unk>"]
    assert word_char.tokenize("我们用Python。") == ["我", "们", "用", "python", "。"]
    assert ids_of(word_char, "zebra")[0] == word_char.unk_token_id
    assert "well-known" not in word_char.get_vocab()  # only once in the texts
    assert not [token for token in word_char.get_vocab() if len(token) > 1 and "们" in token]


def test_word_char_minimum_frequency() -> None:
    tokenizer = train_tokenizer(["a a b b b c"], ["一一二"], kind="word-char", min_frequency=2)
    assert set(tokenizer.get_vocab()) == {*SPECIAL_TOKENS, "a", "b", "一"}
    assert tokenizer.convert_ids_to_tokens([4, 5, 6]) == ["一", "b", "a"]  # then by frequency


@pytest.mark.parametrize(
    "text",
    [
        "我用python和c。",
        "do you use python 3?",
        "i use python (and c).",
        "them, too: don't call us!",
        "“我们”不用python 3 and c。",
        "“them”, i call",
    ],
)
def test_word_char_spaces(text: str) -> None:
    tokenizer = train_tokenizer([text], [text], kind="word-char", min_frequency=1)
    assert tokenizer.decode(ids_of(tokenizer, text), skip_special_tokens=True) == text


# --- both kinds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
@pytest.mark.parametrize("reverse", [False, True])
def test_target_tokens_come_first(kind: str, reverse: bool) -> None:
    sources, targets = (TARGETS, SOURCES) if reverse else (SOURCES, TARGETS)
    tokenizer = train_tokenizer(sources, targets, kind=kind, vocab_size=460)
    size = target_vocab_size(tokenizer)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    used = {i for text in targets for i in tokenizer(text_target=text)["input_ids"]}
    # What any text may use: the digit, the marks and bytes that only the source has.
    free = {
        i
        for token, i in tokenizer.get_vocab().items()
        if token in BYTE_TOKENS or not any(char.isalpha() for char in token)
    }
    assert (used | free) - {0, 1, 2, 3} == set(range(4, size))
    assert free - used - {0, 1, 2, 3}
    source_ids = {i for text in sources for i in ids_of(tokenizer, text)}
    assert max(source_ids) >= size
    assert 4 < size < len(tokenizer)


@pytest.mark.parametrize("text", ["37％！", "1,234.56 (3%)", "Żółć", "😀", "羚", "“？”", "٣", " 3"])
def test_a_target_may_have_any_digit_mark_or_new_character(text: str) -> None:
    tokenizer = train_tokenizer(["Is it 3? (1,5%)", "It is."] * 2, ["是"] * 4, vocab_size=400)
    ids = ids_of(tokenizer, text)
    assert max(ids) < target_vocab_size(tokenizer)
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert max(ids_of(tokenizer, "It")) >= target_vocab_size(tokenizer), "the source's words"


def test_settings_of_a_tokenizer() -> None:
    for lowercase in (True, False):
        made = {"min_frequency": 1, "lowercase_source": lowercase}
        tokenizer = train_tokenizer(SOURCES, TARGETS, vocab_size=420, **made)
        size = len(tokenizer)
        assert tokenizer_settings(tokenizer) == {
            **made,
            **{"tokenizer_kind": "bpe", "source_kind": None, "target_kind": None},
            "vocab_size": size,
        }


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
def test_an_extended_tokenizer_is_saved_and_reads_old_text_as_before(
    kind: str, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(SOURCES, TARGETS, kind=kind, vocab_size=420)
    texts = [*SOURCES, *TARGETS, *TRICKY]
    before = [ids_of(tokenizer, text) for text in texts]
    size, new = len(tokenizer), ["Zebras yawn, zebras!", "斑马。", "Zebras yawn?", "斑斑"]
    extend_tokenizer(tokenizer, new, [], vocab_size=size + 2, min_frequency=2)
    assert len(tokenizer) == target_vocab_size(tokenizer) == size + 2
    assert [ids_of(tokenizer, text) for text in texts] == before
    tokenizer.save_pretrained(tmp_path)
    for loaded in (tokenizer, load_tokenizer(tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert target_vocab_size(loaded) == size + 2
        assert size <= max(ids_of(loaded, "Zebras")) < size + 2
        assert ids_of(loaded, "斑") == [*({size, size + 1} & {*ids_of(loaded, "斑")}), 2]
        if kind == "bpe":
            assert (
                loaded.decode(ids_of(loaded, "斑 Zebras"), skip_special_tokens=True) == "斑 Zebras"
            )
    with pytest.raises(InputError, match=rf"{size + 2} entries already: give a --vocab_size above"):
        extend_tokenizer(tokenizer, new, [], vocab_size=size + 2, min_frequency=1)
    extend_tokenizer(tokenizer, SOURCES, TARGETS, vocab_size=size + 9, min_frequency=99)
    assert len(tokenizer) == size + 2, "nothing is frequent"


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
def test_both_sides_end_in_eos(kind: str) -> None:
    tokenizer = train_tokenizer(SOURCES, TARGETS, kind=kind, model_max_length=4)
    both = tokenizer("Call us.", text_target="我们。")
    assert set(both) == {"input_ids", "attention_mask", "labels"}
    assert both["input_ids"] == [
        *tokenizer.convert_tokens_to_ids(tokenizer.tokenize("Call us.")),
        2,
    ]
    assert both["labels"] == [*tokenizer.convert_tokens_to_ids(["我", "们", "。"]), 2]
    cut = ids_of(tokenizer, "我们我们我们")
    assert len(cut) == 7
    cut = tokenizer("我们我们我们", truncation=True)["input_ids"]
    assert (len(cut), cut[-1]) == (4, 2)


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
def test_saved_tokenizer_is_stock_and_the_same(kind: str, tmp_path: Path) -> None:
    trained = train_tokenizer(
        TARGETS, SOURCES, kind=kind, vocab_size=400, source_lang="zh", target_lang="en"
    )
    trained.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert "auto_map" not in config
    assert not list(tmp_path.glob("*.py"))
    for loaded in (
        AutoTokenizer.from_pretrained(tmp_path),
        load_tokenizer(tmp_path),
        pickle.loads(pickle.dumps(trained)),
    ):
        assert target_vocab_size(loaded) == target_vocab_size(trained) < len(trained)
        kept = {name: loaded.init_kwargs[name] for name in ("source_lang", "target_lang")}
        assert kept == {"source_lang": "zh", "target_lang": "en"}
        assert loaded.init_kwargs["tokenizer_kind"] == kind
        assert loaded.model_input_names == ["input_ids", "attention_mask"]
        for text in TRICKY + SOURCES + TARGETS:
            ids = ids_of(trained, text)
            assert ids_of(loaded, text) == ids
            assert loaded.decode(ids, True) == trained.decode(ids, True)


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
def test_training_is_deterministic(kind: str) -> None:
    # Each map in the backend hashes with a key of its own, so ties would show even in one process.
    texts = [" ".join(f"{a}{b}" for a in "abcdefgh" for b in "ijklmnop")] * 2
    rare = ["".join(map(chr, range(0x4E00, 0x4E80)))] * 2
    made = {
        train_tokenizer(texts, rare, kind=kind, vocab_size=size).backend_tokenizer.to_str()
        for size in (340, 340, 340, 340)
    }
    assert len(made) == 1


@pytest.mark.slow
def test_training_does_not_depend_on_hash_seed() -> None:
    code = (
        "from bahdanau_hf.data.tokenization import train_tokenizer\n"
        f"SOURCES, TARGETS = {SOURCES!r}, {TARGETS!r}\n"
        "for kind in ('bpe', 'word-char'):\n"
        "    print(train_tokenizer(SOURCES, TARGETS, kind=kind).backend_tokenizer.to_str())\n"
    )
    outputs = set()
    for seed in ("1", "2"):
        command = [sys.executable, "-c", code]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        outputs.add(
            subprocess.run(command, env=environment, check=True, capture_output=True).stdout
        )
    assert len(outputs) == 1


# --- mistakes ------------------------------------------------------------------------------------


def test_mistakes_in_training() -> None:
    with pytest.raises(InputError, match="unknown kind 'unigram'"):
        train_tokenizer(["a"], ["b"], kind="unigram")
    with pytest.raises(InputError, match="--vocab_size 260 is too small"):
        train_tokenizer(["a"], ["b"], vocab_size=260)
    for sources, targets in ([[], []], [["a"], []], [["a"], [""]]):
        with pytest.raises(InputError, match="has no text"):
            train_tokenizer(sources, targets)


def test_texts_may_be_iterators() -> None:
    lists, iterators = (
        train_tokenizer(SOURCES, TARGETS),
        train_tokenizer(iter(SOURCES), iter(TARGETS)),
    )
    assert lists.backend_tokenizer.to_str() == iterators.backend_tokenizer.to_str()


def test_mistakes_in_loading(tmp_path: Path, bpe: PreTrainedTokenizerFast) -> None:
    with pytest.raises(InputError, match=r"^cannot load a tokenizer from .*nowhere: [^\n]+$"):
        load_tokenizer(tmp_path / "nowhere")
    bpe.save_pretrained(tmp_path / "broken")
    (tmp_path / "broken" / "tokenizer.json").write_text('{"model":')
    with pytest.raises(InputError, match=r"^cannot load a tokenizer from .*broken: [^\n]+$"):
        load_tokenizer(tmp_path / "broken")
    foreign = train_tokenizer(SOURCES, TARGETS, vocab_size=300).backend_tokenizer
    text = foreign.to_str().replace("<bos>", "[CLS]")
    foreign = PreTrainedTokenizerFast(tokenizer_object=type(foreign).from_str(text))
    assert target_vocab_size(foreign) == len(foreign)
    foreign.save_pretrained(tmp_path / "foreign")
    with pytest.raises(InputError, match="foreign is not one of ours"):
        load_tokenizer(tmp_path / "foreign")


# --- added tokens --------------------------------------------------------------------------------

LOADERS = [load_tokenizer, PreTrainedTokenizerFast.from_pretrained, AutoTokenizer.from_pretrained]


@pytest.mark.parametrize("kind", ["bpe", "word-char"])
@pytest.mark.parametrize("load", LOADERS, ids=["ours", "fast", "auto"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("additional_special_tokens", ["<2fr>", "<2de>"]),
        ("extra_special_tokens", ["<2fr>", "<2de>"]),
        ("sep_token", "<2fr>"),
        ("tokens", ["<2fr>", "bitcoin"]),
        ("tokens", AddedToken("<2fr>", rstrip=True)),
    ],
)
def test_added_tokens_stay_whole(
    kind: str, load: Any, name: str, value: Any, tmp_path: Path
) -> None:
    tokenizer = train_tokenizer(SOURCES, TARGETS, kind=kind, vocab_size=460)
    size, known = len(tokenizer), [value] if isinstance(value, str | AddedToken) else value
    text = "<2fr> Call us. <eos>"
    marks = ids_of(tokenizer, "<eos>")
    added = (
        tokenizer.add_tokens(value)
        if name == "tokens"
        else tokenizer.add_special_tokens({name: value})
    )
    assert added == len(known) == len(tokenizer) - size
    tokenizer.save_pretrained(tmp_path)
    if name == "sep_token" and load is not load_tokenizer:
        return  # the library makes tokens of these names special again, and splits them
    for one in (tokenizer, load(tmp_path)):
        ids = ids_of(one, text)
        assert ids[0] == one.convert_tokens_to_ids("<2fr>") == size
        assert ids.count(size) == 1
        assert ids[-len(marks) :] == marks  # what is typed like a mark is still text
        if kind == "bpe":
            assert clean_text(one.decode(ids[:-1]).replace(">C", "> C")) == text
        if "bitcoin" in known:
            assert ids_of(one, "buy bitcoin now").count(size + 1) == 1
