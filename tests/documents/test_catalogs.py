"""Texts of programs: translations are filled in, all around them stays."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf import InputError
from bahdanau_hf.documents.formats import translate_document


def shouted(name: str, text: str) -> str:
    return translate_document(name, text, str.upper)


HEADER = 'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n\n'
PO_CASES = [
    ('msgid "open"\nmsgstr ""\n', 'msgid "open"\nmsgstr "OPEN"\n'),
    ('msgid "open"\nmsgstr ""', 'msgid "open"\nmsgstr "OPEN"'),
    ('msgid "open"\r\nmsgstr ""\r\n', 'msgid "open"\r\nmsgstr "OPEN"\r\n'),
    (f'\ufeff{HEADER}msgid "a"\nmsgstr ""\n', f'\ufeff{HEADER}msgid "a"\nmsgstr "A"\n'),
    ('msgid "open"\nmsgstr "auf"\n', 'msgid "open"\nmsgstr "auf"\n'),
    ('#, fuzzy\nmsgid "open"\nmsgstr "auf"\n', '#, fuzzy\nmsgid "open"\nmsgstr "auf"\n'),
    (
        '#, c-format, fuzzy\n#| msgid "opn"\nmsgid "open"\nmsgstr ""\n\nmsgid "b"\nmsgstr ""\n',
        '#, c-format, fuzzy\n#| msgid "opn"\nmsgid "open"\nmsgstr ""\n\nmsgid "b"\nmsgstr "B"\n',
    ),
    (
        '# fuzzy remark\n#. from code\n#: a.py:3\n#, c-format\nmsgid "%d of %s"\nmsgstr ""\n',
        "# fuzzy remark\n#. from code\n#: a.py:3\n#, c-format\n"
        'msgid "%d of %s"\nmsgstr "%d OF %s"\n',
    ),
    (
        'msgctxt "menu"\nmsgid ""\n"open "\n"it\\n"\nmsgstr ""\n',
        'msgctxt "menu"\nmsgid ""\n"open "\n"it\\n"\nmsgstr "OPEN IT\\n"\n',
    ),
    (
        'msgid "say \\"hi\\"\\tnow\\nor \\\\ never"\nmsgstr ""\n',
        'msgid "say \\"hi\\"\\tnow\\nor \\\\ never"\nmsgstr "SAY \\"HI\\"\\tNOW\\nOR \\\\ NEVER"\n',
    ),
    (
        'msgid "one file"\nmsgid_plural "%d files"\nmsgstr[0] ""\nmsgstr[1] ""\nmsgstr[2] ""\n',
        'msgid "one file"\nmsgid_plural "%d files"\n'
        'msgstr[0] "ONE FILE"\nmsgstr[1] "%d FILES"\nmsgstr[2] "%d FILES"\n',
    ),
    (
        'msgid "one file"\nmsgid_plural "%d files"\nmsgstr[0] ""\n',
        'msgid "one file"\nmsgid_plural "%d files"\nmsgstr[0] "%d FILES"\n',
    ),
    (
        'msgid "one file"\nmsgid_plural "%d files"\nmsgstr[0] "eine"\nmsgstr[1] ""\n',
        'msgid "one file"\nmsgid_plural "%d files"\nmsgstr[0] "eine"\nmsgstr[1] "%d FILES"\n',
    ),
    (
        'msgid "a"\nmsgstr ""\n\n#~ msgid "old"\n#~ msgstr ""\n',
        'msgid "a"\nmsgstr "A"\n\n#~ msgid "old"\n#~ msgstr ""\n',
    ),
    ('msgid "%s: 42"\nmsgstr ""\n', 'msgid "%s: 42"\nmsgstr ""\n'),
    (
        'msgid "a"\nmsgstr ""\n""\n\nmsgid "b"\nmsgstr ""\n',
        'msgid "a"\nmsgstr "A"\n\nmsgid "b"\nmsgstr "B"\n',
    ),
]
JSON_CASES = [
    (
        '{"a": "one", "b": [true, null, 1.50, -2e3, "two"]}',
        '{"a": "ONE", "b": [true, null, 1.50, -2e3, "TWO"]}',
    ),
    ('{\r\n\t"a" :\t{"b": {"c": "deep"}}\r\n}', '{\r\n\t"a" :\t{"b": {"c": "DEEP"}}\r\n}'),
    ('\ufeff["x"]\n', '\ufeff["X"]\n'),
    ('"one"', '"ONE"'),
    (
        '["caf\\u00e9", "\\u4f60\\ud83d\\ude00", "a\\/b"]',
        '["CAFÉ", "\\u4f60\\ud83d\\ude00", "A/B"]',
    ),
    ('["a \\"b\\" c\\\\", "x\\ny\\n"]', '["A \\"B\\" C\\\\", "X\\nY\\n"]'),
    ('["<a href=\\"u\\">go</a> {name}, %s"]', '["<a href=\\"u\\">GO</a> {name}, %s"]'),
    ('["{n, plural, one {# file} other {# files}}", "", "42"]',) * 2,
    ("123456789" * 600, "123456789" * 600),
    ('{"a:b": "c\\": d"}', '{"a:b": "C\\": D"}'),
]


@pytest.mark.parametrize(("text", "wanted"), PO_CASES)
def test_catalogs(text: str, wanted: str) -> None:
    assert shouted("a.po", text) == wanted
    assert translate_document("a.po", text, str) == text
    # What is filled in is not filled in again.
    assert translate_document("a.po", wanted, lambda text: "no") == wanted


@pytest.mark.parametrize(("text", "wanted"), JSON_CASES)
def test_json(text: str, wanted: str) -> None:
    assert shouted("a.json", text) == wanted
    assert translate_document("a.json", text, str) == text


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", '{\n"a": }', "a.json: line 2 is not JSON"),
        ("a.json", "", "a.json: line 1 is not JSON"),
        ("a.json", "[" * 100_000, "nested too deep"),
        ("a.po", "Hello.\n", "a.po: it has no entries"),
    ],
)
def test_what_is_damaged_is_refused(name: str, text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        shouted(name, text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.characters(codec="utf-8"), max_size=9),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text('ab"\\:é', max_size=3), inner)
    ),
    max_leaves=9,
)


def as_text(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def places(value: object) -> object:
    """A value without what its strings say."""
    if isinstance(value, list):
        return [places(each) for each in value]
    if isinstance(value, dict):
        return {key: places(each) for key, each in value.items()}
    return bool(value) if isinstance(value, str) else value


@given(VALUES, st.booleans(), st.sampled_from([None, 2, "\t"]))
def test_values_keep_their_places(value: object, is_ascii: bool, indent: int | str | None) -> None:
    text = json.dumps(value, ensure_ascii=is_ascii, indent=indent)
    assert translate_document("a.json", text, str) == text

    found = json.loads(shouted("a.json", text))
    assert places(found) == places(value)
    assert as_text(found).upper() == as_text(value).upper()


@given(st.text('ab "\\\n\t%é{}<>', max_size=12))
def test_a_catalog_says_what_was_said(said: str) -> None:
    """As read by another reader: the escapes of C are those of JSON here."""
    quoted = json.dumps(said, ensure_ascii=False)
    text = f'msgctxt "a"\nmsgid {quoted}\nmsgstr ""\n'
    found = shouted("a.po", text)
    assert found.startswith(f'msgctxt "a"\nmsgid {quoted}\nmsgstr "')
    filled = json.loads(found.removeprefix(text.removesuffix('""\n')))
    assert filled == "" or filled.upper() == said.upper()
