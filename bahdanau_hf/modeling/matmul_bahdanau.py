"""Matrix products: through the fastest library there is, with weights laid out, and with the loss.

- `multiply` and `linear` choose between the two libraries that PyTorch brings for CPUs: MKL uses a
  third of an AMD core's arithmetic in float32, oneDNN does the same 2 to 2.5 times as fast there
  and as fast on Intel's. Type and size alone decide, so that a run gives the same bits again.
- `make_product` lays a weight out for all steps of a search. Nothing announces that weights change
  (`_version` misses fused optimizers and `.data`), so `remember` compares their bits at each call.
- `linear_cross_entropy` is output layer and loss in one: the logits of a batch never exist at once.
"""

import functools
import math
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from .processor_bahdanau import multiplies_fast, processor

T = TypeVar("T")
Backward = TypeVar("Backward", bound=Callable[..., Any])
Product = Callable[[Tensor], Tensor]  # (M, K) to (M, N), in at least float32

SMALLEST = 1 << 20  # multiplications below which the call costs more than oneDNN saves
SMALLEST_PACKED = 1 << 16  # numbers of a weight; what is smaller lies in the nearest cache anyhow
ROWS_PER_CHUNK = 512  # of the loss
TINY = 1e-30  # what is smaller in a whole row counts as 0 among 8-bit numbers
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# Beside the modules, not in them: what is laid out can neither be copied nor saved with them.
_REMEMBERED: WeakKeyDictionary[nn.Module, tuple[Hashable, Tensor, Any]] = WeakKeyDictionary()
_TRUSTED: ContextVar[WeakSet[nn.Module] | None] = ContextVar("trusted", default=None)


# --- one product ---------------------------------------------------------------------------------


def product_dtype(device: torch.device, dtype: torch.dtype) -> torch.dtype:
    """The type to multiply in: autocast's, where there is hardware for it, else the weights'."""
    if not torch.is_autocast_enabled(device.type):
        return dtype
    narrow = torch.get_autocast_dtype(device.type)
    return narrow if multiplies_fast(narrow, device) else dtype


def _onednn_is_faster(x: Tensor, weight: Tensor) -> bool:
    return (
        not torch.compiler.is_compiling()  # first: a size that is asked for would bind the graph
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == "cpu"
        and x.shape[0] * weight.numel() >= SMALLEST
        and processor().onednn
        and bool(torch.backends.mkldnn.enabled)
    )


def _without_gaps(x: Tensor) -> Tensor:
    """Return x without gaps between rows (or columns): oneDNN is very slow across gaps."""
    return x if x.is_contiguous() or x.t().is_contiguous() else x.contiguous()


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """X W^T + b, `(M, K)` and `(N, K)` to `(M, N)`, of one type, any strides, outside the graph."""
    if _onednn_is_faster(x, weight):
        x, weight = _without_gaps(x), _without_gaps(weight)
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    if not multiplies_fast(x.dtype, x.device):
        return multiply(x.float(), weight.float(), None if bias is None else bias.float()).to(x)
    return x @ weight.t() if bias is None else torch.addmm(bias, x, weight.t())


def multiply_turned(x: Tensor, y: Tensor) -> Tensor:
    """X^T Y, `(R, M)` and `(R, N)` to `(M, N)` of any strides, outside the graph.

    Gradients of weights are formed so. oneDNN writes a turned first operand out before it begins;
    the narrower one costs less of that, even if the result has to be turned back.
    """
    (R, M), N = x.shape, y.shape[1]
    if 2 * N * (R + M) < R * M and _onednn_is_faster(y.t(), x.t()):
        return multiply(y.t(), x.t()).t()
    return multiply(x.t(), y.t())


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`torch.nn.functional.linear`, `(..., K)` to `(..., N)`, through `multiply` where it pays."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        if multiplies_fast(torch.get_autocast_dtype(device), x.device):
            return F.linear(x, weight, bias)
        with torch.autocast(device, enabled=False):  # nor under it, if it is on in the way back
            rows = x.to(weight.dtype).flatten(0, -2)
            return _Linear.apply(rows, weight, bias).unflatten(0, x.shape[:-1])
    rows = x.flatten(0, -2)
    if not _onednn_is_faster(rows, weight) and multiplies_fast(x.dtype, x.device):
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
        x_grad = multiply(grad, weight.t()) if needs_x else None
        weight_grad = multiply_turned(grad, x) if needs_weight else None
        return x_grad, weight_grad, grad.sum(0) if needs_bias else None


# --- weights that are laid out -------------------------------------------------------------------


def can_pack(device: torch.device) -> bool:
    """Whether weights on a device are laid out: on CPUs, and not while PyTorch records a graph."""
    records = torch.compiler.is_compiling() or torch.jit.is_tracing() or torch.is_grad_enabled()
    return device.type == "cpu" and not records


@contextmanager
def fixed_weights() -> Iterator[None]:
    """Promise that no weight changes inside: each is compared once, not at each call."""
    trusted = _TRUSTED.get()
    token = _TRUSTED.set(WeakSet() if trusted is None else trusted)
    try:
        yield
    finally:
        _TRUSTED.reset(token)


def remember(
    owner: nn.Module, key: Hashable, tensors: Sequence[Tensor], make: Callable[[], T]
) -> T:
    """Return what `make` returned the last time or, if a tensor has changed since, make it anew.

    It is made of the tensors, which are on CPUs, and of what the key says. One thing is kept for
    each owner and forgotten with it, so `make` must not hold on to the owner.
    """
    known, trusted = _REMEMBERED.get(owner), _TRUSTED.get()
    if known is not None and known[0] == key and trusted is not None and owner in trusted:
        return known[2]
    contents = _contents(tensors)
    if known is None or known[0] != key or not torch.equal(known[1], contents):
        known = _REMEMBERED[owner] = (key, contents, make())
    if trusted is not None:
        trusted.add(owner)
    return known[2]


def _contents(tensors: Sequence[Tensor]) -> Tensor:
    """Whole numbers that change if a tensor does.

    Of a matrix the sums of each row's and of each column's bits, eight bytes at a time, modulo
    2^64: any change of one number shows, and so do exchanged rows or columns; changes of several
    only go unseen if they cancel out to the last bit both ways. Of a vector all its bits.
    """
    numbers = []
    for x in tensors:
        x, bits = x.detach(), _BITS[x.element_size()]
        if x.dim() < 2:
            numbers.append(x.view(bits).flatten().long())
            continue
        x = x.contiguous()
        share = 8 // x.element_size()
        if x.shape[-1] % share == 0 and x.storage_offset() % share == 0:
            bits = torch.int64
        x = x.view(bits)
        numbers += [x.sum(dim=-1).flatten(), x.sum(dim=0).flatten()]
    return torch.cat(numbers)


def make_product(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    pack: bool = False,
    int8: bool = False,
    within_one: bool = False,
) -> Product:
    """Lay out a weight `(N, K)` and a bias `(N,)` for many products `x W^T + b`.

    They are made in `dtype`, or, with `int8`, in 8 bits, to which the weight and x are rounded row
    by row; `within_one` says that no number of any x is above 1 or below -1, so that its rows need
    no scale. `pack` orders the weight for this processor, where that pays.
    """
    weight, bias = weight.detach(), None if bias is None else bias.detach()
    if int8:
        return Int8Product(weight, bias, within_one)
    weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    can = {torch.float32: processor().packing, torch.bfloat16: processor().bfloat16_packing}
    if pack and can.get(dtype, False) and weight.numel() >= SMALLEST_PACKED:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 64)  # rows, or any
        call = torch.ops.mkldnn._linear_pointwise
        return lambda x: call(x.to(dtype).contiguous(), packed, bias, "none", [], "").float()
    if pack and not multiplies_fast(dtype, weight.device):  # widened once, not at every step
        return make_product(weight, bias, torch.float32, pack)
    weight = weight.contiguous()  # a part of a wider matrix would be copied out for every product
    wide = torch.promote_types(dtype, torch.float32)
    return lambda x: multiply(x.to(dtype), weight, bias).to(wide)


class Int8Product:
    """A product of 8-bit numbers, summed exactly: a row of x has the same result in any company."""

    def __init__(self, weight: Tensor, bias: Tensor | None, within_one: bool):
        weight = weight.float()
        scales = weight.abs().amax(dim=1).clamp_(min=TINY) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():  # where this is gone, `processor().int8` says so
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            rounded = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self.within_one = within_one
        self.bias = None if bias is None else bias.float()
        inside = self.bias if within_one else None
        engine, torch.backends.quantized.engine = torch.backends.quantized.engine, "fbgemm"
        try:
            self._packed = torch.ops.quantized.linear_prepack(rounded, inside)
        finally:
            torch.backends.quantized.engine = engine
        # Without VNNI the library adds two products in 16 bits: one bit less keeps them exact.
        self.largest = 127 if processor().vnni else 63

    def __call__(self, x: Tensor) -> Tensor:
        """`(M, K)` to float32 `(M, N)`."""
        x = x.float()
        if self.within_one:
            return self._multiply(x)
        scale = x.abs().amax(dim=1, keepdim=True).clamp_(min=TINY)
        y = self._multiply(x / scale)
        return y.mul_(scale) if self.bias is None else torch.addcmul(self.bias, y, scale, out=y)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, 1 / self.largest, self.largest + 1, self._packed
        )


# --- the output layer and its loss ---------------------------------------------------------------


@torch.compiler.disable
def linear_cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    labels: Tensor,
    label_smoothing: float = 0.0,
    real: Tensor | None = None,
) -> Tensor:
    """Sum the cross-entropy of `softmax(hidden W^T + b)` against N labels, `(N,)` in [0, V).

    `hidden` is what the output layer, `(V, D)` and `(V,)`, reads at real target tokens, `(N, D)`;
    `label_smoothing`, in [0, 1), is the share of probability spread evenly over all V words. With
    `real`, bool `(N,)`, the others count nothing, whatever their labels are.

    The rows are taken in chunks, and the gradients of the logits are formed as soon as these are
    there. Under autocast the products run in the lower precision, the rest in float32.
    """
    dtype = product_dtype(hidden.device, weight.dtype)
    with torch.autocast(hidden.device.type, enabled=False):  # the products know their type
        how = (label_smoothing, dtype, real)
        return _LinearCrossEntropy.apply(hidden, weight, bias, labels, *how)


class _LinearCrossEntropy(torch.autograd.Function):
    """`linear_cross_entropy` as one node of the graph; gradients are made in the forward pass."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, *how: Any
    ) -> Tensor:
        label_smoothing, dtype, real = how
        wide = torch.promote_types(dtype, torch.float32)
        needs = any(ctx.needs_input_grad[:3])
        w, b = weight.to(dtype), None if bias is None else bias.to(dtype)
        uniform = label_smoothing / weight.shape[0]
        total = hidden.new_zeros((), dtype=wide)
        hidden_grad = torch.empty_like(hidden)
        bias_grad = torch.zeros(weight.shape[0], dtype=wide, device=weight.device)
        weight_grad = None
        num_chunks = max(1, math.ceil(hidden.shape[0] / ROWS_PER_CHUNK))
        rows: tuple = (hidden, labels, hidden_grad)
        if real is not None:
            rows = (hidden, labels.masked_fill(~real, 0), hidden_grad, real[:, None].to(wide))
        # Even ones: a small rest costs nearly as much as a whole chunk.
        for h, y, dh, *counts in zip(*(x.chunk(num_chunks) for x in rows), strict=True):
            h, y = h.to(dtype), y.unsqueeze(1)
            z = multiply(h, w, b)  # (rows, V)
            p = z.softmax(dim=1, dtype=wide)
            # log sum_j e^z_j = max z - log max p, where p is no smaller than 1 / V: a second
            # exponential of all logits, which is what takes the time here, is not needed.
            own = z.amax(dim=1, keepdim=True) - p.amax(dim=1, keepdim=True).log()
            chosen, every = z.gather(1, y), z
            if counts:
                own, chosen, every = (x * counts[0] for x in (own, chosen, every))
            total += own.sum()
            total -= (1 - label_smoothing) * chosen.sum(dtype=wide)
            if label_smoothing:
                total -= uniform * every.sum(dtype=wide)
            if not needs:
                continue
            # d loss / d z = softmax(z) - target distribution, in place of p
            if label_smoothing:
                p.sub_(uniform)
            p.scatter_add_(1, y, p.new_full(y.shape, label_smoothing - 1))
            if counts:
                p.mul_(counts[0])
            bias_grad += p.sum(dim=0)
            dz = p.to(dtype)
            dh.copy_(multiply(dz, w.t()))
            product = multiply_turned(dz, h)
            # A single chunk's stays as it is: to widen it and to add takes as long as the softmax.
            weight_grad = product if weight_grad is None else weight_grad.to(wide).add_(product)
        if needs:
            ctx.save_for_backward(hidden_grad, weight_grad, bias_grad)
        ctx.dtypes = weight.dtype, None if bias is None else bias.dtype
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        hidden_grad, weight_grad, bias_grad = ctx.saved_tensors
        weight_dtype, bias_dtype = ctx.dtypes
        hidden_grad = hidden_grad * grad.to(hidden_grad.dtype)
        weight_grad = weight_grad.to(weight_dtype, copy=True).mul_(grad)
        bias_grad = None if bias_dtype is None else (bias_grad * grad).to(bias_dtype)
        return hidden_grad, weight_grad, bias_grad, None, None, None, None
