"""`TranslationMetric`: our scores as an `evaluate.Metric`, for code that is written for `evaluate`.

It is local because `evaluate.load("sacrebleu")` needs the network even with sacrebleu installed.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import evaluate
from datasets import Features, List, Value

from ..errors import InputError
from .translation import check_translations, score_translations

_CITATION = """\
@inproceedings{post-2018-call,
    title = "A Call for Clarity in Reporting {BLEU} Scores",
    author = "Post, Matt",
    booktitle = "Proceedings of the Third Conference on Machine Translation",
    year = "2018",
    pages = "186--191",
}"""
_INPUTS = """
Args:
    predictions: translations, one a sentence.
    references: for each sentence a reference, or a list of references.
"""


class TranslationMetric(evaluate.Metric):
    """Corpus BLEU and chrF that gather over batches and processes before they are computed.

    `compute` gives on process 0 what `score_translations(...).as_dict()` gives for all sentences of
    all processes, and None on the others. A process without a sentence still has to call `compute`.

    `target_lang` and `lowercase` are those of `score_translations`; the rest is `evaluate.Metric`'s
    own: `num_process`, `process_id`, `experiment_id` (to be given when runs share a file system),
    `cache_dir`, `keep_in_memory`, ...
    """

    def __init__(self, *, target_lang: str = "zh", lowercase: bool = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.target_lang = target_lang
        self.lowercase = lowercase

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Corpus BLEU and chrF of translations, each with its sacrebleu signature.",
            citation=_CITATION,
            inputs_description=_INPUTS,
            features=Features(predictions=Value("string"), references=List(Value("string"))),
        )

    def add(
        self,
        *,
        prediction: str | None = None,
        reference: str | list[str] | None = None,
        **plural: Any,
    ) -> None:
        """Add one sentence; errors are those of `score_translations`."""
        # `evaluate.combine` has other names for the two.
        prediction = plural.pop("predictions", prediction)
        reference = plural.pop("references", reference)
        if plural:
            raise InputError(f"unknown inputs: {', '.join(sorted(plural))}")
        self.add_batch(predictions=[prediction], references=[reference])

    def add_batch(self, *, predictions: Iterable[Any], references: Iterable[Any]) -> None:
        """Add a batch of sentences; both sides may be iterators, or empty. Errors as in `add`."""
        predictions, references = list(predictions), list(references)
        if predictions or references:
            hypotheses, reference_lists = check_translations(predictions, references)
            super().add_batch(predictions=hypotheses, references=reference_lists)

    def compute(
        self,
        *,
        predictions: Iterable[str] | None = None,
        references: Iterable[str | list[str]] | None = None,
        **kwargs: Any,
    ) -> dict[str, Any] | None:
        """Compute the scores of all that was added; `target_lang` and `lowercase` may be given too.

        Raises:
            InputError: no sentence on any process, or as `score_translations`.
        """
        if (predictions is None) != (references is None):
            raise InputError("give predictions and references, or neither")
        if predictions is not None and references is not None:
            self.add_batch(predictions=predictions, references=references)
        if self.writer is None:
            # Nothing was added here. evaluate would raise, or, over several processes, let the
            # others wait for this one's file until their time is up: write an empty file.
            self.selected_feature_format = self.features
            self._init_writer()
        found: Any = super().compute(**kwargs)
        if isinstance(found, Exception):
            raise found
        return found

    def _compute(
        self, *, predictions: list[str], references: list[list[str]], **kwargs: Any
    ) -> dict[str, Any] | Exception:
        options = {"target_lang": self.target_lang, "lowercase": self.lowercase, **kwargs}
        try:
            return score_translations(predictions, references, **options).as_dict()
        except Exception as error:  # raised by `compute`, once evaluate has freed its files
            return error
