"""Feeds the readers, the tokenizer, the commands and the loader what strangers might send.

    python -m tests.stress.fuzz --cases 50000 --seed 1
    python -m tests.stress.fuzz --target checkpoint --cases 500
    python -m tests.stress.fuzz --target data --case 1234 --seed 1    # one case again

Whatever comes in, what comes out is the right result or an `InputError` of one line; everything
else is a finding: it is printed with the command that repeats it, and the run ends with status 1.
A case depends on seed, target and number alone.
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no case may ask the network
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import argparse
import logging
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from transformers.utils.logging import disable_progress_bar

from .fuzz_targets import Targets

# Of a hundred cases; reading is the cheapest and has the most ways to go wrong.
SHARES = {"data": 46, "tokenizer": 37, "config": 12, "translate": 4, "checkpoint": 1}
MOST_FINDINGS = 20


def main() -> int:
    """Run the cases and print what was counted."""
    args = _arguments()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.CRITICAL)
    disable_progress_bar()
    start, findings = time.perf_counter(), 0
    counts: Counter[tuple[str, bool]] = Counter()
    # In memory where the system has such a place: a case writes a file or six.
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=place) as folder:
        targets = Targets(Path(folder)).all()
        for name, numbers in _cases(args).items():
            for number in numbers:
                accepted = _run(targets[name], name, number, args.seed)
                if accepted is None:
                    findings += 1
                    if findings == MOST_FINDINGS:
                        print(f"{MOST_FINDINGS} findings: enough for one run")
                        return 1
                else:
                    counts[name, accepted] += 1
    print(f"seed {args.seed}; {time.perf_counter() - start:,.0f} seconds")
    print(f"{'target':<12}{'cases':>9}{'right':>9}{'refused':>9}")
    for name in targets:
        right, refused = counts[name, True], counts[name, False]
        if right or refused:
            print(f"{name:<12}{right + refused:>9,}{right:>9,}{refused:>9,}")
    print(f"{'all':<12}{counts.total():>9,}; findings: {findings}")
    return 1 if findings else 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--cases", type=int, default=5000, help="of all targets; default: 5000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", choices=SHARES, help="one alone")
    parser.add_argument("--case", type=int, help="the number of a single case of --target")
    args = parser.parse_args()
    if args.case is not None and args.target is None:
        parser.error("--case needs --target")
    return args


def _cases(args: argparse.Namespace) -> dict[str, range]:
    """The numbers of the cases of each target."""
    if args.case is not None:
        return {args.target: range(args.case, args.case + 1)}
    if args.target is not None:
        return {args.target: range(args.cases)}
    return {name: range(-(-args.cases * share // 100)) for name, share in SHARES.items()}


def _run(target: Callable[[Random], bool], name: str, number: int, seed: int) -> bool | None:
    """Whether the input was accepted, or None where the outcome is a finding, which is printed."""
    try:
        return target(Random(f"{seed} {name} {number}"))
    except Exception:
        traceback.print_exc(limit=-6)
        print(f"^ python -m tests.stress.fuzz --target {name} --case {number} --seed {seed}\n")
        return None


if __name__ == "__main__":
    raise SystemExit(main())
