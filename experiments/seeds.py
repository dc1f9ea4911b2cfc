"""Is a system better than another, over several seeds? Paired bootstrap of their mean scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bahdanau_hf.metrics.translation import bleu_tokenizer

NUM_SAMPLES = 1000
BOOTSTRAP_SEED = 12345  # sacrebleu's


@dataclass(frozen=True)
class MeanComparison:
    """The mean BLEU of a system's seeds against another's.

    Attributes:
        score: mean over the seeds.
        baseline_score: the other's.
        difference: by how much the system is ahead.
        p_value: how probable so large a difference is by chance of the test sentences, in (0, 1].
        num_samples: resamples.
    """

    score: float
    baseline_score: float
    difference: float
    p_value: float
    num_samples: int


def compare_means(
    system: Sequence[Sequence[str]],
    baseline: Sequence[Sequence[str]],
    references: Sequence[str],
    *,
    target_lang: str = "zh",
    num_samples: int = NUM_SAMPLES,
) -> MeanComparison:
    """Compare two systems that were each trained with several seeds.

    Sentences are drawn with replacement, the same ones for all runs of both systems; of each draw
    the difference of the mean corpus BLEUs is taken. With one run each this is sacrebleu's paired
    bootstrap (Koehn 2004), number for number. The spread between seeds is not part of p: it stands
    beside the means.

    Args:
        system: translations, a list for each seed.
        baseline: of the same sentences, a list for each seed.
        references: one for each sentence.
        target_lang: chooses sacrebleu's tokenizer.
        num_samples: draws.
    """
    from sacrebleu.metrics import BLEU

    metric = BLEU(tokenize=bleu_tokenizer(target_lang))
    # (sentences, counts) for each run: what sacrebleu adds up before it computes a corpus score.
    runs = [
        np.array(metric._extract_corpus_statistics(list(run), [list(references)]))
        for run in (*system, *baseline)
    ]
    weights = [1 / len(system)] * len(system) + [-1 / len(baseline)] * len(baseline)

    def score(counts: np.ndarray) -> float:
        return float(metric._compute_score_from_stats(counts).score)

    full = [score(run.sum(axis=0)) for run in runs]
    difference = float(np.dot(weights, full))
    random = np.random.default_rng(BOOTSTRAP_SEED)
    number = len(references)
    drawn = random.choice(number, size=(num_samples, number), replace=True)
    samples = np.array(
        [np.dot(weights, [score(run[rows].sum(axis=0)) for run in runs]) for rows in drawn]
    )
    differences = np.abs(samples)
    by_chance = int((differences - differences.mean() > abs(difference)).sum())
    return MeanComparison(
        score=float(np.mean(full[: len(system)])),
        baseline_score=float(np.mean(full[len(system) :])),
        difference=difference,
        # sacrebleu's count would call equal runs a sure difference.
        p_value=(by_chance + 1) / (num_samples + 1) if difference else 1.0,
        num_samples=num_samples,
    )
