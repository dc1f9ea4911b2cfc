"""Convert a model trained with the code of the d2l tutorial into a checkpoint."""

from __future__ import annotations

import argparse
import sys

from .options import without_progress_bar

FLAGS = {
    "state_dict STATE_DICT": "what torch.save(net.state_dict(), ...) wrote",
    "--source_vocab FILE": "source vocabulary: one token per line, in order of id",
    "--target_vocab FILE": "target vocabulary, likewise",
    "--output_dir DIR": "folder for the checkpoint",
    "--num_steps N=10": "length that the tutorial pads and truncates sentences to (default: 10)",
    "--source_lang CODE=en": "default: en",
    "--target_lang CODE=zh": "default: zh",
}
REQUIRED = ["--source_vocab", "--target_vocab", "--output_dir"]


def run(args: argparse.Namespace) -> None:
    """Convert what the flags name."""
    from ..convert_d2l import convert_tutorial

    without_progress_bar()
    model = convert_tutorial(**vars(args))
    print(f"wrote {args.output_dir}: {model.num_parameters():,} parameters", file=sys.stderr)
