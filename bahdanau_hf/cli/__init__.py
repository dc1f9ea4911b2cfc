"""The command `bahdanau-hf`: translate, score, align, export, convert-tutorial, env.

It uses a checkpoint; text goes in by standard input or files, results come out on standard output,
messages on standard error. Exit status: 0, 2 for a mistake that the user can mend (one line says
which), 130 after Ctrl-C, 141 where the reader of the output has gone.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InputError
from ..version import __version__
from .env import add_env_flags, run_env
from .export import add_export_flags, run_export
from .options import (
    add_dtype,
    add_model,
    add_search,
    load_translator,
    positive,
    search_options,
    standard_output,
)
from .score import add_score_flags, run_score

if TYPE_CHECKING:
    from ..alignment.record import Alignment
    from ..inference.translator import Translation

PROGRAM = "bahdanau-hf"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    args = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], None] = args.run
    try:
        with _plain_messages():
            run(args)
            standard_output().flush()
    except InputError as error:
        print(f"{PROGRAM}: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        _forget_output()
        return 141
    except OSError as error:  # a full disk, say
        print(f"{PROGRAM}: error: {error.strerror or error}", file=sys.stderr)
        _forget_output()
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Use a Bahdanau translation model.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    translate = commands.add_parser(
        "translate",
        help="translate standard input, line by line",
        description="Translate standard input: a line in, a line out. Blank lines stay blank.",
        allow_abbrev=False,
    )
    add_model(translate, required=True)
    add_search(translate)
    translate.add_argument(
        "--n_best",
        type=positive,
        default=1,
        metavar="N",
        help="up to N translations of each line, best first, as 'line number<TAB>translation'",
    )
    translate.add_argument(
        "--scores",
        action="store_true",
        help="put the log-probability and a tab before each translation; with beams, divided by "
        "length ** length_penalty",
    )
    translate.set_defaults(run=_translate)

    score = commands.add_parser(
        "score",
        help="print BLEU and chrF as JSON",
        description="Score a model on a file of pairs, or predictions against references, and "
        "print the result as JSON.",
        allow_abbrev=False,
    )
    add_score_flags(score)
    score.set_defaults(run=run_score)

    align = commands.add_parser(
        "align",
        help="draw where the model looks",
        description="Draw the attention map of a sentence and its translation.",
        allow_abbrev=False,
    )
    add_model(align, required=True)
    align.add_argument("sentence", metavar="SENTENCE", help="the sentence to translate")
    align.add_argument("--target", metavar="TEXT", help="its translation; default: the model's own")
    add_dtype(align)
    align.add_argument(
        "--num_beams", type=positive, metavar="N", help="beams; default: the checkpoint's"
    )
    align.add_argument(
        "--n_best",
        type=positive,
        default=1,
        metavar="N",
        help="up to N translations of its own, best first; with --links as a list",
    )
    align.add_argument(
        "--output",
        metavar="FILE",
        help="map.png, .svg, .html or .txt; default: a table on the terminal",
    )
    align.add_argument(
        "--links",
        action="store_true",
        help="print, as JSON, which word is linked with which and where both stand",
    )
    align.set_defaults(run=_align)

    export = commands.add_parser(
        "export",
        help="write a checkpoint for use without Python and PyTorch",
        description="Write a checkpoint for ONNX Runtime: encoder, decoder step, tokenizer and the "
        "search's settings (extra [onnx]).",
        allow_abbrev=False,
    )
    add_export_flags(export)
    export.set_defaults(run=run_export)

    convert = commands.add_parser(
        "convert-tutorial",
        help="make a checkpoint of the tutorial's weights",
        description="Make a checkpoint of what the tutorial's program has trained: its state "
        "dictionary and its two vocabularies.",
        allow_abbrev=False,
    )
    _add_convert_flags(convert)
    convert.set_defaults(run=_convert_tutorial)

    env = commands.add_parser(
        "env",
        help="print what a bug report needs: versions, processor, settings",
        description="Print versions, processor, devices and settings, without anything private.",
        allow_abbrev=False,
    )
    add_env_flags(env)
    env.set_defaults(run=run_env)
    return parser


def _add_convert_flags(parser: argparse.ArgumentParser) -> None:
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


# --- translate -----------------------------------------------------------------------------------


def _translate(args: argparse.Namespace) -> None:
    from ..inference.translator import WINDOW_BATCHES
    from ..modeling.matmul_bahdanau import fixed_weights

    if sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to translate")
    output, options = standard_output(), search_options(args)
    translator = load_translator(args)
    is_interactive = sys.stdin.isatty()
    if is_interactive:
        print("Type a sentence a line; Ctrl-D ends.", file=sys.stderr)
    one_by_one = is_interactive or args.batch_size == 1
    window = 1 if one_by_one else WINDOW_BATCHES * args.batch_size
    results = translator.stream(
        _lines(sys.stdin.buffer),
        window=window,
        num_return_sequences=args.n_best,
        return_scores=args.scores,
        **options,
    )
    with fixed_weights():
        for number, result in enumerate(results, start=1):
            alternatives: list[Translation] = result if args.n_best > 1 else [result]
            for translation in alternatives:
                fields = [str(number)] if args.n_best > 1 else []
                fields += [f"{translation.score:.4f}"] if args.scores else []
                output.write("\t".join([*fields, translation.text]).encode() + b"\n")
            if number % window == 0:
                output.flush()


def _lines(file: BinaryIO) -> Iterator[str]:
    """Lines of text; only LF ends one, and bytes that are no UTF-8 are replaced."""
    for line in file:
        yield line.decode(errors="replace")


# --- align ---------------------------------------------------------------------------------------


def _align(args: argparse.Namespace) -> None:
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
    if args.output:
        print(f"wrote {save_alignment(alignments[0], args.output)}", file=sys.stderr)
    if args.links:
        links = [a.words.as_dict() for a in alignments if a.words is not None]
        value = links if args.n_best > 1 else links[0]
        text = json.dumps(value, ensure_ascii=False, indent=2) + "\n"
        standard_output().write(text.encode())
    elif not args.output:
        standard_output().write("\n".join(map(alignment_text, alignments)).encode())


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


# --- convert-tutorial ----------------------------------------------------------------------------


def _convert_tutorial(args: argparse.Namespace) -> None:
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


# --- common --------------------------------------------------------------------------------------


def _forget_output() -> None:
    """Let Python, as it ends, write what it still holds to nowhere instead of failing again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


@contextmanager
def _plain_messages() -> Iterator[None]:
    """Show warnings as single lines on standard error, without file names of ours."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter(f"{PROGRAM}: %(message)s"))
    logger = logging.getLogger("bahdanau_hf")
    logger.addHandler(handler)

    def show(message: Warning | str, *_: Any, **__: Any) -> None:
        print(f"{PROGRAM}: {message}", file=sys.stderr)

    try:
        with warnings.catch_warnings():
            warnings.showwarning = show
            yield
    finally:
        logger.removeHandler(handler)
