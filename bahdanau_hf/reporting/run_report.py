"""The report of a run: one HTML page made from the run's own files, readable without a network.

What a file does not hold is not guessed: a section whose file is missing or broken says so.
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from ..alignment.record import Alignment
from ..errors import InputError
from ..files import as_mapping, is_number, read_json
from ..metrics.analysis import group_tables
from ..metrics.translation import few_sentences
from .attention_markup import alignment_html
from .charts import Series, line_chart
from .report_page import shown_items, shown_value, write_page
from .wording import Text, render, say, text

T = TypeVar("T")
_NUM_TRANSLATIONS = 8
_NUM_ALIGNMENTS = 12
_PIECES = re.compile(r"[a-zA-Z0-9'’]+|\s+|.", re.DOTALL)
_FILES = (
    ("README.md", "model card"),
    ("test_predictions.tsv", "translations of the test split"),
    ("model.safetensors", "weights of the model"),
)


class Prediction(NamedTuple):
    """A line of `test_predictions.tsv`, by the names of its columns."""

    source: str
    reference: str
    hypothesis: str
    sentence_bleu: float


def write_report(output_dir: str | Path) -> Path:
    """Make `report.html` in a run's folder from the files that the run has left there.

    Reads `settings.json`, `metrics.jsonl`, `eval_results.json`, `test_predictions.tsv` and
    `alignments.json`; each may be missing or broken, and that section then says so. The page
    needs no network, speaks English or Chinese and is light or dark as the reader's browser asks,
    and fits a phone.

    Returns:
        The path of the page, which replaces an older one at once.

    Raises:
        InputError: no such folder, or the page cannot be written.
    """
    folder = Path(output_dir)
    if not folder.is_dir():
        raise InputError(f"there is no run to report on: {folder} is not a folder")
    settings, settings_problem = read_part(folder / "settings.json", dict)
    results, results_problem = read_part(folder / "eval_results.json", dict)
    alignments, alignments_problem = read_part(folder / "alignments.json", list)
    data = as_mapping(settings.get("data"))
    languages = (str(data.get("source_lang") or ""), str(data.get("target_lang") or ""))
    name = folder.resolve().name
    direction = f"{languages[0]} → {languages[1]}" if all(languages) else ""
    sections = render(
        "report.html",
        tiles=_tiles(results, settings),
        weights=results.get("weights"),
        scores=_scores(results, languages[0]),
        results_problem=results_problem,
        **_curves(folder / "metrics.jsonl", as_mapping(settings.get("train"))),
        **_translations(folder, results),
        source_lang=languages[0],
        target_lang=languages[1],
        reliability=_reliability(results.get("confidence")),
        **_maps(alignments),
        alignments_problem=alignments_problem,
        settings=_settings(settings),
        settings_problem=settings_problem,
    )
    links = [(file, said) for file, said in _FILES if (folder / file).is_file()]
    title = text("{name}: training report", name=name)
    header = say("Training report") + f' <span translate="no">{escape(direction)}</span>'
    return write_page(folder / "report.html", title, text(name), header, sections, links)


def read_part(path: Path, kind: type) -> tuple[Any, str]:
    """What a file holds and "", or an empty value and what is wrong with the file, as HTML.

    A `str` is all its text, anything else what its JSON holds.
    """
    if not path.exists():
        return kind(), say("{file} is not there yet.", file=path.name)
    try:
        if kind is str:
            return path.read_text(encoding="utf-8", errors="replace"), ""
        value = read_json(path, kind)
    except (InputError, OSError) as error:
        reason = str(error).removeprefix(f"cannot read {path}: ")
        return kind(), say("cannot read {file}: {reason}", file=path.name, reason=reason)
    return value, "" if value else say("{file} is empty.", file=path.name)


def _read_lines(
    path: Path, read: Callable[[str], T], nothing: str, columns: Sequence[str] = ()
) -> tuple[list[T], str]:
    """What `read` makes of a file's lines, below the names of its columns, and what is wrong."""
    text, problem = read_part(path, str)
    if problem:
        return [], problem
    if columns:
        names, _, text = text.partition("\n")
        if names.rstrip("\r").split("\t") != [*columns]:
            said = "{file} cannot be read: its first line must be {columns}"
            return [], say(said, file=path.name, columns=", ".join(columns))
    rows, num_bad = [], 0
    for line in filter(str.strip, text.split("\n")):  # a sentence may hold other breaks
        try:
            rows.append(read(line))
        except ValueError:
            num_bad += 1
    problem = "" if rows else say(nothing, file=path.name)
    if num_bad:
        bad = say("Unreadable lines in {file}: {number}.", file=path.name, number=num_bad)
        problem = f"{problem} {bad}".strip()
    return rows, problem


def _duration(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def _tiles(results: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, Text]]:
    """The numbers on top, and what they are."""
    splits = {key: v for key, v in results.items() if isinstance(v, Mapping)}
    tiles: list[tuple[str, Text]] = []
    for split in sorted(splits, key=lambda key: key != "test"):
        for key, name in (("bleu", "BLEU"), ("chrf", "chrF")):
            if is_number(splits[split].get(key)):
                label = _conditions(name, split, splits[split])
                tiles.append((f"{splits[split][key]:.2f}", label))
    if is_number(results.get("train_runtime_seconds")):
        tiles.append((_duration(results["train_runtime_seconds"]), text("training time")))
    if is_number(settings.get("num_parameters")):
        count = settings["num_parameters"]
        shown = f"{count / 1e6:.1f} M" if count >= 1e6 else f"{count:,.0f}"
        tiles.append((shown, text("parameters")))
    pairs = as_mapping(settings.get("num_pairs")).get("train")
    if is_number(pairs):
        tiles.append((shown_value(pairs), text("training pairs")))
    return tiles


def _scores(results: Mapping[str, Any], source_lang: str) -> list[tuple[str, Any, Any, Any]]:
    """Of each split, and of the run: scores, their signatures and tables of groups."""
    others = {key: v for key, v in results.items() if not isinstance(v, Mapping)}
    parts = {key: v for key, v in results.items() if key not in others and key != "confidence"}
    scores = []
    for title, values in [*parts.items(), *([("run", others)] if others else [])]:
        signed = [(key, v) for key, v in values.items() if key.endswith("_signature")]
        signatures = [(key.removesuffix("_signature"), v) for key, v in signed]
        rest = {key: v for key, v in values.items() if not key.endswith("_signature")}
        rest = {key: v for key, v in rest.items() if not key.startswith("by_")}
        groups = group_tables(values, source_lang)
        scores.append((title, shown_items(rest, 3), signatures, groups))
    return scores


def _conditions(name: str, split: str, scores: Mapping[str, Any]) -> Text:
    """A score and what belongs to it: the split, the search, and that it is of few sentences."""
    label = text("{name}, {split}", name=name, split=text(split))
    if scores.get("num_beams"):
        label = text("{label}, {search}", label=label, search=search_name(scores["num_beams"]))
    if few_sentences(scores.get("num_sentences")):
        count = scores["num_sentences"]
        label = text("{label}, only {count} sentences", label=label, count=count)
    return label


def search_name(num_beams: Any) -> Text:
    """`greedy`, also where nothing is said, or `5 beams`."""
    if not is_number(num_beams) or num_beams <= 1:
        return text("greedy")
    return text("{count} beams", count=f"{num_beams:.0f}")


def _validation(train: Mapping[str, Any]) -> Text:
    """How the scores on the way are made: the search, and of how many sentences at most."""
    search, most = search_name(train.get("eval_num_beams")), train.get("max_eval_translations")
    if not is_number(most):
        return text("Validation scores on the way, {search}", search=search)
    return text(
        "Validation scores on the way, {search}, the first {most}", search=search, most=f"{most:,}"
    )


def logged_steps(path: Path) -> tuple[list[dict[str, Any]], str]:
    """What a run has logged, by step, and what is wrong with the log."""
    rows, problem = _read_lines(path, _logged_step, "{file} holds no steps yet.")
    return sorted(rows, key=lambda row: row["step"]), problem


def _logged_step(line: str) -> dict[str, Any]:
    row = json.loads(line)
    if not isinstance(row, dict) or not is_number(row.get("step")):
        raise ValueError(line)
    return row


def read_predictions(folder: Path) -> tuple[list[Prediction], str]:
    """A run's translations of its test split, and what is wrong with their file, as HTML."""
    path, nothing = folder / "test_predictions.tsv", "{file} holds no translations yet."
    return _read_lines(path, _prediction, nothing, Prediction._fields)


def _prediction(line: str) -> Prediction:
    source, reference, hypothesis, score = line.rstrip("\r").split("\t")
    if not math.isfinite(float(score)):
        raise ValueError(line)
    return Prediction(source, reference, hypothesis, float(score))


def logged_series(
    rows: Iterable[Mapping[str, Any]], name: str, key: str, has_dots: bool = False
) -> Series:
    """One line of a chart from what was logged."""
    points = [(row["step"], row[key]) for row in rows if is_number(row.get(key))]
    return Series(name, points, has_dots)


def _curves(path: Path, train: Mapping[str, Any]) -> dict[str, Any]:
    """Charts of what was logged, and what is wrong with the log."""
    rows, problem = logged_steps(path)
    series = partial(logged_series, rows)
    large = [
        line_chart("Loss", [series("train", "loss"), series("validation", "eval_loss", True)]),
        line_chart(
            _validation(train),
            [series("BLEU", "eval_bleu", True), series("chrF", "eval_chrf", True)],
            from_zero=True,
            mark_highest=True,
        ),
    ]
    small = [
        line_chart(title, [series("last", key)], from_zero=True, width=320, height=150)
        for title, key in (
            ("Learning rate", "learning_rate"),
            ("Gradient norm", "grad_norm"),
            ("Tokens per second", "tokens_per_second"),
        )
    ]
    if rows and not any(large + small):
        problem = f"{say('{file} holds no steps yet.', file=path.name)} {problem}"
    return {"curves": large, "small_curves": small, "log_problem": problem}


def _translations(folder: Path, results: Mapping[str, Any]) -> dict[str, Any]:
    """Worst and best translations, the spread of scores, and what is wrong with the file."""
    rows, problem = read_predictions(folder)
    if not rows and results and "test" not in results:
        problem = say("This run has no test split: no translations of it are kept.")
    # Among equals the longer sentence tells more.
    worst = sorted(rows, key=lambda row: (row.sentence_bleu, -len(row.reference)))
    best = sorted(rows, key=lambda row: (-row.sentence_bleu, -len(row.reference)))
    spread = [0] * 10
    for row in rows:
        spread[min(9, max(0, int(row.sentence_bleu // 10)))] += 1
    return {
        "worst": worst[:_NUM_TRANSLATIONS],
        "best": best[:_NUM_TRANSLATIONS],
        "spread": spread,
        "compared": _compared,
        "translations_problem": problem,
    }


def _compared(reference: str, hypothesis: str) -> tuple[str, str]:
    """Both texts as HTML, what each has and the other lacks set off; Latin words stay whole."""
    old_pieces, new_pieces = _PIECES.findall(reference), _PIECES.findall(hypothesis)
    expected, written = [], []
    matcher = difflib.SequenceMatcher(None, old_pieces, new_pieces, autojunk=False)
    for kind, a, b, c, d in matcher.get_opcodes():
        old, new = escape("".join(old_pieces[a:b])), escape("".join(new_pieces[c:d]))
        expected.append(old if kind == "equal" or not old else f"<u>{old}</u>")
        written.append(new if kind == "equal" or not new else f"<mark>{new}</mark>")
    nothing = f'<span class="quiet">{say("(nothing)")}</span>'
    return "".join(expected), "".join(written) or nothing


def _reliability(found: Any) -> list[tuple[str, str, str]]:
    """Reliability diagrams with name and error, where a run has calibrated its confidence."""
    diagrams = []
    for name, part in as_mapping(found).items():
        columns = [as_mapping(part).get(key) for key in ("confidences", "accuracies", "counts")]
        numbers = [c for c in columns if isinstance(c, list) and c and all(map(is_number, c))]
        if len(numbers) < len(columns):
            continue
        right = Series("right", list(zip(numbers[0], numbers[1], strict=False)), True)
        series = [right, Series("ideal", [(0.0, 0.0), (1.0, 1.0)])]
        title = text("{name}: {number}", name=text(name), number=f"{sum(numbers[2]):,.0f}")
        chart = line_chart(title, series, from_zero=True, x_name="stated")
        diagrams.append((name, shown_value(part.get("ece"), 3), chart))
    return diagrams


def _maps(entries: list[Any]) -> dict[str, Any]:
    maps, num_bad = [], 0
    for entry in entries[:_NUM_ALIGNMENTS]:
        try:
            expected = as_mapping(entry).get("reference")
            reference = expected if isinstance(expected, str) else ""
            maps.append(alignment_html(Alignment.from_dict(entry), reference=reference))
        except ValueError:
            num_bad += 1
    counts = {"num_bad_maps": num_bad, "num_maps": len(entries), "most_maps": _NUM_ALIGNMENTS}
    return {"maps": maps, **counts}


def _settings(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, str]]]]:
    groups = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    others = {key: value for key, value in settings.items() if key not in groups}
    tables = {"run": others, **groups}.items()
    return [(key.replace("_", " "), shown_items(values)) for key, values in tables if values]
