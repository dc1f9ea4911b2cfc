"""What is measured on a GPU, and how a number is told and kept as soon as it is known.

Dimensions: B batch, S source, T target, E embedding, H hidden, V vocabulary.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch

from .results import Goal, Row, Section
from .stopwatch import Contender, Timing, race

Result = TypeVar("Result")

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
SECONDS = 175.0  # for everything
WARM_UP = 4  # runs: a graph is captured in the second, and libraries set themselves up


class Size(NamedTuple):
    """A model and its batch."""

    B: int
    S: int
    T: int
    E: int
    H: int
    V: int = 8000

    def __str__(self) -> str:
        return f"width {self.H}, {self.B} x {self.S} x {self.T}"


BASE = Size(125, 12, 12, 256, 384)  # the recipe `base`


@dataclass(frozen=True)
class Scale:
    """How large the models and batches are, and how long is measured.

    Attributes:
        base: of the training step that counts.
        decoded: (batch, beams) of decoding with that model.
        recurrences: of the recurrence alone.
        others: further training steps, by few ways.
        side: of the product that shows the device's rate.
        rounds: of each race.
        least_seconds: of each round.
    """

    base: Size = BASE
    decoded: Sequence[tuple[int, int]] = ((256, 1), (64, 1), (64, 5), (1, 1))
    recurrences: Sequence[Size] = (
        BASE,
        *(BASE._replace(B=B) for B in (64, 256, 512)),
        *(Size(64, 50, 50, 256, H) for H in (512, 1024)),
    )
    others: Sequence[Size] = tuple(
        Size(B, 25, 25, E, H) for E, H in ((256, 512), (512, 1024)) for B in (64, 256, 512)
    )
    side: int = 8192
    rounds: int = 5
    least_seconds: float = 0.2

    @property
    def quick(self) -> Scale:
        """With few rounds."""
        return replace(self, rounds=2, least_seconds=0.08)


TINY = Size(2, 3, 3, 8, 16, 50)
TOY = Scale(TINY, ((2, 1), (2, 2)), (TINY,), (TINY._replace(B=3),), 64, 1, 0.0)


@dataclass
class Report:
    """Takes numbers as they come; `seconds` are those left when it is made."""

    section: Section
    device: torch.device
    scale: Scale
    seconds: float = SECONDS
    save: Callable[[Section], object] = lambda section: None
    began: float = field(default_factory=time.monotonic)

    def add(self, name: str, value: float | None, unit: str, *spread: float) -> None:
        """Print a number and keep it."""
        self.section.rows.append(Row(name, value, unit, *spread))
        shown = "" if value is None else f"{value:.4g}"
        print(f"[{time.monotonic() - self.began:3.0f} s] {name}: {shown} {unit}", flush=True)
        self.save(self.section)

    def goal(self, name: str, wanted: float, measured: float, at_most: bool = False) -> None:
        """Print a ratio to reach and keep it."""
        goal = Goal(name, wanted, measured, at_most)
        self.section.goals.append(goal)
        print(f"        {name}: {measured:.2f}, wanted {wanted:g}", flush=True)
        self.save(self.section)

    def attempt(self, name: str, part: Callable[..., Result], *given: Any) -> Result | None:
        """Do a part, if there is time; a failure is a row."""
        if time.monotonic() - self.began > self.seconds:
            self.add(name, None, "left out: the time is over")
            return None
        try:
            return part(*given)
        except Exception as error:  # whatever it is, the other numbers count
            self.add(name, None, f"failed: {type(error).__name__}: {str(error).strip()[:300]}")
            return None
        finally:
            tidy()

    def race(self, contenders: dict[str, Contender], few: bool = False) -> dict[str, Timing]:
        """Time contenders in turns; `few` rounds where a number is told and not compared."""
        rounds = min(self.scale.rounds, 2) if few else self.scale.rounds
        return race(contenders, rounds, self.scale.least_seconds, self.clock)

    def compare(
        self,
        where: str,
        timings: dict[str, Timing],
        other: str,
        wanted: float | None = None,
        name: str = "cuda",
    ) -> None:
        """Tell how many times as fast as another one is, if both were timed."""
        if {name, other} <= timings.keys():
            ratio = timings[name].times_as_fast_as(timings[other])
            if wanted is not None:
                self.goal(f"{where}: {name} / {other}", wanted, ratio)
            else:
                self.add(f"{where}: {name} / {other}", ratio, "times as fast")

    def clock(self) -> float:
        """The time, after the device has done what it was told."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def warm_up(self, run: Callable[[], object]) -> float:
        """Run a few times; MiB of the device at most meanwhile."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        for _ in range(WARM_UP):
            run()
        self.clock()
        return self.memory(torch.cuda.max_memory_allocated)

    def memory(self, what: Callable[[], int] = torch.cuda.memory_allocated) -> float:
        """MiB of the device."""
        return what() / 2**20 if self.device.type == "cuda" else 0.0


def tidy() -> None:
    """Give the device's memory back that nothing uses."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def autocast(device: torch.device, dtype: str) -> AbstractContextManager:
    """Let products be computed in a type; the weights stay in float32."""
    if dtype == "float32":
        return nullcontext()
    return torch.autocast(device.type, DTYPES[dtype])
