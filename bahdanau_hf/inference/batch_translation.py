"""What becomes of where a model looked: alignments, and words for what it could not write.

An unknown word (`<unk>`) in a translation can be replaced by what the model looked at when it wrote
it (Luong et al. 2015, "Addressing the Rare Word Problem in Neural Machine Translation", section
3.3, with attention in place of their positional tokens).

Dimensions: S source, T target.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from transformers import PreTrainedTokenizerFast

from ..alignment.record import Alignment
from ..alignment.words import Span, Word, align_words, read_spans, split_words
from ..modeling.pipeline_bahdanau import name_attention
from ..modeling.text_bahdanau import SPECIAL_TOKENS, UNK_ID, clean_text

UNK_TOKEN = SPECIAL_TOKENS[UNK_ID]


def make_alignment(
    tokenizer: PreTrainedTokenizerFast,
    weights: np.ndarray,
    source_ids: list[int],
    target_ids: list[int],
    texts: tuple[str, str] | None = None,
    target_spans: Sequence[Span | None] = (),
) -> Alignment:
    """Name the rows and columns of attention weights.

    A token that the model read as `<unk>` is shown as it is, the bytes of a character that is spelt
    in bytes as this one character.

    Args:
        tokenizer: the model's.
        weights: `(T, S)`.
        source_ids: S token ids.
        target_ids: T token ids.
        texts: sentence and translation as strings, for links between their words.
        target_spans: where each target token stands in the translation.
    """
    words = None
    if texts is not None:
        source_spans = read_spans(tokenizer, texts[0], len(source_ids))
        words = align_words(*texts, source_spans, target_spans, weights)
    columns, rows, merged = name_attention(
        tokenizer, torch.from_numpy(np.asarray(weights)), source_ids, target_ids
    )
    return Alignment(columns, rows, merged.numpy(), words, *(texts or ("", "")))


# --- unknown words -------------------------------------------------------------------------------


def replace_tokens(
    tokens: Sequence[str], words: Sequence[Word | None], replacements: Mapping[str, str]
) -> list[str]:
    """Put a word in the place of each `<unk>` among a translation's tokens.

    It is what the replacements have for the source word that the model looked at (one of `words`
    for each token), as it is written or in lower case; without an entry, that word itself.
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


def _touch(left: str, right: str) -> bool:
    """Whether two pieces written side by side would read as one word."""
    if left in SPECIAL_TOKENS or right in SPECIAL_TOKENS:
        return False
    pair = left[-1:] + right[:1]
    return len(pair) == 2 and pair.isalnum() and len(split_words(pair)) == 1


def join_tokens(tokenizer: PreTrainedTokenizerFast, tokens: Sequence[str]) -> str:
    """One line of text from tokens, whether the vocabulary has them or not; marks are left out."""
    written = [token for token in tokens if token not in SPECIAL_TOKENS]
    return clean_text(tokenizer.backend_tokenizer.decoder.decode(written))
