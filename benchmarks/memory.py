"""Peak memory of one training step, measured in a process of its own.

`python -m benchmarks.memory ours 64x50x50x4000` prints, for this batch size x source length x
target length x target vocabulary, the megabytes that a step takes above what was there before.
`python -m benchmarks.memory shapes 300` and `... sentences 2000` print what a process holds while
it meets ever new shapes (lasting_memory.py).
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

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
        f"Peak memory of one training step above that of the process before; batch {LARGE.batch}, "
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
    _add_what_stays(section, quick)
    return section


def _add_what_stays(section: Section, quick: bool) -> None:
    """What a process holds after many batches of ever new shapes, each way in one of its own.

    As many run at once as there are cores: it is not their time that is measured.
    """
    section.notes += (
        ' "After ... steps" and "after ... sentences": all memory of the process, libraries '
        "included, while it trains the model of the recipe base on batches of any shape, or "
        "translates sentences of any length."
    )
    from bahdanau_hf.modeling.processor_bahdanau import processor

    formats = {"float32", *(name for name, can in processor()._asdict().items() if can)}
    ways = [way for way in LASTING if way.number_format in (("float32",) if quick else formats)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for way, held in zip(ways, pool.map(lambda way: way.measure(quick), ways), strict=True):
            section.rows += [
                Row(f"{way.name}, after {mark} {way.unit}", value, "MB")
                for mark, value in held.items()
            ]
            early, last = way.after(quick)
            flat = held[last] / held[early]
            name = f"memory: {way.name} is flat, {last} / {early} {way.unit}"
            section.goals.append(Goal(name, 1.1, flat, at_most=True))
            name = f"memory: {way.name}, MB after {last} {way.unit}"
            section.goals.append(Goal(name, 1024, held[last], at_most=True))


class Lasting(NamedTuple):
    """A way of using the model for long.

    Attributes:
        name: in the tables.
        kind: `shapes` or `sentences`, see lasting_memory.py.
        number_format: of the computation.
        unit: what is counted.
        marks: after how many of them to look.
        early: the mark by which everything should be there.
    """

    name: str
    kind: str
    number_format: str
    unit: str
    marks: tuple[int, ...]
    early: int

    def after(self, quick: bool) -> tuple[int, int]:
        """The two marks that are compared."""
        marks = self._marks(quick)
        return (marks[0] if quick else self.early), marks[-1]

    def measure(self, quick: bool) -> dict[int, float]:
        """Megabytes held at each mark."""
        marks = self._marks(quick)
        arguments = [self.kind, marks[-1], self.number_format, *marks]
        held = _run_alone(list(map(str, arguments)))
        return {int(mark): value for mark, value in held.items()}

    def _marks(self, quick: bool) -> tuple[int, ...]:
        return self.marks[:2] if quick else self.marks


STEPS, SENTENCES = (50, 100, 200, 500, 1000, 2000), (500, 1000, 2000, 5000, 10_000)
LASTING = (
    Lasting("training, float32", "shapes", "float32", "steps", STEPS, 200),
    Lasting("training, bfloat16", "shapes", "bfloat16", "steps", STEPS, 200),
    Lasting("translating, float32", "sentences", "float32", "sentences", SENTENCES, 2000),
    Lasting("translating, int8", "sentences", "int8", "sentences", SENTENCES, 2000),
)


def in_own_process(model: str, size: Size, tidy: bool = False) -> float:
    """Megabytes of a step in a fresh process.

    Args:
        model: one of `MODELS`.
        size: of the batch.
        tidy: make the allocator keep nothing.
    """
    return _run_alone([model, str(size)], TIDY if tidy else {})


def _run_alone(arguments: Sequence[str], settings: Mapping[str, str] = MappingProxyType({})) -> Any:
    """What this module's command says in its last line."""
    command = [sys.executable, "-m", "benchmarks.memory", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"} | settings
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


def main(model: str, size: str, *more: str) -> None:
    """Print the megabytes of a step, or those that stay."""
    import torch

    if model in ("shapes", "sentences"):
        from . import lasting_memory

        return lasting_memory.main(model, int(size), *more)
    torch.set_num_threads(1)
    print(json.dumps(step_megabytes(model, Size(*map(int, size.split("x"))))))
    return None


if __name__ == "__main__":
    main(*sys.argv[1:])
