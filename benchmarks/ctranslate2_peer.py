"""CTranslate2, the usual engine for small translation models, where it is installed.

It translates with a transformer of as many parameters as our model: transformers' MarianMT with its
random weights, taken over by CTranslate2's own converter. Words are the ids, written out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import MarianMTModel

from .stopwatch import Contender
from .workload import BOS, EOS, Batch

UNK = 3


def is_installed() -> bool:
    """Whether CTranslate2 can be imported."""
    return importlib.util.find_spec("ctranslate2") is not None


def number_formats() -> list[str]:
    """Those that race, as far as CTranslate2 has them for this processor."""
    import ctranslate2

    supported = ctranslate2.get_supported_compute_types("cpu")
    return [name for name in ("float32", "bfloat16", "int8") if name in supported]


def convert(marian: MarianMTModel, folder: Path) -> None:
    """Write a MarianMT in CTranslate2's form.

    The converter for BART, not that for Marian: ours starts with the start token's embedding, as
    BART does, and not with zeros.
    """
    from ctranslate2.converters.transformers import BartLoader

    marian.config.normalize_before = marian.config.normalize_embedding = False
    spec = BartLoader().get_model_spec(marian)
    spec.register_source_vocabulary(list(map(str, range(marian.config.vocab_size))))
    spec.register_target_vocabulary(list(map(str, range(marian.config.decoder_vocab_size))))
    spec.config.bos_token = spec.config.decoder_start_token = str(BOS)
    spec.config.eos_token, spec.config.unk_token = str(EOS), str(UNK)
    spec.validate()
    spec.optimize()
    folder.mkdir(parents=True, exist_ok=True)
    spec.save(str(folder))


def load(folder: Path, number_format: str = "float32") -> Any:
    """A `ctranslate2.Translator` on one thread."""
    import ctranslate2

    return ctranslate2.Translator(
        str(folder), "cpu", compute_type=number_format, inter_threads=1, intra_threads=1
    )


def translate(
    translator: Any, sentences: Sequence[list[str]], beams: int, words: int
) -> list[list[int]]:
    """Ids of translations of exactly so many words: before that, the end is forbidden."""
    results = translator.translate_batch(
        sentences, beam_size=beams, min_decoding_length=words, max_decoding_length=words
    )
    return [list(map(int, result.hypotheses[0])) for result in results]


def written(batch: Batch) -> list[list[str]]:
    """The sentences as CTranslate2 reads them, without padding."""
    rows = zip(batch.input_ids.tolist(), batch.source_lengths.tolist(), strict=True)
    return [list(map(str, row[:length])) for row, length in rows]


def contender(translator: Any, batch: Batch, size: int, beams: int, words: int) -> Contender:
    """Translate a batch, `size` sentences together."""
    sentences = written(batch)
    pieces = [sentences[start : start + size] for start in range(0, len(sentences), size)]

    def run() -> None:
        for piece in pieces:
            translate(translator, piece, beams, words)

    return Contender(run, len(sentences))


@torch.no_grad()
def sharpen(marian: MarianMTModel) -> None:
    """Let what a random MarianMT writes depend on what it reads, and on what it wrote.

    As it is, every word is followed by itself, for its embedding is its row of the output layer;
    and positions weigh more than words.
    """
    shuffled = torch.randperm(marian.lm_head.out_features)
    marian.lm_head.weight = nn.Parameter(marian.lm_head.weight[shuffled])
    for name, parameter in marian.named_parameters():
        if parameter.ndim == 2 and "embed_positions" not in name:
            parameter.mul_(12 if "embed" in name else 3)


def different_translations(
    marian: MarianMTModel, folder: Path, batch: Batch, beams: int, words: int
) -> int:
    """In how many sentences CTranslate2 in float32 gives other words than the library.

    Args:
        marian: its output has a fixed length (`fix_lengths`).
        folder: where CTranslate2's model is written.
        batch: the sentences.
        beams: 1 for greedy search.
        words: of each translation.
    """
    convert(marian, folder)
    own = translate(load(folder), written(batch), beams, words)
    library = marian.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        num_beams=beams,
        max_new_tokens=words,
        suppress_tokens=[EOS],
    )
    return sum(a != b for a, b in zip(own, library[:, 1:].tolist(), strict=True))
