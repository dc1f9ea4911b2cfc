"""The `Alignment` record: where in the source the model looked for each target token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .words import WordAlignment

# Weights may come from a half-precision model or from JSON rounded to four decimals.
_ROW_SUM_TOLERANCE = 0.02
_TEXTS = ("source", "target")
END = "(end)"


@dataclass(frozen=True, eq=False)
class Alignment:
    """Attention weights of one sentence with the tokens that they join, as they shall be shown.

    Row t of the weights `(T, S)` says where the model looked before it wrote target token t: each
    weight in [0, 1], each row sums to 1.

    Raises:
        ValueError: the shape does not fit the tokens, or a row is no distribution.
    """

    source_tokens: list[str]  # S, the end token included if it was attended
    target_tokens: list[str]  # T
    weights: np.ndarray  # float32 (T, S), read-only
    words: WordAlignment | None = None  # the same said of words, if their places are known
    source: str = ""  # sentence and translation as they are written, if they are known
    target: str = ""

    def __post_init__(self) -> None:
        source, target = list(self.source_tokens), list(self.target_tokens)
        weights = _as_array(self.weights)
        if weights.shape != (len(target), len(source)):
            raise ValueError(
                "weights must have the shape (target tokens, source tokens) = "
                f"({len(target)}, {len(source)}), not {weights.shape}"
            )
        if not source or not target:
            raise ValueError("an alignment needs at least one source token and one target token")
        if not np.isfinite(weights).all() or weights.min() < 0:
            raise ValueError("weights must be finite and not negative")
        sums = weights.sum(axis=1, dtype=np.float64)
        worst = int(np.abs(sums - 1).argmax())
        if abs(sums[worst] - 1) > _ROW_SUM_TOLERANCE:
            raise ValueError(
                f"each row of weights must sum to 1; row {worst} sums to {sums[worst]:g}"
            )
        weights.flags.writeable = False
        object.__setattr__(self, "source_tokens", source)
        object.__setattr__(self, "target_tokens", target)
        object.__setattr__(self, "weights", weights)

    def by_words(self) -> Alignment:
        """The same between whole words as they are written, if their places are known.

        The last column, `END`, has what went to the end token.
        """
        if self.words is None or not (self.words.source_words and self.words.target_words):
            return self
        weights = self.words.weights
        rest = np.clip(1 - weights.sum(axis=1, keepdims=True), 0, 1)
        source = [word.text for word in self.words.source_words]
        target = [word.text for word in self.words.target_words]
        weights = np.hstack([weights, rest])
        return Alignment([*source, END], target, weights, self.words, self.source, self.target)

    def as_dict(self) -> dict[str, Any]:
        """The alignment as plain JSON values, weights rounded to four decimals."""
        rows = [[round(float(weight), 4) for weight in row] for row in self.weights]
        return {
            "source_tokens": list(self.source_tokens),
            "target_tokens": list(self.target_tokens),
            "weights": rows,
            **{name: text for name in _TEXTS if (text := getattr(self, name))},
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Alignment:
        """Make an alignment from what `as_dict` gave, ignoring further keys.

        Raises:
            ValueError: a key is missing or of the wrong kind, or as the constructor.
        """
        try:
            source, target = values["source_tokens"], values["target_tokens"]
            weights = values["weights"]
        except (KeyError, TypeError):
            raise ValueError(
                "an alignment needs source_tokens, target_tokens and weights"
            ) from None
        for tokens in (source, target):
            is_list = isinstance(tokens, Sequence) and not isinstance(tokens, str)
            if not is_list or not all(isinstance(token, str) for token in tokens):
                raise ValueError("tokens must be a list of strings")
        texts = [text if isinstance(text := values.get(name), str) else "" for name in _TEXTS]
        return cls(source, target, weights, None, *texts)


def _as_array(weights: Any) -> np.ndarray:
    """A float32 copy of nested lists, an array, or a tensor on any device, gradient or not."""
    if hasattr(weights, "detach"):
        weights = weights.detach().float().cpu().numpy()
    try:
        return np.array(weights, dtype=np.float32)
    except (TypeError, ValueError):
        raise ValueError("weights must be a table of numbers, its rows of one length") from None
