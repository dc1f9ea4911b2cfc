"""The same measurements as on an older processor, in a process that is told to use less.

`python -m benchmarks.older_processor never_slower FOLDER [quick]` measures a part where the
environment has been set, and prints its results as JSON in the last line.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bahdanau_hf.modeling.processor_bahdanau import processor

from .results import Section

ROOT = Path(__file__).parents[1]
# What each asks for: PyTorch, oneDNN, FBGEMM (8 bits), MKL, CTranslate2, and we ourselves.
OLDER = {
    "ATEN_CPU_CAPABILITY": "avx2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
    "FBGEMM_ENABLE_INSTRUCTIONS": "AVX2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "CT2_FORCE_CPU_ISA": "AVX2",
    "BAHDANAU_PROCESSOR": "vnni=0",
}
MARK = " (as an older processor)"


def is_newer() -> bool:
    """Whether this processor can do what an older one cannot: AVX-512."""
    return torch.backends.cpu.get_cpu_capability().startswith("AVX512")


def describe() -> str:
    """The instructions in use, and what is computed in hardware."""
    can = [name for name, answer in processor()._asdict().items() if answer]
    return f"{torch.backends.cpu.get_cpu_capability()} ({', '.join(can) or 'nothing else'})"


def measure_on_both(
    part: str, quick: bool, prepare: Callable[[Path], object] = lambda folder: None
) -> Section:
    """What the module's `measure_here(quick, folder)` gives here and as on an older processor.

    Args:
        part: name of the module.
        quick: less of everything.
        prepare: puts into a folder what both need.

    Returns:
        Both in one section; names of what the second gave end with `MARK`.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        prepare(folder)
        section = import_module(f".{part}", __package__).measure_here(quick, folder)
        section.notes += f" On {describe()}."
        if is_newer():
            there, processor_there = measure_there(part, folder, quick)
            section.add_from(there, MARK)
            section.notes += f" As an older processor: {processor_there}."
    return section


def measure_there(part: str, folder: Path, quick: bool) -> tuple[dict[str, Any], str]:
    """What the module's `measure_here(quick, folder)` gives in such a process, and its processor.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "benchmarks.older_processor", part, str(folder)]
    done = subprocess.run(
        command + ["quick"] * quick,
        cwd=ROOT,
        env=os.environ | OLDER,
        stdout=subprocess.PIPE,  # what it says beside its results is shown
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed")
    return json.loads(done.stdout.splitlines()[-1])


def main(part: str, folder: str, *quick: str) -> None:
    """Measure a part here."""
    torch.set_num_threads(1)
    if is_newer():
        raise SystemExit("this process was to use no AVX-512, but PyTorch does")
    section = import_module(f".{part}", __package__).measure_here(bool(quick), Path(folder))
    print(json.dumps([section.as_dict(), describe()]))


if __name__ == "__main__":
    from transformers.utils import logging

    logging.set_verbosity_error()
    main(*sys.argv[1:])
