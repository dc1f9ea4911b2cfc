"""Matrix products, by the faster of the two libraries that PyTorch brings for CPUs.

`torch.nn.functional.linear` hands float32 products on CPUs to MKL, which uses a third of an AMD
core's arithmetic; oneDNN, which PyTorch calls for bfloat16, does them 2 to 2.5 times as fast there
and as fast on Intel's. Both round, each in its own order; nothing else differs. The choice depends
on type and size alone, so a run gives the same bits again.
"""

import functools
from collections.abc import Callable
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

Backward = TypeVar("Backward", bound=Callable[..., Any])

# Multiplications below which the call itself costs more than oneDNN saves.
SMALLEST = 1 << 20


def _onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: a size that is asked for would bind the graph
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[0] * weight.numel() >= SMALLEST
        and torch.backends.mkldnn.is_available()
        and bool(torch.backends.mkldnn.enabled)
    )


def _packed(x: Tensor) -> Tensor:
    """Return x without gaps between rows (or columns): oneDNN is very slow across gaps."""
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b of matrices, outside the graph.

    Args:
        x: `(M, K)`, any strides.
        weight: `(N, K)`, any strides, of x's type.
        bias: `(N,)` or `None`.

    Returns:
        `(M, N)`, in the type of x.
    """
    if _onednn_is_faster(x, weight):
        return torch.ops.mkldnn._linear_pointwise(_packed(x), _packed(weight), bias, "none", [], "")
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def multiply_turned(x: Tensor, y: Tensor) -> Tensor:
    """X^T Y of matrices, outside the graph: how gradients of weights are formed.

    oneDNN writes a turned first operand out before it begins; the narrower one costs less of that,
    even if the result has to be turned back.

    Args:
        x: `(R, M)`.
        y: `(R, N)`, of x's type.

    Returns:
        `(M, N)`, in the type of x; strides are not promised.
    """
    (R, M), N = x.shape, y.shape[1]
    if 2 * N * (R + M) < R * M and _onednn_is_faster(y.t(), x.t()):
        return multiply(y.t(), x.t()).t()
    return multiply(x.t(), y.t())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, `(..., K)` to `(..., N)`, through `multiply` where it pays."""
    rows = x.flatten(0, -2)
    if torch.is_autocast_enabled(x.device.type) or not _onednn_is_faster(rows, weight):
        return F.linear(x, weight, bias)
    return _Linear.apply(rows, weight, bias).unflatten(0, x.shape[:-1])


def outside_autocast(backward: Backward) -> Backward:
    """Let a hand-written `backward` choose its types, even if it is called under autocast."""

    @functools.wraps(backward)
    def wrapped(ctx: Any, *grads: Tensor | None) -> Any:
        with torch.autocast(ctx.saved_tensors[0].device.type, enabled=False):
            return backward(ctx, *grads)

    return cast(Backward, wrapped)


class _Linear(torch.autograd.Function):
    """`multiply` with its gradients."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight, bias)

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            multiply(grad, weight.t()) if needs_x else None,
            multiply_turned(grad, x) if needs_weight else None,
            grad.sum(0) if needs_bias else None,
        )


class Linear(nn.Linear):
    """`torch.nn.Linear` through `linear`."""

    def forward(self, x: Tensor) -> Tensor:
        """`(..., in_features)` to `(..., out_features)`."""
        return linear(x, self.weight, self.bias)
