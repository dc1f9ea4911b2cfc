"""A plain model and ours that know 64 translations by heart, so that outputs end as they should.

With random weights an end token never comes; what a loop gains by ending sentences early would not
be seen. Here every output has the length of a real translation. The sentences are a batch as a
translator makes it, of like length.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling.processor_bahdanau import processor

from .contenders import copy_weights_back, make_ours, make_plain
from .plain_seq2seq import PlainSeq2Seq
from .workload import BATCH_SIZE, EOS, Batch, random_batch, sentence_lengths

MOST_STEPS = 200


class Translators(NamedTuple):
    """Two models with the same weights, not to be changed."""

    plain: PlainSeq2Seq
    ours: BahdanauForConditionalGeneration
    batch: Batch  # 64 sentences with the translations that both give

    def sources(self) -> list[list[int]]:
        """The sentences without padding."""
        rows = zip(self.batch.input_ids.tolist(), self.batch.source_lengths.tolist(), strict=True)
        return [row[:length] for row, length in rows]

    def targets(self) -> list[list[int]]:
        """The translations, the end token included."""
        return _without_padding(self.batch.labels)


@cache
def learn_by_heart() -> Translators:
    """Train until greedy decoding gives every translation; some seconds.

    Raises:
        RuntimeError: it was not learnt.
    """
    plain = make_plain()
    ours = make_ours(plain)
    batch = like_batch()
    memorise(ours, batch)
    copy_weights_back(ours, plain)
    return Translators(plain.eval(), ours, batch)


def like_batch() -> Batch:
    """The sentences and what is to be learnt for them: 64 of like length."""
    return random_batch(*_like_lengths(), seed=7)


def memorise(model: BahdanauForConditionalGeneration, batch: Batch) -> None:
    """Train until greedy decoding gives every translation.

    Raises:
        RuntimeError: it was not learnt.
    """
    inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
    expected = _without_padding(batch.labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, fused=True)
    for step in range(1, MOST_STEPS + 1):
        model.train()
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=processor().bfloat16):
            loss = model(**inputs, labels=batch.labels, skip_logits=True).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if loss.item() > 0.02 or step % 5:
            continue
        model.eval()
        outputs = model.generate(**inputs, max_new_tokens=batch.labels.shape[1]).tolist()
        if [row[1 : row.index(EOS) + 1] if EOS in row else row for row in outputs] == expected:
            return
    raise RuntimeError(f"the sentences were not learnt in {MOST_STEPS} steps (loss {loss.item()})")


def _without_padding(labels: Tensor) -> list[list[int]]:
    return [[i for i in row if i != -100] for row in labels.tolist()]


def _like_lengths() -> tuple[np.ndarray, np.ndarray]:
    """Every fourth of the middle 256, by source length, of 640 sentences."""
    sources, targets = sentence_lengths(10 * BATCH_SIZE, seed=7)
    middle = np.argsort(sources, kind="stable")[3 * BATCH_SIZE : 7 * BATCH_SIZE : 4]
    return sources[middle], targets[middle]
