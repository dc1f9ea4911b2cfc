"""Which tokens of a sentence and its translation belong together, learnt from pairs alone.

IBM Model 2 with a prior for the diagonal in place of a table of positions (Brown et al. 1993; Dyer
et al. 2013, "A Simple, Fast, and Effective Reparameterization of IBM Model 2"), by expectation
maximisation in both directions. It takes a second for some ten thousand pairs, and some 15 bytes
for each cell (source tokens times target tokens) of all of them.

Dimensions: N pairs of a block, S source tokens, T target tokens, K kinds of cells.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from ..data.batching import NO_LINK, fill_rows, flat_ids

Ids = Sequence[int]

# Where both directions together believe less than this in a token's best link, it has none.
_LEAST_BELIEF = 0.1
_NUM_ITERATIONS, _TENSION, _NULL_SHARE = 5, 4.0, 0.08
_CELLS = 2**16  # of a block, so that it fits into a processor's cache
_TINY = 1e-300
_SOURCE, _TARGET = 2, 1  # axes of a block


def best_sources(sources: Sequence[Ids], targets: Sequence[Ids]) -> list[list[int]]:
    """For each target token the place of the source token it belongs to, or `NO_LINK`.

    It is found by the geometric mean of both directions' posteriors. Each side has at least one
    token, without marks such as the end.
    """
    table = _CellTable(sources, targets)
    there, back = (_Aligner(table, axis) for axis in (_SOURCE, _TARGET))
    links: list[list[int]] = [[]] * len(targets)
    for block in table.blocks:
        places = linked(there.expect(block)[0], back.expect(block)[0]).tolist()
        for pair, own in zip(block.pairs, places, strict=True):
            links[pair] = own[: len(targets[pair])]
    return links


def linked(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """The best place for each target token, or `NO_LINK`; from `(N, T, S)` to `(N, T)`."""
    belief = np.sqrt(there * back)
    return np.where(belief.max(_SOURCE) < _LEAST_BELIEF, NO_LINK, belief.argmax(_SOURCE))


def link_posteriors(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    *,
    num_iterations: int = _NUM_ITERATIONS,
    diagonal_tension: float = _TENSION,
    null_share: float = _NULL_SHARE,
) -> list[np.ndarray]:
    """How probably each target token was made of each source token.

    P(j of i) ∝ exp(-tension |(i + ½) / S - (j + ½) / T|) t(target_j | source_i)

    Translation probabilities start equal, for `num_iterations` of expectation maximisation.
    `diagonal_tension` says how strongly links stay near the diagonal; 0: not at all, Model 1.
    `null_share` is the prior probability of a target token being made of nothing. Each side has at
    least one token.

    Returned is for each pair `(T, S)`; a row's sum is 1 less the probability of no source.
    """
    table = _CellTable(sources, targets)
    aligner = _Aligner(table, _SOURCE, num_iterations, diagonal_tension, null_share)
    found: dict[int, np.ndarray] = {}
    for block in table.blocks:
        found |= zip(block.pairs, aligner.expect(block)[0], strict=True)
    sides = enumerate(zip(sources, targets, strict=True))
    return [found[i][: len(target), : len(source)] for i, (source, target) in sides]


class _Aligner:
    """What tokens are made of in one direction; `axis` is the side whose tokens make the other's.

    Attributes:
        translation: `(K,)`, the probability of each kind's token, given the one that it is made of.
        from_nothing: the probability of each token that is made of nothing.
    """

    def __init__(
        self,
        table: _CellTable,
        axis: int,
        num_iterations: int = _NUM_ITERATIONS,
        diagonal_tension: float = _TENSION,
        null_share: float = _NULL_SHARE,
    ) -> None:
        self.axis, self.tension, self.null_share = axis, diagonal_tension, null_share
        makers, size = table.kinds[axis], table.size
        self.translation = np.full(len(makers), 1 / size)
        self.from_nothing = np.full(size, 1 / size)
        for _ in range(num_iterations):
            counts, nothing = np.zeros(len(makers)), np.zeros(size)
            for block in table.blocks:
                cells, unmade = self.expect(block)
                counts[block.kinds] += np.bincount(
                    block.kind.ravel(), cells.ravel(), len(block.kinds)
                )
                nothing += np.bincount(block.ids[3 - axis].ravel(), unmade.ravel(), size)
            totals = np.bincount(makers, counts, size)
            self.translation = counts / np.maximum(totals[makers], _TINY)
            self.from_nothing = nothing / max(nothing.sum(), _TINY)

    def expect(self, block: _Block) -> tuple[np.ndarray, np.ndarray]:
        """Posterior of each cell `(N, T, S)`, and for each token made that nothing made it."""
        near = block.nearness(self.tension)
        sums = near.sum(self.axis)  # 0 in the padding
        prior = near * np.expand_dims((1 - self.null_share) / np.maximum(sums, _TINY), self.axis)
        joint = prior * self.translation[block.kinds][block.kind]
        nothing = (sums > 0) * self.null_share * self.from_nothing[block.ids[3 - self.axis]]
        total = np.maximum(joint.sum(self.axis) + nothing, _TINY)
        return joint / np.expand_dims(total, self.axis), nothing / total


@dataclass(frozen=True)
class _Block:
    """Pairs of like lengths, padded.

    Attributes:
        pairs: `(N,)`, which ones.
        ids: by axis, `(N, S)` or `(N, T)`.
        lengths: by axis, `(N,)`.
        kinds: the kinds of cells that are in it.
        kind: `(N, T, S)`, of each cell the place of its kind in `kinds`.
    """

    pairs: list[int]
    ids: dict[int, np.ndarray]
    lengths: dict[int, np.ndarray]
    kinds: np.ndarray
    kind: np.ndarray

    def nearness(self, tension: float) -> np.ndarray:
        """To the diagonal, `(N, T, S)`, 1 at most; 0 in the padding."""
        places = [np.arange(self.ids[axis].shape[1]) for axis in (_TARGET, _SOURCE)]
        lengths = [self.lengths[axis][:, None] for axis in (_TARGET, _SOURCE)]
        is_real = (places[0] < lengths[0])[:, :, None] & (places[1] < lengths[1])[:, None]
        target, source = ((at + 0.5) / n for at, n in zip(places, lengths, strict=True))
        distance = np.abs(target[:, :, None] - source[:, None])
        return np.exp(-tension * distance) * is_real


class _CellTable:
    """The cells of all pairs, in blocks of pairs.

    A kind of cell is a source token with a target token, numbered as they occur: `kinds` holds by
    axis the token of each. What a block has of them is found first, and then brought together, so
    that no table is as large as all cells but the one that says their kinds.
    """

    def __init__(self, sources: Sequence[Ids], targets: Sequence[Ids]) -> None:
        sides = {_SOURCE: sources, _TARGET: targets}
        self.size = 1 + max(max(map(max, side)) for side in sides.values())
        smallest = np.min_scalar_type(self.size**2)
        parts = []
        for pairs in _groups(*([len(ids) for ids in side] for side in (sources, targets))):
            rows = {axis: flat_ids([side[i] for i in pairs]) for axis, side in sides.items()}
            ids = {
                axis: fill_rows(flat, lengths, (len(pairs), lengths.max()))
                for axis, (flat, lengths) in rows.items()
            }
            numbers = ids[_SOURCE][:, None] * self.size + ids[_TARGET][:, :, None]
            coded = pa.array(numbers.ravel().astype(smallest)).dictionary_encode()
            kind = coded.indices.to_numpy().astype(np.min_scalar_type(len(coded.dictionary)))
            kind = kind.reshape(numbers.shape)
            parts.append((pairs, ids, {a: n for a, (_, n) in rows.items()}, kind, coded.dictionary))
        merged = pa.chunked_array([part[-1] for part in parts]).dictionary_encode()
        self.blocks = [
            _Block(pairs, ids, lengths, own.indices.to_numpy(), kind)
            for (pairs, ids, lengths, kind, _), own in zip(parts, merged.chunks, strict=True)
        ]
        numbers = merged.chunk(0).dictionary.to_numpy().astype(np.int64)
        self.kinds = {_SOURCE: numbers // self.size, _TARGET: numbers % self.size}


def _groups(num_source: Sequence[int], num_target: Sequence[int]) -> Iterator[list[int]]:
    """Pairs of like lengths, as many as a block holds."""
    group: list[int] = []
    most = (0, 0)
    for i in np.lexsort((num_target, num_source)).tolist():
        grown = max(most[0], num_source[i]), max(most[1], num_target[i])
        if group and (len(group) + 1) * grown[0] * grown[1] > _CELLS:
            yield group
            group, grown = [], (num_source[i], num_target[i])
        group.append(i)
        most = grown
    yield group
