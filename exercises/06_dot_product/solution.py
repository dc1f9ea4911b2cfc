"""Additive attention for all steps of a target sentence at once."""

import torch
from torch import Tensor


def attention_scores(queries: Tensor, keys: Tensor, v: Tensor) -> Tensor:
    """Return the scores before the softmax, `(B, T, S)`.

    Args:
        queries: W_a s of every step, `(B, T, A)`.
        keys: U_a h, `(B, S, A)`.
        v: v_a, `(A,)`.
    """
    return torch.tanh(queries.unsqueeze(2) + keys.unsqueeze(1)) @ v
