"""How sure a translation is: for each of its words the probability that a reference has it too.

It is computed from the probabilities that the model gives the words and their sentence, by weights
that were fitted to the validation split at the end of the training. They stand in the checkpoint's
`config.json` as `confidence`.

Dimensions: T target tokens, M target words.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from ..alignment.words import Span, Word, read_spans, split_words, words_of_tokens, written_spans
from ..errors import InputError
from ..files import is_number
from ..metrics.calibration import fit_logistic, predict_logistic, reliability
from ..modeling.pipeline_bahdanau import Rows, encode_sentences, evaluating, source_batch
from ..modeling.text_bahdanau import PAD_ID, UNK_ID

if TYPE_CHECKING:
    from .translator import Translator

_FEWEST_WORDS = 200  # from fewer nothing can be said
_LOGIT_BYTES = 2**28
_LARGEST_LOGIT = 12.0
_NUM_WEIGHTS = 5


class WordConfidence(NamedTuple):
    """A word of a translation, `text[start:end]`, and how sure it is, in [0, 1]."""

    word: str
    start: int
    end: int
    confidence: float


@torch.no_grad()
def read_log_probs(
    models: Sequence[PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    sources: Rows,
    targets: Rows,
) -> list[np.ndarray]:
    """Natural logarithms of the probabilities of each target's tokens, `(T,)`, in [-inf, 0].

    Several models, each in evaluation mode, give the mean of their probabilities. A token outside
    the target part of the vocabulary is read as `<unk>`.
    """
    size = models[0].config.vocab_size
    longest = max(map(len, targets), default=1)
    num_rows = max(1, _LOGIT_BYTES // (4 * longest * size))
    found: list[np.ndarray] = []
    for start in range(0, len(sources), num_rows):
        rows = slice(start, start + num_rows)
        known = [torch.tensor([i if i < size else UNK_ID for i in ids]) for ids in targets[rows]]
        labels = pad_sequence(known, batch_first=True, padding_value=PAD_ID)
        means = []
        for model in models:
            read = model.prepare_decoder_input_ids_from_labels(labels).to(model.device)
            batch = source_batch(model, tokenizer, sources[rows])
            logits = model(**batch, decoder_input_ids=read, use_cache=False).logits.float()
            chosen = logits.gather(2, labels.to(model.device)[..., None])[..., 0]
            means.append((chosen - logits.logsumexp(dim=2)).cpu())
        log_probs = torch.stack(means).logsumexp(dim=0) - np.log(len(models))
        found += [row[: len(ids)].numpy() for row, ids in zip(log_probs, known, strict=True)]
    return found


def confidence_weights(model: PreTrainedModel) -> list[float]:
    """The weights that a checkpoint keeps; an `InputError` if it has none."""
    weights = getattr(model.config, "confidence", None)
    if isinstance(weights, list) and len(weights) == _NUM_WEIGHTS and all(map(is_number, weights)):
        return weights
    raise InputError(
        "this checkpoint has no calibrated confidence: a training calibrates it at its end, "
        "bahdanau_hf.inference.confidence.calibrate for any checkpoint"
    )


def word_confidences(
    weights: Sequence[float], text: str, spans: Sequence[Span | None], log_probs: np.ndarray
) -> list[WordConfidence]:
    """State for each word of a translation how sure it is, by a checkpoint's `confidence`.

    `spans` say where each of its T tokens stands in it, `log_probs` are theirs, `(T,)`.
    """
    words, features = _features(text, spans, log_probs)
    stated = predict_logistic(np.asarray(weights), features).tolist()
    return [WordConfidence(*word, value) for word, value in zip(words, stated, strict=True)]


def with_confidence(
    model: PreTrainedModel, translation: Any, tokens: Sequence[str], log_probs: np.ndarray
) -> Any:
    """The same `Translation`, stating how sure it is, from its T tokens."""
    spans = written_spans(tokens, translation.text)
    words = word_confidences(confidence_weights(model), translation.text, spans, log_probs)
    sure = sentence_confidence(words)
    return replace(translation, confidence=sure, word_confidences=tuple(words))


def sentence_confidence(words: Sequence[WordConfidence]) -> float:
    """The share of a translation's words that is expected to be right: the mean of theirs."""
    return sum(word.confidence for word in words) / len(words) if words else 0.0


def _features(
    text: str, spans: Sequence[Span | None], log_probs: np.ndarray
) -> tuple[list[Word], np.ndarray]:
    """The words of a translation, and what is known of each, `(M, 4)`."""
    # Log-odds of the word, the sentence's mean and least probable token; logarithm of its length.
    words, members = words_of_tokens(text, spans)
    means = members @ log_probs / members.sum(axis=1)
    sentence = [_log_odds(log_probs.mean()), _log_odds(log_probs.min()), np.log(len(log_probs))]
    return words, np.column_stack([_log_odds(means), np.tile(sentence, (len(words), 1))])


def _log_odds(log_probs: np.ndarray | float) -> np.ndarray:
    """log(p / (1 - p)), within bounds."""
    odds = log_probs - np.log(-np.expm1(np.minimum(log_probs, -1e-7)))
    return np.clip(odds, -_LARGEST_LOGIT, _LARGEST_LOGIT)


# --- at the end of a training --------------------------------------------------------------------


def calibrate(
    translator: Translator,
    sources: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[str],
) -> dict[str, Any]:
    """Fit a model's confidence to its translations, `hypotheses`, of sentences that are new to it.

    A word is right if the reference has it too, each of the reference's words counting once, and
    case left aside. The weights are put into the model's configuration, so that `save_pretrained`
    keeps them.

    Returns:
        `words` and `sentences`: how far what is stated can be believed, as `Reliability.as_dict`
        gives it. Each half of the sentences is judged by weights fitted to the other half.

    Raises:
        InputError: too few words for a fit; the model keeps none then.
    """
    tokenizer, limit = translator.tokenizer, translator.max_source_length
    models = [translator.model, *translator.ensemble]
    read = encode_sentences(tokenizer, sources, limit, copying=True)  # what is copied is no guess
    written = encode_sentences(translator.target_tokenizer, hypotheses)
    kept = [i for i, pair in enumerate(zip(read, written, strict=True)) if all(s.ids for s in pair)]
    tables, outcomes = [], []
    with ExitStack() as stack:
        for model in models:
            stack.enter_context(evaluating(model))
        ids = ([sentences[i].ids for i in kept] for sentences in (read, written))
        log_probs = read_log_probs(models, tokenizer, *ids)
    for i, row in zip(kept, log_probs, strict=True):
        spans = read_spans(translator.target_tokenizer, hypotheses[i], len(row))
        words, features = _features(hypotheses[i], spans, row)
        tables.append(features)
        outcomes.append(_right([word.text for word in words], references[i]))
    translator.model.config.confidence = None
    num_words = sum(map(len, outcomes))
    if num_words < _FEWEST_WORDS or len(tables) < 2:  # each half is judged by the other
        raise InputError(
            f"{num_words} words of validation in {len(tables)} sentences are too few to calibrate "
            f"confidence: at least {_FEWEST_WORDS} words in 2 sentences are needed"
        )
    x, y = np.concatenate(tables), np.concatenate(outcomes)
    number = np.repeat(np.arange(len(tables)), [len(row) for row in outcomes])  # of the sentence
    stated = np.zeros(len(y))
    for half in (0, 1):
        own = number % 2 == half
        stated[own] = predict_logistic(fit_logistic(x[~own], y[~own]), x[own])
    translator.model.config.confidence = [round(w, 6) for w in fit_logistic(x, y).tolist()]
    counts = np.bincount(number)
    means = [np.bincount(number, row)[counts > 0] / counts[counts > 0] for row in (stated, y)]
    return {
        "words": reliability(stated, y).as_dict(),
        "sentences": reliability(*means).as_dict(),
    }


def _right(words: Sequence[str], reference: str) -> np.ndarray:
    """1 for each word that the reference has too, as often as it has it; else 0."""
    left = Counter(word.text.lower() for word in split_words(reference))
    right = np.zeros(len(words))
    for place, word in enumerate(words):
        if left[word.lower()] > 0:
            left[word.lower()] -= 1
            right[place] = 1
    return right
