"""Races: several ways of doing the same, timed in turns, so that a busy machine hurts all alike."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple


class Contender(NamedTuple):
    """Something to time.

    Attributes:
        run: does the work.
        amount: how much work that is (tokens, sentences).
    """

    run: Callable[[], object]
    amount: float


@dataclass(frozen=True)
class Timing:
    """How long a contender took.

    Attributes:
        seconds: CPU seconds of the process for one run, one number per round.
        amount: work in one run.
    """

    seconds: list[float]
    amount: float

    @property
    def rate(self) -> float:
        """Work per CPU second, median of the rounds."""
        return self.amount / statistics.median(self.seconds)

    @property
    def spread(self) -> tuple[float, float]:
        """Work per CPU second in the slowest and in the fastest round."""
        return self.amount / max(self.seconds), self.amount / min(self.seconds)

    def times_as_fast_as(self, other: Timing) -> float:
        """The median over the rounds, both taken from the same round."""
        return statistics.median(
            (self.amount / mine) / (other.amount / theirs)
            for mine, theirs in zip(self.seconds, other.seconds, strict=True)
        )


def race(
    contenders: Mapping[str, Contender],
    rounds: int,
    least_seconds: float = 0.2,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, Timing]:
    """Time every contender once a round, after a run to warm up.

    Args:
        contenders: by name.
        rounds: how often; the order is turned by one each time.
        least_seconds: what takes less is run several times in a row.
        clock: in seconds; by default the CPU time of the process.

    Returns:
        Timings by name, in the order of the contenders.
    """
    repeats = {}
    for name, contender in contenders.items():
        start = clock()
        contender.run()
        once = clock() - start  # the first time is the slowest, so this is cautious
        repeats[name] = max(1, math.ceil(least_seconds / max(once, 1e-6)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    names = list(contenders)
    for i in range(rounds):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            gc.collect()
            gc.disable()
            start = clock()
            for _ in range(repeats[name]):
                contenders[name].run()
            seconds[name].append((clock() - start) / repeats[name])
            gc.enable()
    return {name: Timing(seconds[name], contenders[name].amount) for name in names}


def growth(sizes: list[float], costs: list[float]) -> float:
    """The exponent p of `cost ~ size ** p`, by least squares over the logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope
