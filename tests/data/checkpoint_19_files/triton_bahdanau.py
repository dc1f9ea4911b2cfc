"""The door to the Triton kernel: what it can take, its call, and the gradients around it.

Dimensions: T steps, B batch, S source, H hidden, A attention, L layers.

`kernels_bahdanau` holds the kernel itself and is imported when it is first asked for: a model loads
without Triton, and does not wait for it.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.utils import logging

from .fused_bahdanau import Weights, recur
from .products_bahdanau import multiply, outside_autocast

logger = logging.get_logger(__name__)

ROWS = 16  # of a batch for each program: the fewest that a matrix unit takes
WIDEST_BYTES = 2048  # of a row of weights; beyond, the compiler takes minutes
LONGEST = 1024  # source
DEEPEST = 4  # layers; the kernel repeats its code for each
SHARED_BYTES = 99 * 1024  # of a multiprocessor; what every GPU since Ampere has
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not_on_chip(
    x: Tensor, state: Tensor, dtype: torch.dtype, keys: Tensor | None
) -> str | None:
    """Say what keeps the kernel from a problem; `None` if it can take it.

    Args:
        x: as in `recur`.
        state: as in `recur`.
        dtype: what products are computed in.
        keys: as in `recur`.
    """
    (L, H), S, A = state.shape[1:], 1, 1
    if keys is not None:
        S, A = keys.shape[1:]
    if dtype not in DTYPES:
        return f"it does not compute in {dtype}"
    widest = WIDEST_BYTES // dtype.itemsize
    if max(H, A) > widest or S > LONGEST or L > DEEPEST:
        return (
            f"in {dtype} it is for widths up to {widest}, sources up to {LONGEST} tokens and "
            f"{DEEPEST} layers"
        )
    if max(x.numel() * L, x.shape[1] * S * max(3 * H, A)) >= 1 << 31:
        return "the batch has more numbers than it can count"
    try:
        from .kernels_bahdanau import INTERPRETED
    except ImportError as error:
        return str(error)
    if INTERPRETED:
        if dtype == torch.bfloat16:
            return "Triton's interpreter does not multiply bfloat16"
    elif x.device.type != "cuda":
        return f"it does not run on {x.device.type}"
    elif _tile(H, L, dtype, x.device) is None:
        return f"weights of width {H} in {dtype} do not fit on the chip"
    return None


@torch.compiler.disable  # as `recur`
def recur_on_chip(
    x: Tensor,
    state: Tensor,
    recurrent: Weights,
    inputs: Weights = (),
    *,
    keys: Tensor | None = None,
    gates: Tensor | None = None,
    bias: Tensor | None = None,
    score: Tensor | None = None,
    layer_masks: Tensor | None = None,
    attention_masks: Tensor | None = None,
    hold: Tensor | None = None,
) -> tuple[Tensor, Tensor | None]:
    """`recur`, in one kernel forth and one back; what the kernel cannot take goes to `recur`."""
    dtype = recurrent[0][0].dtype
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
    obstacle = why_not_on_chip(x, state, dtype, keys)
    if obstacle is not None:
        logger.warning_once(f"The Triton kernel is not taken: {obstacle}.")
        return recur(
            x, state, recurrent, inputs, keys=keys, gates=gates, bias=bias, score=score,
            layer_masks=layer_masks, attention_masks=attention_masks, hold=hold,
        )  # fmt: skip
    flat = [tensor for pair in (*recurrent, *inputs) for tensor in pair]
    with torch.autocast(x.device.type, enabled=False):
        return _OnChip.apply(
            x, state, keys, gates, bias, score, layer_masks, attention_masks, hold, dtype, *flat
        )


def _tile(H: int, L: int, dtype: torch.dtype, device: torch.device) -> tuple[int, int] | None:
    """Columns of weights that a program works on at once, and how many tiles are on their way.

    As many as fit; `None` if none do. The compiler has the last word on what it needs; these are
    bounds on what it was seen to take.
    """
    limit = SHARED_BYTES
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        limit = getattr(properties, "shared_memory_per_block_optin", limit)
    depth = _power(H) * dtype.itemsize
    rows = ROWS * min(L, 2)  # an upper layer multiplies what is below it as well
    for stages, tiles in ((2, 2 if L == 1 else 8), (1, 1)):
        for columns in (64, 32, 16):
            if (tiles * columns + rows) * depth <= limit:
                return columns, stages
    return None


def _power(size: int) -> int:
    """The next power of two, at least what a matrix unit takes."""
    return max(16, 1 << (size - 1).bit_length())


def _packed(weights: Weights, rows: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The layers' first `rows` rows in one tensor each: `(L, rows, H)` and `(L, rows)`."""
    return (
        torch.stack([weight[:rows].to(dtype) for weight, _ in weights]),
        torch.stack([bias[:rows].float() for _, bias in weights]),
    )


def _gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Those of `x W^T + b` over all steps at once; grad `(T, B, out)`, x `(T, B, in)`."""
    rows, x = grad.flatten(0, 1), x.flatten(0, 1)
    product = multiply(rows.to(dtype).t(), x.to(dtype).t())
    return product.to(weight.dtype), rows.sum(0).to(bias.dtype)


class _OnChip(torch.autograd.Function):
    """The kernel as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        state: Tensor,
        keys: Tensor | None,
        gates: Tensor | None,
        bias: Tensor | None,
        score: Tensor | None,
        layer_masks: Tensor | None,
        attention_masks: Tensor | None,
        hold: Tensor | None,
        dtype: torch.dtype,
        *flat: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        from .kernels_bahdanau import forward_kernel

        (T, B, _), (L, H) = x.shape, state.shape[1:]
        keep = any(ctx.needs_input_grad)
        recurrent = tuple(zip(flat[0 : 2 * L : 2], flat[1 : 2 * L : 2], strict=True))
        inputs = tuple(zip(flat[2 * L :: 2], flat[2 * L + 1 :: 2], strict=True))
        w_hh, b_hh = _packed(recurrent, 3 * H, dtype)
        w_ih, b_ih = _packed(inputs, 3 * H, dtype) if inputs else (None, None)
        packed = [w_hh, w_ih, None]  # of the weights, what the way back needs as well
        b_query = None
        S = A = 1
        if keys is not None:
            S, A = keys.shape[1:]
            packed[2] = recurrent[-1][0][3 * H :].to(dtype).contiguous()
            b_query = recurrent[-1][1][3 * H :].contiguous()
        make = state.new_empty if state.dtype == torch.float32 else state.float().new_empty
        states = make(T + 1, L, B, H)
        states[0] = state.transpose(0, 1)
        steps = T if keep else 1
        reset_update, new, recurrent_new = (
            make(T, L, B, width) if keep else None for width in (2 * H, H, H)
        )
        query = None if keys is None else make(steps, B, A)
        alpha = None if keys is None else make(T, B, S)
        source = [None if y is None else y.contiguous() for y in (keys, gates, bias, score)]
        masks = [None if y is None else y.contiguous() for y in (layer_masks, attention_masks)]
        hold = None if hold is None else hold.contiguous()
        columns, stages = _tile(H, L, dtype, x.device) or (16, 1)
        sizes = {
            "BM": ROWS,
            "BA": _power(A),
            "BS": _power(S),
            "L": L,
            "ATTENDS": keys is not None,
            "DROPS": layer_masks is not None,
            "DROPS_WEIGHTS": attention_masks is not None,
            "PRECISION": _precision(),
            "num_warps": 8,
        }
        with _on(x.device):
            forward_kernel[(-(-B // ROWS),)](
                x.contiguous(), states, w_hh, b_hh, w_ih, b_ih, packed[2], b_query, *source, *masks,
                hold, reset_update, new, recurrent_new, query, alpha, T, B, S, H, A,
                BN=columns, BH=_power(H), HOLDS=hold is not None, KEEPS=keep, num_stages=stages,
                **sizes,
            )  # fmt: skip
        if keep:
            ctx.dtypes, ctx.sizes = (dtype, x.dtype, state.dtype), sizes
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(
                states, reset_update, new, recurrent_new, query, alpha, *packed, *source, *masks,
                *flat,
            )  # fmt: skip
        return states[1:], alpha

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_alpha: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from .kernels_bahdanau import backward_kernel

        states, reset_update, new, recurrent_new, query, alpha = ctx.saved_tensors[:6]
        w_hh, w_ih, w_query, keys, gates, _, score = ctx.saved_tensors[6:13]
        layer_masks, attention_masks, *flat = ctx.saved_tensors[13:]
        dtype, x_dtype, state_dtype = ctx.dtypes
        T, L, B, H = new.shape
        S, A = (1, 1) if keys is None else keys.shape[1:]
        programs, make = -(-B // ROWS), states.new_empty
        ds = states.new_zeros(L, B, H)
        dx, drec = make(T, L, B, 3 * H), make(T, L, B, 3 * H)
        dquery = dkeys = dscore = de = None
        if keys is not None:
            dquery, de, dscore = make(T, B, A), make(B, S), make(programs, A)
            dkeys = states.new_zeros(B, S, A)
        grads_of = [None if y is None else y.contiguous() for y in (grad_states, grad_alpha)]
        with _on(states.device):
            backward_kernel[(programs,)](
                states, reset_update, new, recurrent_new, query, alpha, w_hh, w_ih, w_query,
                keys, gates, score, layer_masks, attention_masks, *grads_of,
                ds, dx, drec, dquery, dkeys, dscore, de, T, B, S, H, A,
                BN=64, BK=64, HAS_STATES=grad_states is not None,
                HAS_ALPHA=grad_alpha is not None, num_stages=2, **ctx.sizes,
            )  # fmt: skip

        grads: list[Tensor] = []
        for layer in range(L):
            weight, bias = flat[2 * layer : 2 * layer + 2]
            grad = drec[:, layer]
            if dquery is not None and layer == L - 1:
                grad = torch.cat([grad, dquery], dim=-1)
            grads += _gradients(grad, states[:-1, layer], weight, bias, dtype)
        for layer in range(1, L):
            below = states[1:, layer - 1]
            if layer_masks is not None:
                below = below * layer_masks[:, layer - 1]
            weight, bias = flat[2 * (L + layer - 1) : 2 * (L + layer)]
            grads += _gradients(dx[:, layer], below, weight, bias, dtype)
        dx = dx[:, 0]
        dgates = None
        if dkeys is not None and dscore is not None:
            used = alpha if attention_masks is None else alpha * attention_masks
            dgates = torch.bmm(used.permute(1, 2, 0), dx.transpose(0, 1)).to(gates.dtype)
            dkeys, dscore = dkeys.to(keys.dtype), dscore.sum(0).to(score.dtype)
        return (
            dx.to(x_dtype), ds.transpose(0, 1).to(state_dtype), dkeys, dgates, None, dscore,
            None, None, None, None, *grads,
        )  # fmt: skip


def _precision() -> str:
    """How float32 is multiplied: exactly, unless PyTorch was told otherwise."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _on(device: torch.device) -> Any:
    """Make a GPU the current one; Triton asks for no other."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
