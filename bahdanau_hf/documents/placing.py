"""Translations of sentences that hold marks: tags, placeholders and the like.

The model never sees a mark. A sentence is translated without its marks, and each is put where the
attention passes from the words before it to the words behind it. All marks keep their order.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from ..alignment.words import is_wide, split_words
from ..inference.segmentation import MARKS, OPENING_TAG, PLACEHOLDER, join_pieces, without_marks
from ..inference.translation import Translation, stand_apart
from ..inference.translator import Translator

_MARK = re.compile(f"[{MARKS}]")


def translate_marked(translator: Translator, text: str, **options: Any) -> str:
    """Translate a text as `translate_text`, its marks included.

    A sentence that the model has no words for stays as it is.

    Args:
        translator: the model.
        text: the text; line breaks stay.
        **options: as those of `translate_text`.
    """
    pieces = translator.split_text(text)
    sentences = (without_marks(piece.text) for piece in pieces)
    aligned = translator.model.config.use_attention and _MARK.search(text) is not None
    translations = translator.stream(sentences, return_alignments=aligned, **options)
    texts = [
        put_marks(piece.text, found) for piece, found in zip(pieces, translations, strict=True)
    ]
    return join_pieces(pieces, texts)


def put_marks(marked: str, translation: Translation) -> str:
    """Put the marks of a sentence into its translation, which was made without them."""
    target, bare = translation.text, translation.source
    if not target or target == bare:
        return marked
    if translation.alignment is not None and translation.alignment.words is not None:
        words = translation.alignment.words
        sources, targets, weights = words.source_words, words.target_words, words.weights
    else:  # as if both sentences had the same order
        sources, targets = tuple(split_words(bare)), tuple(split_words(target))
        places = np.arange(len(targets)) * len(sources) // len(targets)
        weights = np.eye(len(sources))[places]
    written, done = "", 0
    for mark in _MARK.finditer(marked):
        num_before = len(split_words(without_marks(marked[: mark.start()])))
        gain = weights[:, :num_before].sum(axis=1) - weights[:, num_before:].sum(axis=1)
        gain = np.concatenate([[0], gain.cumsum()])
        if mark[0] == OPENING_TAG:
            place = int(gain.argmax())
            end = targets[place].start if place < len(targets) else len(target)
        else:  # of equally good places the last
            place = len(targets) - int(gain[::-1].argmax())
            end = targets[place - 1].end if place else 0
        written += target[done : max(done, end)]
        done = max(done, end)
        spelt = mark[0]
        if spelt == PLACEHOLDER:
            left, right = written[-1:], target[done : done + 1]
            if _is_apart(marked[: mark.start()][-1:]) and left.strip() and stand_apart(left, "a"):
                spelt = f" {spelt}"
            if _is_apart(marked[mark.end() :][:1]) and right.strip() and stand_apart("a", right):
                spelt = f"{spelt} "
        written += spelt
    return written + target[done:]


def _is_apart(neighbour: str) -> bool:
    """Whether what stands beside a placeholder leaves a space, or needs none."""
    return not neighbour or neighbour.isspace() or is_wide(neighbour)
