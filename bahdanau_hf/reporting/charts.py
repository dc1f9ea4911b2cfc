"""Line charts as inline SVG for the report: no script, no font, colours by the page's style sheet.

Hovering over a chart, anywhere above a step, shows that step's values.
"""

from __future__ import annotations

import html
import itertools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from .wording import Text, say, text

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

    parts = []
    for mark in marks:
        y = place((low_x, mark))[1]
        kind = "axis" if mark == marks[0] else "grid"
        parts.append(
            f'<line class="{kind}" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>'
        )
        parts.append(_text(left - 7, y + 4, compact(mark), "end"))
    for x in (t for t in ticks(low_x, max(xs), 4) if low_x <= t <= max(xs)):
        parts.append(_text(place((x, marks[0]))[0], height - 8, compact(x), "middle"))
    parts.append(_text(left - 7, height - 8, text(x_name).html("tspan"), "end"))
    for number, line in enumerate(lines):
        placed = [place(point) for point in line.points]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
        parts.append(f'<polyline class="line s{number}" points="{path}"/>')
        # A single point has no line to be seen by.
        if (line.has_dots and len(placed) <= 40) or len(placed) == 1:
            parts += [_dot(point, number) for point in placed]
    if mark_highest:
        best = max(lines[0].points, key=lambda point: point[1])
        x, y = place(best)
        anchor = "start" if x < width * 0.25 else "end" if x > width * 0.75 else "middle"
        parts.append(_dot((x, y), 0))
        words = text("best {number}", number=_short(best[1])).html("tspan")
        parts.append(_text(x, y - 10, words, anchor, ' class="best"'))
    parts += _strips(lines, place, top, bottom, x_name)
    keys = "".join(
        f'<span class="key"><i class="s{number}"></i>{say(line.name)} '
        f"{_short(line.points[-1][1])}</span>"
        for number, line in enumerate(lines)
    )
    return (
        f'<figure class="chart"><figcaption>{text(name).html(kind="name")}{keys}'
        f'</figcaption>\n<svg viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{html.escape(text(name).en)}">\n' + "\n".join(parts) + "\n</svg></figure>\n"
    )


def _strips(
    lines: list[Series],
    place: Callable[[tuple[float, float]], tuple[float, float]],
    top: float,
    bottom: float,
    x_name: str,
) -> list[str]:
    """Upright strips that side by side cover the drawing, each with its values as a tool tip."""
    xs = sorted({x for line in lines for x, _ in line.points})
    xs = xs[:: math.ceil(len(xs) / _MAX_STRIPS)]
    centres = [place((x, 0.0))[0] for x in xs]
    between = [(a + b) / 2 for a, b in itertools.pairwise(centres)]
    edges = [centres[0] - 12, *between, centres[-1] + 12]
    strips = []
    for i, x in enumerate(xs):
        near = [min(line.points, key=lambda point: abs(point[0] - x)) for line in lines]
        numbers = [f"{y:.4g} ({{}} {x:.10g})" for x, y in near]
        names, on = [text(line.name) for line in lines], text(x_name)
        words = Text(
            "\n".join(f"{m.en} {n.format(on.en)}" for m, n in zip(names, numbers, strict=True)),
            "\n".join(
                f"{m.zh or m.en} {n.format(on.zh)}" for m, n in zip(names, numbers, strict=True)
            ),
        )
        dots = "".join(_dot(place(point), number) for number, point in enumerate(near))
        strips.append(
            f'<g class="strip">{words.html("title")}'
            f'<line x1="{centres[i]:.1f}" x2="{centres[i]:.1f}" y1="{top}" y2="{bottom}"/>{dots}'
            f'<rect x="{edges[i]:.1f}" y="{top}" width="{edges[i + 1] - edges[i]:.1f}" '
            f'height="{bottom - top}"/></g>'
        )
    return strips


def _text(x: float, y: float, text: str, anchor: str, attributes: str = "") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f"<text{attributes} {place}>{text}</text>"


def _dot(place: tuple[float, float], number: int) -> str:
    return f'<circle class="dot s{number}" cx="{place[0]:.1f}" cy="{place[1]:.1f}" r="4"/>'


def _thin(points: list[tuple[float, float]], most: int) -> list[tuple[float, float]]:
    """Average neighbours until at most `most` points are left; the last stays as it is."""
    size = math.ceil(len(points) / most)
    if size <= 1:
        return points
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    means = [(sum(x for x, _ in g) / len(g), sum(y for _, y in g) / len(g)) for g in groups]
    return [*means[:-1], points[-1]]
