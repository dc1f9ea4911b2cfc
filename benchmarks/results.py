"""What a benchmark hands over: numbers, goals with what was reached, curves for the picture."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from .stopwatch import Timing


@dataclass(frozen=True)
class Row:
    """One measured number.

    Attributes:
        name: what was measured.
        value: the number.
        unit: its unit.
        low: the smallest of the repeats.
        high: the largest.
    """

    name: str
    value: float
    unit: str
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Goal:
    """A ratio to reach.

    Attributes:
        name: what is compared with what.
        wanted: the number to reach.
        measured: what was reached.
        at_most: the number is an upper bound, not a lower one.
    """

    name: str
    wanted: float
    measured: float
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether it is."""
        return self.measured <= self.wanted if self.at_most else self.measured >= self.wanted


@dataclass(frozen=True)
class Curve:
    """A line in the picture.

    Attributes:
        panel: which of its parts, `"training"` or `"decoding"`.
        axis: what grows, `"batch size"` or `"length"`.
        name: whose line it is.
        sizes: along the axis.
        rates: work per CPU second.
    """

    panel: str
    axis: str
    name: str
    sizes: list[int]
    rates: list[float]


@dataclass
class Section:
    """The results of one benchmark."""

    title: str
    notes: str
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def add_race(self, timings: Mapping[str, Timing], unit: str) -> None:
        """Add a row for each contender."""
        for name, timing in timings.items():
            self.rows.append(Row(name, timing.rate, unit, *timing.spread))

    def add_seconds(self, name: str, timing: Timing) -> None:
        """Add what one run takes."""
        slow, fast = timing.spread
        self.rows.append(Row(name, 1 / timing.rate, "CPU s", 1 / fast, 1 / slow))

    def text(self) -> str:
        """The section as a table."""
        lines = [self.title, "-" * len(self.title), self.notes, ""]
        width = max((len(row.name) for row in self.rows), default=0)
        for row in self.rows:
            spread = "" if row.low is None else f"  ({_number(row.low)} to {_number(row.high)})"
            lines.append(f"{row.name:<{width}}  {_number(row.value):>9} {row.unit}{spread}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The section as JSON has it; four digits of each number."""
        goals = [asdict(goal) | {"reached": goal.reached} for goal in self.goals]
        return _rounded(asdict(self) | {"goals": goals})


def goals_text(goals: list[Goal]) -> str:
    """All goals as one table."""
    width = max((len(goal.name) for goal in goals), default=4)
    lines = [f"{'goal':<{width}}    wanted  measured"]
    for goal in goals:
        wanted = f"{'<=' if goal.at_most else '>='} {goal.wanted:g}"
        verdict = "reached" if goal.reached else "NOT REACHED"
        lines.append(f"{goal.name:<{width}}  {wanted:>8}  {goal.measured:8.2f}  {verdict}")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value
