"""What the commands share: flags, loading the model, reading and writing lines."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO

from ..errors import InputError
from ..files import text_lines

if TYPE_CHECKING:
    from ..inference.translator import Translator
    from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration

CHECKPOINT = {
    "--model DIR": "folder or Hub repository of a checkpoint",
    "--revision REVISION": "branch, tag or commit of the repository",
}
MODEL = CHECKPOINT | {"--device DEVICE": "cpu, cuda, cuda:1, ...; default: the GPU, if any"}
DTYPE = {
    "--dtype {auto,float32,bfloat16,float16,int8}": "number format to compute in; auto: bfloat16 "
    "where the hardware has it, else float32; int8: fastest on CPUs; default: as saved",
}
NUM_BEAMS = {"--num_beams N": "beams; default: the checkpoint's"}
TRANSLATING = {
    "--ensemble DIR ...": "further checkpoints with the same tokenizer, decoded together with "
    "--model",
    "--batch_size N=64": "sentences per batch (default: 64); 1: answer each line before reading "
    "the next",
    **NUM_BEAMS,
    "--max_new_tokens N": "maximum tokens of a translation",
    "--length_penalty X": "beam search: above 1 prefers longer output",
    "--replace_unknown [FILE]": "replace an unknown word by the source word with the most "
    "attention, or by its entry in FILE: lines of 'source word<TAB>target word'",
    "--glossary FILE": "words whose translation is given: lines of 'source term<TAB>translation', "
    "or of a term alone that is copied",
    **DTYPE,
    "--encoding NAME": "encoding of the text; default: utf-8",
}


def add_flags(
    parser: argparse.ArgumentParser, flags: Mapping[str, str], required: Collection[str]
) -> None:
    """Add flags and arguments, each as a usage line writes it, with its help.

    `--name` alone is a switch, `--name VALUE` takes a value, `--name VALUE ...` several, `--name
    [VALUE]` one or none, `--name VALUE=1` has a default. `{a,b}` are choices, N is a whole number
    of at least 1, X any number.
    """
    kinds: dict[str, Callable[[str], Any]] = {"N": positive, "X": float, "PORT": int}
    for usage, text in flags.items():
        name, _, value = usage.partition(" ")
        options: dict[str, Any] = {"required": True} if name in required else {}
        if not value:
            parser.add_argument(name, action="store_true", help=text)
            continue
        if value.startswith("["):
            options |= {"nargs": "?", "const": True}
        elif value.endswith("..."):
            options["nargs"] = "+"
        word, _, default = value.strip("[]. ").partition("=")
        if word.startswith("{"):
            options["choices"] = word.strip("{}").split(",")
        else:
            options |= {"metavar": word, "type": kinds.get(word)}
        parser.add_argument(name, default=default or None, help=text, **options)


def positive(text: str) -> int:
    """Read a whole number of at least 1."""
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, not {text!r}")
    return value


def without_progress_bar() -> None:
    """Let transformers load and save weights in silence."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()


def load_checkpoint(args: argparse.Namespace) -> BahdanauForConditionalGeneration:
    """Load the model that the flags name."""
    from ..inference.loading import load_model

    without_progress_bar()
    return load_model(args.model, args.revision)


def load_translator(args: argparse.Namespace) -> Translator:
    """Load the model that the flags name, to translate."""
    from ..inference.translator import Translator

    without_progress_bar()
    given = {name: getattr(args, name, None) for name in ("batch_size", "dtype", "ensemble")}
    options = {name: value for name, value in given.items() if value}
    return Translator.from_pretrained(args.model, args.revision, args.device, **options)


def search_options(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags `TRANSLATING` say of the search, as arguments of `Translator.translate`."""
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


def print_json(value: Any) -> None:
    """Print a value to standard output."""
    standard_output().write(json.dumps(value, ensure_ascii=False, indent=2).encode() + b"\n")


def read_dictionary(name: str) -> dict[str, str]:
    """Read lines of a source word, a tab and a target word; of a word's entries the first counts.

    Raises:
        InputError: as `text_lines`; or a line that is not made so.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(text_lines(name), start=1):
        word, tab, translation = line.partition("\t")
        if not tab or "\t" in translation or not word.strip():
            raise InputError(
                f"{name}:{number}: not a source word, one tab and a target word: {line!r:.60}"
            )
        entries.setdefault(word.strip(), translation.strip())
    return entries
