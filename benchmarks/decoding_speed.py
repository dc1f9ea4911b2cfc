"""Decoding: sentences per CPU second, greedy and with beams, in batches and one by one."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from transformers import GenerationMixin

from bahdanau_hf.modeling.processor_bahdanau import processor

from . import joeynmt_peer
from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE, make_marian
from .memorised import learn_by_heart
from .plain_seq2seq import PlainSeq2Seq
from .results import Goal, Row, Section
from .stopwatch import Contender, race
from .workload import (
    BATCH_SIZE,
    BOS,
    EOS,
    MEAN_TARGET,
    PAD,
    PADDED_LENGTH,
    TARGET_SIZE,
    Batch,
)

BEAMS = 5
NO_END = -1  # no word has this number: all steps are taken


def fix_lengths(model: GenerationMixin) -> None:
    """Let every output have as many words as are asked for."""
    model.generation_config.eos_token_id = None
    model.generation_config.pad_token_id = PAD
    model.generation_config.bad_words_ids = None


def generation(
    model: GenerationMixin, batch: Batch, size: int, sentences: int | None = None, **options: Any
) -> Contender:
    """Translate the first sentences of a batch (default: all), `size` of them together.

    One by one they come without padding.
    """
    ids, mask = batch.input_ids, batch.attention_mask
    count = sentences or len(ids)
    pieces = [slice(start, start + size) for start in range(0, count, size)]
    inputs = [(ids[piece], mask[piece]) for piece in pieces]
    inputs = [(i[:, : int(m.sum(1).max())], m[:, : int(m.sum(1).max())]) for i, m in inputs]

    def run() -> None:
        for input_ids, attention_mask in inputs:
            model.generate(input_ids, attention_mask=attention_mask, **options)

    return Contender(run, count)


def one_by_one(
    plain: PlainSeq2Seq, sources: Iterable[list[int]], targets: Iterable[list[int]], padded: bool
) -> Contender:
    """The plain loop: as many steps as the translation has words, end included.

    Padded, it reads the padding as it was not trained to, and would end elsewhere: the number of
    steps is set.
    """
    work = [
        (source + [PAD] * (PADDED_LENGTH - len(source)) * padded, len(target))
        for source, target in zip(sources, targets, strict=True)
    ]

    def run() -> None:
        for source, steps in work:
            plain.translate(source, BOS, NO_END if padded else EOS, steps)

    return Contender(run, len(work))


def measure(quick: bool) -> Section:
    """Race all ways of decoding."""
    plain, ours, batch = translators = learn_by_heart()
    narrow = copy.deepcopy(ours).to(torch.bfloat16)
    sources, targets = translators.sources(), translators.targets()
    few = 8 if quick else 16  # sentences that are taken one by one: every fourth, say
    chosen = slice(None, None, BATCH_SIZE // few)
    some = Batch(*(x[chosen] for x in batch))
    most = {"max_new_tokens": batch.labels.shape[1] + 2}
    marian = make_marian(ours.num_parameters()).eval()
    narrow_marian = copy.deepcopy(marian).to(torch.bfloat16)
    fixed = copy.deepcopy(ours)
    for model in (marian, narrow_marian, fixed):
        fix_lengths(model)
    narrow_fixed = copy.deepcopy(fixed).to(torch.bfloat16)
    even = {"max_new_tokens": MEAN_TARGET}
    padded, single = f"plain loop, one by one, padded to {PADDED_LENGTH}", "plain loop, one by one"

    contenders = {
        padded: one_by_one(plain, sources[chosen], targets[chosen], padded=True),
        single: one_by_one(plain, sources[chosen], targets[chosen], padded=False),
    }
    modes: list[tuple[str, dict[str, Any]]] = [
        ("greedy", {}),
        (f"{BEAMS} beams", {"num_beams": BEAMS}),
    ]
    kinds: list[tuple[str, GenerationMixin, GenerationMixin, GenerationMixin | None]] = [
        ("", ours, fixed, marian),
        (", bfloat16", narrow, narrow_fixed, narrow_marian),
    ]
    if processor().int8:
        kinds.append(
            (", int8", copy.deepcopy(ours).use_int8(), copy.deepcopy(fixed).use_int8(), None)
        )
    for mode, options in modes:
        for size, rows, count in ((BATCH_SIZE, batch, None), (1, some, few)):
            for kind, model, fixed_model, peer in kinds:
                name = f"{mode}, batch {size}{kind}"
                contenders[f"ours, {name}"] = generation(model, rows, size, **options, **most)
                if size == 1 and quick:
                    continue
                contenders[f"ours, {MEAN_TARGET} words, {name}"] = generation(
                    fixed_model, rows, size, count, **options, **even
                )
                if peer is not None:
                    contenders[f"MarianMT, {MEAN_TARGET} words, {name}"] = generation(
                        peer, rows, size, count, **options, **even
                    )
            if joeynmt_peer.is_installed() and not (size == 1 and quick):
                beams = options.get("num_beams", 1)
                contenders[f"JoeyNMT, {MEAN_TARGET} words, {mode}, batch {size}"] = (
                    joeynmt_peer.joey_search(rows, size, beams, MEAN_TARGET)
                )
    timings = race(contenders, 2 if quick else 5, 0.05 if quick else 0.3)
    section = Section(
        "Decoding",
        f"Width {EMBEDDING_SIZE}/{HIDDEN_SIZE}, one layer each side, {TARGET_SIZE} target words; "
        f"{BATCH_SIZE} sentences of similar length. The models are overfitted, so translations end "
        f'normally; with random weights ("{MEAN_TARGET} words") all have the same length.',
    )
    section.add_race(timings, "sentences/CPU s")

    def goal(name: str, other: str, wanted: float) -> None:
        ratio = timings[name].times_as_fast_as(timings[other])
        section.goals.append(Goal(f"decoding: {name} / {other}", wanted, ratio))

    greedy = [
        (f"ours, greedy, batch {BATCH_SIZE}", 14.0),
        (f"ours, greedy, batch {BATCH_SIZE}, bfloat16", 22.0),
        ("ours, greedy, batch 1", 2.5),
    ]
    greedy += [("ours, greedy, batch 1, int8", 5.0)] * processor().int8
    for batched, wanted in greedy:
        goal(batched, padded, wanted)
        ratio = timings[batched].times_as_fast_as(timings[single])
        section.rows.append(Row(f"{batched} / {single}", ratio, "times as fast"))
    for kind, _, _, peer in kinds:
        if peer is None:
            continue
        name = f"{MEAN_TARGET} words, {BEAMS} beams, batch {BATCH_SIZE}{kind}"
        goal(f"ours, {name}", f"MarianMT, {name}", 2.5)
    if joeynmt_peer.is_installed():
        name = f"{MEAN_TARGET} words, {BEAMS} beams, batch {BATCH_SIZE}"
        goal(f"ours, {name}", f"JoeyNMT, {name}", 2.5)
    return section
