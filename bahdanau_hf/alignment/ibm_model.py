"""Which tokens of a sentence and its translation belong together, learnt from pairs alone.

IBM Model 2 with a prior for the diagonal in place of a table of positions (Brown et al. 1993; Dyer
et al. 2013, "A Simple, Fast, and Effective Reparameterization of IBM Model 2"), by expectation
maximisation in both directions. It takes a second for some ten thousand pairs, and about 100 bytes
for each cell (source tokens times target tokens) of all of them.

Dimensions: N pairs, S source tokens, T target tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import numpy as np

from ..data.batching import NO_LINK, flat_ids

Ids = Sequence[int]

# Where both directions together believe less than this in a token's best link, it has none.
_LEAST_BELIEF = 0.1


def best_sources(sources: Sequence[Ids], targets: Sequence[Ids]) -> list[list[int]]:
    """For each target token the place of the source token it belongs to, or `NO_LINK`.

    It is found by the geometric mean of both directions' posteriors. Each side has at least one
    token, without marks such as the end.
    """
    forward = link_posteriors(sources, targets)
    backward = link_posteriors(targets, sources)
    there = np.concatenate([own.ravel() for own in forward])
    back = np.concatenate([own.T.ravel() for own in backward])
    belief = np.sqrt(there * back)
    row, column = _cells(*(flat_ids(side)[1] for side in (sources, targets)))
    highest = np.maximum.reduceat(belief, np.flatnonzero(column == 0))
    best = np.flatnonzero(belief == highest[row])
    _, first = np.unique(row[best], return_index=True)  # of several that are equal
    places = np.where(highest < _LEAST_BELIEF, NO_LINK, column[best[first]])
    links = iter(places.tolist())
    return [list(islice(links, len(target))) for target in targets]


def link_posteriors(
    sources: Sequence[Ids],
    targets: Sequence[Ids],
    *,
    num_iterations: int = 5,
    diagonal_tension: float = 4.0,
    null_share: float = 0.08,
) -> list[np.ndarray]:
    """How probably each target token was made of each source token.

    P(j of i) ∝ exp(-tension |(i + ½) / S - (j + ½) / T|) t(target_j | source_i)

    Translation probabilities start equal, for `num_iterations` of expectation maximisation.
    `diagonal_tension` says how strongly links stay near the diagonal; 0: not at all, Model 1.
    `null_share` is the prior probability of a target token being made of nothing. Each side has at
    least one token.

    Returned is for each pair `(T, S)`; a row's sum is 1 less the probability of no source.
    """
    (source_tokens, num_source), (tokens, num_target) = flat_ids(sources), flat_ids(targets)
    size = 1 + max(source_tokens.max(), tokens.max())
    num_rows = len(tokens)
    pair = np.repeat(np.arange(len(targets)), num_target)  # of each row
    row, column = _cells(num_source, num_target)
    made_of = source_tokens[_starts(num_source)[pair][row] + column]
    place = (_within(num_target) + 0.5) / num_target[pair]
    distance = np.abs(place[row] - (column + 0.5) / num_source[pair][row])
    prior = np.exp(-diagonal_tension * distance)
    prior *= (1 - null_share) / np.bincount(row, prior, num_rows)[row]

    # A cell's place among the pairs of tokens that occur, and the source token of each such pair.
    kinds, kind = np.unique(made_of * size + tokens[row], return_inverse=True)
    source_of = kinds // size
    translation, from_nothing = np.full(len(kinds), 1 / size), np.full(size, 1 / size)

    def expect() -> tuple[np.ndarray, np.ndarray]:
        """Posterior of each cell, and of each row that its token was made of nothing."""
        joint, nothing = prior * translation[kind], null_share * from_nothing[tokens]
        total = np.maximum(np.bincount(row, joint, num_rows) + nothing, 1e-300)
        return joint / total[row], nothing / total

    for _ in range(num_iterations):
        cells, nothing = expect()
        counts = np.bincount(kind, cells, len(kinds))
        translation = counts / np.maximum(np.bincount(source_of, counts, size)[source_of], 1e-300)
        from_nothing = np.bincount(tokens, nothing, size) / max(nothing.sum(), 1e-300)
    parts = np.split(expect()[0], np.cumsum(num_target * num_source)[:-1])
    return [part.reshape(-1, width) for part, width in zip(parts, num_source, strict=True)]


# --- the cells of all pairs, one pair after the other, row by row ---------------------------------


def _cells(num_source: np.ndarray, num_target: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The row of each cell, counted through all pairs, and its place in the row; from `(N,)`."""
    widths = np.repeat(num_source, num_target)
    return np.repeat(np.arange(len(widths)), widths), _within(widths)


def _within(lengths: np.ndarray) -> np.ndarray:
    """0, 1, ... of each length, one after the other."""
    return np.arange(lengths.sum()) - np.repeat(_starts(lengths), lengths)


def _starts(lengths: np.ndarray) -> np.ndarray:
    return np.cumsum(lengths) - lengths
