"""How new test sentences are: their largest word overlap with any sentence of the training.

A corpus whose test sentences are near-duplicates of training sentences measures memory as much as
translation: the scores of those that are new stand apart.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from ..languages import has_spaces

_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def distinct_words(text: str, lang: str) -> set[str]:
    """Its words in lower case, without marks; characters where no spaces are written."""
    words = set(_WORD.findall(text.lower()))
    return words if has_spaces(lang) else set("".join(words))


def largest_overlaps(sources: Sequence[str], known: Iterable[str], lang: str) -> np.ndarray:
    """Each source's largest Jaccard similarity, of sets of words, with any of the known sentences.

    Exact, in float64 `(len(sources),)`, 0 for a source without words. An inverted index holds the
    known sentences, which may be a stream; a million of them take some 16 bytes a word.
    """
    wanted = [distinct_words(text, lang) for text in sources]
    postings = {word: array("i") for words in wanted for word in words}
    sizes = array("i")
    for number, text in enumerate(known):
        words = distinct_words(text, lang)
        sizes.append(len(words))
        for word in words & postings.keys():
            postings[word].append(number)
    size = np.array(sizes, np.int32)
    places = {word: np.array(numbers, np.int32) for word, numbers in postings.items()}
    shared = np.zeros(len(size), np.uint16)
    found = np.zeros(len(wanted))
    for i, words in enumerate(wanted):
        shared[:] = 0
        for word in words:
            shared[places[word]] += 1  # a sentence stands once in a word's list
        if words:
            found[i] = (shared / (len(words) + size - shared)).max(initial=0.0)
    return found
