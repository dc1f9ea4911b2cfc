"""Attention that also learns from the links of a statistical aligner.

Chen et al. 2016, "Guided Alignment Training for Topic-Aware Neural Machine Translation": besides
the words, the model learns where a word comes from, by a cross-entropy between links and attention.

Dimensions: B batch, S source, T target.
"""

from __future__ import annotations

import pyarrow as pa  # type: ignore[import-untyped]
from datasets import Dataset
from torch import Tensor

from .ibm_model import NO_LINK, best_sources

# Keeps the gradient finite where a weight has become 0 in float32.
_LEAST_WEIGHT = 1e-8


def add_best_sources(encoded: Dataset) -> Dataset:
    """Add to encoded pairs where each label's token comes from, as `best_sources`.

    The ends belong to nothing, and so does a sentence of which nothing but the end is there.
    """
    rows = encoded.with_format("arrow")[:]  # not by the library, which takes longer than the rest
    sides = (rows[name].to_pylist() for name in ("input_ids", "labels"))
    sources, targets = ([ids[:-1] for ids in side] for side in sides)
    filled = [i for i, (s, t) in enumerate(zip(sources, targets, strict=True)) if s and t]
    places = [[NO_LINK] * (len(target) + 1) for target in targets]
    if filled:
        links = best_sources([sources[i] for i in filled], [targets[i] for i in filled])
        for i, own in zip(filled, links, strict=True):
            places[i][:-1] = own
    # As an array it is hashed at once.
    return encoded.add_column("best_sources", pa.array(places, pa.list_(pa.int64())))


def guided_attention_loss(weights: Tensor, places: Tensor) -> Tensor:
    """Cross-entropy between links and attention `(B, T, S)`, summed over the labels with a link.

    `places` `(B, T)` are those of the source tokens that the labels belong to, or `NO_LINK`.
    """
    is_linked = places != NO_LINK
    chosen = weights.gather(-1, places.clamp(min=0).unsqueeze(-1)).squeeze(-1)
    return -(chosen.float() + _LEAST_WEIGHT).log().masked_fill(~is_linked, 0.0).sum()
