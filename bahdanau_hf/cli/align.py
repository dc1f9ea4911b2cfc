"""Draw the attention map of a sentence and its translation."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from .options import DTYPE, MODEL, NUM_BEAMS, load_translator, print_json, standard_output

if TYPE_CHECKING:
    from ..alignment.record import Alignment
    from ..inference.translator import Translation


FLAGS = {
    **MODEL,
    "sentence SENTENCE": "the sentence to translate",
    "--target TEXT": "its translation; default: the model's own",
    **DTYPE,
    **NUM_BEAMS,
    "--n_best N=1": "align up to N translations of the model, best first; with --links as a list",
    "--output FILE": "map.png, .svg, .html or .txt; default: a table on the terminal",
    "--tokens": "draw the tokenizer's pieces, as the model reads them, in place of whole words",
    "--links": "print the word alignment as JSON, with positions",
}
REQUIRED = ["--model"]


def run(args: argparse.Namespace) -> None:
    """Write the map to a file, or as text to standard output."""
    from ..reporting.attention_markup import alignment_text
    from ..reporting.attention_plot import SUFFIXES, save_alignment

    # Said before the model is loaded.
    if args.output and Path(args.output).suffix.lower() not in SUFFIXES:
        raise InputError(f"--output {args.output}: the name must end in {', '.join(SUFFIXES)}")
    if args.output and args.n_best > 1:
        raise InputError("--output takes one map: leave out --n_best")
    if args.target is not None and (args.num_beams is not None or args.n_best > 1):
        raise InputError(
            "with --target nothing is searched for: leave out --num_beams and --n_best"
        )
    alignments = _alignments(args)
    drawn = alignments if args.tokens else [alignment.by_words() for alignment in alignments]
    if args.output:
        print(f"wrote {save_alignment(drawn[0], args.output)}", file=sys.stderr)
    if args.links:
        links = [a.words.as_dict() for a in alignments if a.words is not None]
        print_json(links if args.n_best > 1 else links[0])
    elif not args.output:
        standard_output().write("\n".join(map(alignment_text, drawn)).encode())


def _alignments(args: argparse.Namespace) -> list[Alignment]:
    """Of the given translation, or of the model's own: one, or with `--n_best` several."""
    translator = load_translator(args)
    if args.target is not None:
        return [translator.align(args.sentence, args.target)]
    (found,) = translator.translate(
        [args.sentence],
        num_beams=args.num_beams,
        num_return_sequences=args.n_best,
        return_alignments=True,
    )
    several: list[Translation] = found if args.n_best > 1 else [found]
    alignments = [translation.alignment for translation in several]
    if None in alignments:
        raise InputError("the sentence is blank: there is nothing to align")
    return [alignment for alignment in alignments if alignment is not None]
