"""A page to try a checkpoint: `python scripts/app.py --model runs/quickstart`, or `make demo`.

With `--space_dir` it is not shown but laid out as a Space of the Hub: this file with the package,
the model, the requirements and a README whose front matter tells the Hub what to run.
Exit status: 0 done, 2 a mistake in what was given.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from bahdanau_hf.demo.page import NUM_AT_ONCE, Answers, build_page
from bahdanau_hf.demo.space import assemble_space
from bahdanau_hf.errors import InputError
from bahdanau_hf.inference.translator import Translator

BESIDE = Path(__file__).resolve().parent / "model"  # where it stands in a Space


def main(arguments: Sequence[str] | None = None) -> int:
    """Show the page, or lay out the Space; returns the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument(
        "--model",
        default=str(BESIDE) if BESIDE.is_dir() else None,
        required=not BESIDE.is_dir(),
        help="folder of a checkpoint, or a repository on the Hub",
    )
    parser.add_argument("--space_dir", help="lay the page out as a Space in this new folder")
    parser.add_argument("--host", help="address to listen at; default: this machine alone")
    parser.add_argument("--port", type=int, help="default: the first that is free from 7860 on")
    args = parser.parse_args(arguments)
    try:
        translator = Translator.from_pretrained(args.model)
        if args.space_dir:
            folder = assemble_space(translator, args.space_dir, __file__)
            print(f"{folder}; publish it: hf upload OWNER/NAME {folder} . --repo-type space")
            return 0
        torch.set_num_threads(max(1, torch.get_num_threads() // NUM_AT_ONCE))
        page, options = build_page(Answers(translator))
        # Without a host Gradio listens on loopback, or where a Space tells it by its environment.
        page.launch(server_name=args.host, server_port=args.port, **options)
    except (InputError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
