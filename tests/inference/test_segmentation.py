"""Sentences of a text: rules on examples, and what must hold for any text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.inference.segmentation import split_clauses, split_sentences

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
    "See ⟪0⟫the map.⟪1⟫| ⟪2⟫Then⟪3⟫ go ⟦4⟧.| Go e.g. ⟦5⟧ on.",
    "www.example.org is a page.| Open it.",
    "no end",
    "1. Open the door.| 2. Close it.\n|3. 打开它。",
]


@pytest.mark.parametrize("marked", TEXTS)
def test_sentences(marked: str) -> None:
    pieces = split_sentences(marked.replace("|", ""))
    wanted = [part.strip() for part in marked.split("|")]
    assert [piece.text for piece in pieces] == wanted


TEXT = st.text(alphabet='⟪⟫。.aB .!?…。！？\n\t"”“(),，;；1é字', max_size=60)


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
