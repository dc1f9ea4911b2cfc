"""Line charts as inline SVG for the report: no script, no font, colours by the page's style sheet.

Hovering over a chart, anywhere above a step, shows that step's values.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from operator import itemgetter
from typing import NamedTuple

from .wording import Text, render, text

# More points than this cannot be told apart at the size of a chart; neighbours are averaged.
_MAX_POINTS = 240
_MAX_STRIPS = 120


class Series(NamedTuple):
    """One line of a chart."""

    name: str  # what the key says: a text of the table, or a name
    points: list[tuple[float, float]]  # x ascending, y finite
    has_dots: bool = False  # mark each point, for series of few points


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Choose about `count` round numbers from at most `low` to at least `high`.

    Steps are 1, 2, 2.5 or 5 times a power of ten; ends nearly equal give a range around them.
    """
    if high - low <= max(1e-9 * max(abs(low), abs(high)), 1e-30):
        spread = abs(low) or 1.0
        low, high = low - spread / 2, high + spread / 2
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [step * i for i in range(first, last + 1)]


def compact(value: float) -> str:
    """Write a number shortly and without false precision: 12,000, 0.001, 3.456, 2.5e-05, 1.5M."""
    size = abs(value)
    if size >= 1e12 or 0 < size < 1e-4:
        return f"{value:.3g}"
    if size >= 1e6:
        return f"{value / 1e6:.4g}M"
    return f"{value:,.0f}" if size >= 1000 else f"{value:.4g}"


def _short(value: float) -> str:
    """A value beside a chart: three digits."""
    return compact(float(f"{value:.3g}") if abs(value) < 1000 else value)


def line_chart(
    name: str | Text,
    series: Sequence[Series],
    *,
    from_zero: bool = False,
    mark_highest: bool = False,
    x_name: str = "step",
    width: int = 400,
    height: int = 220,
) -> str:
    """Draw a chart as a `<figure>`; the page has to hold `report.css`.

    Names are texts of the table, or names. Of the series, two at most, those without points are
    left out; `mark_highest` names the first one's highest point. Width and height are in the
    drawing's own units, about those of the page.
    """
    lines = [Series(s.name, _thin(s.points, _MAX_POINTS), s.has_dots) for s in series if s.points]
    if not lines:
        return ""
    xs = [x for line in lines for x, _ in line.points]
    ys = [y for line in lines for _, y in line.points]
    marks = ticks(0.0 if from_zero else min(ys), max(ys), 4 if height >= 200 else 3)
    right, top, bottom = 14, 18 if mark_highest else 10, height - 26
    left = max(38, 14 + 7 * max(len(compact(mark)) for mark in marks))
    low_x, span_x = min(xs), (max(xs) - min(xs)) or 1.0

    def place(point: tuple[float, float]) -> tuple[float, float]:
        across = (point[0] - low_x) / span_x
        up = (point[1] - marks[0]) / (marks[-1] - marks[0])
        return left + across * (width - left - right), bottom - up * (bottom - top)

    seen = sorted(set(xs))
    seen = seen[:: math.ceil(len(seen) / _MAX_STRIPS)]
    return render(
        "chart.html",
        **{"name": text(name), "x_name": text(x_name), "lines": lines, "marks": marks},
        **{"width": width, "height": height, "left": left, "top": top, "bottom": bottom},
        **{"right": width - right, "place": place, "compact": compact, "short": _short},
        steps=[x for x in ticks(low_x, max(xs), 4) if low_x <= x <= max(xs)],
        highest=max(lines[0].points, key=itemgetter(1)) if mark_highest else None,
        strips=_strips(lines, seen, [place((x, 0.0))[0] for x in seen], x_name),
    )


def _strips(
    lines: list[Series], xs: list[float], centres: list[float], x_name: str
) -> Iterator[tuple[Text, float, float, float, list[tuple[float, float]]]]:
    """Upright strips that side by side cover the drawing, around places of the steps `xs`.

    Of each: its values as a tool tip, its place, its edges, and its points.
    """
    between = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    edges = itertools.pairwise([centres[0] - 12, *between, centres[-1] + 12])
    names, on = [text(line.name) for line in lines], text(x_name)
    for x, centre, (start, end) in zip(xs, centres, edges, strict=True):
        near = [min(line.points, key=lambda point: abs(point[0] - x)) for line in lines]
        numbers = [f"{y:.4g} ({{}} {at:.10g})" for at, y in near]
        told = list(zip(names, numbers, strict=True))
        said = Text(
            "\n".join(f"{name.en} {number.format(on.en)}" for name, number in told),
            "\n".join(f"{name.zh or name.en} {number.format(on.zh)}" for name, number in told),
        )
        yield said, centre, start, end, near


def _thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Average neighbours until at most `most` points are left; the last stays as it is."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means[:-1], points[-1]]
