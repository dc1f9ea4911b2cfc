"""Attention maps as pictures, and one function that writes a map into any kind of file.

`plot_alignment` gives a matplotlib `Figure` (extra `[plot]`); nothing here opens a window, loads
pyplot or changes a setting of matplotlib. The maps that need no matplotlib are made in
`alignment_markup.py` and handed out here too.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..alignment.record import Alignment
from ..errors import InputError
from ..files import writing
from . import attention_markup as markup
from .attention_markup import alignment_html, alignment_svg, alignment_text

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.figure import Figure

SUFFIXES = (".png", ".svg", ".html", ".txt")
# Families with Chinese, by how they begin; those for the screen come first.
_CHINESE_FONTS = (
    *("Noto Sans CJK", "Noto Sans SC", "Source Han Sans", "PingFang", "Hiragino Sans GB"),
    *("Microsoft YaHei", "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "SimHei", "Heiti"),
    *("Noto Serif CJK", "Noto Serif SC", "Songti", "SimSun", "Droid Sans Fallback"),
)


def plot_alignment(
    weights: Any,
    source_tokens: Sequence[str],
    target_tokens: Sequence[str],
    *,
    title: str | None = None,
) -> Figure:
    """Draw the map with matplotlib; the caller shows or saves the figure.

    The weights `(T, S)`, an array or a tensor whose rows sum to 1, are those of T target tokens
    over S source tokens. Where the machine has no font for them, one warning says what to do.

    Raises:
        InputError: matplotlib is not installed.
        ValueError: as `Alignment`.
    """
    alignment = Alignment(list(source_tokens), list(target_tokens), weights)
    figure, missing = _figure(alignment, title)
    if missing:
        hint = "install one, such as Noto Sans CJK, or write .svg or .html: they use the reader's"
        warnings.warn(f"no font on this machine has {missing!r}; {hint}", stacklevel=2)
    return figure


def save_alignment(alignment: Alignment, path: str | Path, *, title: str | None = None) -> Path:
    """Write the map as the suffix says: `.png`, `.svg`, `.html` or `.txt`; folders are made.

    Returns:
        The file to look at. That is `path`, unless a PNG was asked for whose characters no font on
        this machine has: then an SVG is written beside it, returned, and named in one warning.

    Raises:
        InputError: another suffix, a path that cannot be written, or a PNG without matplotlib.
    """
    path = Path(path)
    writers: dict[str, Callable[[], str]] = {
        ".svg": lambda: alignment_svg(alignment, title=title),
        ".html": lambda: alignment_html(alignment, standalone=True, title=title),
        ".txt": lambda: alignment_text(alignment),
    }
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise InputError(f"cannot draw {str(path)!r}: its name must end in {', '.join(SUFFIXES)}")
    figure, missing = _figure(alignment, title) if suffix == ".png" else (None, "")
    shown = path.with_suffix(".svg") if missing else path
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if figure is not None:
            with _boxes_for_missing_characters():
                figure.savefig(path, dpi=160, bbox_inches="tight", pad_inches=0.15)
        if figure is None or missing:
            shown.write_text(writers[shown.suffix.lower()](), encoding="utf-8")
    if missing:
        warnings.warn(
            f"no font on this machine has {missing!r}, so {path} shows boxes for them: look at "
            f"{shown} instead, or install a font such as Noto Sans CJK",
            stacklevel=2,
        )
    return shown


def alignment_pixels(alignment: Alignment, *, title: str | None = None) -> tuple[np.ndarray, str]:
    """Draw the map into pixels.

    Returns:
        uint8 `(height, width, 3)`, and the characters that show as boxes: no font here has them.

    Raises:
        InputError: matplotlib is not installed.
    """
    import numpy as np

    figure, missing = _figure(alignment, title)
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    with _boxes_for_missing_characters():
        canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3].copy(), missing


@contextmanager
def _boxes_for_missing_characters() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing", category=UserWarning)
        yield


def _figure(alignment: Alignment, title: str | None) -> tuple[Figure, str]:
    """The figure, and the characters in it that no font here has."""
    try:
        from matplotlib.colors import LinearSegmentedColormap
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError(
            "drawing this needs matplotlib: pip install 'bahdanau-hf[plot]'; .svg, .html and .txt "
            "need nothing"
        ) from None
    source = [markup.visible(token) for token in alignment.source_tokens]
    target = [markup.visible(token) for token in alignment.target_tokens]
    ways = markup.directions(source)
    lines = [title or "", *(f"{name}: {text}" for name, text in markup.sentences(alignment))]
    heading = "\n".join(line for text in lines for line in markup.wrapped(text))
    font, missing = _font_for("".join([*source, *target, heading]))
    # Tokens are words, never formulas: "$5" must not start one.
    plain: dict[str, Any] = {"fontproperties": font, "parse_math": False, "usetex": False}
    tall, wide = len(target), len(source)
    figure = Figure(figsize=(2.2 + 0.42 * wide, 1.8 + 0.42 * tall), layout="constrained")
    axes = figure.add_subplot()
    ramp = [[n / 255 for n in colour] for colour in (markup.EMPTY, markup.LIGHT_HOT)]
    colours = LinearSegmentedColormap.from_list("attention", ramp)
    image = axes.imshow(alignment.weights, cmap=colours, vmin=0, vmax=1, aspect="equal")
    heads = ["\n".join(t) if w == "stacked" else t for t, w in zip(source, ways, strict=True)]
    axes.set_xticks(range(wide), heads, linespacing=1.0, **plain)
    axes.set_yticks(range(tall), target, **plain)
    axes.xaxis.tick_top()
    for label, way in zip(axes.get_xticklabels(), ways, strict=True):
        label.set_rotation(90 if way == "turned" else 0)
    quiet: dict[str, Any] = {"size": 9, "color": "#6b6a63"}
    corner: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    axes.annotate("source →\ntarget ↓", (0, 1), (-8, 6), ha="right", **corner, **quiet)
    axes.tick_params(length=0, labelsize=11)
    axes.spines[:].set_visible(False)
    axes.set_xticks([i - 0.5 for i in range(1, wide)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(1, tall)], minor=True)
    axes.grid(which="minor", color="white", linewidth=2)
    axes.tick_params(which="minor", length=0)
    if max(wide, tall) <= 48:
        for row, column in zip(*(alignment.weights >= markup.NUMBER_FROM).nonzero(), strict=True):
            weight = alignment.weights[row, column]
            colour = "white" if weight >= markup.HOT_FROM else "#0b0b0b"
            axes.text(
                column, row, f"{weight:.2f}", ha="center", va="center", size=7.5, color=colour
            )
    bar = figure.colorbar(
        image, ax=axes, location="bottom", anchor=(0, 0.5), pad=0.02, aspect=8,
        shrink=min(1.0, 1.3 / (0.42 * wide)), ticks=[0, 1],
    )  # fmt: skip
    bar.outline.set_visible(False)
    bar.ax.tick_params(length=0, labelsize=9, labelcolor="#6b6a63")
    bar.ax.set_xlabel("attention weight", **quiet)
    if heading:
        figure.suptitle(heading, size=11, x=0.02, ha="left", **plain)
    reading = textwrap.fill(markup.HOW_TO_READ, 64)
    figure.supxlabel(reading, size=8, color="#6b6a63", x=0.02, ha="left")
    return figure, missing


def _font_for(text: str) -> tuple[Any, str]:
    """Font properties whose families have the characters of a text, and those that none has.

    matplotlib takes for each character the first of the families that has it.
    """
    from matplotlib import font_manager, rcParams

    families, fonts = list(rcParams["font.family"]), font_manager.fontManager
    missing = {character for character in text if not character.isspace()}
    missing -= _covered(font_manager.findfont(font_manager.FontProperties()), missing)
    if missing:  # perhaps by a font that was installed after matplotlib wrote its list of them
        for path in {*font_manager.findSystemFonts()} - {font.fname for font in fonts.ttflist}:
            with suppress(OSError, RuntimeError):
                fonts.addfont(path)
    for name in sorted(fonts.get_font_names(), key=_preference):
        # The font of last resort has every character, all drawn as boxes.
        if not missing or "lastresort" in name.lower().replace(" ", ""):
            continue
        path = font_manager.findfont(font_manager.FontProperties(family=[name]))
        if found := _covered(path, missing):
            families.append(name)
            missing -= found
    return font_manager.FontProperties(family=families), "".join(sorted(missing))


def _covered(path: str, characters: set[str]) -> set[str]:
    from matplotlib import font_manager

    try:
        font = font_manager.get_font(path)
    except (OSError, RuntimeError):
        return set()
    return {c for c in characters if font.get_char_index(ord(c))}


def _preference(name: str) -> tuple[int, str]:
    begins = map(name.startswith, _CHINESE_FONTS)
    return next((i for i, does in enumerate(begins) if does), len(_CHINESE_FONTS)), name
