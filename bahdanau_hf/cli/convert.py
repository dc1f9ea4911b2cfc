"""Make a checkpoint from the weights and vocabularies of the d2l tutorial's own program."""

from __future__ import annotations

import argparse
import sys

from .options import positive


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Describe the command's flags."""
    parser.add_argument(
        "state_dict", metavar="STATE_DICT", help="what torch.save(net.state_dict(), ...) wrote"
    )
    parser.add_argument(
        "--source_vocab",
        required=True,
        metavar="FILE",
        help="the source's tokens, one a line, in the order of their ids",
    )
    parser.add_argument(
        "--target_vocab", required=True, metavar="FILE", help="the target's tokens, likewise"
    )
    parser.add_argument(
        "--output_dir", required=True, metavar="DIR", help="where the checkpoint goes"
    )
    parser.add_argument(
        "--num_steps",
        type=positive,
        default=10,
        metavar="N",
        help="tokens that the tutorial pads and cuts sentences to (default: 10)",
    )
    parser.add_argument("--source_lang", default="en", metavar="CODE", help="default: en")
    parser.add_argument("--target_lang", default="zh", metavar="CODE", help="default: zh")


def run(args: argparse.Namespace) -> None:
    """Convert what the flags name.

    Raises:
        InputError: see `convert_tutorial`.
    """
    from transformers.utils.logging import disable_progress_bar

    from ..convert_d2l import convert_tutorial

    disable_progress_bar()
    model = convert_tutorial(
        args.state_dict,
        args.source_vocab,
        args.target_vocab,
        args.output_dir,
        num_steps=args.num_steps,
        source_lang=args.source_lang,
        target_lang=args.target_lang,
    )
    print(f"wrote {args.output_dir}: {model.num_parameters():,} parameters", file=sys.stderr)
