"""The command `bahdanau-hf`: a module for each of its commands, imported when it is called.

A module has the command's `FLAGS`, those of them that are `REQUIRED`, and `run`, which raises an
`InputError` where flags do not go together or what they name cannot be used.

Text goes in by standard input or files, results come out on standard output, messages on standard
error. Exit status: 0, 2 for a mistake that the user can mend (one line says which), 130 after
Ctrl-C, 141 where the reader of the output has gone; `train` has more, see `bahdanau_hf.train`.

Nothing here, and nothing that describes flags, imports torch, transformers or datasets: `--help`,
`--version` and a mistyped flag are answered at once.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ..errors import InputError
from ..version import __version__
from .options import add_flags, standard_output

PROGRAM = "bahdanau-hf"
COMMANDS = {
    "train": "train a model from a recipe",
    "train-tokenizer": "train only a tokenizer",
    "translate": "translate lines, running text or documents",
    "score": "print BLEU and chrF as JSON",
    "align": "draw the attention map of a sentence",
    "report": "write a run's report again, or compare two runs",
    "export": "export a checkpoint to ONNX",
    "push": "publish a checkpoint on the Hub",
    "demo": "open a web page to try a checkpoint, or write it as a Space",
    "convert": "convert weights of the d2l tutorial into a checkpoint",
    "env": "print what a bug report needs: versions, processor, settings",
}
_EARLIER_NAMES = {"convert-tutorial": "convert"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    name, *rest = list(sys.argv[1:] if arguments is None else arguments) or [""]
    name = _EARLIER_NAMES.get(name, name)
    if name not in COMMANDS:
        _parser().parse_args([name] if name else [])  # which answers, or complains
    if name == "train":
        from ..train import main as train

        return train(rest)
    command = importlib.import_module(f".{name.replace('-', '_')}", __name__)
    try:
        options = _read_flags(name, command, rest)
        with _plain_messages():
            command.run(options)
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
        prog=PROGRAM, description="Train and use a Bahdanau translation model.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for name, text in COMMANDS.items():
        commands.add_parser(name, help=text)
    return parser


def _read_flags(name: str, command: ModuleType, arguments: list[str]) -> Any:
    """What a command's `run` takes; one that has no flags of its own gets the words as they are."""
    if not hasattr(command, "FLAGS"):
        return arguments
    parser = argparse.ArgumentParser(
        prog=f"{PROGRAM} {name}", description=command.__doc__, allow_abbrev=False
    )
    add_flags(parser, command.FLAGS, getattr(command, "REQUIRED", ()))
    return parser.parse_args(arguments)


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
