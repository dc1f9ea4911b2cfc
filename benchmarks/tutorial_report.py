"""The tutorial's experiment as a table."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TITLES = {
    "plain": "PyTorch's modules, step by step",
    "tutorial": "`configs/tutorial.yaml`",
    "ours": "by heart, the tutorial's vocabulary",
    "ours-all-words": "by heart, every word known",
}


def tutorial_tables(path: Path) -> str:
    """What was kept in a file, and the race beside it."""
    if not path.exists():
        return "Not measured."
    text = table(json.loads(path.read_text(encoding="utf-8")))
    race = path.with_name(f"{path.stem}-race.json")
    if race.exists():
        text += "\n\n" + race_line(json.loads(race.read_text(encoding="utf-8")))
    return text


def table(results: Sequence[dict[str, Any]]) -> str:
    """Counters, ceiling, CPU time and held-out BLEU of each recipe."""
    lines = [
        "| recipe | passes | seeds | CPU-seconds | BLEU-2 > 0 | BLEU-2 > 0.8 | a perfect memory | "
        "sources told apart | held-out BLEU |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
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
            f"{own[0]['sources']:,}",
            f"{statistics.mean(held_out):.2f}" if held_out else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines.append("")
    commands = {line["machine"]["command"]: line["machine"] for line in results}
    lines += [
        f"`{command}`; {machine['date']}, commit {machine['commit']}, {machine['processor']}, load "
        f"average {machine['load_average']}."
        for command, machine in commands.items()
    ]
    signatures = sorted({line["signature"] for line in results if line["signature"]})
    lines += ["", *(f"Held-out BLEU: `{signature}`." for signature in signatures)]
    return "\n".join(lines).rstrip()


def race_line(found: dict[str, Any]) -> str:
    """What a pass takes."""
    machine = found["machine"]
    return (
        f"A pass, timed in turns: {found['plain']:.2f} CPU-seconds for {TITLES['plain']}, "
        f"{found['tutorial']:.2f} for {TITLES['tutorial']}, which is {found['times_as_fast']:.2f} "
        f"times as fast. `{machine['command']}`; {machine['date']}, commit {machine['commit']}, "
        f"load average {machine['load_average']}."
    )


def spread(results: list[dict[str, Any]], name: str, form: str) -> str:
    """Mean, and lowest and highest where there are several."""
    values = [result[name] for result in results]
    mean = format(statistics.mean(values), form)
    if len(values) == 1:
        return mean
    return f"{mean} ({format(min(values), form)} to {format(max(values), form)})"
