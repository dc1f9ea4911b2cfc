"""What stands behind a score: how it changes with length and novelty of the source, and by chance.

As in `translation.py`, sacrebleu itself computes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import as_mapping, is_number
from ..languages import has_spaces
from .novelty import largest_overlaps
from .translation import bleu_tokenizer, check_translations, reference_streams, score_translations

LENGTH_EDGES = (1, 6, 11, 16, 21, 31, 41, 61)
OVERLAP_EDGES = (0.0, 0.5, 0.7)
NUM_SAMPLES = 1000


class _Record:
    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, under the attributes' names."""
        return dict(vars(self))


@dataclass(frozen=True)
class LengthScores(_Record):
    """Corpus scores of the sentences whose source is of like length."""

    shortest: int  # as `source_length` counts
    longest: int | None  # `None` in the last group, which has no end
    num_sentences: int  # at least 1
    bleu: float
    chrf: float


@dataclass(frozen=True)
class NoveltyScores(_Record):
    """Corpus scores of the sentences that are alike near to what was trained on."""

    overlap_from: float  # the largest word overlap with a training sentence, in [0, 1], at least
    overlap_below: float | None  # and below; `None` in the last group
    num_sentences: int  # at least 1
    bleu: float
    chrf: float


@dataclass(frozen=True)
class MetricComparison:
    """A metric of two systems on the same sentences, by paired bootstrap (Koehn 2004)."""

    score: float  # of the system
    baseline_score: float  # of the system it is compared with
    p_value: float  # how probable so large a difference is by chance alone, in (0, 1]
    mean: float  # of the system's score over the resamples
    confidence_interval: float  # half the width of the range in which 95% of them lie
    baseline_mean: float
    baseline_confidence_interval: float
    signature: str  # how it was computed, resamples and seed included; sacrebleu's words

    @property
    def difference(self) -> float:
        """How much the system is ahead."""
        return self.score - self.baseline_score

    def as_dict(self) -> dict[str, Any]:
        """Everything as plain JSON values, `difference` included."""
        return {**vars(self), "difference": self.difference}


def source_length(text: str, lang: str) -> int:
    """Length of a source: words between white space, or characters where none is written."""
    words = text.split()
    return len(words) if has_spaces(lang) else sum(map(len, words))


def scores_by_length(
    sources: Iterable[str],
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    *,
    source_lang: str = "en",
    target_lang: str = "zh",
    target_kind: str | None = None,
    edges: Sequence[int] = LENGTH_EDGES,
) -> list[LengthScores]:
    """Score short and long sentences apart, as Bahdanau et al. 2015 do in figure 2.

    Each of the `edges`, which increase from 1, begins a group; those without sentences are left
    out. A blank source counts as of length 1. The rest is as in `score_translations`.

    Raises:
        InputError: as `score_translations`; or not as many sources as predictions.
        ValueError: edges that do not increase from 1.
    """
    if not edges or edges[0] != 1 or any(a >= b for a, b in pairwise(edges)):
        raise ValueError(f"edges must increase from 1, not {list(edges)}")
    lengths = [max(1, source_length(text, source_lang)) for text in sources]
    target = {"target_lang": target_lang, "target_kind": target_kind}
    return [
        LengthScores(first, None if end is None else end - 1, **scores)
        for first, end, scores in _grouped(lengths, edges, predictions, references, **target)
    ]


def scores_by_novelty(
    sources: Iterable[str],
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    trained_on: Iterable[str],
    *,
    source_lang: str = "en",
    target_lang: str = "zh",
    target_kind: str | None = None,
) -> list[NoveltyScores]:
    """Score apart what is new and what is near to a source that was `trained_on`.

    The groups begin at the `OVERLAP_EDGES` of `largest_overlaps`. Else as `scores_by_length`.
    """
    overlaps = largest_overlaps(list(sources), trained_on, source_lang)
    target = {"target_lang": target_lang, "target_kind": target_kind}
    groups = _grouped(overlaps, OVERLAP_EDGES, predictions, references, **target)
    return [NoveltyScores(first, end, **scores) for first, end, scores in groups]


def score_groups(
    sources: Sequence[str],
    predictions: Sequence[str],
    references: Sequence[str | Sequence[str]],
    trained_on: Iterable[str] | None = None,
    **languages: Any,
) -> dict[str, list[dict[str, Any]]]:
    """What stands beside the scores of a set: `by_source_length`, and `by_novelty` if it is known.

    As plain JSON values; else as `scores_by_length` and `scores_by_novelty`.
    """
    texts = (sources, predictions, references)
    groups = {"by_source_length": [g.as_dict() for g in scores_by_length(*texts, **languages)]}
    if trained_on is not None:
        found = scores_by_novelty(*texts, trained_on, **languages)
        groups["by_novelty"] = [group.as_dict() for group in found]
    return groups


def group_tables(scores: Mapping[str, Any], source_lang: str) -> list[tuple[str, list[list[str]]]]:
    """What `score_groups` has given, for a person: titles, and rows of group, number, BLEU, chrF.

    What a file does not hold, or holds otherwise, is left out.
    """
    length = "Length of the source, in words"
    overlap = "Largest overlap of its words with a training sentence (Jaccard)"
    if not has_spaces(source_lang):
        length = "Length of the source, in characters"
        overlap = "Largest overlap of its characters with a training sentence (Jaccard)"
    titles = {
        "by_source_length": (length, "shortest", "longest"),
        "by_novelty": (overlap, "overlap_from", "overlap_below"),
    }
    tables = []
    for key, (title, first, last) in titles.items():
        rows, entries = [], scores.get(key)
        for entry in map(as_mapping, entries if isinstance(entries, list) else []):
            numbers = [entry.get(name) for name in (first, "num_sentences", "bleu", "chrf")]
            if all(map(is_number, numbers)):
                start, count, bleu, chrf = numbers
                end = f"–{entry[last]:g}" if is_number(entry.get(last)) else "+"
                rows.append([f"{start:g}{end}", f"{count:,}", f"{bleu:.2f}", f"{chrf:.2f}"])
        if rows:
            tables.append((title, rows))
    return tables


def _grouped(
    values: Sequence[float] | np.ndarray,
    edges: Sequence[Any],
    predictions: Iterable[str],
    references: Iterable[str | Sequence[str]],
    **target: Any,
) -> Iterator[tuple[Any, Any, dict[str, Any]]]:
    """Of each group that has sentences: where it begins and ends, their number, BLEU and chrF."""
    hypotheses, reference_lists = check_translations(predictions, references)
    if len(values) != len(hypotheses):
        raise InputError(f"{len(values)} sources but {len(hypotheses)} predictions")
    for first, end in zip(edges, [*edges[1:], None], strict=True):
        members = [i for i, v in enumerate(values) if v >= first and (end is None or v < end)]
        if members:
            own = [reference_lists[i] for i in members]
            scores = score_translations([hypotheses[i] for i in members], own, **target)
            found = {"num_sentences": len(members), "bleu": scores.bleu, "chrf": scores.chrf}
            yield first, end, found


def compare_systems(
    predictions: Iterable[str],
    baseline: Iterable[str],
    references: Iterable[str | Sequence[str]],
    *,
    target_lang: str = "zh",
    target_kind: str | None = None,
    num_samples: int = NUM_SAMPLES,
) -> dict[str, MetricComparison]:
    """Ask whether two systems differ by more than chance: sacrebleu's paired bootstrap.

    `baseline` are the other system's translations of the same sentences. The same `num_samples`
    resamples are drawn every time (`SACREBLEU_SEED`, 12345). Returned are `bleu` and `chrf`; errors
    are those of `score_translations`, for either system.
    """
    from sacrebleu.metrics import BLEU, CHRF
    from sacrebleu.significance import PairedTest

    entries = list(references)
    hypotheses, reference_lists = check_translations(predictions, entries)
    others, _ = check_translations(baseline, entries)
    signatures, scores = PairedTest(
        [("baseline", others), ("system", hypotheses)],
        {"bleu": BLEU(tokenize=bleu_tokenizer(target_lang, target_kind)), "chrf": CHRF()},
        reference_streams(reference_lists),
        test_type="bs",
        n_samples=num_samples,
    )()
    comparisons = {}
    for name, title in (("bleu", "BLEU"), ("chrf", "chrF2")):
        before, after = scores[title]
        comparisons[name] = MetricComparison(
            score=float(after.score),
            baseline_score=float(before.score),
            # Of two that are the same, sacrebleu counts no resample as further apart: the least p.
            p_value=1.0 if hypotheses == others else float(after.p_value),
            mean=float(after.mean),
            confidence_interval=float(after.ci),
            baseline_mean=float(before.mean),
            baseline_confidence_interval=float(before.ci),
            signature=str(signatures[title]),
        )
    return comparisons
