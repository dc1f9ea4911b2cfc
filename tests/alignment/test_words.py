"""Links between words, by hand and against the strings they come from."""

from __future__ import annotations

import itertools
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf.alignment.words import (
    align_words,
    clean_with_origins,
    intersect_links,
    read_spans,
    split_words,
    word_starts,
    written_spans,
)
from bahdanau_hf.data.tokenization import clean_text
from bahdanau_hf.data.vocabulary import train_tokenizer

ENGLISH = ["Call us.", "It isn't hot, Tom.", "A well-known café in 2013!", "unknown unkind kind"]
CHINESE = ["联系我们。", "不热，Tom。", "2013年有名的咖啡馆！", "未知的好人"]


@pytest.fixture(scope="module", params=["bpe", "bpe-lower", "word-char"])
def tokenizer(request: pytest.FixtureRequest):
    kind = request.param.removesuffix("-lower")
    return train_tokenizer(
        ENGLISH,
        CHINESE,
        kind=kind,
        vocab_size=330,
        min_frequency=1,
        lowercase_source=request.param == "bpe-lower",
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Call us.", ["Call", "us", "."]),
        ("It isn't  hot!", ["It", "isn't", "hot", "!"]),
        ("我爱NBA比赛。", ["我", "爱", "NBA", "比", "赛", "。"]),
        ("a well-known man - 'no'", ["a", "well-known", "man", "-", "'", "no", "'"]),
        ("10:30, 3.5%", ["10", ":", "30", ",", "3", ".", "5", "%"]),
        ("Zoe\u0308’s cafe\u0301", ["Zoe\u0308’s", "cafe\u0301"]),
        ("\u3000 \n", []),
        ("“好”𠀀々カナ", ["“", "好", "”", "𠀀", "々", "カ", "ナ"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    found = split_words(text)
    assert [word.text for word in found] == words
    assert all(text[word.start : word.end] == word.text for word in found)


@settings(deadline=None)
@given(st.text(max_size=40))
def test_every_character_but_white_space_is_in_one_word(text: str) -> None:
    words = split_words(text)
    assert "".join(word.text for word in words) == "".join(re_split(text))
    assert all(a.end <= b.start for a, b in itertools.pairwise(words))


def re_split(text: str) -> list[str]:
    return [char for char in text if not char.isspace()]


STRANGE = st.text(
    alphabet=st.sampled_from(
        [*"ab e,我。\u0301\u0323\u0308 \t\u3000\xa0\u200b\ufeff\x07\xad가각Å\u212b"]
    ),
    max_size=25,
)


@settings(max_examples=300, deadline=None)
@given(STRANGE | st.text(max_size=25))
def test_every_cleaned_character_has_its_origin(text: str) -> None:
    clean, origins = clean_with_origins(text)
    assert clean == clean_text(text)
    assert len(origins) == len(clean)
    for char, (start, end) in zip(clean, origins, strict=True):
        part = text[start:end]
        if char != " ":
            assert part
            assert char in unicodedata.normalize("NFC", clean_text(part))
    assert origins == sorted(origins)


def test_origins_are_exact() -> None:
    clean, origins = clean_with_origins("  Cafe\u0301\u200b  a\u3000 b\x07c ")
    assert clean == "Café a bc"
    assert [origins[i] for i in (0, 3, 5, 7, 8)] == [(2, 3), (5, 7), (10, 11), (13, 14), (15, 16)]


# --- spans of tokens -----------------------------------------------------------------------------


@pytest.mark.parametrize("text", [*ENGLISH, *CHINESE, " It\u200b isn't  HOT\tTom. ", "Zyzzyva 饕"])
def test_tokens_cover_their_text(tokenizer, text: str) -> None:
    ids = tokenizer(clean_text(text))["input_ids"]
    spans = read_spans(tokenizer, text, len(ids))
    assert len(spans) == len(ids)
    assert spans[-1] is None
    covered = {i for span in spans if span for i in range(*span)}
    visible = {i for i, char in enumerate(text) if clean_text(char)}
    assert covered >= visible
    tokens = tokenizer.convert_ids_to_tokens(ids)
    for token, span in zip(tokens, spans, strict=True):
        # The space before the first word, if it is a token of its own, belongs to its first letter.
        if span is not None and token.strip() and not token.startswith("<"):
            shown = clean_text(text[slice(*span)])
            assert shown.lower() == token.strip().lower()
    # Cut tokens leave the rest out.
    assert read_spans(tokenizer, text, 2) == spans[:2]


@pytest.mark.parametrize("text", [*ENGLISH, *CHINESE, "饕餮 Tom。", "Zyzzyva 😀"])
def test_what_is_written_is_found_again(tokenizer, text: str) -> None:
    ids = tokenizer(text)["input_ids"]
    written = tokenizer.decode(ids, skip_special_tokens=True)
    tokens = tokenizer.convert_ids_to_tokens(ids)
    spans = written_spans(tokens, clean_text(written))
    for token, span in zip(tokens, spans, strict=True):
        if token in ("<eos>", "<unk>"):
            assert span is None
        elif token.strip():
            assert span is not None
    seen = [clean_text(written)[slice(*span)] for span in dict.fromkeys(spans) if span]
    assert "".join(seen) == "".join(clean_text(written).split())


def test_tokens_that_are_not_there_do_not_pull_others_along() -> None:
    assert written_spans(["我", "<unk>", "我", "们", "<eos>"], "我 我们") == [
        (0, 1), None, (2, 3), (3, 4), None,
    ]  # fmt: skip
    assert written_spans(["他", "我"], "我") == [None, (0, 1)]
    assert written_spans(["们", "我"], "我们") == [None, (0, 1)]
    # What became another character is passed over, but no more than that.
    assert written_spans(["e", "\u0301", "a"], "é a") == [None, None, (2, 3)]
    assert written_spans(["<unk>", "b"], "a b") == [None, None]
    assert written_spans([" ", "<0xE6>", "<0x88>", "<0x91>", "<0xE6>"], "我") == [
        None, (0, 1), (0, 1), (0, 1), None,
    ]  # fmt: skip


# --- from tokens to words ------------------------------------------------------------------------


def test_weights_by_hand() -> None:
    # un|know|n us .|<eos>  to  未 知 T|om <eos>
    source, target = "unknown  us.", "未知Tom"
    source_spans = [(0, 2), (2, 6), (6, 7), (9, 11), (11, 12), None]
    target_spans = [(0, 1), (1, 2), (2, 3), (3, 5), None]
    weights = np.array(
        [
            [0.1, 0.2, 0.1, 0.3, 0.2, 0.1],
            [0.0, 0.0, 0.1, 0.1, 0.1, 0.7],
            [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
            [0.2, 0.2, 0.1, 0.0, 0.5, 0.0],
            [0.0, 0.0, 0.0, 0.0, 0.0, 1.0],
        ]
    )
    words = align_words(source, target, source_spans, target_spans, weights)
    assert [w.text for w in words.source_words] == ["unknown", "us", "."]
    assert [w.text for w in words.target_words] == ["未", "知", "Tom"]
    expected = [[0.4, 0.3, 0.2], [0.1, 0.1, 0.1], [0.25, 0.5, 0.25]]
    np.testing.assert_allclose(words.weights, expected, atol=1e-6)
    # The second looks at the end: no link.
    assert words.links == [(0, 0), (1, 2)]
    assert words.as_dict() == {
        "source": source,
        "target": target,
        "links": [
            {"source": "unknown", "source_span": [0, 7], "target": "未", "target_span": [0, 1],
             "weight": 0.4},
            {"source": "us", "source_span": [9, 11], "target": "Tom", "target_span": [2, 5],
             "weight": 0.5},
        ],
    }  # fmt: skip


def test_a_token_over_two_words_goes_to_the_larger_part() -> None:
    weights = np.array([[0.6, 0.4]])
    words = align_words("us. a", "我", [(0, 3), (4, 5)], [(0, 1)], weights)
    assert [w.text for w in words.source_words] == ["us", "a"]
    np.testing.assert_allclose(words.weights, [[0.6, 0.4]], atol=1e-6)
    words = align_words("I'm.us a", "我", [(3, 6), (6, 8)], [(0, 1)], weights)
    assert [w.text for w in words.source_words] == ["us", "a"]


def test_what_was_cut_off_is_no_word() -> None:
    words = align_words("a b c", "我你", [(0, 1), None], [(0, 1), None], np.full((2, 2), 0.5))
    assert [w.text for w in words.source_words] == ["a"]
    assert [w.text for w in words.target_words] == ["我"]
    assert words.links == [(0, 0)]
    empty = align_words("a", "", [None], [None], np.ones((1, 1)))
    assert (empty.weights.shape, empty.links) == ((0, 0), [])


def test_links_of_both_directions() -> None:
    assert intersect_links([(0, 0), (1, 2), (1, 3)], [(0, 0), (3, 1), (2, 0)]) == [(0, 0), (1, 3)]
    assert intersect_links([], [(0, 0)]) == []


@pytest.mark.parametrize(
    ("text", "spans", "starts"),
    [
        ("don't go", [(0, 3), (3, 5), (6, 8), None], {0, 2}),
        ("我饕 a", [(0, 1), (1, 2), (1, 2), (1, 2), (3, 4)], {0, 1, 4}),  # bytes of one character
        ("ab, c", [None, (0, 1), (1, 2), (2, 3), None, (4, 5)], {1, 3, 5}),
        ("", [], set()),
    ],
)
def test_tokens_that_begin_words(text: str, spans: list, starts: set[int]) -> None:
    assert word_starts(text, spans) == starts
