"""What must hold before anything is timed: whatever is fast gives the results of what is plain."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

import torch
from torch import Tensor
from transformers import LogitsProcessor, LogitsProcessorList

from bahdanau_hf import BahdanauForConditionalGeneration

from . import ctranslate2_peer
from .contenders import (
    HIDDEN_SIZE,
    copy_weights,
    counterparts,
    make_marian,
    make_ours,
    make_plain,
)
from .decoding_speed import fix_lengths
from .memorised import learn_by_heart
from .plain_seq2seq import PlainSeq2Seq
from .workload import (
    BOS,
    EOS,
    MEAN_TARGET,
    Batch,
    bucketed_batches,
    random_batch,
    sentence_lengths,
)


class Check(NamedTuple):
    """A statement and how far reality is from it.

    Attributes:
        name: the statement.
        error: the distance found.
        allowed: the largest that passes.
    """

    name: str
    error: float
    allowed: float

    @property
    def passed(self) -> bool:
        """Also false if the distance is not a number."""
        return self.error <= self.allowed


class DoNothing(LogitsProcessor):
    """Changes nothing, but calls for the library's own loop."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Return the scores."""
        return scores


GENERAL_LOOP = LogitsProcessorList([DoNothing()])


def checks() -> Iterator[Check]:
    """Check everything, one thing after the other."""
    yield from _same_training()
    yield from _same_tokens()
    if ctranslate2_peer.is_installed():
        yield from _same_engine()


def losses_and_gradients(
    plain: PlainSeq2Seq,
    ours: BahdanauForConditionalGeneration,
    batch: Batch,
    autocast: bool = False,
) -> tuple[float, float]:
    """Relative errors of our loss and of the parameter whose gradient is furthest off.

    Errors are taken of each parameter by itself: the largest over all would hide the small ones.
    """
    expected = plain.loss(batch.input_ids, batch.source_lengths, batch.labels, BOS)
    expected.backward()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = ours(
            batch.input_ids,
            batch.attention_mask,
            labels=batch.labels,
            skip_logits=True,
            num_items_in_batch=1,
        ).loss
    loss.backward()
    worst = 0.0
    for theirs, own in counterparts(plain, ours):
        if theirs.grad is None or own.grad is None:
            return float("nan"), float("nan")
        error = (own.grad.double() - theirs.grad.double()).norm() / theirs.grad.double().norm()
        worst = max(worst, error.item())
    return abs(loss.item() / expected.item() - 1), worst


def _same_training() -> Iterator[Check]:
    lengths = sentence_lengths(6, seed=1)
    for num_layers in (1, 2):
        batch = random_batch(*lengths, 1, target_size=50)
        plain = make_plain(11, 17, num_layers, target_size=50).double()
        ours = make_ours(plain, encoder_reads_padding=True).double()
        copy_weights(plain, ours)
        loss, gradient = losses_and_gradients(plain, ours, batch)
        layers = f"{num_layers} layer{'s' * (num_layers > 1)}"
        yield Check(f"loss is the plain loop's, {layers}, float64", loss, 1e-12)
        yield Check(f"every parameter's gradient as well, {layers}, float64", gradient, 1e-9)
    plain, batch = make_plain(), bucketed_batches(3)[1]
    exact = copy.deepcopy(plain).double()
    for name, autocast, allowed in (("float32", False, 1e-4), ("bfloat16", True, 0.03)):
        ours = make_ours(plain, encoder_reads_padding=True)
        exact.zero_grad()
        loss, gradient = losses_and_gradients(exact, ours, batch, autocast)
        yield Check(f"loss at width {HIDDEN_SIZE}, {name} against float64", loss, allowed)
        yield Check(f"every parameter's gradient as well, {name}", gradient, allowed)


def _same_tokens() -> Iterator[Check]:
    plain, ours, batch = translators = learn_by_heart()
    most = batch.labels.shape[1] + 2
    sources, targets = translators.sources(), translators.targets()
    one_by_one = [[*plain.translate(source, BOS, EOS, most), EOS] for source in sources]
    yield Check("plain loop: all that was learnt by heart", _different(one_by_one, targets), 0)

    def generate(
        model: BahdanauForConditionalGeneration = ours, **options: object
    ) -> list[list[int]]:
        output = model.generate(
            batch.input_ids, attention_mask=batch.attention_mask, max_new_tokens=most, **options
        )
        return _until_end(output)

    yield Check("greedy, batch of 64: the plain loop's tokens", _different(generate(), targets), 0)
    single = [
        _until_end(ours.generate(torch.tensor([source]), max_new_tokens=most))[0]
        for source in sources
    ]
    yield Check("greedy, one by one: the plain loop's tokens", _different(single, targets), 0)
    narrow = generate(copy.deepcopy(ours).to(torch.bfloat16))
    yield Check("greedy in bfloat16: sentences that differ", _different(narrow, targets), 2)
    random_ours = make_ours(make_plain()).eval()
    # Where nothing was learnt, two words may be equally likely but for rounding.
    for weights, model, allowed in (("learnt by heart", ours, 0), ("random", random_ours, 1)):
        for beams in (1, 5):
            own = generate(model, num_beams=beams)
            general = generate(model, num_beams=beams, logits_processor=GENERAL_LOOP)
            name = f"{'greedy' if beams == 1 else f'{beams} beams'}, weights {weights}"
            yield Check(f"{name}: the library's tokens", _different(own, general), allowed)


def _same_engine() -> Iterator[Check]:
    """CTranslate2's float32 model is the MarianMT that it was made from."""
    marian = make_marian(make_ours(make_plain()).num_parameters()).eval()
    ctranslate2_peer.sharpen(marian)
    fix_lengths(marian)
    batch = random_batch(*sentence_lengths(16, seed=3), seed=3)
    for mode, beams in (("greedy", 1), ("5 beams", 5)):
        with TemporaryDirectory() as folder:
            different = ctranslate2_peer.different_translations(
                marian, Path(folder), batch, beams, MEAN_TARGET
            )
        # Where nothing was learnt, two words may be equally likely but for rounding.
        yield Check(f"CTranslate2, {mode}: MarianMT's tokens", different, 1)


def _until_end(output: Tensor) -> list[list[int]]:
    """Rows without the start token, up to their end token."""
    rows = [row[1:] for row in output.tolist()]
    return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]


def _different(rows: list[list[int]], others: list[list[int]]) -> int:
    return sum(row != other for row, other in zip(rows, others, strict=True))
