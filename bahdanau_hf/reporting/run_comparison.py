"""Two runs side by side: one HTML page made from their own files, as the report of a run is."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from ..errors import InputError
from .charts import line_chart
from .report_page import flat_items, group, section, shown_value, write_page
from .run_report import logged_series, logged_steps, read_part, read_predictions
from .wording import say, text

_NUM_TRANSLATIONS = 10
_CHARTS = (
    ("Training loss", "loss"),
    ("Validation loss", "eval_loss"),
    ("Validation BLEU", "eval_bleu"),
    ("Validation chrF", "eval_chrf"),
)


def write_comparison(first: str | Path, second: str | Path, path: str | Path) -> Path:
    """Lay two runs side by side: scores, curves, settings that differ, translations that differ.

    The runs are folders; returned is the path of the page.

    Raises:
        InputError: a folder without a run, or the page cannot be written.
    """
    folders = (Path(first), Path(second))
    for folder in folders:
        if not (folder / "settings.json").is_file():
            raise InputError(f"there is no run in {folder}: it has no settings.json")
    names = tuple(folder.resolve().name for folder in folders)
    if names[0] == names[1]:
        names = tuple(map(str, folders))
    results = [_items(folder / "eval_results.json") for folder in folders]
    settings = [_items(folder / "settings.json") for folder in folders]
    heading = text("{first} and {second}", first=names[0], second=names[1])
    sections = [
        section("Scores", _table(names, results)),
        section("Learning", _curves(folders, names)),
        section("Translations", _translations(folders, names)),
        section("Settings", _table(names, settings, "The settings of both runs are the same.")),
    ]
    return write_page(Path(path), heading, heading, say("Two trainings side by side"), sections)


def _items(path: Path) -> dict[str, Any]:
    """The values of a JSON file by their full names, without curves and secrets."""
    items = {key: v for key, v in read_part(path, dict)[0].items() if key != "confidence"}
    left_out = ("_token", "output_dir", ", by_source_length", ", by_novelty")
    return {key: v for key, v in flat_items(items) if not key.endswith(left_out)}


def _table(names: tuple[str, ...], items: list[dict[str, Any]], same: str = "") -> str:
    """A row for each value that differs, or, unless it says what to say of none, for each value."""
    keys = list(dict.fromkeys([*items[0], *items[1]]))
    rows = []
    for key in keys:
        values = [one.get(key) for one in items]
        if key.endswith("_signature") or (same and values[0] == values[1]):
            continue
        cells = "".join(f"<td>{escape(shown_value(value, 4))}</td>" for value in values)
        rows.append(f"<tr><th>{escape(key).replace('_', '_<wbr>')}</th>{cells}</tr>\n")
    if not rows:
        return f'<p class="quiet">{say(same or "No scores yet.")}</p>\n'
    heads = "".join(f"<th>{escape(name)}</th>" for name in names)
    return (
        f'<table class="values two" translate="no"><thead><tr><th></th>{heads}</tr></thead>\n'
        f"<tbody>{''.join(rows)}</tbody></table>\n"
    )


def _curves(folders: tuple[Path, ...], names: tuple[str, ...]) -> str:
    logs = [logged_steps(folder / "metrics.jsonl")[0] for folder in folders]
    return group(
        "charts",
        (
            line_chart(
                title,
                [
                    logged_series(rows, name, key, key != "loss")
                    for name, rows in zip(names, logs, strict=True)
                ],
            )
            for title, key in _CHARTS
        ),
    )


def _translations(folders: tuple[Path, ...], names: tuple[str, ...]) -> str:
    """The sentences of the test split whose scores differ most."""
    first, second = (
        {(row.source, row.reference): row for row in read_predictions(folder)[0]}
        for folder in folders
    )
    pairs = [(row, second[key]) for key, row in first.items() if key in second]
    pairs = [(one, other) for one, other in pairs if one.hypothesis != other.hypothesis]
    pairs.sort(key=lambda pair: -abs(pair[0].sentence_bleu - pair[1].sentence_bleu))
    if not pairs:
        note = say("No sentence of a test split was translated differently by the two.")
        return f'<p class="quiet">{note}</p>\n'
    items = []
    for found in pairs[:_NUM_TRANSLATIONS]:
        written = "".join(
            f"<dt>{escape(name)}</dt><dd>{escape(row.hypothesis)} "
            f"<b>{row.sentence_bleu:.0f}</b></dd>\n"
            for name, row in zip(names, found, strict=True)
        )
        items.append(
            f'<li><dl translate="no">\n'
            f"{text('source').html('dt')}<dd>{escape(found[0].source)}</dd>\n"
            f"{text('reference').html('dt')}<dd>{escape(found[0].reference)}</dd>\n"
            f"{written}</dl></li>\n"
        )
    note = say(
        "{count} sentences are translated differently; sentence BLEU differs most in",
        count=f"{len(pairs):,}",
    )
    return f'<p class="quiet">{note}</p>\n<ol class="pairs two">\n{"".join(items)}</ol>\n'
