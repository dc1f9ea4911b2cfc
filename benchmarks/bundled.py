"""The bundled pairs with a tokenizer, and a model of the benchmarks' width for it."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from datasets.utils.logging import disable_progress_bar
from transformers import PreTrainedTokenizerFast

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration, train_tokenizer
from bahdanau_hf.data.preprocessing import load_pairs
from bahdanau_hf.data.tokenization import target_vocab_size
from bahdanau_hf.training.arguments import DataArguments

from .contenders import EMBEDDING_SIZE, HIDDEN_SIZE

VOCAB_SIZE = 4000


class Bundle(NamedTuple):
    """What is made of the bundled pairs."""

    train: Any  # a data set of cleaned pairs
    tokenizer: PreTrainedTokenizerFast

    def sentences(self, count: int) -> list[str]:
        """So many English sentences, from the beginning again after the last one."""
        texts = [pair["en"] for pair in self.train["translation"]]
        return [texts[i % len(texts)] for i in range(count)]


@cache
def load_bundle() -> Bundle:
    """Read the pairs and train a tokenizer."""
    disable_progress_bar()
    train = load_pairs(DataArguments())[0]["train"]
    pairs = list(train["translation"])
    english, chinese = [pair["en"] for pair in pairs], [pair["zh"] for pair in pairs]
    return Bundle(train, train_tokenizer(english, chinese, vocab_size=VOCAB_SIZE))


def make_model(
    tokenizer: PreTrainedTokenizerFast, ends: bool = True
) -> BahdanauForConditionalGeneration:
    """A model with random weights.

    Args:
        tokenizer: it belongs to.
        ends: False: it never says the end token; all outputs are as long as is asked for.
    """
    torch.manual_seed(0)
    config = BahdanauConfig(
        vocab_size=target_vocab_size(tokenizer),
        encoder_vocab_size=len(tokenizer),
        embedding_size=EMBEDDING_SIZE,
        hidden_size=HIDDEN_SIZE,
        bidirectional_encoder=False,
    )
    model = BahdanauForConditionalGeneration(config).eval()
    if not ends:
        with torch.no_grad():
            model.lm_head.bias[config.eos_token_id] = -1e4
    return model
