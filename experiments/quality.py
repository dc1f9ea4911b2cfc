"""How well recipes translate: train one, score its test split, keep the numbers, show the table.

    python -m experiments.quality run base-simplified --data FOLDER
    python -m experiments.quality render

FOLDER holds train.tsv, validation.tsv and test.tsv (or .tsv.gz). `run` starts scripts/train.py as a
user would, counts the CPU time of all its processes, validation and scoring included, then lets
`bahdanau-hf score` translate the test split greedily and with 5 beams, and leaves the numbers in
experiments/results/quality. A training that is there already is not done again, and what it took
counts. `render` puts the tables into experiments/quality.md, and with --readme the table of results
into README.md and docs/results.md, where their marks are.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.machine import ROOT, describe_machine

from .study_report import update_marks
from .tutorial_report import tutorial_tables

RESULTS = Path(__file__).parent / "results" / "quality"
PAGE = Path(__file__).parent / "quality.md"
SUMMARIES = (ROOT / "README.md", ROOT / "docs" / "results.md")
BEAMS = (1, 5)
TIME_ALLOWED = re.compile(r", (20 minutes|two hours) of two cores")


@dataclass(frozen=True)
class Recipe:
    """A training to score.

    Attributes:
        title: what it is, for the table.
        flags: of scripts/train.py, besides the files.
        chinese_script: of training pairs and references.
        budget: CPU seconds that it may take.
        wanted: least BLEU by number of beams; empty where a number is only to be stated.
        seeds: a training each; several translate together.
        folder: of its runs, below `runs`, if another recipe has the same ones.
    """

    title: str
    flags: tuple[str, ...]
    chinese_script: str
    budget: float
    wanted: dict[int, float]
    seeds: tuple[int, ...] = (42,)
    folder: str | None = None


RECIPES = {
    "base-simplified": Recipe(
        "Tatoeba, Simplified, 20 minutes of two cores",
        ("base",),
        "simplified",
        2400,
        {1: 33, 5: 35},
    ),
    "ensemble-simplified": Recipe(
        "Tatoeba, Simplified, ensemble of two seeds, two hours of two cores",
        ("base",),
        "simplified",
        14_400,
        {5: 38},
        (42, 43),
        "base-simplified",
    ),
    "base-as-is": Recipe(
        "Tatoeba, mixed scripts",
        ("base",),
        "keep",
        2400,
        {5: 30},
    ),
    "ensemble-as-is": Recipe(
        "Tatoeba, mixed scripts, ensemble of three seeds, two hours of two cores",
        ("base",),
        "keep",
        14_400,
        {5: 30},
        (42, 43, 44),
        "base-as-is",
    ),
    "base-reverse": Recipe(
        "Tatoeba, Chinese to English",
        ("base", "--source_lang=zh", "--target_lang=en"),
        "simplified",
        2400,
        {},
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", choices=["run", "render"])
    parser.add_argument("name", nargs="?", choices=RECIPES)
    parser.add_argument("--data", type=Path, help="folder of the three splits")
    parser.add_argument("--output_dir", type=Path, help="of the runs; default runs/NAME")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument(
        "--readme", action="store_true", help="also update README.md and docs/results.md"
    )
    args = parser.parse_args(arguments)
    if args.action == "render":
        results = load_results(args.results)
        texts = {
            "targets": target_table(results),
            "tutorial": tutorial_tables(args.results.parent / "tutorial.json"),
        }
        update_marks(PAGE, texts)
        if args.readme:
            for page in SUMMARIES:
                update_marks(page, {"quality": readme_table(results)})
        return 0
    if args.name is None or args.data is None:
        parser.error("run needs a name and --data")
    folder = args.output_dir or ROOT / "runs" / (RECIPES[args.name].folder or args.name)
    result = run(args.name, args.data, folder, args.threads)
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / f"{args.name}.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


def run(name: str, data: Path, output_dir: Path, threads: int) -> dict[str, Any]:
    """Train a recipe and score it."""
    recipe = RECIPES[name]
    machine = describe_machine()
    machine["command"] = f"python -m experiments.quality run {name} --data FOLDER"
    machine["threads_used"] = threads
    files = {split: split_file(data, split) for split in ("train", "validation", "test")}
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--mixed_precision=bf16"]
    launch += ["--num_processes=1", "--num_machines=1", "--dynamo_backend=no"]
    launch += [f"--num_cpu_threads_per_process={threads}", "scripts/train.py", *recipe.flags]
    launch += [f"--{split}_file={path}" for split, path in files.items()]
    launch += [f"--chinese_script={recipe.chinese_script}"]
    runs = [output_dir / f"seed-{seed}" for seed in recipe.seeds]
    costs = [
        train([*launch, f"--seed={seed}", f"--output_dir={folder}"], folder, threads)
        for seed, folder in zip(recipe.seeds, runs, strict=True)
    ]
    settings = json.loads((runs[0] / "settings.json").read_text(encoding="utf-8"))
    finished = [json.loads((folder / "eval_results.json").read_text("utf-8")) for folder in runs]
    return {
        "name": name,
        "machine": machine,
        "cpu_seconds": round(sum(cost["cpu_seconds"] for cost in costs)),
        "wall_seconds": round(sum(cost["wall_seconds"] for cost in costs)),
        "parameters": settings["num_parameters"] * len(runs),
        "pairs": settings["num_pairs"]["train"],
        "epochs": finished[0]["epochs"],
        "seeds": list(recipe.seeds),
        "weights": [results["weights"] for results in finished],
        "validation_bleu": [results["validation"]["bleu"] for results in finished],
        "scores": {
            str(beams): score(runs, files["test"], recipe.chinese_script, beams, threads)
            for beams in BEAMS
        },
    }


def train(command: Sequence[str], folder: Path, threads: int) -> dict[str, float]:
    """Train into a folder, unless it was done; `cpu_seconds` and `wall_seconds` that it took."""
    path = folder / "cost.json"
    if not path.exists():
        started, cpu = time.monotonic(), children_cpu_seconds()
        subprocess.run(command, cwd=ROOT, check=True, env=environment(threads))
        cost = {
            "cpu_seconds": children_cpu_seconds() - cpu,
            "wall_seconds": time.monotonic() - started,
        }
        path.write_text(json.dumps(cost) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def score(
    runs: Sequence[Path],
    test_file: Path,
    chinese_script: str,
    beams: int,
    threads: int,
) -> dict[str, Any]:
    """Scores of a run by `bahdanau-hf score`, or of several together."""
    command = [sys.executable, "-m", "bahdanau_hf", "score", f"--model={runs[0]}"]
    if len(runs) > 1:
        command += ["--ensemble", *map(str, runs[1:])]
    command += [f"--test_file={test_file}", f"--num_beams={beams}"]
    command += [f"--chinese_script={chinese_script}"]
    done = subprocess.run(
        command, cwd=ROOT, check=True, env=environment(threads), stdout=subprocess.PIPE
    )
    found = json.loads(done.stdout)
    kept = ("bleu", "bleu_signature", "chrf", "chrf_signature", "num_sentences")
    return {key: found[key] for key in kept}


def split_file(folder: Path, split: str) -> Path:
    """A split's file in a folder.

    Raises:
        SystemExit: there is none.
    """
    for name in (f"{split}.tsv", f"{split}.tsv.gz"):
        if (folder / name).exists():
            return (folder / name).resolve()
    raise SystemExit(f"error: {folder} has neither {split}.tsv nor {split}.tsv.gz")


def children_cpu_seconds() -> float:
    """User and system time of all processes that were started from here and have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def environment(threads: int) -> dict[str, str]:
    """As many threads as said."""
    return {**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"}


def load_results(folder: Path) -> dict[str, dict[str, Any]]:
    """What `run` has left, by name."""
    paths = {name: folder / f"{name}.json" for name in RECIPES}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.exists()
    }


def target_table(results: dict[str, dict[str, Any]]) -> str:
    """Every target beside what was measured, or `not measured`."""
    lines = [
        "| recipe | search | target | measured | CPU-seconds of limit | |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    notes = []
    for name, recipe in RECIPES.items():
        result = results.get(name)
        for beams in recipe.wanted or BEAMS:
            wanted = recipe.wanted.get(beams)
            search = "greedy" if beams == 1 else f"beam {beams}"
            bleu = result["scores"][str(beams)]["bleu"] if result else None
            used = f"{result['cpu_seconds']:,}" if result else "–"
            cells = [
                f"{recipe.title} (`{name}`)",
                search,
                "none" if wanted is None else f"≥ {wanted:g}",
                "not measured" if bleu is None else f"{bleu:.1f}",
                f"{used} of {recipe.budget:,.0f}",
                verdict(wanted, bleu, result["cpu_seconds"] if result else 0, recipe.budget),
            ]
            lines.append(f"| {' | '.join(cells)} |")
        notes.append(recipe_note(name, recipe, result))
    return "\n".join([*lines, "", *notes])


def recipe_note(name: str, recipe: Recipe, result: dict[str, Any] | None) -> str:
    """How to get a row again, and how it was got."""
    flags = " ".join(recipe.flags)
    line = f"- `{name}`: `python -m experiments.quality run {name} --data FOLDER`, that is "
    line += f"`scripts/train.py {flags} --chinese_script={recipe.chinese_script}` in bfloat16"
    line += ", an ensemble of several seeds." if len(recipe.seeds) > 1 else "."
    if result:
        machine = result["machine"]
        line += (
            f" {machine['date']}, commit {machine['commit']}, {machine['processor']}, load "
            f"average {machine['load_average']}; {result['parameters'] / 1e6:.1f} M parameters,"
            f" {result['pairs']:,} pairs, {result['epochs']} epochs, seed "
            f"{', '.join(map(str, result['seeds']))}; "
            f"`{result['scores'][str(BEAMS[-1])]['bleu_signature']}`."
        )
    return line


def verdict(wanted: float | None, bleu: float | None, used: float, budget: float) -> str:
    """In a word."""
    if bleu is None or wanted is None:
        return ""
    if used > budget:
        return "**over the budget**"
    return "reached" if bleu >= wanted else "**not reached**"


def readme_table(results: dict[str, dict[str, Any]]) -> str:
    """What README.md and docs/results.md show."""
    lines = [
        "| data | pairs | parameters | CPU minutes | BLEU greedy | 5 beams |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name in filter(results.get, RECIPES):
        result = results[name]
        greedy, beam = (result["scores"][str(n)]["bleu"] for n in BEAMS)
        lines.append(
            f"| {TIME_ALLOWED.sub('', RECIPES[name].title)} | {result['pairs']:,} "
            f"| {result['parameters'] / 1e6:.1f} M | {result['cpu_seconds'] / 60:.0f} "
            f"| {greedy:.1f} | {beam:.1f} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
