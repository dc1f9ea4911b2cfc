"""One step of a decoder of several layers."""

import torch
from torch import Tensor


def step(decoder, word: Tensor, states: list[Tensor], source) -> tuple[list[Tensor], Tensor]:
    """Return the layers' new states and the attention weights `(B, S)`.

    Args:
        decoder: the package's decoder, whose `attention` and `layers` are called here.
        word: the embedding of the word before, `(B, E)`.
        states: the layers' states after the word before, bottom to top, each `(B, H)`.
        source: `annotations`, `keys` and `bias`, as `decoder.read` gives them.
    """
    context, weights = decoder.attention(states[-1], source.keys, source.annotations, source.bias)
    x, new_states = torch.cat([context, word], dim=-1), []
    for cell, state in zip(decoder.layers, states, strict=True):
        x = cell(x, state)
        new_states.append(x)
    return new_states, weights
