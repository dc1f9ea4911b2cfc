"""The hand-made alignments: whole, of held-out pairs, and scored as they should be."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bahdanau_hf import InputError
from bahdanau_hf.alignment.gold import (
    BUNDLED_ALIGNMENTS,
    ReferenceAlignment,
    baselines,
    bundled_alignments,
    diagonal_links,
    links_between_reference_words,
    score_links,
)
from bahdanau_hf.alignment.words import WordAlignment, split_words
from bahdanau_hf.data.sources import bundled_pairs
from bahdanau_hf.inference.alignment_error import alignment_quality
from bahdanau_hf.inference.translator import Translator
from bahdanau_hf.metrics.translation import alignment_scores
from tests.helpers.tiny_run import prepare

ALIGNMENTS = bundled_alignments()


def problems(alignments: list[ReferenceAlignment], held_out: set[tuple[str, str]]) -> list[str]:
    """What is wrong with alignments, one complaint each."""
    found = []
    for own in alignments:
        if (own.source, own.target) not in held_out:
            found.append(f"not a held-out pair: {own.source}")
        if not own.sure <= own.possible:
            found.append(f"sure, but not possible: {own.source}")
        sizes = len(own.source_words), len(own.target_words)
        if any(not (0 <= i < sizes[0] and 0 <= j < sizes[1]) for i, j in own.possible):
            found.append(f"no such word: {own.source}")
        if not own.sure:
            found.append(f"nothing is sure: {own.source}")
        for text, words in ((own.source, own.source_words), (own.target, own.target_words)):
            if any(text[w.start : w.end] != w.text for w in words):
                found.append(f"a word that is not there: {text}")
            if "".join(w.text for w in words) != "".join(text.split()):
                found.append(f"words are missing: {text}")
        end = sizes[0] - 1, sizes[1] - 1
        if end not in own.sure:
            found.append(f"the last marks are not linked: {own.source}")
    return found


def held_out_pairs() -> set[tuple[str, str]]:
    return {(row["en"], row["zh"]) for row in bundled_pairs()["test"]["translation"]}


def test_alignments_are_whole_and_of_the_test_split() -> None:
    assert len(ALIGNMENTS) == 150
    assert len({own.source for own in ALIGNMENTS}) == 150
    assert problems(ALIGNMENTS, held_out_pairs()) == []


def test_readme_has_the_numbers() -> None:
    """Which pairs they are, and how many links."""
    rows = bundled_pairs()["test"]["translation"]
    assert [own.source for own in ALIGNMENTS] == [row["en"] for row in rows[:150]]
    text = " ".join((BUNDLED_ALIGNMENTS.parent / "README.md").read_text(encoding="utf-8").split())
    num_sure = sum(len(own.sure) for own in ALIGNMENTS)
    num_possible = sum(len(own.possible) for own in ALIGNMENTS)
    assert f"{num_sure:,} sure and {num_possible - num_sure:,} further possible links" in text


def test_guard_notices() -> None:
    held_out = held_out_pairs()
    good = ALIGNMENTS[0]
    mended = good.target.replace("公共汽车", "公交车")
    first = good.source_words[0]
    bad = [
        ReferenceAlignment(**{**vars(good), **change})
        for change in (
            {"target": mended},
            {"sure": good.sure | {(0, 1)}},
            {"possible": good.possible | {(40, 0)}},
            {"sure": frozenset()},
            {"source_words": (first._replace(end=first.end + 1), *good.source_words[1:])},
            {"source_words": good.source_words[1:]},
        )
    ]
    for own in bad:
        assert problems([own], held_out), own


def test_file_is_sorted_and_says_nothing_twice() -> None:
    header, *lines = BUNDLED_ALIGNMENTS.read_text(encoding="utf-8").splitlines()
    assert header == "en\tzh\tsure\tpossible"
    for line in lines:
        *_, sure, possible = line.split("\t")
        for links in (sure.split(), possible.split()):
            assert links == sorted(set(links), key=lambda link: [*map(int, link.split("-"))])
        assert not set(sure.split()) & set(possible.split())


def test_other_direction_and_other_languages() -> None:
    for own, turned in zip(ALIGNMENTS, bundled_alignments("zh-Hans", "en"), strict=True):
        assert (turned.source, turned.target) == (own.target, own.source)
        assert turned.sure == {(j, i) for i, j in own.sure}
        assert turned.reversed() == own
    with pytest.raises(InputError, match="between en and zh, not en and de"):
        bundled_alignments("en", "de")


def test_first_alignment_reads_as_it_was_drawn() -> None:
    own = ALIGNMENTS[0]
    named = {(own.source_words[i].text, own.target_words[j].text) for i, j in own.sure}
    assert named == {
        ("bus", "公共汽车"), ("driver", "司机"), ("speak", "说"), ("English", "英语"), ("?", "？"),
    }  # fmt: skip
    loose = {(own.source_words[i].text, own.target_words[j].text) for i, j in own.possible}
    assert loose - named == {
        ("the", "公共汽车"), ("the", "司机"), ("Does", "会"), ("Does", "吗"), ("speak", "会"),
        ("?", "吗"),
    }  # fmt: skip


# --- what knows nothing --------------------------------------------------------------------------


def test_uniform_is_the_mean_over_all_that_can_be_drawn() -> None:
    def reference(english: str, chinese: str, sure: set, possible: set) -> ReferenceAlignment:
        words = tuple(split_words(english)), tuple(split_words(chinese))
        return ReferenceAlignment(
            english, chinese, *words, frozenset(sure), frozenset(sure | possible)
        )

    references = [
        reference("a b c", "我你", {(0, 0), (1, 0)}, {(2, 1)}),
        reference("a b", "我", {(1, 0)}, {(0, 0)}),
    ]
    rates = []
    for x, y, z in itertools.product(range(3), range(3), range(2)):
        links = [[(x, 0), (y, 1)], [(z, 0)]]
        rates.append(score_links(links, references).error_rate)
    assert baselines(references)["uniform_error_rate"] == pytest.approx(np.mean(rates))


@pytest.mark.parametrize(
    ("num_source", "num_target", "sources"),
    [(3, 3, [0, 1, 2]), (2, 4, [0, 0, 1, 1]), (4, 2, [1, 3]), (1, 3, [0, 0, 0]), (5, 3, [0, 2, 4])],
)
def test_diagonal(num_source: int, num_target: int, sources: list[int]) -> None:
    assert diagonal_links(num_source, num_target) == [(i, j) for j, i in enumerate(sources)]


# --- found links ---------------------------------------------------------------------------------


def test_links_are_brought_to_the_references_words() -> None:
    """The characters of a Chinese word share its links, and have one together."""
    source, target = "Call us.", "联系我们。"
    weights = np.array(
        [[0.5, 0.3, 0.1], [0.2, 0.6, 0.1], [0, 0.9, 0], [0, 0.9, 0], [0.1, 0, 0.8]], np.float32
    )
    found = WordAlignment(
        source, target, tuple(split_words(source)), tuple(split_words(target)), weights
    )
    assert found.links == [(0, 0), (1, 1), (1, 2), (1, 3), (2, 4)]
    first, *_, end = split_words(target)
    chinese = (
        first._replace(text="联系", end=2),
        first._replace(text="我们", start=2, end=4),
        end,
    )
    merged = found.regroup(found.source_words, chinese)
    np.testing.assert_allclose(merged.weights, [[0.35, 0.45, 0.1], [0, 0.9, 0], [0.1, 0, 0.8]])
    assert merged.links == [(1, 0), (1, 1), (2, 2)]
    turned = WordAlignment(
        target, source, found.target_words, found.source_words, weights.T / 2
    ).regroup(chinese, found.source_words)
    np.testing.assert_allclose(
        turned.weights, [[0.35, 0, 0.05], [0.45, 0.9, 0], [0.1, 0, 0.4]], atol=1e-7
    )
    # What was cut off has neither weights nor links.
    cut = WordAlignment(
        source, target, found.source_words[:1], found.target_words[:2], weights[:2, :1]
    )
    rows = cut.regroup(found.source_words, chinese)
    np.testing.assert_allclose(rows.weights, [[0.35, 0, 0], [0, 0, 0], [0, 0, 0]])
    reference = ReferenceAlignment(
        source,
        target,
        found.source_words,
        chinese,
        frozenset({(0, 0)}),
        frozenset({(0, 0), (1, 0)}),
    )
    assert links_between_reference_words([found], [reference]) == [[(1, 0), (1, 1), (2, 2)]]


class Drawn:
    """A translator whose attention lies on the sure links, evenly where a word has several."""

    def __init__(self, source_lang: str, target_lang: str, shifted: int = 0):
        self.tokenizer = SimpleNamespace(
            init_kwargs={"source_lang": source_lang, "target_lang": target_lang}
        )
        self._known = {own.source: own for own in bundled_alignments(source_lang, target_lang)}
        self._shifted = shifted

    def align_pairs(self, sources: list[str], targets: list[str]) -> list[SimpleNamespace]:
        return [self._align(*pair) for pair in zip(sources, targets, strict=True)]

    def _align(self, source: str, target: str) -> SimpleNamespace:
        own = self._known[source]
        assert target == own.target
        weights = np.zeros((len(own.target_words), len(own.source_words)), np.float32)
        for i, j in own.sure:
            weights[j, (i + self._shifted) % len(own.source_words)] = 1
        weights /= np.maximum(weights.sum(axis=1, keepdims=True), 1)
        words = WordAlignment(source, target, own.source_words, own.target_words, weights)
        return SimpleNamespace(words=words)


def test_quality_of_drawn_links() -> None:
    drawn = alignment_quality(Drawn("en", "zh"))
    heaviest = [{min(own.sure & {(i, j) for i in range(99)}) for j in {j for _, j in own.sure}}
                for own in ALIGNMENTS]  # fmt: skip
    expected = alignment_scores(
        heaviest, [own.sure for own in ALIGNMENTS], [own.possible for own in ALIGNMENTS]
    )
    assert expected.precision == 1 > expected.recall > 0.8
    assert drawn["error_rate"] == pytest.approx(expected.error_rate, abs=1e-4)
    assert (drawn["precision"], drawn["num_sentences"]) == (1, 150)
    assert drawn["num_links"] == sum(map(len, heaviest))
    assert drawn["error_rate"] < drawn["diagonal_error_rate"] < drawn["uniform_error_rate"] < 1
    both = alignment_quality(Drawn("en", "zh"), Drawn("zh", "en"))
    assert both["precision"] == 1
    assert both["num_links"] < drawn["num_links"]
    assert alignment_quality(Drawn("en", "zh", shifted=1))["error_rate"] > 0.8
    with pytest.raises(InputError, match="opposite directions, but translate from en to zh and"):
        alignment_quality(Drawn("en", "zh"), Drawn("en", "zh"))


def test_a_run_on_the_bundled_pairs_measures_it(tmp_path: Path) -> None:
    run = prepare(
        tmp_path, train_file=None, validation_split_percentage=None, max_train_samples=40,
        max_eval_samples=4, max_train_steps=1,
    )  # fmt: skip
    run.train()
    run.finish()
    results = json.loads((tmp_path / "eval_results.json").read_text(encoding="utf-8"))
    assert results["alignment"] == alignment_quality(Translator(run.bare_model, run.tokenizer))
    assert "Alignment error rate" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_other_pairs_may_hold_the_aligned_ones(tmp_path: Path) -> None:
    run = prepare(tmp_path, max_train_steps=1, max_eval_samples=4)
    run.train()
    run.finish()
    assert "alignment" not in json.loads((tmp_path / "eval_results.json").read_text("utf-8"))
