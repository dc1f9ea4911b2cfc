"""The tables of README.md, made from a run's results so that no number is written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def update_readme(path: Path, result: dict[str, Any]) -> None:
    """Put the tables of a run between the marks.

    Raises:
        ValueError: the marks are not there.
    """
    text = path.read_text(encoding="utf-8")
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise ValueError(f"{path} needs {BEGIN} and {END}, once each")
    head, _, rest = text.partition(BEGIN)
    tail = rest.partition(END)[2]
    path.write_text(f"{head}{BEGIN}\n{tables(result)}\n{END}{tail}", encoding="utf-8")


def tables(result: dict[str, Any]) -> str:
    """A run's goals and numbers in Markdown."""
    machine = result["machine"]
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    parts = [
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}; one thread. Python "
        f"{machine['python']}, {versions}. {machine['date']}, commit {machine['commit']}, load "
        f"average {machine['load_average']} at the start. `{machine['command']}`",
        "| goal | target | measured | |\n| --- | ---: | ---: | --- |",
    ]
    for section in result["sections"].values():
        for goal in section["goals"]:
            if goal.get("tabled"):
                continue
            sign = "≤" if goal["at_most"] else "≥"
            verdict = "reached" if goal["reached"] else "**not reached**"
            parts[-1] += (
                f"\n| {goal['name']} | {sign} {goal['wanted']:g} | {goal['measured']:.2f} "
                f"| {verdict} |"
            )
        parts[-1] += _tabled_goals(section)
    for section in result["sections"].values():
        parts.append(f"### {section['title']}\n\n{section['notes']}")
        parts += map(_table, section.get("tables", ()))
        if not section["rows"]:
            continue
        table = "| | | slowest to fastest |\n| --- | ---: | --- |"
        for row in section["rows"]:
            spread = (
                "" if row["low"] is None else f"{_number(row['low'])} to {_number(row['high'])}"
            )
            table += f"\n| {row['name']} | {_number(row['value'])} {row['unit']} | {spread} |"
        parts.append(table)
    return "\n\n".join(parts)


def _tabled_goals(section: dict[str, Any]) -> str:
    """One line for all goals that stand in the section's tables."""
    goals = [goal for goal in section["goals"] if goal.get("tabled")]
    if not goals:
        return ""
    reached = sum(goal["reached"] for goal in goals)
    verdict = "reached" if reached == len(goals) else "**not reached**"
    lowest = min(goal["measured"] for goal in goals)
    wanted = min(goal["wanted"] for goal in goals)
    return (
        f"\n| {section['title']}: {reached} of {len(goals)} ratios, the lowest | ≥ {wanted:g} "
        f"| {lowest:.2f} | {verdict} |"
    )


def _table(table: dict[str, Any]) -> str:
    """Rows by columns; bold is what is missed."""

    def cell(value: float | None) -> str:
        if value is None:
            return ""
        missed = table["wanted"] is not None and not value >= table["wanted"]
        return f"**{value:.2f}**" if missed else f"{value:.2f}"

    lines = [
        f"| {table['title']} | " + " | ".join(table["columns"]) + " |",
        "| --- |" + " ---: |" * len(table["columns"]),
    ]
    lines += [
        f"| {name} | " + " | ".join(map(cell, row)) + " |" for name, row in table["rows"].items()
    ]
    return "\n".join(lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
