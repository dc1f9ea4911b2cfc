"""Write the report of a run again, or compare two runs side by side."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

FLAGS = {
    "run RUN": "output_dir of a run",
    "other [OTHER]": "a run to compare it with",
    "--output FILE=comparison.html": "page of a comparison (default: comparison.html); a report is "
    "RUN/report.html",
}


def run(args: argparse.Namespace) -> None:
    """Write the page."""
    from ..reporting.run_comparison import write_comparison
    from ..reporting.run_report import write_report

    if args.other is None:
        path = write_report(args.run)
    else:
        path = write_comparison(args.run, args.other, Path(args.output))
    print(f"wrote {path}", file=sys.stderr)
