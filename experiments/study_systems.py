"""The systems of the study, all of one size: attention, none, and a transformer.

Each is a model, a loss for a batch, and nothing else: data, batches, optimizer, schedule and search
are the same for all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import GenerationConfig, MarianConfig, MarianMTModel, PreTrainedModel
from transformers import PreTrainedTokenizerFast as Tokenizer

from bahdanau_hf.data.batching import IGNORED_LABEL
from bahdanau_hf.data.tokenization import BOS_ID, EOS_ID, PAD_ID, target_vocab_size
from bahdanau_hf.training.arguments import DataArguments, ModelArguments, Settings, TrainArguments
from bahdanau_hf.training.setup import prepare_model

SYSTEMS = ("attention", "no attention", "MarianMT")
MARIAN_LAYERS = 2
_HEAD_SIZES = (8, 16, 24, 32, 40, 48, 64)
_FFN_PER_WIDTH = 4  # the usual shape of a transformer: ffn_dim = 4 * d_model

Batch = dict[str, Tensor]
Loss = Callable[[PreTrainedModel, Batch, float], Tensor]


def make_system(
    name: str,
    seed: int,
    model_args: ModelArguments,
    data_args: DataArguments,
    train_args: TrainArguments,
    tokenizer: Tokenizer,
) -> PreTrainedModel:
    """Make a system with fresh weights.

    Args:
        name: one of `SYSTEMS`.
        seed: of its weights.
        model_args: the shape of the one with attention; the others get as many parameters, and
            MarianMT its `embedding_dropout` for its own dropout.
        data_args: lengths.
        train_args: read for nothing but generation defaults.
        tokenizer: all share it.

    Raises:
        ValueError: an unknown name.
    """
    if name not in SYSTEMS:
        raise ValueError(f"expected one of {', '.join(SYSTEMS)}, received {name!r}")

    def ours(**changes: Any) -> PreTrainedModel:
        shape = dataclasses.replace(model_args, **changes)
        return prepare_model(Settings(shape, data_args, train_args), tokenizer)

    without = {"use_attention": False, "conditional_gru": False}
    with torch.device("meta"):  # sizes alone
        wanted = count(ours(use_attention=True))
        if name == "no attention":
            width = _widest(lambda n: count(ours(**without, hidden_size=n)), wanted, 8)
        elif name == "MarianMT":
            shape = marian_shape(wanted, tokenizer)
    torch.manual_seed(seed)
    if name == "attention":
        return ours(use_attention=True)
    if name == "no attention":
        return ours(**without, hidden_size=width)
    return make_marian(*shape, tokenizer, data_args, model_args.embedding_dropout)


def count(model: PreTrainedModel) -> int:
    """Parameters that are learnt."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def _widest(size: Callable[[int], int], wanted: int, step: int) -> int:
    """The multiple of `step` whose size comes nearest to `wanted`; sizes grow with it."""
    low, high = 1, 2
    while size(high * step) < wanted:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if size(middle * step) < wanted else (low, middle)
    return step * min((low, high), key=lambda n: abs(size(n * step) - wanted))


def marian_shape(wanted: int, tokenizer: Tokenizer) -> tuple[int, int, int]:
    """Width, heads and inner width of the MarianMT of `wanted` parameters.

    Of the widths that are whole heads, the one whose inner width comes nearest to four times it;
    the inner width then makes the number of parameters right.
    """
    shapes = []
    for head in _HEAD_SIZES:
        width, heads = 4 * head, 4
        sizes = [count(make_marian(width, heads, ffn, tokenizer)) for ffn in (8, 16)]
        inner = 8 + 8 * round((wanted - sizes[0]) / (sizes[1] - sizes[0]))
        if inner >= 8:
            shapes.append((abs(inner / width - _FFN_PER_WIDTH), (width, heads, inner)))
    if not shapes:
        raise ValueError(f"no MarianMT over this vocabulary has as few as {wanted} parameters")
    return min(shapes)[1]


def make_marian(
    width: int,
    heads: int,
    inner: int,
    tokenizer: Tokenizer,
    data_args: DataArguments | None = None,
    dropout: float = 0.1,
) -> MarianMTModel:
    """Make MarianMT over our vocabulary; like ours, it ties output layer and embedding."""
    longest = data_args.max_target_length if data_args else 16
    places = max(longest, data_args.max_source_length) + 2 if data_args else 16
    config = MarianConfig(
        vocab_size=len(tokenizer),
        decoder_vocab_size=target_vocab_size(tokenizer),
        share_encoder_decoder_embeddings=False,
        d_model=width,
        encoder_layers=MARIAN_LAYERS,
        decoder_layers=MARIAN_LAYERS,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_position_embeddings=places,
        dropout=dropout,
        activation_function="relu",
        scale_embedding=True,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        forced_eos_token_id=None,
        decoder_start_token_id=BOS_ID,
        encoder_reads_padding=False,  # not Marian's: what pads batches for us asks for it
    )
    model = MarianMTModel(config)
    model.generation_config = GenerationConfig(
        max_new_tokens=longest,
        pad_token_id=PAD_ID,
        bos_token_id=BOS_ID,
        eos_token_id=EOS_ID,
        decoder_start_token_id=BOS_ID,
    )
    return model


def batch_loss(model: PreTrainedModel, batch: Batch, label_smoothing: float) -> Tensor:
    """Mean smoothed cross-entropy of a target token, in the way that is fastest for the model."""
    labels = batch["labels"]
    if not isinstance(model, MarianMTModel):
        return model(**batch, skip_logits=True, label_smoothing=label_smoothing).loss
    starts = labels.new_full((len(labels), 1), BOS_ID)
    words = torch.cat([starts, labels[:, :-1].masked_fill(labels[:, :-1] < 0, PAD_ID)], dim=1)
    logits = model(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        decoder_input_ids=words,
        use_cache=False,
    ).logits
    return F.cross_entropy(
        logits.flatten(0, 1).float(),
        labels.flatten(),
        ignore_index=IGNORED_LABEL,
        label_smoothing=label_smoothing,
    )
