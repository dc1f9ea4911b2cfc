"""Scores by length, paired bootstrap and alignment error rate, against other ways to the same."""

from __future__ import annotations

import random
import re

import numpy as np
import pytest
import sacrebleu
from hypothesis import given, settings
from hypothesis import strategies as st

from bahdanau_hf.errors import InputError
from bahdanau_hf.metrics.analysis import (
    LENGTH_EDGES,
    compare_systems,
    scores_by_length,
    source_length,
)
from bahdanau_hf.metrics.translation import alignment_scores, score_translations

SOURCES = ["Let's go .", "He was not at school yesterday .", "a " * 70, "", "one", "a b c d e f"]
PREDICTIONS = [
    "我们走吧。",
    "他昨天没有去学校。",
    "Tom喜欢看NBA比赛",
    "你好！",
    "一个",
    "甲乙丙丁戊",
]
REFERENCES = [
    ["我们走吧！"],
    ["他昨天没去上学。", "昨天他没有去学校。"],
    ["汤姆喜欢看NBA比赛。"],
    ["你好。"],
    ["一个"],
    ["甲乙丙丁己"],
]


# --- by length -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "lang", "length"),
    [
        ("He runs fast.", "en", 3),
        (" two\twords ", "de", 2),
        ("我们走 吧。", "zh", 5),
        ("我们走", "zh-Hant", 3),
        ("", "en", 0),
    ],
)
def test_lengths(text: str, lang: str, length: int) -> None:
    assert source_length(text, lang) == length


def test_each_group_is_scored_by_itself() -> None:
    groups = scores_by_length(iter(SOURCES), iter(PREDICTIONS), iter(REFERENCES))
    assert [(g.shortest, g.longest, g.num_sentences) for g in groups] == [
        (1, 5, 3),
        (6, 10, 2),
        (61, None, 1),
    ]
    for group, members in zip(groups, ([0, 3, 4], [1, 5], [2]), strict=True):
        alone = score_translations(
            [PREDICTIONS[i] for i in members], [REFERENCES[i] for i in members]
        )
        assert (group.bleu, group.chrf) == (alone.bleu, alone.chrf)
    assert len({group.bleu for group in groups}) == 3
    assert groups[2].as_dict() == {
        "shortest": 61,
        "longest": None,
        "num_sentences": 1,
        "bleu": groups[2].bleu,
        "chrf": groups[2].chrf,
    }


def test_edges_and_languages() -> None:
    texts = ["一二三", "一二三四五六"]
    groups = scores_by_length(
        texts, texts, texts, source_lang="zh", target_lang="en", edges=[1, 3, 6]
    )
    assert [(g.shortest, g.longest) for g in groups] == [(3, 5), (6, None)]
    (one,) = scores_by_length(["a"] * 2, texts, texts, edges=[1])
    assert (one.shortest, one.longest, one.num_sentences) == (1, None, 2)
    for edges in ([], [2, 3], [1, 3, 3], [1, 5, 4]):
        with pytest.raises(ValueError, match="edges must increase from 1"):
            scores_by_length(texts, texts, texts, edges=edges)
    with pytest.raises(InputError, match="1 sources but 2 predictions"):
        scores_by_length(["a"], texts, texts)


@settings(deadline=None)  # the first example imports sacrebleu
@given(st.lists(st.integers(0, 90), min_size=1, max_size=30))
def test_every_sentence_is_in_one_group(lengths: list[int]) -> None:
    sources = ["w " * n for n in lengths]
    texts = ["好。"] * len(lengths)
    groups = scores_by_length(sources, texts, texts)
    assert sum(group.num_sentences for group in groups) == len(lengths)
    for group in groups:
        assert group.shortest in LENGTH_EDGES
        members = [
            n for n in lengths if max(n, 1) >= group.shortest and n <= (group.longest or 1000)
        ]
        assert group.num_sentences == len(members)


# --- paired bootstrap ----------------------------------------------------------------------------


def two_systems(num_sentences: int = 40) -> tuple[list[str], list[str], list[str]]:
    """Of like sentences: a good system, one that breaks more characters, the references."""
    shuffled = random.Random(3)
    letters = "天地玄黄宇宙洪荒日月盈昃辰宿列张"
    references = ["".join(shuffled.choices(letters, k=12)) for _ in range(num_sentences)]

    def broken(text: str, share: float) -> str:
        return "".join("坏" if shuffled.random() < share else char for char in text)

    return (
        [broken(text, 0.1) for text in references],
        [broken(text, 0.13) for text in references],
        references,
    )


def test_p_value_by_another_hand() -> None:
    """Koehn's test with the resamples drawn as sacrebleu draws them, every score from scratch."""
    system, baseline, references = two_systems()
    found = compare_systems(iter(system), iter(baseline), iter(references), num_samples=100)["bleu"]
    draws = np.random.default_rng(12345).choice(40, size=(100, 40), replace=True)

    def bleu(texts: list[str], places: np.ndarray | range) -> float:
        return sacrebleu.corpus_bleu(
            [texts[i] for i in places], [[references[i] for i in places]], tokenize="zh"
        ).score

    system_scores, baseline_scores = (
        np.array([bleu(texts, places) for places in draws]) for texts in (system, baseline)
    )
    gaps = abs(system_scores - baseline_scores)
    real = abs(bleu(system, range(40)) - bleu(baseline, range(40)))
    chance = ((gaps - gaps.mean() > real).sum() + 1) / 101
    assert found.p_value == pytest.approx(chance)
    assert 0.02 < found.p_value < 0.98, "both extremes would say little"
    assert found.score == bleu(system, range(40))
    assert found.baseline_score == bleu(baseline, range(40))
    assert found.mean == pytest.approx(system_scores.mean(), rel=1e-5)
    assert found.baseline_mean == pytest.approx(baseline_scores.mean(), rel=1e-5)
    low, high = np.sort(system_scores)[[2, 97]]
    assert found.confidence_interval == pytest.approx((high - low) / 2, rel=1e-4)
    assert re.search(r"bs:100\|seed:12345\|.*tok:zh", found.signature)
    assert found.as_dict()["difference"] == found.score - found.baseline_score


def test_clear_and_no_differences() -> None:
    system, _, references = two_systems()
    bad = ["坏" * 12] * 40
    for name, ahead in compare_systems(system, bad, references, num_samples=200).items():
        assert ahead.p_value == pytest.approx(1 / 201), name
        assert ahead.difference > 0
    for behind in compare_systems(bad, system, references, num_samples=200).values():
        assert behind.p_value == pytest.approx(1 / 201)
        assert behind.difference < 0
    same = compare_systems(system, system, references, num_samples=20)
    assert all(comparison.difference == 0 for comparison in same.values())
    assert {found.p_value for found in same.values()} == {1.0}


def test_comparisons_take_several_references_and_refuse_bad_input() -> None:
    several = [[text, "别的"] if i % 2 else text for i, text in enumerate(two_systems()[2])]
    system, baseline, _ = two_systems()
    found = compare_systems(system, baseline, several, num_samples=10)
    assert found["bleu"].signature.startswith("nrefs:var|")
    assert found["bleu"].score == score_translations(system, several).bleu
    for bad in (baseline[1:], [], [*baseline[1:], None]):
        with pytest.raises(InputError):
            compare_systems(system, bad, several, num_samples=10)


# --- alignment error rate ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("links", "sure", "possible", "expected"),
    [
        # Found all, and nothing else.
        ([[(0, 0), (1, 1)]], [[(0, 0), (1, 1)]], [[]], (0.0, 1.0, 1.0, 2)),
        # A possible link costs nothing; one that is not possible does.
        ([[(0, 0), (1, 1)]], [[(0, 0)]], [[(1, 1)]], (0.0, 1.0, 1.0, 2)),
        ([[(0, 0), (1, 1)]], [[(0, 0)]], [[]], (1 - 2 / 3, 0.5, 1.0, 2)),
        # Direction matters.
        ([[(0, 1)]], [[(1, 0)]], [[]], (1.0, 0.0, 0.0, 1)),
        # Nothing found; nothing to be found.
        ([[]], [[(0, 0)]], [[]], (1.0, 1.0, 0.0, 0)),
        ([[(0, 0)]], [[]], [[(0, 0)]], (0.0, 1.0, 1.0, 1)),
        # Counts are pooled: 1 + 1 sure and 1 + 2 possible of 4 links, 3 sure ones.
        (
            [[(0, 0)], [(0, 0), (1, 1), (5, 5)]],
            [[(0, 0)], [(0, 0), (2, 2)]],
            [[(0, 0)], [(1, 1)]],
            (1 - (2 + 3) / (4 + 3), 3 / 4, 2 / 3, 4),
        ),
    ],
)
def test_alignment_error_rate_by_hand(links, sure, possible, expected) -> None:
    assert alignment_scores(links, sure, possible) == pytest.approx(expected)
    # A link named twice is one link.
    twice = [[*own, *own] for own in links]
    assert alignment_scores(iter(twice), iter(sure), iter(possible)) == pytest.approx(expected)


LINKS = st.lists(st.sets(st.tuples(st.integers(0, 3), st.integers(0, 3))), min_size=3, max_size=3)


@given(LINKS, LINKS, LINKS)
def test_alignment_error_rate_between_bounds(links, sure, possible) -> None:
    if not any(links) and not any(sure):
        with pytest.raises(InputError, match="no links to score"):
            alignment_scores(links, sure, possible)
        return
    scores = alignment_scores(links, sure, possible)
    assert 0 <= scores.error_rate <= 1
    # With one kind of link only it is one minus the F-measure.
    if any(links) and any(sure):
        both = alignment_scores(links, sure, [[], [], []])
        if both.precision + both.recall > 0:
            f = 2 * both.precision * both.recall / (both.precision + both.recall)
            assert both.error_rate == pytest.approx(1 - f)


def test_alignments_of_other_sentences() -> None:
    with pytest.raises(InputError, match="1 sentences with links, 2 with sure and 1 with"):
        alignment_scores([[(0, 0)]], [[], []], [[]])
    with pytest.raises(InputError, match="no links"):
        alignment_scores([], [], [])
