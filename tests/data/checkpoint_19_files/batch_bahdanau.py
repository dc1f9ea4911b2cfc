"""What a model makes of a batch of sentences: token ids, translations, and where it looked.

`Translator` and the pipeline that travels with a checkpoint are made of these parts.

Dimensions: B batch, S source, T target.
"""

import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from .text_bahdanau import EOS_ID, PAD_ID, UNK_ID, clean_text, token_pieces

_NEW_TOKENS = 128  # where neither caller nor checkpoint set a limit
_NO_LIMIT = 1_000_000  # a tokenizer without a limit says 1e30
_CHARACTERS_PER_TOKEN = 256  # what is longer than so many a token is cut before it is encoded


@dataclass(frozen=True)
class EncodedSentence:
    """A sentence on its way through.

    Attributes:
        text: as it was given.
        ids: its tokens, without padding; none if there is nothing to translate.
        truncated: it was longer than the model reads, and lost its end.
    """

    text: str
    ids: list[int]
    truncated: bool


class Hypothesis(NamedTuple):
    """One result of the search.

    Attributes:
        ids: tokens, `<eos>` last unless the limit came first.
        text: the same as one line of text.
        score: natural logarithm of the translation's probability: the sum over its tokens, or, of
            beams, what the search ranks by (`sequences_scores`); `None` if it was not asked for.
    """

    ids: list[int]
    text: str
    score: float | None


# --- from sentences to ids -----------------------------------------------------------------------


def max_source_length(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """Tokens of a sentence that the model reads, the end included; `None`: any number."""
    longest = tokenizer.model_max_length
    return int(longest) if longest < _NO_LIMIT else None


def encode_sentences(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], max_length: int | None = None
) -> list[EncodedSentence]:
    """Turn sentences into ids.

    Args:
        tokenizer: the model's.
        texts: sentences; what is blank, or holds nothing that has tokens, gets no ids.
        max_length: tokens after which a sentence is cut, its end token kept (or not, where the
            tokenizer says `cut_keeps_end: false`); `None`: nowhere.
    """
    limit = sys.maxsize if max_length is None else max_length
    most = limit * _CHARACTERS_PER_TOKEN
    keeps_end = tokenizer.init_kwargs.get("cut_keeps_end", True)
    cleaned = [clean_text(text) for text in texts]
    rows = tokenizer([text[:most] for text in cleaned], return_attention_mask=False, verbose=False)[
        "input_ids"
    ]
    sentences = []
    for text, clean, ids in zip(texts, cleaned, rows, strict=True):
        truncated = len(ids) > limit or len(clean) > most
        if len(ids) > limit:
            ids = [*ids[: limit - 1], EOS_ID] if keeps_end else ids[:limit]
        # What holds nothing but the end has no words: the model is not asked.
        sentences.append(EncodedSentence(text, ids if len(ids) > 1 else [], truncated))
    return sentences


# --- from ids to translations --------------------------------------------------------------------


def beam_number(
    defaults: GenerationConfig,
    num_beams: int | None = None,
    num_return_sequences: int = 1,
    do_sample: bool | None = None,
) -> int:
    """Beams of the search: as asked, else as the checkpoint says and enough for what is wanted."""
    if num_beams is not None:
        return num_beams
    samples = defaults.do_sample if do_sample is None else do_sample
    return max(defaults.num_beams or 1, 1 if samples else num_return_sequences)


def new_token_limit(
    defaults: GenerationConfig, max_new_tokens: int | None = None, max_length: int | None = None
) -> int:
    """Tokens after which a translation stops: as asked, else as the checkpoint says, else 128."""
    if max_new_tokens is None and max_length is not None:
        max_new_tokens = max_length - 1  # it counts the start token too
    if max_new_tokens is None:
        max_new_tokens = defaults.max_new_tokens or (defaults.max_length or _NEW_TOKENS + 1) - 1
    return max_new_tokens


def limit_argument(defaults: GenerationConfig, max_new_tokens: int) -> dict[str, int]:
    """The argument of `generate` for a limit: it warns if its defaults name another."""
    if defaults.max_new_tokens is None:
        return {"max_length": max_new_tokens + 1}
    return {"max_new_tokens": max_new_tokens}


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
    input_ids, attention_mask = source_batch(model, tokenizer, sources)
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


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Put a model into evaluation mode for a while."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


# --- where the model looked ----------------------------------------------------------------------


@torch.no_grad()
def read_attention(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerFast,
    sources: Sequence[list[int]],
    targets: Sequence[list[int]],
) -> list[Tensor]:
    """Read each target to the model, token by token, and keep its attention.

    A token outside the target part of the vocabulary is read as `<unk>`.

    Args:
        model: in evaluation mode, with attention.
        tokenizer: the model's.
        sources: token ids of each sentence, without padding.
        targets: token ids of each translation, without start token and padding.

    Returns:
        For each sentence float32 `(T, S)` on the CPU; a row for each token of the target.
    """
    if not sources:
        return []
    input_ids, attention_mask = source_batch(model, tokenizer, sources)
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
    weights = outputs.cross_attentions[0][:, 0].float().cpu()  # (B, T, S)
    return [
        rows[: len(target), : len(source)]
        for source, target, rows in zip(sources, targets, weights, strict=True)
    ]


def name_attention(
    tokenizer: PreTrainedTokenizerFast,
    weights: Tensor,
    source_ids: list[int],
    target_ids: list[int],
) -> tuple[list[str], list[str], Tensor]:
    """Name the columns and rows of attention `(T, S)`; the bytes of a character become one.

    Returns:
        Source tokens, target tokens, and the weights between them.
    """
    columns = token_pieces(tokenizer.convert_ids_to_tokens(source_ids))
    rows = token_pieces(tokenizer.convert_ids_to_tokens(target_ids))
    merged = torch.stack([weights[:, piece].sum(dim=1) for _, piece in columns], dim=1)
    merged = torch.stack([merged[piece].mean(dim=0) for _, piece in rows])
    return [text for text, _ in columns], [text for text, _ in rows], merged


def source_batch(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, sources: Sequence[list[int]]
) -> tuple[Tensor, Tensor]:
    """Ids and mask of sentences, `(B, S)`, as the model reads them."""
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


__all__ = [
    "EncodedSentence",
    "Hypothesis",
    "beam_number",
    "encode_sentences",
    "evaluating",
    "find_translations",
    "limit_argument",
    "max_source_length",
    "name_attention",
    "new_token_limit",
    "read_attention",
    "source_batch",
]
