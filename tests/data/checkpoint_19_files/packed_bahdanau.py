"""Products with weights that stay: laid out once, for as long as the weights are what they were.

What decoding reads at every step is worth laying out beforehand: packed as oneDNN wants it, or
rounded to 8 bits. Such copies must not outlive a change of the weights, which nothing announces:
`_version` counts neither what a fused optimizer does nor writes through `.data`. So the weights
themselves are looked at, each time: `remember` compares the sums of the bits of every row and
column, which costs little more than reading the weights once.
"""

import warnings
from collections.abc import Callable, Hashable, Sequence
from typing import Any, TypeVar
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .products_bahdanau import multiply

T = TypeVar("T")
Product = Callable[[Tensor], Tensor]  # (M, K) to (M, N), in at least float32

SMALLEST_PACKED = 1 << 16  # numbers; what is smaller lies in the nearest cache in any order
PACKED_FOR = 64  # rows; the layout serves all other numbers of rows as well
TINY = 1e-30  # what is smaller in a whole row counts as 0 among 8-bit numbers
_ENGINE = "fbgemm"  # the one of PyTorch's libraries of 8-bit products that is meant here
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}

# Beside the modules, not in them: what is packed can neither be copied nor saved with them.
_REMEMBERED: WeakKeyDictionary[nn.Module, tuple[Hashable, list[Tensor], Any]] = WeakKeyDictionary()


def can_pack(device: torch.device) -> bool:
    """Whether weights on a device are laid out: on CPUs, and not while PyTorch records a graph."""
    return (
        not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()
        and device.type == "cpu"
        and not torch.is_grad_enabled()
    )


def has_int8() -> bool:
    """Whether PyTorch brings 8-bit products for this processor."""
    return (
        hasattr(torch, "quantize_per_channel")
        and hasattr(torch.ops.quantized, "linear_with_input_q_dq_qweight_dq_output_fp32")
        and _ENGINE in torch.backends.quantized.supported_engines
    )


def remember(
    owner: nn.Module, key: Hashable, tensors: Sequence[Tensor], make: Callable[[], T]
) -> T:
    """Return what `make` returned the last time, or, if a tensor has changed since, makes it anew.

    Args:
        owner: whose it is; forgotten with it. One thing is kept for each owner.
        key: what else it depends on.
        tensors: what it is made of, on CPUs.
        make: makes it; it must not hold on to the owner.
    """
    known = _REMEMBERED.get(owner)
    contents = _contents(tensors)
    if (
        known is None
        or known[0] != key
        or len(known[1]) != len(contents)
        or not all(map(torch.equal, known[1], contents))
    ):
        known = (key, contents, make())
        _REMEMBERED[owner] = known
    return known[2]


def _contents(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Whole numbers that change if a tensor does.

    Of a matrix the sums of each row's and of each column's bits, eight bytes at a time, modulo
    2^64: any change of one number shows, and so do exchanged rows or columns; changes of several
    only go unseen if they cancel out to the last bit both ways. Of a vector all its bits.
    """
    vectors, sums = [], []
    for x in tensors:
        x = x.detach()
        bits = _BITS[x.element_size()]
        if x.dim() < 2:
            vectors.append(x.view(bits).to(torch.int64, copy=True).flatten())
            continue
        x = x.contiguous()
        share = 8 // x.element_size()
        if x.shape[-1] % share == 0 and x.storage_offset() % share == 0:
            bits = torch.int64
        x = x.view(bits)
        sums += [x.sum(dim=-1).flatten(), x.sum(dim=0).flatten()]
    return [torch.cat(numbers) for numbers in (vectors, sums) if numbers]


def make_product(
    weight: Tensor,
    bias: Tensor | None,
    dtype: torch.dtype,
    pack: bool = False,
    int8: bool = False,
    within_one: bool = False,
) -> Product:
    """Lay out a weight for many products `x W^T + b`.

    Args:
        weight: `(N, K)`.
        bias: `(N,)` or `None`.
        dtype: what is multiplied, unless `int8`.
        pack: lay it out for this processor, where that pays.
        int8: round the weight, row by row, and x to 8 bits.
        within_one: no number of any x is above 1 or below -1; otherwise its rows are scaled.
    """
    weight = weight.detach()
    bias = None if bias is None else bias.detach()
    if int8:
        return Int8Product(weight, bias, within_one)
    product = _Product(weight.to(dtype), None if bias is None else bias.to(dtype))
    if pack and dtype in (torch.float32, torch.bfloat16) and weight.numel() >= SMALLEST_PACKED:
        return _PackedProduct(product)
    return product


class _Product:
    """A product with the weight as it is."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        # A part of a wider matrix would be copied out for every product.
        self.weight, self.bias = weight.contiguous(), bias
        self.output_dtype = torch.promote_types(weight.dtype, torch.float32)

    def __call__(self, x: Tensor) -> Tensor:
        y = multiply(x.to(self.weight.dtype), self.weight, self.bias)
        return y.to(self.output_dtype)


class _PackedProduct:
    """A product with the weight in oneDNN's own order."""

    def __init__(self, product: _Product):
        self.dtype, self.bias = product.weight.dtype, product.bias
        self._packed = torch.ops.mkldnn._reorder_linear_weight(product.weight, PACKED_FOR)

    def __call__(self, x: Tensor) -> Tensor:
        x = x.to(self.dtype).contiguous()
        y = torch.ops.mkldnn._linear_pointwise(x, self._packed, self.bias, "none", [], "")
        return y.float()


class Int8Product:
    """A product of 8-bit numbers, summed exactly; x is rounded row by row.

    So a row's result does not depend on the other rows.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, within_one: bool):
        weight = weight.float()
        scales = weight.abs().amax(dim=1).clamp_(min=TINY) / 127
        zeros = torch.zeros(len(weight), dtype=torch.long)
        with warnings.catch_warnings():  # where this is gone, `has_int8` says so
            warnings.filterwarnings("ignore", "torch.quantize_per_tensor", UserWarning)
            rounded = torch.quantize_per_channel(weight, scales.double(), zeros, 0, torch.qint8)
        self.rounded = rounded.dequantize()
        self.within_one = within_one
        self.bias = None if bias is None else bias.float()
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = _ENGINE
        try:
            inside = self.bias if within_one else None
            self._packed = torch.ops.quantized.linear_prepack(rounded, inside)
        finally:
            torch.backends.quantized.engine = engine
        # Without VNNI the library adds two products in 16 bits: one bit less keeps them exact.
        has_vnni = getattr(torch.cpu, "_is_vnni_supported", None)
        self.largest = 127 if has_vnni is not None and has_vnni() else 63

    def __call__(self, x: Tensor) -> Tensor:
        """`(M, K)` to float32 `(M, N)`."""
        x = x.float()
        if self.within_one:
            return self._multiply(x)
        scale = x.abs().amax(dim=1, keepdim=True).clamp_(min=TINY)
        y = self._multiply(x / scale)
        return y * scale if self.bias is None else torch.addcmul(self.bias, y, scale)

    def _multiply(self, x: Tensor) -> Tensor:
        return torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x, 1 / self.largest, self.largest + 1, self._packed
        )
