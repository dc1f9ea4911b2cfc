r"""The tutorial's own program, as its page prints it.

    sed -n '/^    import os/,/^ \{0,3\}[^ ]/s/^    //p' tutorial.md > tutorial.py

It imports a module `dataset` that the page does not print, and `visdom`, which needs a server. It
gets the few things that it uses of both: padding by a rule of one line, and a plot that draws
nothing. What it saves after training, two pickles, is not written.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest import mock

import torch
from torch import Tensor


def load_program(path: Path) -> ModuleType:
    """Import the program.

    Raises:
        SystemExit: that is no Python file, or one that does not define `train_seq2seq`.
    """
    spec = importlib.util.spec_from_file_location("tutorial_program_of_the_page", path)
    if not path.is_file() or spec is None or spec.loader is None:
        raise SystemExit(f"error: {path} is no Python file")
    program = importlib.util.module_from_spec(spec)
    given = {"dataset": _dataset(), "visdom": mock.Mock(), "matplotlib": mock.Mock()}
    given["matplotlib.pyplot"] = given["matplotlib"].pyplot
    with mock.patch.dict(sys.modules, given):
        spec.loader.exec_module(program)
    if not hasattr(program, "train_seq2seq"):
        raise SystemExit(f"error: {path} does not define train_seq2seq")
    return program


class Words:
    """One side's vocabulary, as the program asks for it.

    Args:
        ids: of `<pad>`, `<bos>` and `<eos>`.
        encode: ids of a text's words, without the end.
        decode: words of ids.
    """

    def __init__(self, ids: dict[str, int], encode: Any = None, decode: Any = None):
        self.ids, self.encode, self.to_tokens = ids, encode, decode

    def __getitem__(self, words: str | Sequence[str]) -> int | list[int]:
        return self.ids[words] if isinstance(words, str) else self.encode(" ".join(words))


def build(program: ModuleType, source_size: int, target_size: int, sizes: Sequence[Any]) -> Any:
    """The program's network.

    Args:
        program: what `load_program` returns.
        source_size: source vocabulary.
        target_size: target vocabulary.
        sizes: embedding and hidden size, number of layers, dropout.
    """
    encoder = program.Seq2SeqEncoder(source_size, *sizes)
    decoder = program.Seq2SeqAttentionDecoder(target_size, *sizes)
    return program.EncoderDecoder(encoder, decoder)


def train(
    program: ModuleType,
    network: Any,
    batches: Iterable[tuple[Tensor, ...]],
    learning_rate: float,
    epochs: int,
    target_words: Words,
) -> None:
    """Let the program train its network; it draws initial weights itself.

    Args:
        program: what `load_program` returns.
        network: what `build` returns.
        batches: gives a pass each time it is iterated: source ids `(B, S)`, their number without
            padding `(B,)`, target ids `(B, T)`, their number.
        learning_rate: of Adam.
        epochs: passes.
        target_words: its ids are asked for.
    """
    cpu = torch.device("cpu")
    with mock.patch.object(torch, "save"):
        program.train_seq2seq(network, batches, learning_rate, epochs, target_words, cpu)


def _dataset() -> ModuleType:
    dataset = ModuleType("dataset")

    def truncate_pad(line: list[int], num_steps: int, padding: int) -> list[int]:
        return line[:num_steps] + [padding] * (num_steps - len(line))

    dataset.truncate_pad = truncate_pad  # type: ignore[attr-defined]
    return dataset
