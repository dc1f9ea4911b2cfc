"""Training as on an older processor: bfloat16, which it has not in hardware, must not cost much."""

from __future__ import annotations

from pathlib import Path

from . import older_processor
from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE, make_marian, make_ours, make_plain
from .results import Goal, Section
from .stopwatch import race
from .training_speed import Training
from .workload import BATCH_SIZE, TARGET_SIZE, bucketed_batches


def measure(quick: bool) -> Section:
    """Measure in a process that is told to use less; here, where there is nothing to leave out."""
    if not older_processor.is_newer():
        section = measure_here(quick, Path())
        section.notes += f" On {older_processor.describe()}."
        return section
    there, processor = older_processor.measure_there("older_training", Path(), quick)
    section = Section(there["title"], f"{there['notes']} On {processor}.")
    section.add_from(there, "")
    return section


def measure_here(quick: bool, folder: Path) -> Section:
    """Race in float32 and in bfloat16.

    Args:
        quick: fewer rounds.
        folder: nothing is read from it.
    """
    section = Section(
        "Training, older processor",
        f"Width {EMBEDDING_SIZE}/{HIDDEN_SIZE}, one layer each side, {TARGET_SIZE} target words, "
        f"a batch of {BATCH_SIZE} of similar length; MarianMT has as many parameters. bfloat16: "
        "autocast.",
    )
    batches = bucketed_batches(1)
    plain = make_plain()
    contenders = {
        f"{name}{mark}": Training(model, batches, bf16=bool(mark)).contender()
        for mark in ("", ", bfloat16")
        for name, model in (
            ("ours", make_ours(plain)),
            ("plain loop", make_plain()),
            ("MarianMT", make_marian(sum(p.numel() for p in plain.parameters()))),
        )
    }
    timings = race(contenders, 1 if quick else 3, 0.05)
    section.add_race(timings, "target tokens/CPU s")
    goals = [
        ("ours, bfloat16", "ours", 0.9),
        ("ours, bfloat16", "plain loop, bfloat16", 1.0),
        ("ours, bfloat16", "MarianMT, bfloat16", 1.0),
        ("ours", "plain loop", 1.0),
        ("ours", "MarianMT", 1.0),
    ]
    section.goals = [
        Goal(f"training, older processor: {a} / {b}", w, timings[a].times_as_fast_as(timings[b]))
        for a, b, w in goals
    ]
    return section
