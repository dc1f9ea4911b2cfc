"""Two runs side by side: one HTML page made from their own files, as the report of a run is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import InputError
from .charts import line_chart
from .report_page import flat_items, shown_value, write_page
from .run_report import Prediction, logged_series, logged_steps, read_part, read_predictions
from .wording import render, say, text

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
    sections = render(
        "comparison.html",
        names=names,
        scores=_rows(results),
        curves=_curves(folders, names),
        pairs=_pairs(folders),
        most_pairs=_NUM_TRANSLATIONS,
        settings=_rows(settings, only_different=True),
    )
    return write_page(Path(path), heading, heading, say("Two trainings side by side"), sections)


def _items(path: Path) -> dict[str, Any]:
    """The values of a JSON file by their full names, without curves and secrets."""
    items = {key: v for key, v in read_part(path, dict)[0].items() if key != "confidence"}
    left_out = ("_token", "output_dir", ", by_source_length", ", by_novelty")
    return {key: v for key, v in flat_items(items) if not key.endswith(left_out)}


def _rows(items: list[dict[str, Any]], only_different: bool = False) -> list[tuple[str, list[str]]]:
    """Names and both values, but for signatures."""
    first, second = items
    keys = [key for key in first | second if not key.endswith("_signature")]
    if only_different:
        keys = [key for key in keys if first.get(key) != second.get(key)]
    return [(key, [shown_value(one.get(key), 4) for one in items]) for key in keys]


def _curves(folders: tuple[Path, ...], names: tuple[str, ...]) -> list[str]:
    logs = [logged_steps(folder / "metrics.jsonl")[0] for folder in folders]
    runs = [*zip(logs, names, strict=True)]
    return [
        line_chart(title, [logged_series(rows, name, key, key != "loss") for rows, name in runs])
        for title, key in _CHARTS
    ]


def _pairs(folders: tuple[Path, ...]) -> list[tuple[Prediction, Prediction]]:
    """Both translations of a sentence of the test split, those first whose scores differ most."""
    first, second = (
        {(row.source, row.reference): row for row in read_predictions(folder)[0]}
        for folder in folders
    )
    pairs = [(row, second[key]) for key, row in first.items() if key in second]
    pairs = [(one, other) for one, other in pairs if one.hypothesis != other.hypothesis]
    return sorted(pairs, key=lambda pair: -abs(pair[0].sentence_bleu - pair[1].sentence_bleu))
