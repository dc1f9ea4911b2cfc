"""Tables and figure of the study, made from the files of results so that nothing is copied by hand.

Markdown pages hold marks, `<!-- NAME: begin -->` and `<!-- NAME: end -->`; what stands between them
is replaced.
"""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = {"attention": "#1f6fb2", "no attention": "#888888", "MarianMT": "#d9541a"}
LEAST_SENTENCES = 20  # BLEU of fewer is chance; the figure leaves them out

PAGE = Path(__file__).parent / "study.md"
FIGURE = Path(__file__).parent / "results" / "study" / "by_length.svg"

Result = dict[str, Any]


def render(results: Path) -> None:
    """Draw the figure of all results in a folder, and put their tables into the study's page."""
    found = load_results(results)
    update_marks(PAGE, {name: tables(result) for name, result in found.items()})
    if found:
        draw_by_length(list(found.values()), FIGURE)


def load_results(folder: Path) -> dict[str, Result]:
    """Results by name, with the tuning that belongs to them under `tuning`."""
    found = {}
    for path in sorted(folder.glob("*.json")):
        if not path.stem.endswith("-tune"):
            found[path.stem] = json.loads(path.read_text(encoding="utf-8"))
            tuning = path.with_name(f"{path.stem}-tune.json")
            if tuning.exists():
                found[path.stem]["tuning"] = json.loads(tuning.read_text(encoding="utf-8"))
    return found


def update_marks(page: Path, texts: Mapping[str, str]) -> None:
    """Put each text between the marks of its name.

    Raises:
        ValueError: a name has not one pair of marks.
    """
    content = page.read_text(encoding="utf-8")
    for name, text in texts.items():
        begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
        if content.count(begin) != 1 or content.count(end) != 1:
            raise ValueError(f"{page} needs {begin} and {end}, once each")
        between = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
        content = between.sub(lambda _, new=f"{begin}\n{text}\n{end}": new, content)
    page.write_text(content, encoding="utf-8")


def tables(result: Result) -> str:
    """A study in Markdown: what was run, scores, tests, scores by length, settings."""
    parts = [provenance(result), score_table(result), comparison_table(result)]
    parts += [length_table(result, beams) for beams in beams_of(result)[-1:]]
    if "tuning" in result:
        parts.append(tuning_table(result["tuning"]))
    return "\n\n".join(part for part in parts if part)


def provenance(result: Result) -> str:
    """Command, date, commit, machine and signature in one paragraph."""
    machine = result["machine"]
    versions = ", ".join(
        f"{name} {machine['versions'][name]}" for name in ("torch", "transformers")
    )
    rates = ", ".join(f"{name} {rate:.2f}" for name, rate in result["rates"].items())
    return (
        f"`{machine['command']}`\n\n{machine['date']}, commit {machine['commit']}, "
        f"{machine['processor']} ({machine['instructions']}), one thread, load average "
        f"{machine['load_average']}, {versions}, {'bfloat16' if result['bf16'] else 'float32'}. "
        f"{result['num_train']:,} training pairs, {result['num_test']:,} test sentences, "
        f"{result['vocab_size']:,} tokens, Chinese script: {result['chinese_script']}. Budget "
        f"{result['cpu_seconds']:g} CPU-seconds; steps a CPU-second in the race: {rates}. "
        f"sacreBLEU `{result['signature']}`."
    )


def beams_of(result: Result) -> list[int]:
    """The beam sizes that were scored, ascending."""
    keys = [key for key in result["runs"][0] if key.startswith("beams_")]
    return sorted(int(key.removeprefix("beams_")) for key in keys)


def by_system(result: Result) -> dict[str, list[Result]]:
    """Runs by system, in the order in which they first came."""
    systems: dict[str, list[Result]] = {}
    for run in result["runs"]:
        systems.setdefault(run["system"], []).append(run)
    return systems


def score_table(result: Result) -> str:
    """Mean and range over the seeds."""
    beams = beams_of(result)
    names = ["greedy" if n == 1 else f"beam {n}" for n in beams]
    lines = [
        "| system | parameters | steps | epochs | seeds | "
        + " | ".join(f"BLEU {name}" for name in names)
        + " | chrF |",
        "| --- " + "| ---: " * (5 + len(beams)) + "|",
    ]
    for system, runs in by_system(result).items():
        cells = [
            system,
            f"{runs[0]['parameters'] / 1e6:.2f} M",
            f"{runs[0]['steps']:,}",
            f"{statistics.mean(run['epochs'] for run in runs):.1f}",
            f"{len(runs)}",
            *(spread([run[f"beams_{n}"]["bleu"] for run in runs]) for n in beams),
            spread([run[f"beams_{beams[-1]}"]["chrf"] for run in runs]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def spread(values: Sequence[float]) -> str:
    """Mean, and lowest and highest where there are several."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.1f} to {max(values):.1f})"


def comparison_table(result: Result) -> str:
    """Paired bootstrap of the means; empty without a comparison."""
    if not result["comparisons"]:
        return ""
    lines = [
        "| attention against | search | seeds | BLEU ahead | p of the mean | p of each seed |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    for line in result["comparisons"]:
        search = "greedy" if line["beams"] == 1 else f"beam {line['beams']}"
        each = ", ".join(f"{p:.3f}" for p in line["p_of_each_seed"])
        lines.append(
            f"| {line['baseline']} | {search} | {len(line['seeds'])} | {line['difference']:+.1f} "
            f"| {line['p_value']:.3f} | {each} |"
        )
    return "\n".join(lines)


def length_table(result: Result, beams: int) -> str:
    """Mean BLEU of each group of lengths, and how far attention is ahead."""
    systems = by_system(result)
    gap = "attention" in systems and "no attention" in systems
    lines = [
        "| source words | sentences | " + " | ".join(systems) + (" | gain |" if gap else " |"),
        "| --- " + "| ---: " * (1 + len(systems) + gap) + "|",
    ]
    for start, group in result["length_counts"].items():
        means = {name: mean_at(runs, beams, start) for name, runs in systems.items()}
        end = group["longest"]
        cells = [f"{start} and more" if end is None else f"{start} to {end}"]
        cells += [f"{group['sentences']}", *(f"{mean:.1f}" for mean in means.values())]
        if gap:
            cells.append(f"{means['attention'] - means['no attention']:+.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    return f"BLEU by length, {'greedy' if beams == 1 else f'beam {beams}'}:\n\n" + "\n".join(lines)


def mean_at(runs: Sequence[Result], beams: int, start: str) -> float:
    """Mean BLEU over the runs in a group of lengths."""
    return statistics.mean(run[f"beams_{beams}"]["by_length"][start] for run in runs)


def tuning_table(tuning: Result) -> str:
    """What was tried for each system; the best is bold."""
    tried = tuning["tried"]
    highest = {
        name: max(line["validation_bleu"] for line in tried if line["system"] == name)
        for name in dict.fromkeys(line["system"] for line in tried)
    }
    lines = [
        "| system | steps | learning rate | warm-up | dropout | smoothing | loss | BLEU, greedy |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for line in tried:
        bleu = f"{line['validation_bleu']:.2f}"
        if line["validation_bleu"] == highest[line["system"]]:
            bleu = f"**{bleu}**"
        lines.append(
            f"| {line['system']} | {line['steps']} | {line['learning_rate']:g} "
            f"| {line['warmup']:.0%} | {line['dropout']:g} | {line['label_smoothing']:g} "
            f"| {line['validation_loss']:.3f} | {bleu} |"
        )
    return (
        f"Tried on validation with {tuning['cpu_seconds']:g} CPU-seconds each, "
        f"`{tuning['machine']['command']}`:\n\n" + "\n".join(lines)
    )


def draw_by_length(results: Sequence[Result], path: Path) -> None:
    """Draw BLEU against the length of the source, a panel a study: figure 2 of the paper.

    A line is the mean of the seeds, its band their range. Groups of few sentences are left out.

    Raises:
        ImportError: without matplotlib (the extra `[plot]`).
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.5 * max(1, len(results)), 3.6), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(results), squeeze=False)[0]
    for axes, result in zip(panels, results, strict=True):
        beams = beams_of(result)[-1]
        groups = {
            start: group
            for start, group in result["length_counts"].items()
            if group["sentences"] >= LEAST_SENTENCES
        }
        places = range(len(groups))
        for system, runs in by_system(result).items():
            values = [[run[f"beams_{beams}"]["by_length"][s] for run in runs] for s in groups]
            colour = COLOURS[system]
            axes.plot(places, [*map(statistics.mean, values)], "o-", color=colour, label=system)
            edges = ([*map(min, values)], [*map(max, values)])
            axes.fill_between(places, *edges, color=colour, alpha=0.15, linewidth=0)
        axes.set_xticks(places, [*map(_label(groups), groups)], rotation=45)
        search = "greedy" if beams == 1 else f"beam {beams}"
        axes.set(xlabel="words of the source", ylabel=f"BLEU, {search}", title=result["name"])
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "study"}):
        figure.savefig(path, format="svg", metadata={"Date": None})


def _label(groups: Mapping[str, Result]) -> Callable[[str], str]:
    def label(start: str) -> str:
        end = groups[start]["longest"]
        return f"{start}+" if end is None else f"{start}-{end}"

    return label
