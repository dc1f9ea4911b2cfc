"""Models so small that every number of theirs can be looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration

# Odd and all different, so that two dimensions cannot be mistaken for each other.
TINY = {
    "vocab_size": 13,
    "encoder_vocab_size": 17,
    "embedding_size": 5,
    "hidden_size": 7,
    "attention_hidden_size": 3,
    "dropout": 0.0,
}
# One of every kind of model; the keys are the tests' names.
VARIANTS: dict[str, dict[str, Any]] = {
    "one-way": {"bidirectional_encoder": False},
    "two-way": {},
    "two-way-deep": {"readout": "deep", "readout_size": 9},
    # As in the recipe `base`; sharing the table with the head changes nothing before the head.
    "conditional": {"readout": "deep", "conditional_gru": True, "tie_word_embeddings": True},
    "layers": {"encoder_layers": 2, "decoder_layers": 3, "readout": "deep"},
    "one-way-layers": {
        "bidirectional_encoder": False,
        "encoder_layers": 2,
        "decoder_layers": 2,
    },
    "plain": {"use_attention": False},
    "plain-deep": {"use_attention": False, "readout": "deep", "decoder_layers": 2},
}


def make_config(**changes: Any) -> BahdanauConfig:
    from bahdanau_hf import BahdanauConfig

    return BahdanauConfig(**(TINY | changes))


def make_model(**changes: Any) -> BahdanauForConditionalGeneration:
    """A model with random weights in float64, ready for comparisons."""
    from bahdanau_hf import BahdanauForConditionalGeneration

    return BahdanauForConditionalGeneration(make_config(**changes)).double().eval()
