"""Several checkpoints translate together: each word's probability is the mean of theirs.

Models of one recipe that differ in their seed make different mistakes. Together they translate
better than each of them, for as many times the work (Sutskever et al. 2014, section 3.6).

Dimensions: B batch, S source, T target so far, V vocabulary; R rows of the search, B times beams or
samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import (
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from ..errors import InputError
from ..modeling.modeling_bahdanau import BahdanauCache
from ..modeling.pipeline_bahdanau import Hypothesis, find_translations, source_batch
from .search_options import SearchRequest
from .translation import Draft


class EnsembleLogitsProcessor(LogitsProcessor):
    """Mixes the probabilities of further models into those of the one whose `generate` is called.

        others = [AutoModel.from_pretrained("runs/seed-43").eval()]
        processor = EnsembleLogitsProcessor(others, **inputs)
        model.generate(**inputs, num_beams=5, logits_processor=LogitsProcessorList([processor]))

    It follows one call of `generate` from its first step to its last: make a new one for each.

    Args:
        models: the others, in evaluation mode, with the same vocabulary.
        input_ids: the batch that is translated, `(B, S)`.
        attention_mask: `(B, S)`; default: all tokens are real.
    """

    def __init__(
        self,
        models: Sequence[PreTrainedModel],
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
    ) -> None:
        self._models = models
        self._input_ids, self._mask = input_ids, attention_mask
        self._caches = [BahdanauCache() for _ in models]
        self._words: Tensor | None = None  # of the last step, (R, T)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log of the mean probability of each next word, `(R, V)`, in float32 or wider.

        Args:
            input_ids: words so far, `(R, T)`; the rows of a sentence stand side by side.
            scores: logits or log-probabilities of the model that searches, `(R, V)`.

        Raises:
            ValueError: the words do not go on from those of the call before.
        """
        repeats, rest = divmod(len(input_ids), len(self._input_ids))
        words = input_ids
        sources: list[dict[str, Any]] = [{}] * len(self._models)
        if self._words is not None:
            rows = _origins(input_ids, self._words, repeats)
            for cache in self._caches:
                cache.reorder_cache(rows)
            words = input_ids[:, -1:]
        elif rest:
            raise ValueError(
                f"{len(input_ids)} rows are no multiple of the batch's {len(self._input_ids)}: "
                "this processor was made for another batch"
            )
        else:
            sources = [self._read_source(model, repeats) for model in self._models]
        self._words = input_ids
        found = [scores.to(torch.promote_types(scores.dtype, torch.float32))]
        for model, cache, source in zip(self._models, self._caches, sources, strict=True):
            read = {"decoder_input_ids": words.to(model.device), "past_key_values": cache}
            found.append(model(**source, **read, logits_to_keep=1).logits[:, -1].to(found[0]))
        mixed = torch.stack([logits.log_softmax(dim=-1) for logits in found]).logsumexp(dim=0)
        return mixed - math.log(len(found))

    def _read_source(self, model: PreTrainedModel, repeats: int) -> dict[str, Any]:
        """What a model's encoder says of the batch, once for each row of the search."""
        ids = self._input_ids.to(model.device)
        mask = torch.ones_like(ids) if self._mask is None else self._mask.to(model.device)
        source = model.get_encoder()(input_ids=ids, attention_mask=mask)
        tensors = {name: value for name, value in source.items() if isinstance(value, Tensor)}
        rows = {k: v.repeat_interleave(repeats, dim=0) for k, v in tensors.items()}
        return {"encoder_outputs": rows, "attention_mask": mask.repeat_interleave(repeats, dim=0)}


def _origins(words: Tensor, before: Tensor, repeats: int) -> Tensor:
    """For each row the one of the same sentence, a step ago, that it goes on from; `(R,)`."""
    # A search does not say which rows it has kept; their words do. Of those with the same any will.
    length = before.shape[1]
    if words.shape == (len(before), length + 1):
        now = words[:, :length].unflatten(0, (-1, repeats, 1))
        is_same = (now == before.unflatten(0, (-1, 1, repeats))).all(dim=-1)  # of all pairs of rows
        if bool(is_same.any(dim=-1).all()):
            first = torch.arange(0, len(words), repeats, device=words.device)[:, None]
            return (is_same.int().argmax(dim=-1) + first).flatten()
    raise ValueError("the words do not go on from the last step's: one processor, one search")


def search_batch(
    models: Sequence[PreTrainedModel],
    tokenizer: PreTrainedTokenizerFast,
    drafts: Sequence[Draft],
    request: SearchRequest,
) -> None:
    """Look, by the first model, for translations of drafts begun with equally many tokens."""
    model, *others = models
    ids = [draft.sentence.ids for draft in drafts]
    options = {"num_beams": request.num_beams, **request.generate_kwargs}
    if num_begun := len(drafts[0].begun):
        if num_begun >= request.max_new_tokens:
            score = 0.0 if request.return_scores else None
            for draft in drafts:
                draft.found = [Hypothesis(draft.begun, "", score)]
            return
        start = model.config.decoder_start_token_id
        begun = torch.tensor([[start, *draft.begun] for draft in drafts])
        options["decoder_input_ids"] = begun.to(model.device)
        options.pop("streamer", None)  # it was told a whole translation
        if "max_new_tokens" in options:  # the other limit counts from the start
            options["max_new_tokens"] -= num_begun
    if others:
        batch = source_batch(model, tokenizer, ids)
        processors = LogitsProcessorList([EnsembleLogitsProcessor(others, **batch)])
        options["logits_processor"] = processors + (options.get("logits_processor") or [])
    wanted = (request.num_return_sequences, request.return_scores)
    found = find_translations(model, tokenizer, ids, *wanted, **options)
    for draft, hypotheses in zip(drafts, found, strict=True):
        draft.found = hypotheses


def check_tokens(
    models: Sequence[PreTrainedModel], tokenizers: Sequence[PreTrainedTokenizerFast]
) -> None:
    """Refuse (`InputError`) models that have other tokens than the first."""
    for model, tokenizer in zip(models, tokenizers, strict=True):
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise InputError(
                f"{_name(model)} has other tokens than {_name(models[0])}: an ensemble needs one "
                "tokenizer, as runs on the same pairs with different seeds have, or those with "
                "--tokenizer_name"
            )


def check_padding(models: Sequence[PreTrainedModel]) -> None:
    """Refuse (`InputError`) models of which only some read padding: all get the same batches."""
    for model in models:
        if model.config.encoder_reads_padding != models[0].config.encoder_reads_padding:
            raise InputError(
                f"{_name(model)} and {_name(models[0])} cannot translate together: only one of "
                "them reads padding (encoder_reads_padding)"
            )


def _name(model: PreTrainedModel) -> str:
    return model.name_or_path or "a model of the ensemble"
