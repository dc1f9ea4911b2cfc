"""From what the search found to a `Translation`: text, unknown words, given words, alignment.

An unknown word (`<unk>`) in a translation can be replaced by what the model looked at when it wrote
it (Luong et al. 2015, "Addressing the Rare Word Problem in Neural Machine Translation", section
3.3, with attention in place of their positional tokens).

Dimensions: S source, T target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ..alignment.record import Alignment
from ..alignment.words import (
    Span,
    Word,
    align_words,
    is_wide,
    read_spans,
    split_words,
    words_looked_at,
    written_spans,
)
from ..modeling.pipeline_bahdanau import EncodedSentence, Hypothesis, name_attention
from ..modeling.text_bahdanau import SPECIAL_TOKENS, UNK_ID, clean_text
from .confidence import WordConfidence

UNK_TOKEN = SPECIAL_TOKENS[UNK_ID]
_MARK = "\ufdd0"  # stands for a given text while tokens are joined: no text has this character
_OPENING, _CLOSING = "([{‘“'\"/-", ".,!?;:)]}’”…"


@dataclass(frozen=True)
class Translation:
    """A sentence and what became of it.

    Attributes:
        source: the sentence as it was given.
        text: its translation, one line; empty for a blank sentence.
        score: natural logarithm of the translation's probability per token, at most 0, if asked
            for: the mean over its tokens, the end included, of what `compute_transition_scores`
            gives. It is on one scale for greedy and beam search; with a `length_penalty` other than
            1, beam search ranks by something else. 0 for a blank sentence and a copied one.
        alignment: where the model looked, if asked for; `None` for a blank or copied sentence.
        truncated: the sentence was longer than the model reads, and its end was cut off.
        confidence: the share of the translation's words that a reference is expected to have too,
            in [0, 1], if asked for: the mean of theirs; 1 for a blank sentence.
        word_confidences: the same of each word, with its place in the text.
        copied: the text is the source: there is no word in it that the model could translate.
        log_prob: the same as `score` summed over the tokens, if asked for.
    """

    source: str
    text: str
    score: float | None = None
    alignment: Alignment | None = field(default=None, compare=False)
    truncated: bool = False
    confidence: float | None = None
    word_confidences: tuple[WordConfidence, ...] = ()
    copied: bool = False
    log_prob: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The same as plain JSON values; the alignment as its `as_dict` gives it."""
        alignment = self.alignment.as_dict() if self.alignment is not None else None
        words = [word._asdict() for word in self.word_confidences]
        return {**vars(self), "alignment": alignment, "word_confidences": words}


class Given(NamedTuple):
    """A text that must stand in a translation, in the place of the tokens `ids[start:end]`."""

    start: int
    end: int
    text: str


@dataclass
class Draft:
    """A sentence on its way to its translations."""

    sentence: EncodedSentence
    begun: list[int] = field(default_factory=list)  # tokens that all its translations begin with
    given: list[Given] = field(default_factory=list)  # among them, from left to right
    found: list[Hypothesis] = field(default_factory=list)  # best first


def make_translation(
    tokenizer: PreTrainedTokenizerFast,
    draft: Draft,
    found: Hypothesis,
    weights: np.ndarray | None,
    replacements: Mapping[str, str] | None = None,
    return_alignments: bool = False,
) -> Translation:
    """Write out what was found, without scores; weights say where the model looked, `(T, S)`."""
    sentence, text, alignment = draft.sentence, found.text, None
    if draft.given or weights is not None:
        tokens = put_given(tokenizer, tokenizer.convert_ids_to_tokens(found.ids), draft.given)
        if replacements is not None and UNK_TOKEN in tokens and weights is not None:
            read = read_spans(tokenizer, sentence.text, len(sentence.ids))
            words = words_looked_at(sentence.text, read, weights)
            tokens = replace_tokens(tokens, words, replacements)
        text = join_tokens(tokenizer, tokens, draft.given)
    if return_alignments and weights is not None:
        spans, texts = written_spans(tokens, text), (sentence.text, text)
        alignment = make_alignment(tokenizer, weights, sentence.ids, found.ids, texts, spans)
    return Translation(sentence.text, text, None, alignment, sentence.truncated)


def make_alignment(
    tokenizer: PreTrainedTokenizerFast,
    weights: np.ndarray,
    source_ids: list[int],
    target_ids: list[int],
    texts: tuple[str, str] | None = None,
    target_spans: Sequence[Span | None] = (),
) -> Alignment:
    """Name the rows and columns of attention weights `(T, S)`.

    A token that the model read as `<unk>` is shown as it is, the bytes of a character that is spelt
    in bytes as this one character. With sentence and translation as `texts`, and the place of each
    target token in the translation, it has links between their words too.
    """
    words = None
    if texts is not None:
        source_spans = read_spans(tokenizer, texts[0], len(source_ids))
        words = align_words(*texts, source_spans, target_spans, weights)
    columns, rows, merged = name_attention(
        tokenizer, torch.from_numpy(np.asarray(weights)), source_ids, target_ids
    )
    return Alignment(columns, rows, merged.numpy(), words, *(texts or ("", "")))


# --- words that the model did not write ----------------------------------------------------------


def replace_tokens(
    tokens: Sequence[str], words: Sequence[Word | None], replacements: Mapping[str, str]
) -> list[str]:
    """Put a word in the place of each `<unk>` among a translation's tokens.

    It is what the replacements have for that of `words` which the model looked at (one for each
    token), as it is written or in lower case; without an entry, that word itself.
    """
    replaced = list(tokens)
    for place, (token, word) in enumerate(zip(tokens, words, strict=True)):
        if token != UNK_TOKEN or word is None:
            continue
        text = replacements.get(word.text)
        text = replacements.get(word.text.lower(), word.text) if text is None else text
        before, after = "".join(replaced[:place][-1:]), "".join(tokens[place + 1 :][:1])
        # Two Latin words must not run into one; a tokenizer that adds spaces itself takes no harm.
        text = f" {text}" if _touch(before, text) else text
        replaced[place] = f"{text} " if _touch(text, after) else text
    return replaced


def put_given(
    tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str], given: Sequence[Given]
) -> list[str]:
    """Put given texts into the places of the tokens that stand for them.

    The first of these tokens becomes the text, the others become empty, and so does what would run
    into one word with the text. `join_tokens` makes a line of them.
    """
    put = list(tokens)
    adds_spaces = tokenizer.backend_tokenizer.decoder.decode(["a", "b"]) != "ab"
    for start, end, text in given:
        put[start:end] = [text] + [""] * (end - start - 1)
        if adds_spaces:
            continue
        before = "".join(put[:start])[-1:]  # of a byte's token the ">"
        if not before.isspace() and stand_apart(join_tokens(tokenizer, put[:start]), text):
            put[start] = f" {text}"
        last, place = text, end
        while place < len(put) and _touch(last, put[place]):
            last, put[place] = put[place], ""
            place += 1
    return put


def stand_apart(left: str, right: str) -> bool:
    """Whether a space stands between these, neither of which has any on its side."""
    is_bound = not left or left[-1] in _OPENING or right[0] in _CLOSING
    return not (is_bound or is_wide(left[-1]) or is_wide(right[0]))


def _touch(left: str, right: str) -> bool:
    """Whether two pieces written side by side would read as one word."""
    if left in SPECIAL_TOKENS or right in SPECIAL_TOKENS:
        return False
    pair = left[-1:] + right[:1]
    return len(pair) == 2 and pair.isalnum() and len(split_words(pair)) == 1


def join_tokens(
    tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str], given: Sequence[Given] = ()
) -> str:
    """One line of text from tokens, whether the vocabulary has them or not; marks are left out.

    Given texts, which `put_given` has put there, are in it exactly as they are.
    """
    marked = list(tokens)
    for start, _, text in given:
        # What decoder and cleaning do beside it depends on its ends.
        ends = [end if clean_text(end) == end else "." for end in (text[0], text[-1])]
        marked[start] = tokens[start].removesuffix(text) + _MARK.join(ends)
    written = [token for token in marked if token not in SPECIAL_TOKENS]
    first, *others = clean_text(tokenizer.backend_tokenizer.decoder.decode(written)).split(_MARK)
    for (_, _, text), other in zip(given, others, strict=True):
        first = first[:-1] + text + other[1:]
    return first
