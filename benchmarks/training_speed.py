"""Training: target tokens per CPU second, the optimizer's step included."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from bahdanau_hf import BahdanauForConditionalGeneration
from bahdanau_hf.modeling.matmul_bahdanau import multiply

from . import joeynmt_peer
from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE, make_marian, make_ours, make_plain
from .plain_seq2seq import PlainSeq2Seq
from .results import Goal, Section
from .stopwatch import Contender, race
from .workload import BATCH_SIZE, BOS, PADDED_LENGTH, TARGET_SIZE, Batch, bucketed_batches

TUTORIAL_WIDTH = 32


class Training:
    """Takes a step of training on each of a few batches.

    Args:
        model: the plain loop's, ours, or one of the library's.
        batches: what to train on.
        bf16: autocast to bfloat16.
    """

    def __init__(self, model: nn.Module, batches: Sequence[Batch], bf16: bool = False) -> None:
        self.model, self.batches, self.bf16 = model.train(), batches, bf16
        self.optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)

    def __call__(self) -> None:
        """Train on all batches once."""
        for batch in self.batches:
            self.optimizer.zero_grad()
            self.backward(batch)
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    def backward(self, batch: Batch) -> None:
        """Add a batch's gradients."""
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            loss = self._loss(batch)
        loss.backward()

    def _loss(self, batch: Batch) -> Tensor:
        if isinstance(self.model, PlainSeq2Seq):
            total = self.model.loss(batch.input_ids, batch.source_lengths, batch.labels, BOS)
            return total / batch.num_target_tokens
        is_ours = isinstance(self.model, BahdanauForConditionalGeneration)
        options = {"skip_logits": True} if is_ours else {}
        return self.model(
            input_ids=batch.input_ids,
            attention_mask=batch.attention_mask,
            labels=batch.labels,
            **options,
        ).loss

    def contender(self) -> Contender:
        """For a race in target tokens."""
        return Contender(self, sum(batch.num_target_tokens for batch in self.batches))


def multiplications(batches: Sequence[Batch]) -> int:
    """Of a training step's products, one layer each side, whoever computes them and however.

    The products of attention, small against the others, are left out. Each product counts three
    times: forwards, and once for each operand's gradient.
    """
    E, H = EMBEDDING_SIZE, HIDDEN_SIZE
    each_source = E * 3 * H + H * 3 * H + H * H + H * 3 * H  # gates, keys, context's gates
    each_step = E * 3 * H + H * 3 * H + H * H  # gates, query
    return 3 * sum(
        batch.input_ids.numel() * each_source
        + batch.labels.numel() * each_step
        + batch.num_target_tokens * H * TARGET_SIZE
        for batch in batches
    )


def products_alone(batches: Sequence[Batch], dtype: torch.dtype) -> Contender:
    """As many multiplications as a training step cannot do without, in products of one easy size.

    No training of this model can be faster with the same library of products.
    """
    x, weight = torch.randn(512, 512, dtype=dtype), torch.randn(2048, 512, dtype=dtype)
    repeats = 20

    def run() -> None:
        for _ in range(repeats):
            multiply(x, weight)

    share = repeats * x.shape[0] * weight.numel() / multiplications(batches)
    return Contender(run, share * sum(batch.num_target_tokens for batch in batches))


def measure(quick: bool) -> Section:
    """Race all models over the same sentences."""
    batches = bucketed_batches(1 if quick else 4)
    padded = [batch.padded(PADDED_LENGTH) for batch in batches]
    plain = make_plain()
    marian = make_marian(sum(p.numel() for p in plain.parameters()))
    tutorial = make_plain(TUTORIAL_WIDTH, TUTORIAL_WIDTH, num_layers=2, dropout=0.1)
    contenders = {
        f"plain loop, all padded to {PADDED_LENGTH}": Training(plain, padded),
        "plain loop": Training(make_plain(), batches),
        "plain loop, bfloat16": Training(make_plain(), batches, bf16=True),
        "ours": Training(make_ours(plain), batches),
        "ours, bfloat16": Training(make_ours(plain), batches, bf16=True),
        "MarianMT": Training(marian, batches),
        "MarianMT, bfloat16": Training(make_marian(marian.num_parameters()), batches, bf16=True),
        "plain loop, 32 wide, 2 layers": Training(tutorial, batches),
        "ours, 32 wide, 2 layers": Training(make_ours(tutorial), batches),
    }
    racing = {name: training.contender() for name, training in contenders.items()}
    racing["its products alone"] = products_alone(batches, torch.float32)
    racing["its products alone, bfloat16"] = products_alone(batches, torch.bfloat16)
    if joeynmt_peer.is_installed():
        racing["JoeyNMT"] = joeynmt_peer.JoeyTraining(batches).contender()
    timings = race(racing, 2 if quick else 5)
    section = Section(
        "Training",
        f"Width {EMBEDDING_SIZE}/{HIDDEN_SIZE}, one layer each side, {TARGET_SIZE} target words, "
        f'batches of {BATCH_SIZE} of similar length; MarianMT has as many parameters. "Its '
        'products alone": as many multiplications as a step of ours needs, in matrices of one easy '
        "size: a lower bound of the time here.",
    )
    section.add_race(timings, "target tokens/CPU s")
    from_padded = f"plain loop, all padded to {PADDED_LENGTH}"
    goals = [
        ("ours, bfloat16", from_padded, 11),
        ("ours, bfloat16", "plain loop", 2.6),
        ("ours", from_padded, 7.5),
        ("ours", "plain loop", 1.7),
        ("ours", "MarianMT", 2),
        ("ours, bfloat16", "MarianMT", 2),
        ("ours, bfloat16", "MarianMT, bfloat16", 2),
        ("ours", "JoeyNMT", 2),
        ("ours, 32 wide, 2 layers", "plain loop, 32 wide, 2 layers", 2),
    ]
    section.goals = [
        Goal(f"training: {a} / {b}", wanted, timings[a].times_as_fast_as(timings[b]))
        for a, b, wanted in goals
        if b in timings
    ]
    return section
