"""Random sentences whose lengths are those of everyday sentences; the same ones on every machine.

The lengths imitate English-Chinese sentences of a phrase collection, the end token included: the
source has 7 tokens on average and 11 at the 95th percentile, the target 11 and 17, and longer
sources have longer targets.

Dimensions: B batch, S source, T target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from bahdanau_hf.data.batching import LengthBucketBatchSampler

PAD, BOS, EOS = 0, 1, 2
FIRST_WORD = 4
SOURCE_SIZE, TARGET_SIZE = 5000, 4000  # vocabularies
BATCH_SIZE = 64
PADDED_LENGTH = 30  # what the plain code pads every sentence to
LONGEST = 30
MEAN_TARGET = 11


class Batch(NamedTuple):
    """Sentences with their translations."""

    input_ids: Tensor  # (B, S)
    attention_mask: Tensor  # (B, S)
    labels: Tensor  # (B, T), -100 on padding

    @property
    def source_lengths(self) -> Tensor:
        """`(B,)`."""
        return self.attention_mask.sum(dim=1)

    @property
    def num_target_tokens(self) -> int:
        """Real ones."""
        return int((self.labels != -100).sum())

    def padded(self, length: int) -> Batch:
        """Both sides padded to a length."""
        fills = (PAD, 0, -100)
        return Batch(
            *(
                torch.nn.functional.pad(x, (0, length - x.shape[1]), value=fill)
                for x, fill in zip(self, fills, strict=True)
            )
        )


def sentence_lengths(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Tokens of sources and of targets."""
    random = np.random.default_rng(seed)
    size = random.gamma(11, 1 / 11, count)
    source = np.rint(7 * size)
    target = np.rint(MEAN_TARGET * size * random.normal(1, 0.08, count))
    return source.clip(2, LONGEST).astype(int), target.clip(2, LONGEST).astype(int)


def random_batch(
    source_lengths: np.ndarray,
    target_lengths: np.ndarray,
    seed: int,
    source_size: int = SOURCE_SIZE,
    target_size: int = TARGET_SIZE,
) -> Batch:
    """Random words in sentences of these lengths, each with its end token."""
    generator = torch.Generator().manual_seed(seed)

    def words(lengths: np.ndarray, size: int) -> tuple[Tensor, Tensor]:
        ends = torch.from_numpy(np.asarray(lengths))[:, None]
        shape = (len(lengths), int(ends.max()))
        ids = torch.randint(FIRST_WORD, size, shape, generator=generator)
        positions = torch.arange(shape[1])
        return ids.masked_fill(positions == ends - 1, EOS), positions < ends

    source, real_source = words(source_lengths, source_size)
    target, real_target = words(target_lengths, target_size)
    return Batch(
        source.masked_fill(~real_source, PAD),
        real_source.long(),
        target.masked_fill(~real_target, -100),
    )


def even_batch(
    batch_size: int,
    source_length: int,
    target_length: int,
    source_size: int = SOURCE_SIZE,
    target_size: int = TARGET_SIZE,
) -> Batch:
    """A batch without padding."""
    sources, targets = np.full(batch_size, source_length), np.full(batch_size, target_length)
    return random_batch(sources, targets, 0, source_size, target_size)


def bucketed_batches(count: int) -> list[Batch]:
    """Batches as training has them: like lengths together; `count` of them, from short to long."""
    sources, targets = sentence_lengths(40 * BATCH_SIZE, seed=0)
    sampler = LengthBucketBatchSampler(sources, targets, batch_size=BATCH_SIZE, seed=0)
    indices = sorted(sampler, key=lambda rows: targets[rows].sum())
    chosen = [indices[(2 * i + 1) * len(indices) // (2 * count)] for i in range(count)]
    return [random_batch(sources[rows], targets[rows], i) for i, rows in enumerate(chosen)]
