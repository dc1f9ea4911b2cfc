"""The largest word overlap with the training sentences, against all pairs compared one by one."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bahdanau_hf.errors import InputError
from bahdanau_hf.metrics.analysis import OVERLAP_EDGES, group_tables, scores_by_novelty
from bahdanau_hf.metrics.novelty import distinct_words, largest_overlaps
from bahdanau_hf.metrics.translation import score_translations

TEXTS = st.lists(st.text("abcdeé’' .", max_size=12), max_size=12)


def exhaustive(source: str, known: list[str], lang: str) -> float:
    words, best = distinct_words(source, lang), 0.0
    for text in known:
        others = distinct_words(text, lang)
        if words & others:
            best = max(best, len(words & others) / len(words | others))
    return best


@pytest.mark.parametrize(
    ("text", "lang", "words"),
    [
        ("Don't the cats, THE cats?", "en", {"don't", "the", "cats"}),
        ("L’été, à 10 h.", "fr", {"l’été", "à", "10", "h"}),
        ("我爱我的cat。", "zh", set("我爱的cat")),
        ("ねこ、ねこ!", "ja", set("ねこ")),
        ("?! …", "en", set()),
        ("", "zh-Hans", set()),
    ],
)
def test_words(text: str, lang: str, words: set[str]) -> None:
    assert distinct_words(text, lang) == words


@given(sources=TEXTS, known=TEXTS, lang=st.sampled_from(["en", "zh"]))
def test_it_is_the_largest_of_all(sources: list[str], known: list[str], lang: str) -> None:
    found = largest_overlaps(sources, iter(known), lang)
    assert found.tolist() == [exhaustive(source, known, lang) for source in sources]


def test_it_is_the_largest_of_many() -> None:
    """Frequent and rare words, near-duplicates, and a sentence of more words than a byte counts."""
    vocabulary = [f"w{int(random.paretovariate(0.7)) % 400}" for _ in range(400)]
    known = [" ".join(random.choices(vocabulary, k=random.randint(1, 12))) for _ in range(2000)]
    known.append(" ".join(f"n{i}" for i in range(301)))
    near = [text.rsplit(" ", 1)[0] for text in [*random.sample(known[:-1], 40), known[-1]]]
    new = [" ".join(random.choices(vocabulary, k=8)) for _ in range(40)]
    found = largest_overlaps([*new, *near], known, "en").tolist()
    assert found == [exhaustive(source, known, "en") for source in [*new, *near]]
    assert found[-1] == 300 / 301
    assert len(set(found)) > 9


def test_groups_are_scored_apart() -> None:
    known = ["a b c d", "one two three four five six seven eight nine ten"]
    sources = ["A, b c d!", "a b c", "a b x", "x y", "one two three four five six seven", "a b"]
    predictions = ["Tom走了。", "你好", "我们走", "一个", "他来了吗？", "甲"]
    references = ["Tom走了。", "你好吗", "我们去", "二个", "他来吧？", "甲乙"]
    groups = scores_by_novelty(sources, predictions, references, known)
    # 1, 3/4, 2/5, 0, 7/10 and 2/4: what lies on an edge belongs to the group that begins there.
    for group, members in zip(groups, ([2, 3], [5], [0, 1, 4]), strict=True):
        alone = score_translations(
            *([side[i] for i in members] for side in (predictions, references))
        )
        assert (group.num_sentences, group.bleu, group.chrf) == (
            len(members),
            alone.bleu,
            alone.chrf,
        )
    assert tuple(group.overlap_from for group in groups) == OVERLAP_EDGES
    assert tuple(group.overlap_below for group in groups) == (*OVERLAP_EDGES[1:], None)
    with pytest.raises(InputError, match="1 sources but 6 predictions"):
        scores_by_novelty(["a"], predictions, references, known)


def test_tables_hold_what_can_be_read() -> None:
    row = {
        "overlap_from": 0.5,
        "overlap_below": 0.7,
        "num_sentences": 1234,
        "bleu": 1,
        "chrf": 2.345,
    }
    last = {**row, "overlap_from": 0.7, "overlap_below": None}
    scores = {"by_novelty": [row, last, {}, 3, {**row, "bleu": "x"}], "by_source_length": "broken"}
    ((title, rows),) = group_tables(scores, "en")
    assert "words" in title
    assert "characters" in group_tables(scores, "zh-Hant")[0][0]
    assert rows == [["0.5–0.7", "1,234", "1.00", "2.35"], ["0.7+", "1,234", "1.00", "2.35"]]
    assert group_tables({}, "en") == []
