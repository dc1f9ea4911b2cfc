"""Random models with opinions, so that searches have something to find."""

import torch

from bahdanau_hf import BahdanauConfig, BahdanauForConditionalGeneration


def decisive(model: BahdanauForConditionalGeneration) -> BahdanauForConditionalGeneration:
    """Give a random model opinions: outputs differ, and some end early, some late."""
    with torch.no_grad():
        model.lm_head.weight.mul_(3)
        model.lm_head.bias.mul_(3)
        model.lm_head.bias[model.config.eos_token_id or 0] += 1
    return model


def wide_model(seed: int = 0, **changes: object) -> BahdanauForConditionalGeneration:
    """Wide enough for everything that is laid out."""
    torch.manual_seed(seed)
    sizes = {"vocab_size": 701, "embedding_size": 96, "hidden_size": 160, "initializer_range": 2.0}
    return decisive(BahdanauForConditionalGeneration(BahdanauConfig(**sizes | changes)).eval())
