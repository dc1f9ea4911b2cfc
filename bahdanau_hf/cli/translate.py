"""Translate standard input, lines of a file, or a document of which all but its text is kept.

A line in gives a line out; with `--text`, sentence by sentence.
"""

from __future__ import annotations

import argparse
import codecs
import sys
from contextlib import ExitStack
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import InputError
from ..files import checked_encoding, read_text, text_lines, writing_whole
from .options import MODEL, TRANSLATING, load_translator, search_options, standard_output

if TYPE_CHECKING:
    from ..inference.translator import Translation


FLAGS = {
    **MODEL,
    "file [FILE=-]": "plain text (.txt), or a document of which all but its text is kept: .srt, "
    ".vtt, .po, .json, .md, .html; default: standard input, plain text",
    "--output FILE": "default: standard output",
    **TRANSLATING,
    "--text": "the input is running text: split its lines into sentences, and too long sentences "
    "at clauses; line breaks stay",
    "--n_best N=1": "print up to N translations per line, best first: 'line "
    "number<TAB>translation'",
    "--scores": "print the log-probability per token and a tab before each translation",
    "--log_probs": "print the log-probability, summed over tokens, and a tab before each "
    "translation",
    "--confidence": "print the confidence, 0 to 1, and a tab before each translation: the share of "
    "its words that a reference is expected to have too",
}
REQUIRED = ["--model"]


def run(args: argparse.Namespace) -> None:
    """Translate line by line, or a whole document."""
    from ..documents.formats import is_document, translate_document
    from ..documents.placing import translate_marked
    from ..inference.translator import WINDOW_BATCHES
    from ..modeling.matmul_bahdanau import fixed_weights

    document = is_document(args.file)
    asked = {"--n_best": args.n_best > 1, "--scores": args.scores, "--log_probs": args.log_probs}
    asked["--confidence"] = args.confidence
    if (args.text or document) and any(asked.values()):
        flags = " and ".join(name for name, is_asked in asked.items() if is_asked)
        raise InputError(
            f"{args.file if document else '--text'} joins sentences: leave out {flags}"
        )
    if args.file == "-" and sys.stdin is None:
        raise InputError("standard input is closed: there is nothing to translate")
    checked_encoding(args.encoding)
    with ExitStack() as stack:
        output, options = standard_output(), search_options(args)
        content = _document(args.file, args.encoding) if document else ""
        lines = text_lines(args.file, args.encoding, keep_ends=True)
        translator = load_translator(args)
        if args.output:
            output = stack.enter_context(writing_whole(Path(args.output)))
        stack.enter_context(fixed_weights())
        if document:
            translate = partial(translate_marked, translator, **options)
            text = translate_document(args.file, content, translate)
            output.write(text.encode(errors="replace"))
            return
        is_interactive = args.file == "-" and sys.stdin.isatty()
        if is_interactive:
            print("Type a sentence a line; Ctrl-D ends.", file=sys.stderr)
        one_by_one = is_interactive or args.batch_size == 1
        window = 1 if one_by_one else WINDOW_BATCHES * args.batch_size
        if args.text:
            while chunk := "".join(islice(lines, window)):
                output.write(translator.translate_text(chunk, **options).text.encode())
                output.flush()
            return
        results = translator.stream(
            lines,
            window=window,
            num_return_sequences=args.n_best,
            return_scores=args.scores or args.log_probs,
            return_confidence=args.confidence,
            **options,
        )
        num_copied = 0
        for number, result in enumerate(results, start=1):
            alternatives: list[Translation] = result if args.n_best > 1 else [result]
            num_copied += alternatives[0].copied
            for translation in alternatives:
                fields = [str(number)] if args.n_best > 1 else []
                fields += [f"{translation.score:.4f}"] if args.scores else []
                fields += [f"{translation.log_prob:.4f}"] if args.log_probs else []
                fields += [f"{translation.confidence:.2f}"] if args.confidence else []
                output.write("\t".join([*fields, translation.text]).encode() + b"\n")
            if number % window == 0:
                output.flush()
        if num_copied:
            hint = "lines have no word that the model knows, and were copied"
            print(f"bahdanau-hf: {num_copied} of {number} {hint}", file=sys.stderr)


def _document(name: str, encoding: str | None) -> str:
    """The whole of a document, with its byte order mark, which a reader of text would drop."""
    text = read_text(name, encoding)
    with open(name, "rb") as file:
        return "\ufeff" + text if file.read(3) == codecs.BOM_UTF8 else text
