"""The `Translation` record: a sentence, or a text, and what became of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from ..alignment.record import Alignment
from .confidence import WordConfidence


@dataclass(frozen=True)
class Translation:
    """A sentence and what became of it.

    Attributes:
        source: the sentence as it was given.
        text: its translation, one line; empty for a blank sentence.
        score: natural logarithm of the translation's probability, at most 0, if asked for: the sum
            over its tokens, the end included, of what `compute_transition_scores` gives. With
            beams, what the search ranks by (`sequences_scores`): that sum divided by
            `number of tokens ** length_penalty`. 0 for a blank sentence.
        alignment: where the model looked, if asked for; `None` for a blank sentence.
        truncated: the sentence was longer than the model reads, and its end was cut off.
        confidence: the share of the translation's words that a reference is expected to have too,
            in [0, 1], if asked for: the mean of theirs; 1 for a blank sentence.
        word_confidences: the same of each word, with its place in the text.
    """

    source: str
    text: str
    score: float | None = None
    alignment: Alignment | None = field(default=None, compare=False)
    truncated: bool = False
    confidence: float | None = None
    word_confidences: tuple[WordConfidence, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values; the alignment as its `as_dict` gives it."""
        alignment = self.alignment.as_dict() if self.alignment is not None else None
        words = [word._asdict() for word in self.word_confidences]
        return {**vars(self), "alignment": alignment, "word_confidences": words}
