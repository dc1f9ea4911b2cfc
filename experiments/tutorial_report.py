"""The tutorial's experiment as a table."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

# One run of the tutorial's own program, 100 passes; how near its recipe has to come.
TUTORIAL_COUNTS, NEAR = (1352, 783), 0.05
# 98 % of what a perfect memory reaches with the tutorial's vocabulary.
BY_HEART, CPU_SECONDS = (1790, 1478), 60
TIMES_AS_FAST = 2

TITLES = {
    "program": "the tutorial's own program",
    "plain": "PyTorch's modules, step by step",
    "tutorial": "`recipes/tutorial.yaml`",
    "ours": "overfitted, the tutorial's vocabulary",
    "ours-all-words": "overfitted, all words in the vocabulary",
}


def tutorial_tables(path: Path) -> str:
    """What was kept in a file, and the race beside it."""
    if not path.exists():
        return "Not measured."
    results = json.loads(path.read_text(encoding="utf-8"))
    race = path.with_name(f"{path.stem}-race.json")
    found = json.loads(race.read_text(encoding="utf-8")) if race.exists() else None
    text = f"{goal_table(results, found)}\n\n{table(results)}"
    return f"{text}\n\n{race_line(found)}" if found else text


def goal_table(results: Sequence[dict[str, Any]], race: dict[str, Any] | None) -> str:
    """What was wanted beside the means of the seeds."""

    def mean(recipe: str, name: str) -> float:
        values = [line[name] for line in results if line["recipe"] == recipe]
        return statistics.mean(values) if values else math.nan

    rows = []
    names = {"positive": "BLEU-2 > 0", "above_0_8": "BLEU-2 > 0.8"}
    for (name, title), count in zip(names.items(), TUTORIAL_COUNTS, strict=True):
        title = f"{TITLES['tutorial']}, {title}"
        for of, wanted in (("its one run", count), ("mean of its runs", mean("program", name))):
            off = mean("tutorial", name) / wanted - 1
            reached = abs(off) <= NEAR
            rows.append((title, f"{wanted:,.0f} ± {NEAR:.0%} ({of})", f"{off:+.1%}", reached))
    if race:
        ratio = race["times_as_fast"]
        title = f"{TITLES['tutorial']} / {TITLES['program']}, times as fast"
        rows.append((title, f"≥ {TIMES_AS_FAST}", f"{ratio:.2f}", ratio >= TIMES_AS_FAST))
    for recipe in ("ours", "ours-all-words"):
        for (name, title), count in zip(names.items(), BY_HEART, strict=True):
            found = mean(recipe, name)
            row = (f"{TITLES[recipe]}, {title}", f"≥ {count:,}", f"{found:,.0f}", found >= count)
            rows.append(row)
        seconds = mean(recipe, "cpu_seconds")
        title = f"{TITLES[recipe]}, CPU-seconds"
        rows.append((title, f"≤ {CPU_SECONDS}", f"{seconds:.0f}", seconds <= CPU_SECONDS))
    lines = ["| goal, mean of the seeds | target | measured | |", "| --- | ---: | ---: | --- |"]
    for title, wanted, measured, reached in rows:
        if "nan" in measured + wanted:
            lines.append(f"| {title} | {wanted.replace('nan', '–')} | not measured | |")
        else:
            word = "reached" if reached else "**not reached**"
            lines.append(f"| {title} | {wanted} | {measured} | {word} |")
    return "\n".join(lines)


def table(results: Sequence[dict[str, Any]]) -> str:
    """Counters, ceiling, CPU time and held-out BLEU of each recipe."""
    lines = [
        "| recipe | epochs | seeds | CPU-seconds | BLEU-2 > 0 | BLEU-2 > 0.8 | best choice "
        "| likeliest | sources distinguished | held-out BLEU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for recipe in dict.fromkeys(line["recipe"] for line in results):
        own = [line for line in results if line["recipe"] == recipe]
        held_out = [line["held_out_bleu"] for line in own if line["held_out_bleu"] is not None]
        cells = [
            TITLES[recipe],
            f"{own[0]['epochs']:g}",
            f"{len(own)}",
            spread(own, "cpu_seconds", ".0f"),
            spread(own, "positive", ",.0f"),
            spread(own, "above_0_8", ",.0f"),
            " / ".join(f"{count:,}" for count in own[0]["ceiling"]),
            " / ".join(f"{count:,}" for count in own[0]["likeliest"]),
            f"{own[0]['sources']:,}",
            f"{statistics.mean(held_out):.2f}" if held_out else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    commands = {line["machine"]["command"]: line["machine"] for line in results}
    lines += [
        f"- `{command}`; {machine['date']}, commit {machine['commit']}, {machine['processor']}, "
        f"load average {machine['load_average']}."
        for command, machine in commands.items()
    ]
    signatures = sorted({line["signature"] for line in results if line["signature"]})
    lines += ["", *(f"Held-out BLEU: `{signature}`." for signature in signatures)]
    return "\n".join(lines).rstrip()


def race_line(found: dict[str, Any]) -> str:
    """What a pass takes."""
    machine = found["machine"]
    return (
        f"A pass, timed in turns: {found['program']:.2f} CPU-seconds for {TITLES['program']}, "
        f"{found['plain']:.2f} for {TITLES['plain']}, {found['tutorial']:.2f} for "
        f"{TITLES['tutorial']}, which is {found['times_as_fast']:.2f} and "
        f"{found['times_as_fast_as_plain']:.2f} times as fast. `{machine['command']}`; "
        f"{machine['date']}, commit {machine['commit']}, load average {machine['load_average']}."
    )


def spread(results: list[dict[str, Any]], name: str, form: str) -> str:
    """Mean, and lowest and highest where there are several."""
    values = [result[name] for result in results]
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), form)} to {format(max(values), form)})"
