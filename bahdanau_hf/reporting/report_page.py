"""Pages in the looks of the report, and how values are shown on them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ..files import is_number, write_whole
from .attention_markup import FONT_STACK, html_page
from .wording import Text, read_asset

_HEADING = re.compile('<h2 id="([^"]+)"')
_CSS = read_asset("pages/report.css")


def write_page(
    path: Path,
    title: Text,
    heading: Text,
    below: str,
    sections: str,
    links: Iterable[tuple[str, str]] = (),
) -> Path:
    """Write a page in the report's looks.

    The title is the window's. What stands below the heading, and the sections, each of which is
    linked to, are HTML. Links are files beside the page, and what they are.

    Raises:
        InputError: it cannot be written.
    """
    css = f":root {{ --fonts: {FONT_STACK}; }}\n{_CSS}"
    places = [(f"#{name}", name) for name in _HEADING.findall(sections)]
    places += links
    header = {"heading": heading, "below": below, "places": places}
    write_whole(path, html_page(title, css, sections, **header))
    return path


def shown_value(value: Any, digits: int = 6) -> str:
    """A setting or result as text for the page; not yet escaped."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if abs(value) < 10 ** min(digits, 5) else f"{value:,.0f}"
    if isinstance(value, list) and value and all(map(is_number, value)):
        return " / ".join(f"{number:.3g}" for number in value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def shown_items(values: Mapping[str, Any], digits: int = 6) -> list[tuple[str, str]]:
    """Names and values as text for the page; tokens are hidden."""
    # A token for the Hub may stand among the settings; a report is made to be passed on.
    return [
        (key, "(hidden)" if key.endswith("_token") and value else shown_value(value, digits))
        for key, value in flat_items(values)
    ]


def flat_items(values: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Names and values; what stands in a mapping of its own is named after both."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from ((f"{key}, {name}", inner) for name, inner in flat_items(value))
        else:
            yield str(key), value
