"""Translations of sentences that hold marks: tags, placeholders and the like.

The model never sees a mark: a sentence is translated without, and the attention says where they go.
Two tags stand around those words of the translation that look most at the words between them in the
source; a placeholder where the attention passes from the words before it to those behind it.

Dimensions: N source words, M target words.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..alignment.words import is_wide, split_words
from ..inference.segmentation import (
    CLOSING_TAGS,
    MARKS,
    OPENING_TAGS,
    PLACEHOLDERS,
    join_pieces,
    without_marks,
)
from ..inference.translation import Translation, stand_apart
from ..inference.translator import Translator

_MARK = re.compile(f"(?P<opens>[{OPENING_TAGS}])|(?P<closes>[{CLOSING_TAGS}])|[{MARKS}]")

_PLACEHOLDER = re.compile(f"[{PLACEHOLDERS}]")


def translate_marked(translator: Translator, text: str, **options: Any) -> str:
    """Translate a text as `translate_text`, whose options these are, with the marks in it.

    Line breaks stay, and so does a sentence that the model has no words for.
    """
    pieces = translator.split_text(text)
    bare = (without_marks(piece.text) for piece in pieces)
    aligned = translator.model.config.use_attention and _MARK.search(text) is not None
    found = translator.stream(bare, return_alignments=aligned, **options)
    texts = [put_marks(piece.text, each) for piece, each in zip(pieces, found, strict=True)]
    return join_pieces(pieces, texts)


def put_marks(marked: str, translation: Translation) -> str:
    """Put the marks of a sentence into its translation, which was made without them."""
    target, bare = translation.text, translation.source
    if not target or target == bare:
        return marked
    words = translation.alignment.words if translation.alignment else None
    if words is not None:
        targets, weights = words.target_words, words.weights  # (M, N)
    else:  # as if both sentences had the same order
        targets, num_sources = tuple(split_words(target)), len(split_words(bare))
        weights = np.eye(num_sources)[np.arange(len(targets)) * num_sources // len(targets)]
    marks = list(_MARK.finditer(marked))
    partners = _partners(marks)
    # Words of the source before each mark.
    places = [len(split_words(without_marks(marked[: mark.start()]))) for mark in marks]

    def looks(first: int, last: int) -> np.ndarray:
        """How much more a target word looks at one of these source words than at others, `(M,)`."""
        others = np.delete(weights, slice(first, last), axis=1)
        return weights[:, first:last].max(axis=1, initial=0) - others.max(axis=1, initial=0)

    def put(numbers: range, begin: int, end: int) -> str:
        """The target words from `begin` to `end`, and these marks in them."""
        free = np.zeros(len(targets), dtype=bool)
        free[begin:end] = True
        parts: list[tuple[int, int, int, str]] = []
        number = numbers.start
        while number < numbers.stop:
            last = partners.get(number, number)
            text = "".join(mark[0] for mark in marks[number : last + 1])
            if places[number] < places[last] and free.any():
                gain = np.where(free, looks(places[number], places[last]), -1e6)
                start, stop = _best_range(gain)
                free[start:stop] = False
                text = text[0] + put(range(number + 1, last), start, stop) + text[-1]
            else:
                gain = looks(0, places[number])[begin:end]
                start = stop = begin + _best_place(gain)
            parts.append((start, stop, number, text))
            number = last + 1
        written, done = "", targets[begin].start
        for start, stop, number, text in sorted(parts):
            opens = marks[number]["opens"]
            if start < stop or (opens and start < end):
                at = targets[start].start
            else:
                at = targets[start - 1].end if start > begin else done
            written += target[done : max(done, at)]
            done = max(done, at, targets[stop - 1].end if start < stop else 0)
            last = partners.get(number, number)
            if start == stop and (last > number or not (opens or marks[number]["closes"])):
                left, right = marked[: marks[number].start()], marked[marks[last].end() :]
                text = _spaced(text, left[-1:], right[:1], written, target[done:])
            written += text
        return written + target[done : targets[end - 1].end]

    return put(range(len(marks)), 0, len(targets))


def _partners(marks: Sequence[re.Match[str]]) -> dict[int, int]:
    """Which tag closes what another has opened, by their numbers."""
    partners: dict[int, int] = {}
    opened: list[int] = []
    for number, mark in enumerate(marks):
        if mark["opens"]:
            opened.append(number)
        elif mark["closes"] and opened:
            partners[opened.pop()] = number
    return partners


def _best_range(gain: np.ndarray) -> tuple[int, int]:
    """The words, at least one, whose gains have the largest sum."""
    sums = np.concatenate([[0], gain.cumsum()])
    of_ranges = np.where(np.tri(len(sums), dtype=bool), -np.inf, sums - sums[:, None])
    start, stop = np.unravel_index(of_ranges.argmax(), of_ranges.shape)
    return int(start), int(stop)


def _best_place(gain: np.ndarray) -> int:
    """How many words make the largest sum of gains; of equally good numbers the last."""
    sums = np.concatenate([[0], gain.cumsum()])
    return len(gain) - int(sums[::-1].argmax())


def _spaced(text: str, left: str, right: str, before: str, behind: str) -> str:
    """A placeholder with the spaces that it has in the source, where its neighbours need them."""
    # Two that were apart do not become one: `a` (`b`) of Markdown would be `a``b`.
    meets_another = bool(_PLACEHOLDER.match(before[-1:])) and not _MARK.match(left)
    if meets_another or (_is_apart(left) and before[-1:].strip() and stand_apart(before, "a")):
        text = f" {text}"
    if _is_apart(right) and behind[:1].strip() and stand_apart("a", behind):
        text = f"{text} "
    return text


def _is_apart(neighbour: str) -> bool:
    """Whether what stands beside a placeholder leaves a space, or needs none."""
    return not neighbour or neighbour.isspace() or is_wide(neighbour)
