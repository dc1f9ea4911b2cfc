"""Compiling the kernels of a training while its pairs are still being read.

Triton compiles a kernel when it is first called, about a second each. A thread calls all of them
early, by a model of the same shape with a few words and weights of zero. Nothing random is drawn.
"""

import logging
import threading
from collections.abc import Mapping
from typing import Any

import torch

from ..modeling.configuration_bahdanau import BahdanauConfig
from ..modeling.modeling_bahdanau import BahdanauForConditionalGeneration
from .device import can_run_kernels

logger = logging.getLogger(__name__)

_FEW_WORDS = {"vocab_size": 8, "encoder_vocab_size": 8}
_LENGTH = 8  # source tokens: those of longer sources than 32 are compiled when they come


def compile_ahead(
    shape: Mapping[str, Any] | None,
    device: torch.device,
    autocast: torch.dtype | None,
    guided: bool,
) -> threading.Thread:
    """Start the thread that calls the kernels of training, validation and greedy search.

    `shape` has fields of the configuration; `autocast` is the type of products, if it is narrower
    than the weights; `guided` says whether the loss sees attention weights. Without a shape, and
    where no kernels run, the thread has nothing to do. Join it before the training begins: what
    fails here is left to the training, which then says so.
    """

    def call() -> None:
        try:
            if shape is not None and can_run_kernels(device):
                call_kernels(BahdanauConfig(**_FEW_WORDS, **shape), device, autocast, guided)
        except Exception as error:
            logger.debug("kernels were not compiled ahead: %s", error)

    thread = threading.Thread(target=call, name="compile_ahead", daemon=True)
    thread.start()
    return thread


def call_kernels(
    config: BahdanauConfig, device: torch.device, autocast: torch.dtype | None, guided: bool
) -> None:
    """Take a step without dropout, compute a loss and search."""
    with torch.device("meta"):  # where initial values take no random numbers
        model = BahdanauForConditionalGeneration(config)
    model.to_empty(device=device).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    ids = torch.full((2, _LENGTH), config.unk_token_id or 0, device=device)
    labels = ids[:, :2]
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    with torch.autocast(device.type, autocast, enabled=autocast is not None):
        outputs = model(**given, labels=labels, skip_logits=True, output_attentions=guided)
        loss = outputs.loss
        if guided:
            loss = loss + outputs.cross_attentions[0].sum()
        loss.backward()
        with torch.no_grad():
            model(**given, labels=labels, skip_logits=True)
        model.generate(**given, max_new_tokens=2, pad_token_id=config.pad_token_id)
