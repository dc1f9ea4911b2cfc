"""Translate standard input: a line in, a line out; with `--text`, sentence by sentence."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import checked_encoding, text_lines
from .options import (
    add_encoding,
    add_model,
    add_search,
    load_translator,
    positive,
    search_options,
    standard_output,
)

if TYPE_CHECKING:
    from ..inference.translator import Translation


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Describe the command's flags."""
    add_model(parser)
    add_search(parser)
    add_encoding(parser)
    parser.add_argument(
        "--text",
        action="store_true",
        help="the input is running text: split its lines into sentences, and too long sentences at "
        "clauses; line breaks stay",
    )
    parser.add_argument(
        "--n_best",
        type=positive,
        default=1,
        metavar="N",
        help="print up to N translations per line, best first: 'line number<TAB>translation'",
    )
    parser.add_argument(
        "--scores",
        action="store_true",
        help="print the log-probability and a tab before each translation; beam search divides it "
        "by length ** length_penalty",
    )


def run(args: argparse.Namespace) -> None:
    """Translate line by line.

    Raises:
        InputError: standard input or output is closed, the input is no text, the model cannot be
            loaded, or flags that exclude each other.
    """
    from ..inference.translator import WINDOW_BATCHES
    from ..modeling.matmul_bahdanau import fixed_weights

    if args.text and (args.n_best > 1 or args.scores):
        raise InputError("--text joins sentences: leave out --n_best and --scores")
    if sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to translate")
    checked_encoding(args.encoding)
    output, options = standard_output(), search_options(args)
    translator = load_translator(args)
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        print("Type a sentence a line; Ctrl-D ends.", file=sys.stderr)
    one_by_one = is_interactive or args.batch_size == 1
    window = 1 if one_by_one else WINDOW_BATCHES * args.batch_size
    lines = text_lines("-", args.encoding, keep_ends=True)
    if args.text:
        with fixed_weights():
            while chunk := "".join(islice(lines, window)):
                output.write(translator.translate_text(chunk, **options).text.encode())
                output.flush()
        return
    results = translator.stream(
        lines,
        window=window,
        num_return_sequences=args.n_best,
        return_scores=args.scores,
        **options,
    )
    num_copied = 0
    with fixed_weights():
        for number, result in enumerate(results, start=1):
            alternatives: list[Translation] = result if args.n_best > 1 else [result]
            num_copied += alternatives[0].copied
            for translation in alternatives:
                fields = [str(number)] if args.n_best > 1 else []
                fields += [f"{translation.score:.4f}"] if args.scores else []
                output.write("\t".join([*fields, translation.text]).encode() + b"\n")
            if number % window == 0:
                output.flush()
    if num_copied:
        hint = "lines have no word that the model knows, and were copied"
        print(f"bahdanau-hf: {num_copied} of {number} {hint}", file=sys.stderr)
