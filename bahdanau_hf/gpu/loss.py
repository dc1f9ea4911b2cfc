"""The output layer and its loss on a CUDA device: logits are read and written once.

It computes what `matmul_bahdanau.linear_cross_entropy` does; softmax, loss and gradient are one
Triton kernel, which puts the gradient of a logit in its place.
"""

from typing import Any

import torch
from torch import Tensor

from ..modeling.matmul_bahdanau import (
    _LinearCrossEntropy,
    multiply,
    product_dtype,
)
from . import kernels

LOGITS_PER_CHUNK = 1 << 22  # that exist at once


def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float = 0.0,
    real: Tensor | None = None,
) -> Tensor:
    """Do what `matmul_bahdanau.linear_cross_entropy` does, whose arguments these are."""
    dtype = product_dtype(hidden.device, weight.dtype)
    with torch.autocast(hidden.device.type, enabled=False):
        return _FusedCrossEntropy.apply(hidden, weight, bias, labels, label_smoothing, dtype, real)


class _FusedCrossEntropy(_LinearCrossEntropy):
    """`linear_cross_entropy` as one node of the graph; gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *how: Any
    ) -> Tensor:
        label_smoothing, dtype, real = how
        wide = torch.promote_types(dtype, torch.float32)
        needs = any(ctx.needs_input_grad[:3])
        h, w = hidden.to(dtype), weight.to(dtype)
        b = None if bias is None else bias.to(dtype)
        total = hidden.new_zeros((), dtype=wide)
        hidden_grad = torch.empty_like(hidden)
        weight_grad, bias_grad = None, weight.new_zeros(len(weight), dtype=wide)
        most = max(1, LOGITS_PER_CHUNK // len(weight))
        for start in range(0, len(h), most):
            rows = slice(start, start + most)
            z = multiply(h[rows], w, b)
            counts = None if real is None else real[rows]
            total += kernels.cross_entropy(
                z, labels[rows], counts, label_smoothing, needs, wide
            ).sum()
            if needs:
                hidden_grad[rows] = z @ w
                product = z.t() @ h[rows]
                weight_grad = product if weight_grad is None else weight_grad.to(wide).add_(product)
                bias_grad += (z.new_ones(1, len(z)) @ z)[0]  # a reduction takes four times as long
        if needs:
            ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total
