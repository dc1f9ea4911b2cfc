"""The marker `grid`: the fast tests keep a few combinations, in which nothing is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import pytest


@pytest.hookimpl(tryfirst=True)  # before the slow ones are taken out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What the marker `grid` does: leave a few combinations, and mark the others as slow."""
    grids: dict[tuple[str, str], list[pytest.Function]] = {}
    for item in items:
        if isinstance(item, pytest.Function) and item.get_closest_marker("grid"):
            assert item.parent is not None
            grids.setdefault((item.parent.nodeid, item.originalname), []).append(item)
    for cases in grids.values():
        kept = covering([case.callspec.params for case in cases])
        for n, case in enumerate(cases):
            if n not in kept:
                case.add_marker(pytest.mark.slow)


def covering(cases: Sequence[Mapping[str, Any]]) -> set[int]:
    """Few cases in which every value of every parameter occurs, by their places in `cases`.

    Of those that would do, the ones in which most pairs of values meet that have not met before,
    and of these the ones whose values have occurred least.
    """
    values = [{f"{name}={value!r}" for name, value in case.items()} for case in cases]
    pairs = [set(combinations(sorted(case), 2)) for case in values]
    missing, unmet = set().union(*values), set().union(*pairs)
    kept: set[int] = set()
    uses: Counter[str] = Counter()

    def merit(n: int) -> tuple[int, int, int]:
        return len(values[n] & missing), len(pairs[n] & unmet), -sum(uses[x] for x in values[n])

    while missing:
        best = max(range(len(cases)), key=merit)
        kept.add(best)
        missing -= values[best]
        unmet -= pairs[best]
        uses.update(values[best])
    return kept
