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
from .report_page import group, section, shown_value, values_table, write_page
from .wording import Text, say, text

T = TypeVar("T")
_NUM_TRANSLATIONS = 8
_NUM_ALIGNMENTS = 12
_SOURCE, _REFERENCE, _TRANSLATION = (
    text(name).html("dt") for name in ("source", "reference", "translation")
)
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
    sections = [
        section("Scores", _scores(results, settings), results_problem),
        section("Learning", *_curves(folder / "metrics.jsonl", as_mapping(settings.get("train")))),
        section("Translations", *_translations(folder, languages, results)),
        *_confidence(results.get("confidence")),
        section("Attention", _maps(alignments), alignments_problem),
        section("Settings", _settings(settings), settings_problem),
    ]
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


def _scores(results: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    results = {key: value for key, value in results.items() if key != "confidence"}
    splits = {key: value for key, value in results.items() if isinstance(value, Mapping)}
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
    boxes = (
        f"<div{' class=first' if number == 0 else ''}>{label.html()}"
        f'<b translate="no">{escape(value)}</b></div>\n'
        for number, (value, label) in enumerate(tiles)
    )
    blocks = []
    for split, scores in splits.items():
        signatures = "".join(
            f'<p class="signature">{escape(key.removesuffix("_signature"))} '
            f"{escape(str(value))}</p>\n"
            for key, value in scores.items()
            if key.endswith("_signature")
        )
        rest = {key: v for key, v in scores.items() if not key.endswith("_signature")}
        rest = {key: v for key, v in rest.items() if not key.startswith("by_")}
        blocks.append(_table(split, rest, signatures, digits=3))
        lang = str(as_mapping(settings.get("data")).get("source_lang") or "")
        for title, rows in group_tables(scores, lang):
            said = text("BLEU, {split}. {group}", split=text(split), group=text(title))
            cells = [
                f'<tr><th translate="no">{escape(members)}</th>'
                f"<td>{say('{bleu} of {count} sentences', bleu=bleu, count=number)}</td></tr>\n"
                for members, number, bleu, _ in rows
            ]
            table = f'<table class="values">\n{"".join(cells)}</table>\n'
            blocks.append(f"<div>{said.html('h3')}\n{table}</div>\n")
    others = {key: value for key, value in results.items() if key not in splits}
    if others:
        blocks.append(_table("run", others, digits=3))
    note = say(
        "The scores on top are those of the finished model ({weights}); the curves below show the "
        "training on the way.",
        weights=results.get("weights"),
    )
    note = f'<p class="quiet">{note}</p>\n' if tiles and results.get("weights") else ""
    return group("tiles", boxes) + note + group("settings", blocks)


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


def _table(title: str, values: Mapping[str, Any], below: str = "", digits: int = 6) -> str:
    return f"<div><h3>{escape(title)}</h3>\n{values_table(values, digits)}{below}</div>\n"


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


def _curves(path: Path, train: Mapping[str, Any]) -> tuple[str, str]:
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
    body = group("charts", large) + group("charts small", small)
    nothing = say("{file} holds no steps yet.", file=path.name) if rows and not body else ""
    return body, f"{nothing} {problem}".strip()


def _translations(
    folder: Path, languages: tuple[str, str], results: Mapping[str, Any]
) -> tuple[str, str]:
    """Worst and best translations with the spread of scores, and what is wrong with the file."""
    rows, problem = read_predictions(folder)
    if not rows and results and "test" not in results:
        return "", say("This run has no test split: no translations of it are kept.")
    if not rows:
        return "", problem
    # Among equals the longer sentence tells more.
    worst = sorted(rows, key=lambda row: (row.sentence_bleu, -len(row.reference)))
    best = sorted(rows, key=lambda row: (-row.sentence_bleu, -len(row.reference)))
    body = (
        f'<p class="quiet">{say("By sentence BLEU.")} <mark>{say("Marked")}</mark> '
        f"{say('is what the reference does not have,')} <u>{say('underlined')}</u> "
        f"{say('what the translation does not have.')}</p>\n"
        f"<h3>{say('Spread of {count} sentence scores', count=f'{len(rows):,}')}</h3>\n"
        f"{_spread(row.sentence_bleu for row in rows)}"
        f"<h3>{say('Worst')}</h3>\n{_pairs(worst[:_NUM_TRANSLATIONS], languages)}"
        f"<h3>{say('Best')}</h3>\n{_pairs(best[:_NUM_TRANSLATIONS], languages)}"
    )
    return body, problem


def _spread(scores: Iterable[float]) -> str:
    counts = [0] * 10
    for score in scores:
        counts[min(9, max(0, int(score // 10)))] += 1
    bars = "".join(
        f'<i style="height:{100 * count / max(counts):.1f}%" '
        f'title="BLEU {10 * i}–{10 * i + 10}: {count:,}">'
        f"{f'<span>{count:,}</span>' if count else ''}</i>"
        for i, count in enumerate(counts)
    )
    return (
        f'<div class="bars">{bars}</div><div class="scale"><span>0</span><span>100</span></div>\n'
    )


def _pairs(rows: list[Prediction], languages: tuple[str, str]) -> str:
    source_lang, target_lang = (f' lang="{escape(code)}"' if code else "" for code in languages)
    items = []
    for source, reference, hypothesis, score in rows:
        shown = f"{score:.1f}" if score < 99.95 else "100"
        expected, written = _compared(reference, hypothesis)
        items.append(
            f'<li><b>{shown}</b><dl translate="no">\n'
            f"{_SOURCE}<dd{source_lang}>{escape(source)}</dd>\n"
            f"{_REFERENCE}<dd{target_lang}>{expected}</dd>\n"
            f"{_TRANSLATION}<dd{target_lang}>{written}</dd></dl></li>\n"
        )
    return f'<ol class="pairs">\n{"".join(items)}</ol>\n'


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


def _confidence(found: Any) -> list[str]:
    """The section of reliability diagrams, where a run has calibrated its confidence."""
    charts, errors = [], []
    for name, part in as_mapping(found).items():
        columns = [as_mapping(part).get(key) for key in ("confidences", "accuracies", "counts")]
        numbers = [c for c in columns if isinstance(c, list) and c and all(map(is_number, c))]
        if len(numbers) < len(columns):
            continue
        right = Series("right", list(zip(numbers[0], numbers[1], strict=False)), True)
        series = [right, Series("ideal", [(0.0, 0.0), (1.0, 1.0)])]
        title = text("{name}: {number}", name=text(name), number=f"{sum(numbers[2]):,.0f}")
        charts.append(line_chart(title, series, from_zero=True, x_name="stated"))
        errors.append(f"{say(name)} {shown_value(part.get('ece'), 3)}")
    if not charts:
        return []
    note = say(
        "The confidence of a word is the probability that the reference has it too, that of a "
        "sentence the share of such words. Each half of the validation split was judged by what "
        "was fitted to the other half. Expected calibration error:"
    )
    body = f'<p class="quiet">{note} {", ".join(errors)}.</p>\n{group("charts", charts)}'
    return [section("Confidence", body)]


def _maps(entries: list[Any]) -> str:
    maps, num_bad = [], 0
    for entry in entries[:_NUM_ALIGNMENTS]:
        try:
            expected = entry.get("reference") if isinstance(entry, Mapping) else ""
            reference = expected if isinstance(expected, str) else ""
            maps.append(alignment_html(Alignment.from_dict(entry), reference=reference))
        except ValueError:
            num_bad += 1
    notes = []
    if maps:
        notes.append(say("Point at a cell, or touch it, for its number."))
    if len(entries) > _NUM_ALIGNMENTS:
        shown, total = _NUM_ALIGNMENTS, len(entries)
        notes.append(say("The first {shown} of {total} maps are shown.", shown=shown, total=total))
    if num_bad:
        notes.append(say("Unreadable maps: {number}.", number=num_bad))
    note = f'<p class="quiet">{" ".join(notes)}</p>\n' if notes else ""
    return note + group("maps", maps)


def _settings(settings: Mapping[str, Any]) -> str:
    groups = {key: value for key, value in settings.items() if isinstance(value, Mapping)}
    others = {key: value for key, value in settings.items() if key not in groups}
    tables = [("run", others), *groups.items()]
    return group("settings", (_table(k.replace("_", " "), v) for k, v in tables if v))
