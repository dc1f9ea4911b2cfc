"""Several checkpoints translate together: each word's probability is the mean of theirs.

Models of one recipe that differ in their seed make different mistakes. Together they translate
better than each of them, for as many times the work (Sutskever et al. 2014, section 3.6).

Dimensions: B batch, S source, T target so far, V vocabulary; R rows of the search, B times beams or
samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

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
        self._caches: list[BahdanauCache] = []
        self._words: Tensor | None = None  # of the last step, (R, T)

    @torch.no_grad()
    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Log of the mean probability of each next word.

        Args:
            input_ids: words so far, `(R, T)`; the rows of a sentence stand side by side.
            scores: logits or log-probabilities of the model that searches, `(R, V)`.

        Returns:
            `(R, V)`, in float32 or wider.

        Raises:
            ValueError: the words do not go on from those of the call before.
        """
        if self._words is None:
            every = self._start(input_ids)
        else:
            every = self._go_on(input_ids, self._words)
        self._words = input_ids
        own = scores.to(torch.promote_types(scores.dtype, torch.float32))
        found = [logits.to(own).log_softmax(dim=-1) for logits in (own, *every)]
        return torch.stack(found).logsumexp(dim=0) - math.log(len(found))

    def _start(self, words: Tensor) -> list[Tensor]:
        """Read the source and the words that are there already."""
        repeats, rest = divmod(len(words), len(self._input_ids))
        if rest:
            raise ValueError(
                f"{len(words)} rows are no multiple of the batch's {len(self._input_ids)}: this "
                "processor was made for another batch"
            )
        every = []
        for model in self._models:
            ids = self._input_ids.to(model.device)
            mask = torch.ones_like(ids) if self._mask is None else self._mask.to(model.device)
            cache = BahdanauCache()
            source = model.get_encoder()(input_ids=ids, attention_mask=mask)
            outputs = model(
                encoder_outputs={
                    name: value.repeat_interleave(repeats, dim=0)
                    for name, value in source.items()
                    if isinstance(value, Tensor)
                },
                attention_mask=mask.repeat_interleave(repeats, dim=0),
                decoder_input_ids=words.to(model.device),
                past_key_values=cache,
                logits_to_keep=1,
            )
            self._caches.append(cache)
            every.append(outputs.logits[:, -1])
        return every

    def _go_on(self, words: Tensor, before: Tensor) -> list[Tensor]:
        """Take a step from where each row comes from."""
        rows = _origins(words, before, len(words) // len(self._input_ids))
        every = []
        for model, cache in zip(self._models, self._caches, strict=True):
            cache.reorder_cache(rows)
            outputs = model(decoder_input_ids=words[:, -1:].to(model.device), past_key_values=cache)
            every.append(outputs.logits[:, -1])
        return every


def _origins(words: Tensor, before: Tensor, repeats: int) -> Tensor:
    """For each row the one of the same sentence, a step ago, that it goes on from; `(R,)`.

    A search does not say which rows it has kept; their words do. Of rows with the same words any
    will do.
    """
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
    """Look for the translations of drafts, which were begun with equally many tokens.

    The first of the models searches; the others mix their probabilities in.
    """
    model, *others = models
    ids, options = [draft.sentence.ids for draft in drafts], dict(request.generate_kwargs)
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
    found = find_translations(
        model, tokenizer, ids, *wanted, num_beams=request.num_beams, **options
    )
    for draft, hypotheses in zip(drafts, found, strict=True):
        draft.found = hypotheses


def check_tokens(
    models: Sequence[PreTrainedModel], tokenizers: Sequence[PreTrainedTokenizerFast]
) -> None:
    """See that models have the same tokens; the first one is compared with all others.

    Raises:
        InputError: they do not.
    """
    for model, tokenizer in zip(models, tokenizers, strict=True):
        if tokenizer.get_vocab() != tokenizers[0].get_vocab():
            raise InputError(
                f"{_name(model)} has other tokens than {_name(models[0])}: an ensemble needs one "
                "tokenizer, as runs on the same pairs with different seeds have, or those with "
                "--tokenizer_name"
            )


def check_padding(models: Sequence[PreTrainedModel]) -> None:
    """See that models read padding alike, or all do not: they are given the same batches.

    Raises:
        InputError: they do not.
    """
    for model in models:
        if model.config.encoder_reads_padding != models[0].config.encoder_reads_padding:
            raise InputError(
                f"{_name(model)} and {_name(models[0])} cannot translate together: only one of "
                "them reads padding (encoder_reads_padding)"
            )


def _name(model: PreTrainedModel) -> str:
    return model.name_or_path or "a model of the ensemble"
