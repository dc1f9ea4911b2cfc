"""The models that race: the plain loop, ours with its weights, and a transformer of its size."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from transformers import MarianConfig, MarianMTModel

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration

from .plain_seq2seq import PlainSeq2Seq
from .workload import BOS, EOS, PAD, SOURCE_SIZE, TARGET_SIZE

EMBEDDING_SIZE, HIDDEN_SIZE = 256, 512
MARIAN_LAYERS = 3


def make_plain(
    embedding_size: int = EMBEDDING_SIZE,
    hidden_size: int = HIDDEN_SIZE,
    num_layers: int = 1,
    dropout: float = 0.0,
    target_size: int = TARGET_SIZE,
) -> PlainSeq2Seq:
    """The plain loop's model with random weights."""
    torch.manual_seed(0)
    source_size = max(SOURCE_SIZE, target_size)  # a joint vocabulary is the whole of both
    return PlainSeq2Seq(source_size, target_size, embedding_size, hidden_size, num_layers, dropout)


def make_ours(plain: PlainSeq2Seq, **changes: object) -> BahdanauForConditionalGeneration:
    """Our model with the weights of the plain one: both compute the same.

    Args:
        plain: any sizes.
        **changes: further fields of the configuration. With `encoder_reads_padding=True` the two
            agree on padded batches too, for the plain encoder knows nothing of padding.
    """
    source_size, embedding_size = plain.source_embedding.weight.shape
    config = BahdanauConfig(
        vocab_size=plain.target_embedding.num_embeddings,
        encoder_vocab_size=source_size,
        embedding_size=embedding_size,
        hidden_size=plain.encoder.hidden_size,
        encoder_layers=plain.encoder.num_layers,
        decoder_layers=plain.decoder.num_layers,
        dropout=plain.encoder.dropout,
        attention_dropout=plain.attention_dropout.p,
        bidirectional_encoder=False,
        **changes,
    )
    ours = BahdanauForConditionalGeneration(config)
    ours.generation_config.pad_token_id = PAD
    copy_weights(plain, ours)
    return ours


@torch.no_grad()
def copy_weights(plain: PlainSeq2Seq, ours: BahdanauForConditionalGeneration) -> None:
    """Give ours the weights of the plain model."""
    for theirs, own in counterparts(plain, ours):
        own.copy_(theirs)


@torch.no_grad()
def copy_weights_back(ours: BahdanauForConditionalGeneration, plain: PlainSeq2Seq) -> None:
    """Give the plain model the weights of ours."""
    for theirs, own in counterparts(plain, ours):
        theirs.copy_(own)


def counterparts(
    plain: PlainSeq2Seq, ours: BahdanauForConditionalGeneration
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter of the plain model with the one of ours that does its work: one to one."""
    names = {
        "source_embedding": "model.encoder.embed_tokens",
        "key": "model.decoder.attention.key",
        "query": "model.decoder.attention.query",
        "score": "model.decoder.attention.score",
        "target_embedding": "model.decoder.embed_tokens",
        "output": "lm_head",
    }
    own = dict(ours.named_parameters())
    for name, parameter in plain.named_parameters():
        module, _, leaf = name.rpartition(".")
        if module in names:
            yield parameter, own[f"{names[module]}.{leaf}"]
            continue
        kind, layer = leaf.rsplit("_l", 1)
        if module == "encoder":
            yield parameter, own[f"model.encoder.forward_layers.{layer}.{kind}_l0"]
        else:
            yield parameter, own[f"model.decoder.layers.{layer}.{kind}"]


def make_marian(num_parameters: int, **changes: object) -> MarianMTModel:
    """A MarianMT of as many parameters: 3 + 3 layers of width 256, as wide inside as that takes.

    Args:
        num_parameters: wanted.
        **changes: further fields of the configuration.
    """
    torch.manual_seed(0)

    def build(ffn: int) -> MarianMTModel:
        fields: dict[str, Any] = {
            "vocab_size": SOURCE_SIZE,
            "decoder_vocab_size": TARGET_SIZE,
            "share_encoder_decoder_embeddings": False,
            "d_model": EMBEDDING_SIZE,
            "encoder_layers": MARIAN_LAYERS,
            "decoder_layers": MARIAN_LAYERS,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": ffn,
            "decoder_ffn_dim": ffn,
            "max_position_embeddings": 128,
            "dropout": 0.0,
            "activation_function": "relu",
            "pad_token_id": PAD,
            "bos_token_id": BOS,
            "eos_token_id": EOS,
            "forced_eos_token_id": None,
            "decoder_start_token_id": BOS,
            "scale_embedding": True,
        }
        return MarianMTModel(MarianConfig(**fields | changes))

    smallest, second = (build(ffn).num_parameters() for ffn in (8, 16))
    return build(8 + 8 * max(0, round((num_parameters - smallest) / (second - smallest))))
