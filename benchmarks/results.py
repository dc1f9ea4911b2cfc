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
        value: the number; `None`: there is none, and the unit says why.
        unit: its unit.
        low: the smallest of the repeats.
        high: the largest.
    """

    name: str
    value: float | None
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
        tabled: it stands in a table of its section; lists of goals name it only if it is missed.
    """

    name: str
    wanted: float
    measured: float
    at_most: bool = False
    tabled: bool = False

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


@dataclass(frozen=True)
class Table:
    """Many ratios of one kind, rows by columns.

    Attributes:
        title: what they are.
        wanted: what each should reach at least; `None`: they are only told.
        columns: their names.
        rows: by name; a number for each column, `None` where nothing was measured.
    """

    title: str
    wanted: float | None
    columns: list[str]
    rows: dict[str, list[float | None]] = field(default_factory=dict)

    def goals(self) -> list[Goal]:
        """One for each number."""
        return [
            Goal(f"{self.title}: {name}, {column}", self.wanted, value, tabled=True)
            for name, values in self.rows.items()
            for column, value in zip(self.columns, values, strict=True)
            if self.wanted is not None and value is not None
        ]

    def text(self) -> str:
        """Plain text, an asterisk at what is missed."""
        width = max(map(len, self.rows), default=0)
        lines = [self.title, " " * width + "".join(f"  {name:>15}" for name in self.columns)]
        for name, values in self.rows.items():
            cells = "".join(f"  {self._cell(value):>15}" for value in values)
            lines.append(f"{name:<{width}}{cells}")
        return "\n".join(lines)

    def _cell(self, value: float | None) -> str:
        if value is None:
            return ""
        missed = self.wanted is not None and not value >= self.wanted
        return f"{value:.2f}" + "*" * missed


@dataclass
class Section:
    """The results of one benchmark."""

    title: str
    notes: str
    rows: list[Row] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)

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
        for table in self.tables:
            lines += ["", table.text()]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The section as JSON has it; four digits of each number."""
        goals = [asdict(goal) | {"reached": goal.reached} for goal in self.goals]
        return _rounded(asdict(self) | {"goals": goals})

    def add_from(self, other: dict[str, Any], mark: str) -> None:
        """Add what another process measured.

        Args:
            other: the section that it gave, as `as_dict` has it.
            mark: put behind every name.
        """
        for row in other["rows"]:
            self.rows.append(Row(**row | {"name": row["name"] + mark}))
        for table in other["tables"]:
            self.tables.append(Table(**table | {"title": table["title"] + mark}))
        for goal in other["goals"]:
            fields = {name: value for name, value in goal.items() if name != "reached"}
            self.goals.append(Goal(**fields | {"name": goal["name"] + mark}))


def goals_text(goals: list[Goal]) -> str:
    """The goals as one table; those that stand in a table already only if they are missed."""
    goals = [goal for goal in goals if not (goal.tabled and goal.reached)]
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
