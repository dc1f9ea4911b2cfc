"""Sentences of a text: rules on examples, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.inference.segmentation import (
    CLOSING_TAGS,
    OPENING_TAGS,
    PLACEHOLDERS,
    join_pieces,
    split_clauses,
    split_sentences,
    without_marks,
)

PLACEHOLDER, OPENING_TAG, CLOSING_TAG = (
    kind[0] for kind in (PLACEHOLDERS, OPENING_TAGS, CLOSING_TAGS)
)
# What is cut is written with a bar where it is.
TEXTS = [
    "I see.| You run.",
    "Wait!| Why?| Because.",
    "Dr. Brown met Mrs. Green at 3 p.m. in St. Ives.| They talked.",
    "Mr. No is in.| See no. 3.| See p. 5.| Go.",
    "J. R. R. Tolkien wrote it.| I read it.",
    "It costs 3.14 dollars.| That is cheap.",
    "See e.g. the map, i.e. page 5, or fig. 3.| Then go on.",
    'He said, "Stop!" and left.| "Why?"| She did not know.',
    '"Stop!" he said.| "I will not."',
    "I was ... not sure.| Then I knew.",
    "I was not sure...| Then I knew.",
    "I was not sure…| Then I knew.",
    "Is it No. 5 or no. 6?| It is No. 7.",
    "Look (it is red.)| It was blue.",
    "Version 2.0.1 is out.| Take it.",
    "我看见了。|你跑吧！|为什么？|因为。",
    "他说:“走吧。”|我们走了。",
    "他说……他不知道。|我知道。",
    "价格是3.5元。|很便宜。",
    "你真的要去吗？！|是的。",
    "“走吧！”|他说。",
    "「走吧。」|他说。",
    "你好吗?|我很好!|走吧。",
    "（见第3.2节。）|下一句。",
    '他说:"走吧。"|我们走了。',
    "我喜欢 Python 3.12。|It is fast.",
    "one line\n|two lines",
    "First.\n\n|Second.| Third.",
    "Er kam z. B. um drei.| Dann ging er.",
    "Он пришел, т. е. ушел.| Потом пришла она, напр. сегодня.",
    "क्या?| हाँ।| ठीक है।",
    "Das war es. élan war weg.",
    f"See {OPENING_TAG}the map.{CLOSING_TAG}| {OPENING_TAG}It{CLOSING_TAG} is {PLACEHOLDER}.| Go.",
    f"See e.g. {PLACEHOLDER} there.| {PLACEHOLDER} It is.",
    "www.example.org is a page.| Open it.",
    "no end",
    "1. Open the door.| 2. Close it.\n|3. 打开它。",
]


@pytest.mark.parametrize("marked", TEXTS)
def test_sentences(marked: str) -> None:
    pieces = split_sentences(marked.replace("|", ""))
    wanted = [part.strip() for part in marked.split("|")]
    assert [piece.text for piece in pieces] == wanted


TEXT = st.text(alphabet='\ue000\ue801\uf002aB .!?…。！？\n\t"”“(),，;；1é字', max_size=60)


@given(TEXT)
def test_nothing_is_lost(text: str) -> None:
    pieces = split_sentences(text)
    assert "".join(piece.text + piece.space for piece in pieces) == text
    assert all(piece.text == piece.text.strip() and not piece.space.strip() for piece in pieces)
    assert all(piece.text for piece in pieces[1:])
    assert not any("\n" in piece.text for piece in pieces)


@given(TEXT)
def test_a_sentence_is_not_cut_again(text: str) -> None:
    for piece in split_sentences(text):
        if piece.text:
            assert [again.text for again in split_sentences(piece.text)] == [piece.text]


@given(TEXT, st.integers(1, 20))
def test_clauses_fit_and_nothing_is_lost(text: str, most: int) -> None:
    pieces = split_clauses(text, lambda piece: len(piece.strip()) <= most)
    assert "".join(piece.text + piece.space for piece in pieces) == text
    assert all(len(piece.text.strip()) <= most for piece in pieces)


def test_clauses_are_cut_where_a_reader_would() -> None:
    long = "When it rains, we stay; when it is dry, we walk, or run."
    assert [p.text for p in split_clauses(long, lambda piece: len(piece) < 40)] == [
        "When it rains, we stay;",
        "when it is dry, we walk, or run.",
    ]
    assert [p.text for p in split_clauses(long, lambda piece: len(piece) <= 24)] == [
        "When it rains, we stay;",
        "when it is dry,",
        "we walk, or run.",
    ]
    assert [
        p.text for p in split_clauses("下雨时，我们在家里。", lambda piece: len(piece) < 7)
    ] == [
        "下雨时，",
        "我们在家里。",
    ]


@pytest.mark.parametrize(
    "marked",
    [
        "He came at 3:45,| and it was late",
        "see http://a.b:80/c,| and go on",
        "1,000 men,| 2,000 women",
        "我来了,|他走了,|又来了",
        "a: b;| c: d",
    ],
)
def test_what_belongs_together_is_not_cut(marked: str) -> None:
    longest = max(len(part.strip()) for part in marked.split("|"))
    pieces = split_clauses(marked.replace("|", ""), lambda piece: len(piece.strip()) <= longest)
    assert [piece.text for piece in pieces] == [part.strip() for part in marked.split("|")]


def test_it_takes_time_by_length() -> None:
    """A text of a million marks is cut: looking back and ahead is bounded."""
    assert len(split_sentences("A. " * 100_000)) == 1  # initials
    assert len(split_sentences("Go on. " * 100_000)) == 100_000


@pytest.mark.parametrize(
    ("marked", "bare"),
    [
        ("a ? b", "a b"),
        ("a <b> c", "a b c"),
        ("a <b>.", "a b."),
        ("Hi, ?!", "Hi,!"),
        ("? is", "is"),
        ("is ?", "is"),
        ("a (?) b", "a () b"),
        ("我<是>?人", "我是人"),
        ("? ??", ""),
    ],
)
def test_a_text_without_its_marks(marked: str, bare: str) -> None:
    marks = str.maketrans("?<>", PLACEHOLDER + OPENING_TAG + CLOSING_TAG)
    assert without_marks(marked.translate(marks)) == bare


def test_sentences_are_joined_as_their_language_does() -> None:
    pieces = split_sentences("One. Two.\nThree.")
    assert join_pieces(pieces, ["Eins.", "Zwei.", "Drei."]) == "Eins. Zwei.\nDrei."
    assert join_pieces(pieces, ["一。", "二。", "三。"]) == "一。二。\n三。"
    assert join_pieces(pieces, ["하나.", "둘.", "셋."]) == "하나. 둘.\n셋."
    assert join_pieces(pieces, ["", "二。", "三。"]) == " 二。\n三。"
    marked = [f"一。{CLOSING_TAG}", f"{OPENING_TAG}二。", PLACEHOLDER]
    assert join_pieces(pieces, marked) == f"一。{CLOSING_TAG}{OPENING_TAG}二。\n{PLACEHOLDER}"
    assert join_pieces(pieces, [f"一{PLACEHOLDER}", f"{PLACEHOLDER}二。", "三。"]) == (
        f"一{PLACEHOLDER} {PLACEHOLDER}二。\n三。"
    )
