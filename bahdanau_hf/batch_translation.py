"""What a model makes of one batch of sentences: translations, and where it looked.

An unknown word (`<unk>`) in a translation can be replaced by what the model looked at when it wrote
it (Luong et al. 2015, "Addressing the Rare Word Problem in Neural Machine Translation", section
3.3, with attention in place of their positional tokens).

Dimensions: B batch, S source, T target.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from .alignment import Alignment
from .tokenization import EOS_ID, PAD_ID, SPECIAL_TOKENS, UNK_ID, clean_text
from .word_alignment import Span, Word, align_words, read_spans, split_words, token_pieces

UNK_TOKEN = SPECIAL_TOKENS[UNK_ID]
_NO_LIMIT = 1_000_000  # a tokenizer without a limit says 1e30


class Hypothesis(NamedTuple):
    """One result of the search.

    Attributes:
        ids: tokens, `<eos>` last unless the limit came first.
        text: the same as one line of text.
        score: as `Translation.score`.
    """

    ids: list[int]
    text: str
    score: float | None


def max_source_length(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens of a sentence that the model reads, the end included; `None`: any number."""
    longest = tokenizer.model_max_length
    return int(longest) if longest < _NO_LIMIT else None


def cut_keeps_end(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether a sentence cut to the model's length ends in `<eos>`; some checkpoints say no."""
    return bool(tokenizer.init_kwargs.get("cut_keeps_end", True))


def find_translations(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[list[int]],
    num_return_sequences: int = 1,
    return_scores: bool = False,
    **generate_kwargs: Any,
) -> list[list[Hypothesis]]:
    """Translate a batch with `model.generate`.

    Args:
        model: in evaluation mode.
        tokenizer: the model's.
        sources: token ids of each sentence, `<eos>` last, without padding.
        num_return_sequences: results of the search for each sentence.
        return_scores: say how probable each is. The search then runs in the library's loop, which
            keeps the scores of all words at each step, `rows * vocab_size * 4` bytes.
        **generate_kwargs: further arguments of `generate`.

    Returns:
        For each sentence at least one hypothesis, the best first, no two with the same text.
    """
    input_ids, attention_mask = _source_batch(model, tokenizer, sources)
    outputs = model.generate(
        input_ids=input_ids,
        attention_mask=attention_mask,
        num_return_sequences=num_return_sequences,
        return_dict_in_generate=return_scores,
        output_scores=return_scores,
        **generate_kwargs,
    )
    sequences = outputs.sequences if return_scores else outputs
    sequences = sequences[:, 1:]  # (B * returns, T), without the start token
    is_last = (sequences == EOS_ID) | (sequences == PAD_ID)
    # Behind the end, beam search fills up with <eos>, the others with <pad>.
    is_real = (is_last.cumsum(dim=1) - is_last.long() == 0) & (sequences != PAD_ID)
    is_real[:, 0] = True
    scores: Sequence[float | None] = [None] * len(sequences)
    if return_scores:
        scores = _scores(outputs, sequences, is_real).tolist()
    lengths = is_real.sum(dim=1).tolist()
    ids = [row[:length] for row, length in zip(sequences.tolist(), lengths, strict=True)]
    texts = map(clean_text, tokenizer.batch_decode(ids, skip_special_tokens=True))
    found = list(map(Hypothesis, ids, texts, scores))
    n = num_return_sequences
    return [_distinct(found[i : i + n]) for i in range(0, len(found), n)]


def _scores(outputs: Any, sequences: Tensor, is_real: Tensor) -> Tensor:
    """Score of each row: what beam search ranked by, else the sum of the log-probabilities."""
    if getattr(outputs, "sequences_scores", None) is not None:
        return outputs.sequences_scores
    log_probs = [
        step.gather(1, sequences[:, t, None])[:, 0] - step.logsumexp(dim=1)
        for t, step in enumerate(outputs.scores)
    ]
    return torch.stack(log_probs, dim=1).masked_fill(~is_real, 0).sum(dim=1)


@torch.no_grad()
def attention_weights(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[list[int]],
    targets: Sequence[list[int]],
) -> list[np.ndarray]:
    """Read each target to the model, token by token, and keep its attention.

    A token outside the target part of the vocabulary is read as `<unk>`.

    Args:
        model: in evaluation mode, with attention.
        tokenizer: the model's.
        sources: token ids of each sentence, without padding.
        targets: token ids of each translation, without start token and padding.

    Returns:
        For each sentence float32 `(T, S)`; a row for each token of the target.
    """
    if not sources:
        return []
    input_ids, attention_mask = _source_batch(model, tokenizer, sources)
    start, size = model.config.decoder_start_token_id, model.config.vocab_size
    known = [[start, *(i if i < size else UNK_ID for i in ids[:-1])] for ids in targets]
    outputs = model(
        input_ids=input_ids,
        attention_mask=attention_mask,
        decoder_input_ids=_padded(known, input_ids.device),
        use_cache=False,
        output_attentions=True,
        logits_to_keep=1,
    )
    weights = outputs.cross_attentions[0][:, 0].float().cpu().numpy()  # (B, T, S)
    return [
        rows[: len(target), : len(source)]
        for source, target, rows in zip(sources, targets, weights, strict=True)
    ]


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
    columns = token_pieces(tokenizer.convert_ids_to_tokens(source_ids))
    rows = token_pieces(tokenizer.convert_ids_to_tokens(target_ids))
    words = None
    if texts is not None:
        source_spans = read_spans(tokenizer, texts[0], len(source_ids))
        words = align_words(*texts, source_spans, target_spans, weights)
    merged = np.stack([weights[:, piece].sum(axis=1) for _, piece in columns], axis=1)
    merged = np.stack([merged[piece].mean(axis=0) for _, piece in rows])
    return Alignment([text for text, _ in columns], [text for text, _ in rows], merged, words)


# --- unknown words -------------------------------------------------------------------------------


def replace_tokens(
    tokens: Sequence[str], words: Sequence[Word | None], replacements: Mapping[str, str]
) -> list[str]:
    """Put a word in the place of each `<unk>`.

    Args:
        tokens: of a translation.
        words: for each token the source word that the model looked at.
        replacements: what to write for a source word, as it is written or in lower case; without an
            entry the word itself is taken.
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


def _source_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sources: Sequence[list[int]]
) -> tuple[Tensor, Tensor]:
    """Ids and mask, `(B, S)`."""
    # An encoder that reads padding must always find as much of it as in training.
    width = (max_source_length(tokenizer) or 0) if model.config.encoder_reads_padding else 0
    input_ids = _padded(sources, model.device, width)
    lengths = torch.tensor([[len(row)] for row in sources], device=model.device)
    positions = torch.arange(input_ids.shape[1], device=model.device)
    return input_ids, (positions < lengths).long()


def _padded(rows: Sequence[list[int]], device: torch.device, at_least: int = 0) -> Tensor:
    width = max(at_least, *map(len, rows))
    return torch.tensor([row + [PAD_ID] * (width - len(row)) for row in rows], device=device)


def _distinct(hypotheses: Iterable[Hypothesis]) -> list[Hypothesis]:
    """Best first; of those that read the same, though their tokens differ, only the best."""
    by_text: dict[str, Hypothesis] = {}
    for hypothesis in sorted(hypotheses, key=lambda h: h.score or 0.0, reverse=True):
        by_text.setdefault(hypothesis.text, hypothesis)
    return list(by_text.values())
