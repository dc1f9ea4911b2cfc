"""JoeyNMT's recurrent model of the same widths, where it is installed."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE
from .stopwatch import Contender
from .workload import BOS, EOS, PAD, SOURCE_SIZE, TARGET_SIZE, Batch


def is_installed() -> bool:
    """Whether JoeyNMT can be imported."""
    return importlib.util.find_spec("joeynmt") is not None


def make_joey() -> nn.Module:
    """An attentional GRU model without dropout, one layer each side.

    Its encoder reads in both directions, as it must there, with half the width each: annotations
    are as wide as in the other models.
    """
    from joeynmt.model import build_model
    from joeynmt.vocabulary import Vocabulary

    marks = ["<pad>", "<s>", "</s>", "<unk>"]
    special = SimpleNamespace(
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>", sep_token=None,
        pad_id=PAD, bos_id=BOS, eos_id=EOS, unk_id=marks.index("<unk>"), lang_tags=[],
    )  # fmt: skip

    class Words(Vocabulary):
        """Puts the marks where our ids have them."""

        def add_tokens(self, tokens: list[str]) -> None:
            self._itos = list(dict.fromkeys(marks + tokens))
            self._stoi = {token: i for i, token in enumerate(self._itos)}

    def vocabulary(size: int) -> Words:
        return Words([f"w{i}" for i in range(len(marks), size)], special)

    side = {
        "type": "recurrent",
        "rnn_type": "gru",
        "num_layers": 1,
        "embeddings": {"embedding_dim": EMBEDDING_SIZE},
    }
    config = {
        "encoder": side | {"hidden_size": HIDDEN_SIZE // 2, "bidirectional": True},
        "decoder": side | {"hidden_size": HIDDEN_SIZE, "attention": "bahdanau"},
    }
    torch.manual_seed(0)
    logging.getLogger("joeynmt.model").setLevel(logging.WARNING)
    model = build_model(config, vocabulary(SOURCE_SIZE), vocabulary(TARGET_SIZE))
    model.loss_function = ("crossentropy", 0.0)
    return model


def joey_batch(batch: Batch, is_train: bool = True) -> Any:
    """A batch in JoeyNMT's form: longest source first, targets between start and end."""
    from joeynmt.batch import Batch as JoeyBatch

    order = batch.source_lengths.argsort(descending=True)
    labels = batch.labels[order].masked_fill(batch.labels[order] == -100, PAD)
    starts = torch.full((len(labels), 1), BOS)
    return JoeyBatch(
        src=batch.input_ids[order],
        src_length=batch.source_lengths[order],
        src_prompt_mask=None,
        trg=torch.cat([starts, labels], dim=1) if is_train else None,
        trg_prompt_mask=None,
        indices=order,
        device=torch.device("cpu"),
        pad_index=PAD,
        eos_index=EOS,
        is_train=is_train,
    )


class JoeyTraining:
    """Takes a step of training on each of a few batches, as `Training` does."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self.model = make_joey().train()
        self.batches = [joey_batch(batch) for batch in batches]
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=1e-4, fused=True)

    def __call__(self) -> None:
        """Train on all batches once."""
        for batch in self.batches:
            self.optimizer.zero_grad()
            loss = self.model(return_type="loss", **vars(batch))[0] / batch.ntokens
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimizer.step()

    def contender(self) -> Contender:
        """For a race in target tokens."""
        return Contender(self, sum(batch.ntokens for batch in self.batches))


def joey_search(batch: Batch, size: int, beams: int, words: int) -> Contender:
    """Translate a batch, `size` sentences together, into so many words each."""
    from joeynmt.search import search

    model = make_joey().eval()
    pieces = [
        joey_batch(Batch(*(x[start : start + size] for x in batch)), is_train=False)
        for start in range(0, len(batch.input_ids), size)
    ]

    def run() -> None:
        for piece in pieces:
            search(
                model, piece, max_output_length=words, beam_size=beams, beam_alpha=1.0,
                min_output_length=words,
            )  # fmt: skip

    return Contender(run, len(batch.input_ids))
