"""What a caller asks of the search, filled in from the checkpoint's defaults and checked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedModel

from ..data.tokenization import UNK_ID
from ..errors import InputError
from ..modeling.pipeline_bahdanau import EncodedSentence, Hypothesis, search_arguments
from .confidence import confidence_weights
from .glossary import Glossary
from .translation import Translation


class SearchRequest(NamedTuple):
    """What is asked of the search, checked."""

    num_beams: int  # this, like the other numbers, is at least 1
    num_return_sequences: int
    return_alignments: bool
    return_scores: bool
    return_confidence: bool
    max_new_tokens: int
    length_penalty: float  # 0 without beams
    glossary: Glossary | None
    replacements: Mapping[str, str] | None  # for what the model could not write; None: leave it out
    generate_kwargs: dict[str, Any]  # the limit among them

    def score(self, log_probs: np.ndarray) -> float:
        """What the search ranks a translation by, from its tokens' log-probabilities, `(T,)`."""
        return float(log_probs.sum()) / len(log_probs) ** self.length_penalty

    def scored(self, translation: Translation, found: Hypothesis) -> Translation:
        """The translation with what the search ranked it by, per token and summed."""
        if found.score is None:
            return translation
        given = self.generate_kwargs.get("decoder_input_ids")
        length = len(found.ids) - (0 if given is None else given.shape[-1] - 1)
        log_prob = found.score * length**self.length_penalty
        return replace(translation, score=log_prob / max(1, length), log_prob=log_prob)

    def untranslated(self, sentence: EncodedSentence) -> Translation:
        """What becomes of a sentence without words to translate: it is blank, or copied."""
        text = sentence.copy if self.glossary is None else self.glossary.replace(sentence.copy)
        score, sure = 0.0 if self.return_scores else None, 1.0 if self.return_confidence else None
        copied, cut = bool(text) and text == sentence.copy, sentence.truncated
        return Translation(sentence.text, text, score, None, cut, sure, (), copied, score)

    def looks_up(self, ids: list[int]) -> bool:
        """Whether it must be known where the model looked while it wrote these."""
        return self.return_alignments or (self.replacements is not None and UNK_ID in ids)


def make_request(
    model: PreTrainedModel,
    num_beams: int | None = None,
    num_return_sequences: int = 1,
    return_alignments: bool = False,
    max_new_tokens: int | None = None,
    length_penalty: float | None = None,
    return_scores: bool = False,
    replace_unknown: bool | Mapping[str, str] = False,
    return_confidence: bool = False,
    glossary: Glossary | None = None,
    **generate_kwargs: Any,
) -> SearchRequest:
    """Fill in the checkpoint's defaults and check; arguments as those of `Translator.translate`.

    Raises:
        InputError: sizes that make no sense, or attention asked of a model that has none.
    """
    defaults = generate_kwargs.get("generation_config") or model.generation_config
    for name, value in generate_kwargs.items():
        if isinstance(value, Real) and not math.isfinite(value):
            raise InputError(f"{name} must be a finite number, not {value}")
    check_positive(num_return_sequences=num_return_sequences)
    given = {"num_beams": num_beams, "max_new_tokens": max_new_tokens}
    check_positive(**{name: value for name, value in given.items() if value is not None})
    generate_kwargs = search_arguments(defaults, num_return_sequences, **generate_kwargs, **given)
    name = "max_length" if "max_length" in generate_kwargs else "max_new_tokens"
    limit = generate_kwargs[name] - (name == "max_length")
    check_positive(max_new_tokens=limit)
    generate_kwargs[name] = int(generate_kwargs[name])  # a number of NumPy would not do
    num_beams = generate_kwargs.pop("num_beams")
    is_sampling = generate_kwargs.get("do_sample", defaults.do_sample)
    if num_return_sequences > num_beams and not is_sampling:
        raise InputError(
            f"{num_return_sequences} translations of a sentence need at least as many beams, "
            f"not {num_beams}"
        )
    if length_penalty is not None:
        if not isinstance(length_penalty, Real) or not math.isfinite(length_penalty):
            raise InputError(f"length_penalty must be a finite number, not {length_penalty!r:.60}")
        if num_beams > 1:
            generate_kwargs["length_penalty"] = float(length_penalty)
    penalty = float(generate_kwargs.get("length_penalty", defaults.length_penalty or 1.0))
    if not isinstance(replace_unknown, bool | Mapping):
        raise InputError(
            f"replace_unknown must be True, False or a dictionary, not {replace_unknown!r:.60}"
        )
    begins = [name for name in generate_kwargs if name.startswith("decoder_input")]
    if not isinstance(glossary, Glossary | None):
        raise InputError(f"glossary must be a Glossary or None, not {glossary!r:.60}")
    if glossary is not None and begins:
        raise InputError(f"a glossary begins translations itself: leave out {begins[0]}")
    replacements: Mapping[str, str] | None = None
    if replace_unknown is not False:
        replacements = {} if replace_unknown is True else replace_unknown
    if return_alignments or replacements is not None:
        check_attention(model)
    if return_confidence:
        confidence_weights(model)
    return SearchRequest(
        num_beams=int(num_beams),
        num_return_sequences=int(num_return_sequences),
        return_alignments=return_alignments,
        return_scores=return_scores or num_return_sequences > 1,
        return_confidence=return_confidence,
        max_new_tokens=int(limit),
        length_penalty=penalty if num_beams > 1 else 0.0,
        # Addresses are copied without one as well.
        glossary=None if begins else glossary or Glossary(),
        replacements=replacements,
        generate_kwargs=generate_kwargs,
    )


def check_attention(model: PreTrainedModel) -> None:
    """Refuse (`InputError`) a model that looks nowhere."""
    if not model.config.use_attention:
        raise InputError("this model has no attention (use_attention is false)")


def check_positive(**values: int) -> None:
    """Refuse (`InputError`), by its name, what is not a whole number of at least 1."""
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise InputError(f"{name} must be a whole number of at least 1, not {value!r}")
