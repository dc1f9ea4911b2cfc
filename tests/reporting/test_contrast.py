"""Hints are meant to be read: every quiet text stands out from its page by at least 4.5 to 1."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import bahdanau_hf
from bahdanau_hf.reporting.attention_markup import ALIGNMENT_CSS

PACKAGE = Path(bahdanau_hf.__file__).parent
REPORT, DEMO = (
    (PACKAGE / name).read_text(encoding="utf-8")
    for name in ("reporting/pages/report.css", "demo/page.css")
)
LEAST = 4.5  # of WCAG 2, level AA


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`, as WCAG defines it."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_contrast_by_known_values() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize(
    ("css", "text", "pages"),
    [
        (ALIGNMENT_CSS, "--map-quiet", ["#ffffff", "#1a1a19"]),
        ((PACKAGE / "reporting/pages/report.css").read_text(), "--quiet", ["#ffffff", "#1a1a19"]),
        (
            (PACKAGE / "demo/page.css").read_text(),
            "--body-text-color-subdued",
            ["#ffffff", "#27272a"],
        ),
        (
            (PACKAGE / "demo/browser/style.css").read_text(),
            r"\.note \{ color",
            ["#ffffff", "#1a1a19"],
        ),
    ],
    ids=["map", "report", "page", "browser"],
)
def test_quiet_texts_can_be_read_by_day_and_by_night(css: str, text: str, pages: list[str]) -> None:
    colours = re.findall(rf"{text}:\s*(#[0-9a-f]{{6}})", css)
    assert len(colours) == 2
    for colour, page in zip(colours, pages, strict=True):
        assert contrast(colour, page) >= LEAST
