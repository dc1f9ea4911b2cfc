"""What the commands share: flags, loading the model, reading and writing lines."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InputError

if TYPE_CHECKING:
    from ..inference.translator import Translator


def add_model(
    parser: argparse.ArgumentParser, *, required: bool = True, on_device: bool = True
) -> None:
    """Add the flags that say which model to load and, unless it is not run, on which device."""
    parser.add_argument(
        "--model", required=required, metavar="DIR", help="folder or Hub repository of a checkpoint"
    )
    parser.add_argument("--revision", help="branch, tag or commit of the repository")
    if on_device:
        parser.add_argument("--device", help="cpu, cuda, cuda:1, ...; default: the GPU, if any")


def add_search(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how to search for translations."""
    parser.add_argument(
        "--ensemble",
        nargs="+",
        default=[],
        metavar="DIR",
        help="further checkpoints with the same tokenizer, decoded together with --model",
    )
    parser.add_argument(
        "--batch_size",
        type=positive,
        default=64,
        metavar="N",
        help="sentences per batch (default: 64); 1: answer each line before reading the next",
    )
    parser.add_argument(
        "--num_beams", type=positive, metavar="N", help="beams; default: the checkpoint's"
    )
    parser.add_argument(
        "--max_new_tokens", type=positive, metavar="N", help="maximum tokens of a translation"
    )
    parser.add_argument(
        "--length_penalty",
        type=float,
        metavar="X",
        help="beam search: above 1 prefers longer output",
    )
    parser.add_argument(
        "--replace_unknown",
        nargs="?",
        const=True,
        metavar="FILE",
        help="replace an unknown word by the source word with the most attention, or by its entry "
        "in FILE: lines of 'source word<TAB>target word'",
    )
    parser.add_argument(
        "--glossary",
        metavar="FILE",
        help="words whose translation is given: lines of 'source term<TAB>translation', or of a "
        "term alone that is copied",
    )
    add_dtype(parser)


def add_dtype(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says which number format to compute in."""
    parser.add_argument(
        "--dtype",
        choices=["auto", "float32", "bfloat16", "float16", "int8"],
        help="number format to compute in; auto: bfloat16 where the hardware has it, else float32; "
        "int8: fastest on CPUs; default: as saved",
    )


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def load_translator(args: argparse.Namespace) -> Translator:
    """Load the model that the flags name."""
    from transformers.utils.logging import disable_progress_bar

    from ..inference.translator import Translator

    disable_progress_bar()
    defaults: dict[str, Any] = {"batch_size": 1, "dtype": None, "ensemble": ()}
    options = {name: getattr(args, name, default) for name, default in defaults.items()}
    return Translator.from_pretrained(args.model, args.revision, args.device, **options)


def search_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags of `add_search` say, as arguments of `Translator.translate`."""
    names = ("num_beams", "max_new_tokens", "length_penalty")
    options = {name: getattr(args, name) for name in names}
    given = args.replace_unknown
    replacements = read_dictionary(given) if isinstance(given, str) else bool(given)
    if args.glossary is not None:
        from ..inference.glossary import Glossary

        options["glossary"] = Glossary.from_file(args.glossary)
    return {**options, "replace_unknown": replacements}


def standard_output() -> BinaryIO:
    """Standard output as bytes: UTF-8 and LF whatever the locale."""
    if sys.stdout is None:
        raise InputError("standard output is closed")
    return sys.stdout.buffer


def read_lines(name: str) -> list[str]:
    """Read a text file, or standard input if its name is `-`, to the end.

    Raises:
        InputError: unreadable, or not UTF-8.
    """
    try:
        content = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {name}: {error.strerror}") from None
    lines = []
    # Only LF ends a line: str.splitlines knows many more ends, which may stand inside a sentence.
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            lines.append(line.removesuffix(b"\r").decode())
        except UnicodeDecodeError as error:
            raise InputError(
                f"{name}:{number}: not UTF-8 (byte 0x{line[error.start]:02x}); "
                "convert the file to UTF-8"
            ) from None
    return lines if content else []


def read_dictionary(name: str) -> dict[str, str]:
    """Read lines of a source word, a tab and a target word; of a word's entries the first counts.

    Raises:
        InputError: as `read_lines`; or a line that is not made so.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(read_lines(name), start=1):
        word, tab, translation = line.partition("\t")
        if not tab or "\t" in translation or not word.strip():
            raise InputError(
                f"{name}:{number}: not a source word, one tab and a target word: {line!r:.60}"
            )
        entries.setdefault(word.strip(), translation.strip())
    return entries
