"""Take each protection out of a copy of the project and see a test fail.

    python -m benchmarks.protections
    python -m benchmarks.protections --only gzip "line without end"
    python -m benchmarks.protections --slow

A test that passes with and without what it stands for shows nothing. Each entry of
protection_list.py names a file, a piece of it that protects, what stands there without the
protection, and the test that must fail then; the page's need the extra [demo]. With --slow those
that start processes are done, too. Ends with status 1 if a test passed, or if none was found.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .machine import ROOT, describe_machine
from .protection_list import PROTECTIONS, Protection

FAILED = 1  # pytest's status when a test failed; others: none found, an error of its own


def main(arguments: Sequence[str] | None = None) -> int:
    """Take out what was asked for; 1 if a test did not notice."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.protections",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", help="those whose name has one of these words")
    parser.add_argument("--slow", action="store_true", help="also those that start processes")
    args = parser.parse_args(arguments)
    chosen = [
        p
        for p in PROTECTIONS
        if (args.slow or not p.slow) and (not args.only or any(w in p.name for w in args.only))
    ]
    machine = describe_machine()
    print(f"{machine['date']}, commit {machine['commit']}", flush=True)
    unnoticed = []
    with tempfile.TemporaryDirectory() as folder:
        copy = copy_project(Path(folder) / "copy")
        for protection in chosen:
            is_noticed = take_out(protection, copy)
            file, expression = protection.test
            test = f"tests/test_{file}.py -k {expression!r}"
            print(f"{'failed' if is_noticed else 'PASSED':8}{protection.name:48}{test}", flush=True)
            if not is_noticed:
                unnoticed.append(protection.name)
    print(f"{len(chosen) - len(unnoticed)} of {len(chosen)} protections taken out and noticed")
    return 1 if unnoticed or not chosen else 0


def copy_project(folder: Path) -> Path:
    """The project without its environment and history."""
    left_out = shutil.ignore_patterns(".*", "runs", "build", "node_modules", "__pycache__")
    shutil.copytree(ROOT, folder, ignore=left_out)
    return folder


def take_out(protection: Protection, copy: Path) -> bool:
    """Whether the test fails without the protection, in a copy of the project.

    Raises:
        SystemExit: the code is not there, or not once.
    """
    path = copy / "bahdanau_hf" / f"{protection.file}.py"
    text = path.read_text(encoding="utf-8")
    if text.count(protection.code) != 1:
        sys.exit(f"error: {path.name} does not hold this once: {protection.code!r}")
    file, expression = protection.test
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    command += [f"tests/test_{file}.py", "-k", expression]
    command += ["-m", "slow"] if protection.slow else []
    environment = {**os.environ, "PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    path.write_text(text.replace(protection.code, protection.without), encoding="utf-8")
    try:
        done = subprocess.run(command, cwd=copy, env=environment, capture_output=True, check=False)
    finally:
        path.write_text(text, encoding="utf-8")
    return done.returncode == FAILED


if __name__ == "__main__":
    raise SystemExit(main())
