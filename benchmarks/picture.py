"""The picture: training and decoding against batch size and length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from .results import Curve

UNITS = {"training": "target tokens / CPU second", "decoding": "sentences / CPU second"}
AXES = ("batch size", "length")
COLOURS = {"plain": "#888888", "ours": "#1f6fb2", "bfloat16": "#d9541a"}


def draw(curves: Sequence[Curve], path: Path, caption: str) -> None:
    """Draw all curves into an SVG file.

    Args:
        curves: those of `Section.curves`.
        path: where to.
        caption: the machine, below the picture.

    Raises:
        ImportError: without matplotlib (the extra `[plot]`).
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 7), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(2, 2)
    for row, panel in enumerate(UNITS):
        for column, axis in enumerate(AXES):
            axes = panels[row][column]
            for curve in curves:
                if (curve.panel, curve.axis) == (panel, axis):
                    is_narrow = curve.name.endswith("bfloat16")
                    colour = COLOURS["bfloat16" if is_narrow else curve.name.split()[0].strip(",")]
                    axes.plot(curve.sizes, curve.rates, "o-", color=colour, label=curve.name)
            sizes = next(c.sizes for c in curves if (c.panel, c.axis) == (panel, axis))
            axes.set(xscale="log", xlabel=axis, ylabel=UNITS[panel], title=panel)
            axes.set_xticks(sizes, [str(n) for n in sizes], minor=False)
            axes.set_xticks([], minor=True)
            if panel == "decoding":
                axes.set_yscale("log")
            else:
                axes.set_ylim(bottom=0)
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
    figure.supxlabel(caption, fontsize="small", color="#666666")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench"}):
        figure.savefig(path, format="svg", metadata={"Date": None})
