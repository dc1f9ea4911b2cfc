"""Peak memory of one training step, measured in a process of its own.

`python -m benchmarks.memory ours 64x50x50x4000` prints, for this batch size x source length x
target length x target vocabulary, the megabytes that a step takes above what was there before.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from .results import Goal, Row, Section
from .stopwatch import growth

ROOT = Path(__file__).parents[1]
STATUS, CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Every larger piece of memory comes from the system and goes back to it: none is counted that the
# allocator merely keeps for later.
TIDY = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "65536",
    "MALLOC_TOP_PAD_": "0",
}


class Size(NamedTuple):
    """What a step is made of."""

    batch: int
    source: int
    target: int
    words: int = 4000

    def __str__(self) -> str:
        return "x".join(map(str, self))


LARGE, MEDIUM = Size(64, 50, 50), Size(16, 50, 50)
MODELS = ("plain loop", "ours", "ours, bfloat16", "MarianMT")
AXES = {"batch size": "batch", "source": "source", "target": "target", "vocabulary": "words"}


def measure(quick: bool) -> Section:
    """Compare the models on a large batch, and see how ours grows."""
    section = Section(
        "Memory",
        f"Peak of one training step above what the process held before; batch {LARGE.batch}, "
        f"{LARGE.source} x {LARGE.target} tokens, without optimizer. Growth: from batch "
        f"{MEDIUM.batch}, without what the allocator keeps.",
    )
    models = MODELS[:2] if quick else MODELS
    peaks = {model: in_own_process(model, LARGE) for model in models}
    section.rows = [Row(name, peak, "MB") for name, peak in peaks.items()]
    for name in models[1:3]:
        ratio = peaks[name] / peaks["plain loop"]
        section.goals.append(Goal(f"memory: {name} / plain loop", 0.2, ratio, at_most=True))
    for axis, field in () if quick else AXES.items():
        first = getattr(MEDIUM, field)
        sizes = [MEDIUM._replace(**{field: first * factor}) for factor in (1, 2, 4)]
        peaks = {str(getattr(s, field)): in_own_process("ours", s, tidy=True) for s in sizes}
        section.rows += [Row(f"ours, {axis} {n}", peak, "MB") for n, peak in peaks.items()]
        exponent = growth([float(n) for n in peaks], list(peaks.values()))
        section.goals.append(Goal(f"memory: ours grows as {axis} ^", 1.1, exponent, at_most=True))
    return section


def in_own_process(model: str, size: Size, tidy: bool = False) -> float:
    """Megabytes of a step in a fresh process.

    Args:
        model: one of `MODELS`.
        size: of the batch.
        tidy: make the allocator keep nothing.
    """
    command = [sys.executable, "-m", "benchmarks.memory", model, str(size)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | (TIDY if tidy else {})
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def peak_megabytes() -> float:
    """Most memory that the process has held since `forget_peak`."""
    if STATUS.exists():
        lines = STATUS.read_text(encoding="ascii").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) / 1024
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def forget_peak() -> None:
    """Let the peak be what is held now, where the system can do that."""
    if CLEAR.exists():
        CLEAR.write_text("5", encoding="ascii")


def step_megabytes(name: str, size: Size) -> float:
    """What a step takes above what is there: parameters, their gradients and the batch."""
    from .contenders import make_marian, make_ours, make_plain
    from .training_speed import Training
    from .workload import even_batch

    plain = make_plain(target_size=size.words)
    kind, _, bf16 = name.partition(", ")
    model = plain
    if kind == "ours":
        model = make_ours(plain)
    elif kind == "MarianMT":
        model = make_marian(sum(p.numel() for p in plain.parameters()))
    del plain
    training = Training(model, (), bf16=bool(bf16))
    training.backward(even_batch(2, 3, 3, target_size=size.words))  # gradients and code are there
    batch = even_batch(*size[:3], target_size=size.words)
    forget_peak()
    before = peak_megabytes()
    training.backward(batch)
    return peak_megabytes() - before


def main(model: str, size: str) -> None:
    """Print the megabytes of a step."""
    import torch

    torch.set_num_threads(1)
    print(json.dumps(step_megabytes(model, Size(*map(int, size.split("x"))))))


if __name__ == "__main__":
    main(*sys.argv[1:])
