"""How far exported graphs are from the model they were made of."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from ..data.sources import bundled_pairs, pair_texts
from ..errors import InputError
from ..modeling.modeling_bahdanau import CACHE, BahdanauForConditionalGeneration
from ..modeling.pipeline_bahdanau import encode_sentences, max_source_length, source_batch
from .onnx_search import WholeSearch

_BATCH_SIZE = 32


class Agreement(NamedTuple):
    """Of how many sources the translations are the same."""

    same: int
    total: int
    sources: str  # what they are, in words


def random_batch(model: BahdanauForConditionalGeneration, rows: int = 3) -> tuple[Tensor, Tensor]:
    """Ids the decoder knows too, and a mask with padding behind and in front; `(rows, 7)`."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(model.config.vocab_size, (rows, 7), generator=generator)
    mask = torch.ones_like(ids)
    mask[1::3, 4:] = 0
    mask[2::3, :2] = 0
    return ids, mask


def largest_difference(
    model: BahdanauForConditionalGeneration, encoder: Path, decoder: Path
) -> float:
    """Between logits, states and attention weights of the model and of both graphs, on one batch.

    The model is in float32, on the CPU, not in training.
    """
    import onnxruntime

    reader, stepper = (
        onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        for path in (encoder, decoder)
    )
    ids, mask = random_batch(model)
    given = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
    names = [output.name for output in reader.get_outputs()]
    memory = dict(zip(names, reader.run(None, given), strict=True))
    found = stepper.run(None, {"input_ids": given["input_ids"][:, :1], **memory})
    with torch.no_grad():
        outputs = model(
            input_ids=ids,
            attention_mask=mask,
            decoder_input_ids=ids[:, :1],
            use_cache=True,
            output_attentions=True,
        )
    expected = [outputs.logits[:, 0], outputs[CACHE].state]
    if outputs.cross_attentions is not None:
        expected.append(outputs.cross_attentions[0][:, 0, 0])
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(x - y.numpy()).max()) for x, y in pairs)


def compare_translations(
    model: BahdanauForConditionalGeneration,
    tokenizer: PreTrainedTokenizerFast,
    search: WholeSearch,
    settings: dict[str, Any],
) -> Agreement:
    """Translate the bundled validation sentences both ways; random ids, if they are no use here.

    The model is in float32, on the CPU, not in training; the settings are those of
    `translation.json`.
    """
    what, sources = "bundled validation sentences", _bundled_sources(tokenizer, settings)
    if not sources:
        ids, mask = random_batch(model, _BATCH_SIZE)
        what = "rows of random ids"
        sources = [row[kept].tolist() for row, kept in zip(ids, mask.bool(), strict=True)]
    sources.sort(key=len)
    ends = settings["eos_token_ids"]
    rules = {name: settings[name] for name in ("max_new_tokens", "num_beams")}
    same = 0
    for start in range(0, len(sources), _BATCH_SIZE):
        batch = source_batch(model, tokenizer, sources[start : start + _BATCH_SIZE])
        expected = model.generate(**batch, **rules)
        arrays = {name: tensor.numpy() for name, tensor in batch.items()}
        found = search(**arrays, max_new_tokens=rules["max_new_tokens"])
        rows = zip(expected[:, 1:].tolist(), found.tolist(), strict=True)
        same += sum(_before_end(a, ends) == _before_end(b, ends) for a, b in rows)
    return Agreement(same, len(sources), what)


def _before_end(ids: list[int], ends: list[int]) -> list[int]:
    return list(takewhile(lambda token: token not in ends, ids))


def _bundled_sources(
    tokenizer: PreTrainedTokenizerFast, settings: dict[str, Any]
) -> list[list[int]]:
    languages = settings["source_lang"], settings["target_lang"]
    try:
        texts, _ = pair_texts(bundled_pairs(*languages)["validation"], *languages)
    except InputError:  # other languages
        return []
    encoded = encode_sentences(tokenizer, texts, max_source_length(tokenizer))
    return [sentence.ids for sentence in encoded if sentence.ids]
