"""Cleaning against Unicode's own normalisation, and tokens as they are shown."""

import unicodedata

import pytest

from bahdanau_hf.modeling import text_bahdanau
from bahdanau_hf.modeling.text_bahdanau import clean_text, token_pieces


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two\t words \n", "two words"),
        ("a\u3000b\u00a0c\x85d", "a b c d"),
        ("s\u00adoft\u200b\u2060\ufeff", "soft"),
        ("a\x00b\x1bc\x7fd\ud800e\udfff", "abcde"),
        ("e\u0301", "\u00e9"),
    ],
)
def test_cleaning_known_answers(text: str, expected: str) -> None:
    assert clean_text(text) == expected


@pytest.mark.parametrize("length", [20, text_bahdanau._LONG - 1, text_bahdanau._LONG + 1])
@pytest.mark.parametrize("block", ["e\u0301\u0327", "\u0344x\u0f73\u0f71", "\u1100\u1161\u0327"])
def test_long_text_is_normalised_as_short_text(block: str, length: int) -> None:
    for text in (block * (length // len(block) + 1), "\u0301" + block * (length // len(block))):
        assert clean_text(text) == unicodedata.normalize("NFC", text)


def test_only_long_text_is_put_in_order_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python's own way is faster, but for many marks in a row."""
    seen = []
    monkeypatch.setattr(text_bahdanau, "_in_order", lambda text: seen.append(len(text)) or text)
    for length in (998, 999, 1000, 1001):
        clean_text("\u00e9" * length)
    assert seen == [1000, 1001]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["call", " us", " "], [("call", [0]), ("us", [1]), (" ", [2])]),
        (["<0xE4>", "<0xBD>", "<0xA0>", "x"], [("你", [0, 1, 2]), ("x", [3])]),
        (["x", *["<0xF0>", "<0x9F>", "<0x98>", "<0x80>"] * 2],
         [("x", [0]), ("😀", [1, 2, 3, 4]), ("😀", [5, 6, 7, 8])]),
        (["<0x41>", "<0xFF>", "<0x42>"], [("A", [0]), ("\ufffd", [1]), ("B", [2])]),
        (["<0xE4>", "<0xBD>"], [("\ufffd", [0]), ("\ufffd", [1])]),
        (["<0xE4>", "x", "<0xBD>"], [("\ufffd", [0]), ("x", [1]), ("\ufffd", [2])]),
        ([], []),
    ],
)  # fmt: skip
def test_pieces_of_tokens(tokens: list[str], expected: list[tuple[str, list[int]]]) -> None:
    assert token_pieces(tokens) == expected
