"""Output layer and cross-entropy in one, so that the logits of a batch never exist at once."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .products_bahdanau import multiply, multiply_turned

ROWS_PER_CHUNK = 512


@torch.compiler.disable
def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor,
    labels: Tensor,
    label_smoothing: float = 0.0,
    implementation: str | None = None,
) -> Tensor:
    """Sum the cross-entropy of `softmax(hidden W^T + b)` against the labels.

    The fast way takes the rows in chunks and forms the gradients with respect to the logits as soon
    as it has them. Under autocast the products run in the lower precision, the rest in float32.

    Args:
        hidden: what the output layer reads at the real target tokens, `(N, D)`.
        weight: `(V, D)`.
        bias: `(V,)`.
        labels: `(N,)`, in [0, V).
        label_smoothing: share of probability spread evenly over all V words, in [0, 1).
        implementation: `"reference"`, `"fast"`, or `None` to choose.

    Returns:
        The sum over the N tokens, a scalar.
    """
    if implementation is None:
        implementation = "reference" if torch.compiler.is_exporting() else "fast"
    if implementation == "reference":
        logits = F.linear(hidden, weight, bias)
        dtype = torch.promote_types(logits.dtype, torch.float32)
        return F.cross_entropy(
            logits.to(dtype), labels, reduction="sum", label_smoothing=label_smoothing
        )
    if implementation != "fast":
        raise ValueError(f'implementation must be "reference" or "fast", not {implementation!r}')
    device, dtype = hidden.device.type, weight.dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    return _LinearCrossEntropy.apply(hidden, weight, bias, labels, label_smoothing, dtype)


class _LinearCrossEntropy(torch.autograd.Function):
    """`cross_entropy` as one node of the graph; the gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor,
        labels: Tensor,
        label_smoothing: float,
        dtype: torch.dtype,
    ) -> Tensor:
        wide = torch.promote_types(dtype, torch.float32)
        needs = ctx.needs_input_grad[0] or ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        w, b = weight.to(dtype), bias.to(dtype)
        uniform = label_smoothing / weight.shape[0]
        total = hidden.new_zeros((), dtype=wide)
        hidden_grad = torch.empty_like(hidden)
        bias_grad = torch.zeros(bias.shape, dtype=wide, device=bias.device) if needs else None
        weight_grad = None
        num_chunks = max(1, math.ceil(hidden.shape[0] / ROWS_PER_CHUNK))
        # Even ones: a small rest costs nearly as much as a whole chunk.
        for chunk in zip(
            *(x.chunk(num_chunks) for x in (hidden, labels, hidden_grad)), strict=True
        ):
            h, y = chunk[0].to(dtype), chunk[1].unsqueeze(1)
            z = multiply(h, w, b)  # (rows, V)
            p = z.softmax(dim=1, dtype=wide)
            # log sum_j e^z_j = max z - log max p, where p is no smaller than 1 / V: a second
            # exponential of all logits, which is what takes the time here, is not needed.
            total += (z.amax(dim=1) - p.amax(dim=1).log()).sum()
            total -= (1 - label_smoothing) * z.gather(1, y).sum(dtype=wide)
            if label_smoothing:
                total -= uniform * z.sum(dtype=wide)
            if bias_grad is None:
                continue
            # d loss / d z = softmax(z) - target distribution, in place of p
            if label_smoothing:
                p.sub_(uniform)
            p.scatter_add_(1, y, p.new_full(y.shape, label_smoothing - 1))
            bias_grad += p.sum(dim=0)
            dz = p.to(dtype)
            chunk[2].copy_(multiply(dz, w.t()))
            product = multiply_turned(dz, h)
            # A single chunk's stays as it is: to widen it and to add takes as long as the softmax.
            weight_grad = product if weight_grad is None else weight_grad.to(wide).add_(product)
        if needs:
            ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtypes = weight.dtype, bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        weight_grad = weight_grad.to(weight_dtype, copy=True).mul_(grad)
        return (
            hidden_grad * grad.to(hidden_grad.dtype),
            weight_grad,
            (bias_grad * grad).to(bias_dtype),
            None,
            None,
            None,
        )
