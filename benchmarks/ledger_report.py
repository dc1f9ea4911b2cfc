"""The ledger of ideas as a table."""

from __future__ import annotations

import json
import statistics
from pathlib import Path
from typing import Any

from .ledger import IDEAS


def ledger_tables(folder: Path) -> str:
    """Idea, predicted, measured, kept; what was not measured says so."""
    results: dict[str, dict[str, Any]] = {
        path.stem: json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(folder.glob("*.json"))
    }
    lines = [
        "| idea | flags, or [a change of the code](ledger_methods.py) "
        "| predicted gain | measured gain | BLEU of the seeds | kept |",
        "| --- | --- | ---: | ---: | --- | --- |",
    ]
    base = results.get("as-it-is")
    if base:
        lines.append(f"| the recipe unchanged (BLEU) | | | {mean(base):.1f} | {each(base)} | yes |")
    for name, idea in IDEAS.items():
        method = type(idea.method()).__name__
        names = [*idea.flags, *([] if method == "Method" else [method])]
        flags = " ".join(f"`{name}`" for name in names)
        result = results.get(name)
        if result is None or base is None:
            lines.append(f"| {idea.title} | {flags} | {idea.predicted} | not measured | | |")
            continue
        gain = mean(result) - mean(base)
        lines.append(
            f"| {idea.title} | {flags} | {idea.predicted} | {gain:+.1f} | {each(result)} "
            f"| {verdict(result, base)} |"
        )
    calls = {result["machine"]["command"]: result for result in results.values()}
    for command, result in calls.items():
        machine = result["machine"]
        lines += [
            "",
            f"`{command}`; {machine['date']}, commit {machine['commit']}, {machine['processor']}; "
            f"{result['cpu_seconds']:g} CPU-seconds each; `{result['signature']}`.",
        ]
    return "\n".join(lines)


def mean(result: dict[str, Any]) -> float:
    """BLEU over the seeds."""
    return statistics.mean(run["bleu"] for run in result["runs"])


def each(result: dict[str, Any]) -> str:
    """BLEU of each seed."""
    return ", ".join(f"{run['bleu']:.1f}" for run in result["runs"])


def verdict(result: dict[str, Any], base: dict[str, Any]) -> str:
    """Whether every seed, of several, is ahead of every seed of the recipe as it is."""
    own, others = ([run["bleu"] for run in found["runs"]] for found in (result, base))
    if len(own) == 1:
        return "open: one seed"
    if min(own) > max(others):
        return "worth a full training"
    return "no" if max(own) < min(others) else "no: within the spread"
