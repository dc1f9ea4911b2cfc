"""Marks: what they stand for survives, once each, or the text stays as it is."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.documents.segments import Segment, make_segment, translate_segments
from bahdanau_hf.inference.segmentation import CLOSING_TAGS, MARKS, OPENING_TAGS, PLACEHOLDERS

_SPELT = """
    %s  %d  %5.2f  %-10s  %(name)s  %(n)d  %1$s  %2$d  %lu  %@  %1  %L2  %%
    {}  {0}  {name}  {user.name}  {name!r:>10}  {{name}}  {{ name }}  {% if x %}  ${x}  $name
    {:id}  {#id}  {n, plural, one {# file} other {# files}}  https://example.org/a?b=c
    me@example.org  <b>  </b>  <0>  <br/>  <a href="a>b">  <!-- note -->  <code>tar x</code>
"""
SPELT = [kept for line in _SPELT.split("\n") for kept in line.strip().split("  ") if kept]


@pytest.mark.parametrize("kept", SPELT)
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


@pytest.mark.parametrize(
    "text", ["", " ", "42", "%s", "{name}: %d", "<b>1</b>", "\ue000\ue801", "— …"]
)
def test_without_a_letter_nothing_is_translated(text: str) -> None:
    assert make_segment(text) == Segment(text)


def shown(marked: str) -> str:
    for kind, char in zip((PLACEHOLDERS, OPENING_TAGS, CLOSING_TAGS), "?<>", strict=True):
        marked = re.sub(f"[{kind}]", char, marked)
    return marked


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (" a <b>b</b> {c} d\n", "a <b> ? d"),
        ("a <b>b</b> <b>c</b> d", "a <b> <c> d"),
        ("a <a href='x'><b>b</b></a> d <br/> e", "a <<b>> d ? e"),
        ("a<br>b<img src=c>d <!-- e --> <code>f</code>", "a?b?d ? ?"),
        ("%s is <b>%s</b>", "? is <?>"),
        ("see <http://a.b/c> or <me@a.b> <c.loud>now</c>", "see ? or ? <now>"),
    ],
)
def test_marks_say_what_they_stand_for(text: str, wanted: str) -> None:
    assert shown(make_segment(text).text) == wanted


def test_stars_come_in_pairs() -> None:
    stars = make_segment("a **b** _c_ *d* **e** f", copied=r"\*+|_")
    assert shown(stars.text) == "a <b> <c> <d> <e> f"


def test_marks_may_move() -> None:
    segment = make_segment("a <b>b</b> {c} %s\n")
    turned = translate_segments([segment], lambda text: text[::-1])
    assert turned == "%s {c} </b>b<b> a\n"


def test_of_marks_there_are_enough() -> None:
    text = "a {b} " * 2048
    assert translate_segments([make_segment(text)], str.upper) == "A {b} " * 2048
    assert make_segment(text + "{c}") == Segment(text + "{c}")


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
            *SPELT,
            *"<>{}%$`'\"=&; \n\t0a\ue000\ue801\uf002",
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
