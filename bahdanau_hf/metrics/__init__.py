"""Scores of translations and of alignments.

`TranslationMetric`, the `evaluate.Metric`, is imported when it is first asked for: `evaluate` takes
seconds to import.
"""

from typing import TYPE_CHECKING, Any

from .translation import (
    AlignmentScores,
    TranslationScores,
    TutorialCounts,
    alignment_scores,
    bleu_tokenizer,
    check_translations,
    reference_streams,
    score_translations,
    sentence_scores,
    tutorial_bleu,
    tutorial_counts,
)

if TYPE_CHECKING:
    from .evaluate_metric import TranslationMetric


def __getattr__(name: str) -> Any:
    if name == "TranslationMetric":
        from .evaluate_metric import TranslationMetric

        return TranslationMetric
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "AlignmentScores",
    "TranslationMetric",
    "TranslationScores",
    "TutorialCounts",
    "alignment_scores",
    "bleu_tokenizer",
    "check_translations",
    "reference_streams",
    "score_translations",
    "sentence_scores",
    "tutorial_bleu",
    "tutorial_counts",
]
