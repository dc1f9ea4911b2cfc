"""Additive attention over sentences of unequal length."""

import torch
from torch import Tensor


def attend(
    query: Tensor, keys: Tensor, annotations: Tensor, mask: Tensor, v: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the context `(B, C)` and the attention weights `(B, S)`.

    Args:
        query: W_a s, `(B, A)`.
        keys: U_a h, `(B, S, A)`.
        annotations: h, `(B, S, C)`.
        mask: True on real tokens, False on padding, `(B, S)`.
        v: v_a, `(A,)`.
    """
    scores = torch.tanh(query.unsqueeze(1) + keys) @ v
    weights = scores.softmax(dim=-1)
    return torch.einsum("bs,bsc->bc", weights, annotations), weights
