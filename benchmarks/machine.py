"""What a number was measured on, and with."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import torch

from bahdanau_hf.cli.env import installed_version, processor_name

ROOT = Path(__file__).parents[1]
LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "joeynmt", "ctranslate2")


def describe_machine() -> dict[str, Any]:
    """Processor, memory, versions, commit, date, command, and how busy the machine is."""
    return {
        "processor": processor_name(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.machine()}",
        "load_average": round(os.getloadavg()[0], 1),
        "threads_used": torch.get_num_threads(),
        "python": platform.python_version(),
        "versions": {name: found for name in LIBRARIES if (found := installed_version(name))},
        "commit": _commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "command": " ".join(["python", "benchmarks/run.py", *sys.argv[1:]]),
    }


def command_line(module: str) -> str:
    """How this process was started, files without their folders."""
    words = [Path(word).name if "/" in word else word for word in sys.argv[1:]]
    return " ".join(["python -m", module, *words])


def machine_text(machine: dict[str, Any]) -> str:
    """The same as a few lines of text."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']} ({machine['instructions']}), {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB, {machine['system']}; {machine['threads_used']} thread used\n"
        f"Python {machine['python']}, {versions}\n"
        f"{machine['date']}, commit {machine['commit']}, load average {machine['load_average']}: "
        f"{machine['command']}"
    )


def _commit() -> str:
    """Short hash, with `+` if the code has been changed since."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git(
            "status", "--porcelain", "--", "bahdanau_hf", "benchmarks/*.py", "experiments/*.py"
        )
        return git("rev-parse", "--short", "HEAD") + "+" * bool(changed)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
