"""The whole run: check that what is fast is right, then measure, then show."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as library_logging

from . import (
    data_pipeline,
    decoding_speed,
    engines,
    gpu_speed,
    memory,
    never_slower,
    older_training,
    scaling,
    startup,
    training_speed,
    translator_speed,
)
from .equality import checks
from .machine import describe_machine, machine_text
from .picture import draw
from .readme_tables import update_readme
from .results import Section, goals_text

SECTIONS: dict[str, Callable[..., Section]] = {
    "training": training_speed.measure,
    "older_training": older_training.measure,
    "decoding": decoding_speed.measure,
    "never_slower": never_slower.measure,
    "engines": engines.measure,
    "memory": memory.measure,
    "translator": translator_speed.measure,
    "data": data_pipeline.measure,
    "startup": startup.measure,
    "growth": scaling.measure,
    "gpu": gpu_speed.measure,
}
SLOW = ("growth", "older_training")  # a quick run leaves it out
RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the suite; 1 if something fast is wrong, and then nothing is timed."""
    args = _parser().parse_args(arguments)
    torch.set_num_threads(1)
    library_logging.set_verbosity_error()
    library_logging.disable_progress_bar()
    machine = describe_machine()
    print(machine_text(machine), end="\n\n", flush=True)
    names = args.only or [name for name in SECTIONS if not (args.quick and name in SLOW)]
    # What is computed on a device has its own tests there, and no minutes to lose.
    verdicts = [] if names == ["gpu"] else _check()
    if not all(check["passed"] for check in verdicts):
        print("Not equal: nothing is timed.", file=sys.stderr)
        return 1
    sections: dict[str, Section] = {}
    if "gpu" in names and not torch.cuda.is_available():
        names = [name for name in names if name != "gpu"]
        print("\ngpu: left out, there is no CUDA device", flush=True)
    result: dict[str, Any] = {"machine": machine, "checks": verdicts, "sections": {}}
    path = args.output_dir / f"{'quick' if args.quick else 'full'}.json"

    def keep(section: Section, name: str = "gpu") -> None:
        result["sections"][name] = section.as_dict()
        _save(result, path)

    for name in names:
        start = time.perf_counter()
        options = {"save": keep} if name == "gpu" else {}
        sections[name] = SECTIONS[name](args.quick, **options)
        seconds = time.perf_counter() - start
        print(f"\n{sections[name].text()}\n[{seconds:.0f} s]", flush=True)
        keep(sections[name], name)  # at once: a run that is interrupted keeps what it has
    goals = [goal for section in sections.values() for goal in section.goals]
    print(f"\n{goals_text(goals)}", flush=True)
    _save(result, path)
    print(f"\nwrote {path}")
    _draw(result, list(sections.values()), path.with_suffix(".svg"))
    if args.readme:
        update_readme(README, result)
        print(f"wrote {README}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks/run.py", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="some minutes instead of forty")
    parser.add_argument("--only", nargs="+", choices=SECTIONS, help="these parts alone")
    parser.add_argument("--readme", action="store_true", help="put the tables into README.md")
    parser.add_argument(
        "--output_dir", type=Path, default=RESULTS, help="where results go (JSON, picture)"
    )
    return parser


def _check() -> list[dict[str, Any]]:
    verdicts = []
    for check in checks():
        verdict = "equal" if check.passed else "NOT EQUAL"
        print(f"{verdict:<9}  {check.name}  (off by {check.error:.2g})", flush=True)
        verdicts.append(check._asdict() | {"passed": check.passed})
    return verdicts


def _save(result: dict[str, Any], path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


def _draw(result: dict[str, Any], sections: Sequence[Section], path: Path) -> None:
    """Draw the curves where there are some, and matplotlib."""
    curves = [curve for section in sections for curve in section.curves]
    if not curves:
        return
    machine = result["machine"]
    caption = f"{machine['processor']}, one thread; {machine['date']}, {machine['commit']}"
    try:
        draw(curves, path, caption)
    except ImportError:
        print("no picture: matplotlib is not there (extra [plot])", file=sys.stderr)
    else:
        print(f"wrote {path}")
