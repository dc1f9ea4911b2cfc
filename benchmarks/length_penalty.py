"""Which length penalty translates validation best, greedy search and others beside it.

    python -m benchmarks.length_penalty runs/base-simplified/seed-42 --data FOLDER

Numbers go to benchmarks/results/quality/length_penalty.json; `python -m benchmarks.quality render`
shows them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from .machine import command_line, describe_machine
from .quality import RESULTS, score, split_file

BEAMS = 5
PENALTIES = (0.0, 0.5, 0.8, 1.0, 1.2, 1.5, 2.0)


def main(arguments: Sequence[str] | None = None) -> int:
    """Score validation with each."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.length_penalty",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="folder of the splits")
    parser.add_argument("--chinese_script", default="simplified")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args(arguments)
    machine = describe_machine()
    machine["command"] = command_line("benchmarks.length_penalty")
    file = split_file(args.data, "validation")

    def measure(beams: int, *flags: str) -> dict[str, object]:
        return score([args.model], file, args.chinese_script, beams, args.threads, flags)

    greedy = measure(1)
    found = {
        str(penalty): measure(BEAMS, f"--length_penalty={penalty}")["bleu"] for penalty in PENALTIES
    }
    result = {
        "machine": machine,
        "signature": greedy["bleu_signature"],
        "num_sentences": greedy["num_sentences"],
        "greedy": greedy["bleu"],
        "beams": BEAMS,
        "penalties": found,
    }
    args.results.mkdir(parents=True, exist_ok=True)
    path = args.results / "length_penalty.json"
    path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
