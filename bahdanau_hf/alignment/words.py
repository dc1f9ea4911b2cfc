"""Links between words: what the attention says of tokens, said of the words in the two sentences.

A word is a piece of the string as it was given, found by `split_words` whatever the tokenizer does:
one Chinese character, a run of letters and digits with the apostrophes and hyphens inside it, or
one mark. Tokens belong to the word in which most of their characters stand. A word's weights are
the sum over the source tokens it is made of and the mean over the target tokens.

Dimensions: S source tokens, T target tokens, N source words, M target words.
"""

from __future__ import annotations

import bisect
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from ..languages import CJK
from ..modeling.text_bahdanau import SPECIAL_TOKENS, clean_text, token_pieces

Span = tuple[int, int]
Link = tuple[int, int]

_RUN = rf"(?:[^\W{CJK}][\u0300-\u036f]*)+"
_WORD = re.compile(rf"[{CJK}]|{_RUN}(?:['’-]{_RUN})*|\S")


class Word(NamedTuple):
    """A word and where it stands: `text == sentence[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class WordAlignment:
    """Attention between the words of a sentence and those of its translation.

    Row j of the weights says where the model looked before it wrote target word j. What is missing
    from a row's sum to 1 went to the end token.
    """

    source: str  # as it was given
    target: str
    source_words: tuple[Word, ...]  # N that the model has read
    target_words: tuple[Word, ...]  # M
    weights: np.ndarray  # float32 (M, N)

    @property
    def links(self) -> list[Link]:
        """Pairs `(source word, target word)`, by their places: each target word's heaviest.

        A target word before which the model looked at the end token more than at any word has no
        link.
        """
        return [
            (int(row.argmax()), j)
            for j, row in enumerate(self.weights)
            if row.size and row.max() > 0 and row.max() >= 1 - row.sum(dtype=np.float64)
        ]

    def regroup(self, source_words: Sequence[Word], target_words: Sequence[Word]) -> WordAlignment:
        """The same between words cut otherwise, such as Chinese words of several characters.

        A new word takes the words that begin in it: the sum over those of the source and the mean
        over those of the translation. One in which none begins has weights of 0. Words are given
        from left to right.
        """
        columns = _members(self.source_words, source_words)
        rows = _members(self.target_words, target_words)
        merged = _merge(self.weights, rows, columns)
        return replace(
            self, source_words=tuple(source_words), target_words=tuple(target_words), weights=merged
        )

    def as_dict(self) -> dict[str, Any]:
        """The sentences and their links as plain JSON values, weights to four decimals."""
        links = []
        for i, j in self.links:
            source, target = self.source_words[i], self.target_words[j]
            link = {
                "source": source.text,
                "source_span": [source.start, source.end],
                "target": target.text,
                "target_span": [target.start, target.end],
                "weight": round(float(self.weights[j, i]), 4),
            }
            links.append(link)
        return {"source": self.source, "target": self.target, "links": links}


def split_words(text: str) -> list[Word]:
    """The words of a text, from left to right; white space belongs to none."""
    return [Word(match[0], *match.span()) for match in _WORD.finditer(text)]


def align_words(
    source: str,
    target: str,
    source_spans: Sequence[Span | None],
    target_spans: Sequence[Span | None],
    weights: np.ndarray,
) -> WordAlignment:
    """Turn attention between tokens, `(T, S)`, into attention between words.

    Spans are the parts of a text that its tokens stand for; `None`: of no part, as the end token.
    Words of which no token is there (cut off) are left out.
    """
    source_words, columns = words_of_tokens(source, source_spans)
    target_words, rows = words_of_tokens(target, target_spans)
    merged = _merge(weights, rows, columns)
    return WordAlignment(source, target, tuple(source_words), tuple(target_words), merged)


def _merge(weights: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Take the mean over each word's rows and the sum over its columns: 1 there, else 0."""
    rows = rows / np.maximum(rows.sum(axis=1, keepdims=True), 1)
    merged = (rows @ weights @ columns.T).astype(np.float32)
    merged.flags.writeable = False
    return merged


def words_looked_at(
    source: str, source_spans: Sequence[Span | None], weights: np.ndarray
) -> list[Word | None]:
    """For each target token the source word that the model looked at most, the end left aside.

    Spans and weights as in `align_words`. A word is `None` only where the source has none.
    """
    words, columns = words_of_tokens(source, source_spans)
    if not words:
        return [None] * len(weights)
    return [words[int(i)] for i in (weights @ columns.T).argmax(axis=1)]


def words_of_tokens(text: str, spans: Sequence[Span | None]) -> tuple[list[Word], np.ndarray]:
    """The words that have tokens, and which: 1 for a word's tokens, `(words, tokens)`, else 0."""
    words = split_words(text)
    starts = [word.start for word in words]
    members = np.zeros((len(words), len(spans)))
    for token, span in enumerate(spans):
        if span is None:
            continue
        first = max(0, bisect.bisect_right(starts, span[0]) - 1)
        end = bisect.bisect_left(starts, span[1])
        overlaps = [min(w.end, span[1]) - max(w.start, span[0]) for w in words[first:end]]
        if overlaps and max(overlaps) > 0:
            members[first + overlaps.index(max(overlaps)), token] = 1
    known = np.flatnonzero(members.any(axis=1))
    return [words[i] for i in known], members[known]


def _members(parts: Sequence[Word], wholes: Sequence[Word]) -> np.ndarray:
    """Which words begin in which others, `(wholes, parts)`: 1 or 0."""
    starts = np.array([part.start for part in parts])
    bounds = np.array([(whole.start, whole.end) for whole in wholes]).reshape(-1, 2, 1)
    return ((bounds[:, 0] <= starts) & (starts < bounds[:, 1])).astype(np.float64)


def intersect_links(links: Iterable[Link], backward: Iterable[Link]) -> list[Link]:
    """The links that both directions agree on; `backward` are `(target, source)`, by the other."""
    return sorted(set(links) & {(i, j) for j, i in backward})


def is_wide(char: str) -> bool:
    """Whether a character is as wide as a Chinese one, and beside it stands no space."""
    return unicodedata.east_asian_width(char) in "WF" and not "가" <= char <= "힣"


# --- where tokens stand --------------------------------------------------------------------------


def read_spans(tokenizer: PreTrainedTokenizerFast, text: str, num_tokens: int) -> list[Span | None]:
    """Where the tokens stand in a text, of which the tokenizer has encoded `clean_text(text)`.

    There are `num_tokens` after cutting; the end may be one of them.
    """
    clean, origins = clean_with_origins(text)
    backend = tokenizer.backend_tokenizer
    backend.no_truncation()
    backend.no_padding()
    offsets = backend.encode(clean, add_special_tokens=False).offsets[:num_tokens]
    spans: list[Span | None] = []
    for start, end in offsets:
        # The space before a word belongs to its token, but not to its span.
        while start < end and clean[start] == " ":
            start += 1
        spans.append((origins[start][0], origins[end - 1][1]) if start < end else None)
    return spans + [None] * (num_tokens - len(spans))


def written_spans(tokens: Sequence[str], text: str) -> list[Span | None]:
    """Where the tokens that a model has written stand in the line of text that was made of them.

    Tokens are as the vocabulary has them, or the words put in their place. What is not in the text
    (the end, an unknown word) has no span, each byte of a character its character's.
    """
    spans: list[Span | None] = [None] * len(tokens)
    position = missed = 0
    for piece, places in token_pieces(tokens):
        piece = clean_text(piece)
        if not piece or piece in SPECIAL_TOKENS:
            continue
        start = text.find(piece, position)
        # Between two tokens stands white space, and what tokens have become that are not found.
        if start < 0 or len("".join(text[position:start].split())) > missed:
            missed += len(piece)
            continue
        position, missed = start + len(piece), 0
        for place in places:
            spans[place] = (start, position)
    return spans


def word_starts(text: str, spans: Sequence[Span | None]) -> set[int]:
    """The tokens, at these parts of a text, with which its words begin."""
    starts = {word.start for word in split_words(text)}
    before = [None, *spans]
    return {i for i, s in enumerate(spans) if s is not None and s[0] in starts and s != before[i]}


def clean_with_origins(text: str) -> tuple[str, list[Span]]:
    """`clean_text(text)`, and of each of its characters the part of `text` it comes from.

    Where several characters become one, or change places, they have one part in common.
    """
    clean = ""
    origins: list[Span] = []
    for chunk in re.finditer(r"\S+", text):
        start, end = chunk.span()
        bases = [i for i in range(start + 1, end) if not unicodedata.combining(text[i])]
        parts = [(clean_text(text[i:j]), (i, j)) for i, j in pairwise([start, *bases, end])]
        whole = clean_text(chunk[0])
        if "".join(part for part, _ in parts) != whole:
            parts = [(whole, chunk.span())]
        if not whole:
            continue
        if clean:
            clean += " "
            origins.append((origins[-1][1], start))
        for part, span in parts:
            clean += part
            origins += [span] * len(part)
    return clean, origins
