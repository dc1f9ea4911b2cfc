"""Of a grid of parameters the fast tests keep few cases, in which nothing is missing."""

from itertools import product

import pytest

from tests.helpers.grids import covering


@pytest.mark.parametrize("sizes", [(3,), (8, 3), (2, 2, 8), (4, 5, 3)])
def test_as_many_as_the_longest_hold_every_value(sizes) -> None:
    names = "abc"[: len(sizes)]
    grid = [dict(zip(names, case, strict=True)) for case in product(*map(range, sizes))]
    kept = [grid[n] for n in covering(grid)]
    assert len(kept) == max(sizes)
    for name, size in zip(names, sizes, strict=True):
        counts = [sum(case[name] == value for case in kept) for value in range(size)]
        assert max(counts) - min(counts) <= 1


def test_two_values_of_each_meet_each_other() -> None:
    grid = [dict(zip("abc", case, strict=True)) for case in product(range(4), "xy", [True, False])]
    kept = [grid[n] for n in covering(grid)]
    assert {(case["b"], case["c"]) for case in kept} == set(product("xy", [True, False]))


def test_values_that_do_not_all_meet() -> None:
    """Where some combinations are no cases, another one stands in."""
    grid = [{"beams": 1, "stop": None}, *({"beams": n, "stop": s} for n in (2, 5) for s in "abc")]
    kept = [grid[n] for n in covering(grid)]
    assert {case["stop"] for case in kept} == {None, *"abc"}
    assert {case["beams"] for case in kept} == {1, 2, 5}
    assert len(kept) == 4


@pytest.mark.grid
@pytest.mark.parametrize("a", [1, 2])
@pytest.mark.parametrize("b", [1, 2])
def test_the_others_are_slow(request, a, b) -> None:
    assert (request.node.get_closest_marker("slow") is None) == (a == b)
