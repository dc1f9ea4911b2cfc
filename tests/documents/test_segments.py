"""Marks: what they stand for survives, once each, or the text stays as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.documents.segments import Segment, make_segment, translate_segments
from bahdanau_hf.inference.segmentation import MARKS

_SPELT = """
    %s  %d  %5.2f  %-10s  %(name)s  %(n)d  %1$s  %2$d  %lu  %@  %1  %L2  %%
    {}  {0}  {name}  {user.name}  {name!r:>10}  {{name}}  {{ name }}  {% if x %}  ${x}  $name
    {:id}  {#id}  {n, plural, one {# file} other {# files}}  https://example.org/a?b=c
    me@example.org  <b>  </b>  <0>  <br/>  <a href="a>b">  <!-- note -->  <code>tar x</code>
"""
PLACEHOLDERS = [kept for line in _SPELT.split("\n") for kept in line.strip().split("  ") if kept]


@pytest.mark.parametrize("kept", PLACEHOLDERS)
def test_a_placeholder_survives(kept: str) -> None:
    segment = make_segment(f"you see {kept} there")
    assert re.fullmatch(rf"you see [{MARKS}] there", segment.text)
    assert translate_segments([segment], str.upper) == f"YOU SEE {kept} THERE"


@pytest.mark.parametrize(
    "text",
    [
        "a 50% discount",
        "100%",
        "it is 5%.",
        "{ a set }",
        "{a b}",
        "a < b and c > d",
        "$5",
        "I <3 you",
    ],
)
def test_prose_has_none(text: str) -> None:
    assert not make_segment(text).kept


@pytest.mark.parametrize("text", ["", " ", "42", "%s", "{name}: %d", "<b>1</b>", MARKS, "— …"])
def test_without_a_letter_nothing_is_translated(text: str) -> None:
    assert make_segment(text) == Segment(text)


def test_both_ends_are_no_matter_of_the_translation() -> None:
    segment = make_segment(" <p><b>see</b> it</p>\n")
    assert re.sub(f"[{MARKS}]", "@", segment.text) == "see@ it"
    assert translate_segments([segment], str.upper) == " <p><b>SEE</b> IT</p>\n"
    assert re.sub(f"[{MARKS}]", "@", make_segment("%s is <b>%s</b>").text) == "@ is @@"


def test_marks_say_on_which_side_they_belong() -> None:
    shown = str.maketrans(MARKS, "?<>")
    for text, wanted in [
        ("a <b>b</b> {c} d", "a <b> ? d"),
        ("a <b>b</b> <b>c</b> d", "a <b> <c> d"),
        ("a <a href='x'><b>b</b></a> d <br/> e", "a <b> d < e"),
    ]:
        assert make_segment(text).text.translate(shown) == wanted
    stars = make_segment("a **b** _c_ *d* **e** f", markup=r"\*+|_")
    assert stars.text.translate(shown) == "a <b> <c> <d> <e> f"


def test_all_is_translated_in_one_call() -> None:
    calls: list[str] = []
    segments = [
        make_segment("one\ntwo"),
        Segment("\n\n"),
        make_segment("%s"),
        make_segment("three"),
    ]

    def translate(text: str) -> str:
        calls.append(text)
        return text.upper()

    assert translate_segments(segments, translate) == "ONE\nTWO\n\n%sTHREE"
    assert calls == ["one\ntwo\nthree"]
    assert translate_segments([Segment("1"), Segment("2")], translate) == "12"
    assert len(calls) == 1


ODD = st.lists(
    st.sampled_from(
        [
            *PLACEHOLDERS,
            *"<>{}%$`'\"=&;" + MARKS + " \n\t0a",
            "word ",
            "<b ",
            "<code>",
            "<!--",
            "字",
            "é",
        ]
    ),
    max_size=12,
).map("".join)


@given(ODD)
def test_whatever_stands_there_comes_back(text: str) -> None:
    segment = make_segment(text)
    assert segment.raw == text
    assert translate_segments([segment], str) == text
    # With the marks filled in it is the text again, and each of its words is in capitals.
    loud = translate_segments([segment], str.upper)
    assert loud.upper() == text.upper()
    if segment.text:
        assert loud != text or text.upper() == text or segment.text.upper() == segment.text
