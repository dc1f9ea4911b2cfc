"""Columns are found by name."""

from __future__ import annotations

import pytest

from bahdanau_hf.data.columns import find_columns


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ("en zh", "en zh"),
        ("zh en", "en zh"),
        ("id English Chinese", "English Chinese"),
        ("english non_english", "english non_english"),
        ("target source", "source target"),
        ("SRC TGT", "SRC TGT"),
        ("eng cmn", "eng cmn"),
        ("en zh-CN", "en zh-CN"),
        ("en zh zh-TW", "en zh"),  # the exact one
        ("en zh-CN zh-TW", None),  # which?
        ("en en zh", None),
        ("en de", None),
        ("text label", None),
        ("", None),
    ],
)
def test_find_columns(names: str, expected: str | None) -> None:
    wanted = None if expected is None else tuple(expected.split())
    assert find_columns(names.split(), "en", "zh") == wanted
    if wanted is not None and "source" not in wanted and "SRC" not in wanted:
        assert find_columns(names.split(), "zh", "en") == wanted[::-1]


@pytest.mark.parametrize(
    ("names", "languages", "expected"),
    [
        (["en", "zh", "non_english"], ("en", "zh"), ("en", "zh")),
        (["en", "zh", "non_english"], ("zh", "en"), ("zh", "en")),
        (["English", "NonEnglish"], ("en", "zh"), ("English", "NonEnglish")),
        (["en US", "zh CN"], ("en", "zh"), ("en US", "zh CN")),
    ],
)
def test_columns_by_name(
    names: list[str], languages: tuple[str, str], expected: tuple[str, str]
) -> None:
    assert find_columns(names, *languages) == expected
