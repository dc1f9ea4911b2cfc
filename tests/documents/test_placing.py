"""Marks find their places in translations by what the attention says."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf import Translator
from bahdanau_hf.alignment.record import Alignment
from bahdanau_hf.alignment.words import WordAlignment, split_words
from bahdanau_hf.documents.formats import translate_document
from bahdanau_hf.documents.placing import put_marks, translate_marked
from bahdanau_hf.inference.segmentation import CLOSING_TAGS, MARKS, OPENING_TAGS, PLACEHOLDERS
from bahdanau_hf.inference.translation import Translation
from tests.helpers.tiny_checkpoint import PAIRS

KINDS = {"?": PLACEHOLDERS[0], "<": OPENING_TAGS[0], ">": CLOSING_TAGS[0]}


def as_marks(written: str) -> str:
    """Marks are written as ? for a placeholder, < and > for tags around words."""
    numbers = itertools.count()
    return re.sub("[?<>]", lambda mark: chr(ord(KINDS[mark[0]]) + next(numbers)), written)


def as_written(marked: str) -> str:
    for kind, char in zip((PLACEHOLDERS, OPENING_TAGS, CLOSING_TAGS), "?<>", strict=True):
        marked = re.sub(f"[{kind}]", char, marked)
    return marked


def translation(source: str, target: str, links: str = "") -> Translation:
    """With an alignment, if links say for each target word to which source word it belongs."""
    alignment = None
    if links:
        sources, targets = split_words(source), split_words(target)
        weights = np.zeros((len(targets), len(sources)), dtype=np.float32)
        for row, link in zip(weights, links.split(), strict=True):
            row[int(link)] = 0.9
        words = WordAlignment(source, target, tuple(sources), tuple(targets), weights)
        alignment = Alignment(["a"], ["b"], np.ones((1, 1)), words)
    return Translation(source, target, alignment=alignment)


PLACES = [
    # marked, translation, to which words its words are linked, wanted
    ("you have ? books", "你有书", "0 1 2", "你有?书"),
    ("you have ? books", "du hast Bücher", "0 1 2", "du hast ? Bücher"),
    ("我有?本书", "I have books", "0 1 3", "I have ? books"),
    ("Hello, ?!", "Hallo!", "0 2", "Hallo ?!"),
    ("? is here", "ist hier", "0 1", "? ist hier"),
    ("it is ?", "es ist", "0 1", "es ist ?"),
    ("so (?) it", "so () es", "0 1 2 3", "so (?) es"),
    ("of ?? men", "von Männern", "0 1", "von ?? Männern"),
    ("so <it> goes", "so es geht", "0 1 2", "so <es> geht"),
    ("so <it> goes", "就这样", "0 1 2", "就<这>样"),
    ("so <it goes>.", "so geht es.", "0 2 1 3", "so <geht es>."),
    ("a <b ?> c", "x y z", "0 1 2", "x <y ?> z"),
    ("<a> <b>", "x y", "0 1", "<x> <y>"),
    ("a <b> c", "z x y", "2 0 1", "z x <y>"),
    ("a <b> c", "y x z", "1 0 2", "<y> x z"),
    ("<a> b <c>", "z y x", "2 1 0", "<z> y <x>"),
    ("a <b c> d", "y x z w", "1 0 2 3", "<y> x z w"),
    ("a <b <c> d> e", "v z x y w", "0 2 1 3 4", "v <<z> x y> w"),
    ("a <b> <c> d", "x y w", "0 1 3", "x <y> <w>"),  # a tag holds a word while there is one
    ("a <b> <c> d", "x", "1", "<x> <>"),
    ("a <?> b", "x y", "0 1", "x <?> y"),
    ("<a ?> b", "x y", "0 1", "<x ?> y"),
    ("a <b", "x y", "0 1", "x <y"),
    ("a> b", "x y", "0 1", "x> y"),
    ("a ? (?)", "x", "0", "x ? ?"),
    ("我?（?）", "x", "0", "x ? ?"),
    ("a> ? <b", "x y", "0 1", "x> ? <y"),
    ("a ? b", "x y", "", "x ? y"),  # without attention: by place
    ("a ?", "", "", "a ?"),
    ("a ?", "a", "", "a ?"),
    ("?", "", "", "?"),
]


@pytest.mark.parametrize(("marked", "target", "links", "wanted"), PLACES)
def test_places(marked: str, target: str, links: str, wanted: str) -> None:
    bare = re.sub(" +", " ", re.sub("[?<>]", "", marked)).strip()
    bare = re.sub(r" (?=[.!])", "", bare)
    found = put_marks(as_marks(marked), translation(bare, target, links))
    assert as_written(found) == wanted


@given(st.text("ab ?<>,.字", max_size=12), st.text("xy ,.字", max_size=9), st.randoms())
def test_each_mark_is_there_once_in_its_order(marked: str, target: str, random) -> None:
    bare = re.sub("[?<>]", "", marked).strip()
    target = " ".join(target.split()) if bare else ""
    links = [str(random.randrange(len(split_words(bare)) or 1)) for _ in split_words(target)]
    if not bare or not target or target == bare:
        links = []
    found = put_marks(as_marks(marked), translation(bare, target, " ".join(links)))
    assert sorted(re.findall(f"[{MARKS}]", found)) == sorted(
        re.findall(f"[{MARKS}]", as_marks(marked))
    )
    if links:
        assert re.sub(f"[{MARKS} ]", "", found) == target.replace(" ", "")
    # What was well nested is so still, and the same tags belong together.
    assert pairs(found) == pairs(as_marks(marked))


def pairs(marked: str) -> set[tuple[str, str]]:
    opened: list[str] = []
    found = set()
    for mark in re.findall(f"[{OPENING_TAGS}{CLOSING_TAGS}]", marked):
        if mark < CLOSING_TAGS[0]:
            opened.append(mark)
        elif opened:
            found.add((opened.pop(), mark))
    return found


def test_the_model_never_sees_a_mark(translator: Translator) -> None:
    (source, target), (other, other_target) = PAIRS[12], PAIRS[0]
    marked = as_marks(f"{source.replace('mother', '<mother>')} {other}\n")
    found = as_written(translate_marked(translator, marked))
    assert re.sub("[<>]", "", found) == f"{target}{other_target}\n"
    (bare,) = translator.translate(source, return_alignments=True)
    placed = as_written(put_marks(as_marks(source.replace("mother", "<mother>")), bare))
    assert found == f"{placed}{other_target}\n"
    assert translate_marked(translator, source) == target


def test_a_document_and_a_model(translator: Translator) -> None:
    def translate(text: str) -> str:
        return translate_marked(translator, text)

    page = "<p>The <b>tea</b> is hot.</p>\n<pre>The tea</pre>\n<p>I <i>love</i> {you}.</p>\n"
    found = translate_document("a.html", page, translate)
    kept = re.compile("<pre>.*</pre>|</?.>|[{]you[}]|\n")
    assert kept.findall(found) == kept.findall(page)
    assert re.sub("<[^>]*>", "", found).startswith("茶很热。\nThe tea\n我")
