"""The door to the Triton kernel: what it can take, its call, and the gradients around it.

Dimensions: T steps, B batch, S source, H hidden, A attention, L layers.

`triton_kernels` holds the kernel itself and is imported when it is first asked for: where Triton is
missing, the ordinary loop is taken.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from transformers.utils import logging

from ..modeling.matmul_bahdanau import multiply_turned, outside_autocast
from ..modeling.recurrence_bahdanau import Inputs, Weights, layer_pairs, recur, weight_gradients

logger = logging.get_logger(__name__)

ROWS = 16  # of a batch for each program: the fewest that a matrix unit takes
WIDEST_BYTES = 2048  # of a row of weights; beyond, the compiler takes minutes
LONGEST = 1024  # source
DEEPEST = 4  # layers; the kernel repeats its code for each
SHARED_BYTES = 99 * 1024  # of a multiprocessor; what every GPU since Ampere has
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


def why_not_on_chip(given: Inputs, dtype: torch.dtype) -> str | None:
    """Say what keeps the kernel from a problem; `None` if it can take it.

    Args:
        given: as in `recur`.
        dtype: what products are computed in.
    """
    x, keys = given.x, given.keys
    (L, H), S, A = given.state.shape[1:], 1, 1
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
        from .triton_kernels import INTERPRETED
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
    given: Inputs, recurrent: Weights, inputs: Weights = ()
) -> tuple[Tensor, Tensor | None]:
    """`recur`, in one kernel forth and one back; what the kernel cannot take goes to `recur`."""
    device, dtype = given.x.device.type, recurrent[0][0].dtype
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
    obstacle = why_not_on_chip(given, dtype)
    if obstacle is not None:
        logger.warning_once(f"The Triton kernel is not taken: {obstacle}.")
        return recur(given, recurrent, inputs)
    flat = [tensor for pair in (*recurrent, *inputs) for tensor in pair]
    with torch.autocast(device, enabled=False):
        return _OnChip.apply(dtype, *given, *flat)


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


def _stacked(weights: Weights, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The layers' weights and biases in one tensor each: `(L, 3H, H)` and `(L, 3H)`."""
    return (
        torch.stack([weight.to(dtype) for weight, _ in weights]),
        torch.stack([bias.float() for _, bias in weights]),
    )


class _OnChip(torch.autograd.Function):
    """The kernel as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        from .triton_kernels import forward_kernel

        given = Inputs(*tensors[: len(Inputs._fields)])  # type: ignore[arg-type]
        flat = [tensor for tensor in tensors[len(Inputs._fields) :] if tensor is not None]
        x, state, keys = given.x, given.state, given.keys
        (T, B, _), (L, H) = x.shape, state.shape[1:]
        keep = any(ctx.needs_input_grad)
        pairs = layer_pairs(flat)
        w_hh, b_hh = _stacked(pairs[:L], dtype)
        w_ih, b_ih = _stacked(pairs[L:], dtype) if L > 1 else (None, None)
        w_query = None if given.query is None else given.query.to(dtype).contiguous()
        S, A = (1, 1) if keys is None else keys.shape[1:]
        make = state.new_empty if state.dtype == torch.float32 else state.float().new_empty
        states = make(T + 1, L, B, H)
        states[0] = state.transpose(0, 1)
        steps = T if keep else 1
        reset_update, new, recurrent_new = (
            make(T, L, B, width) if keep else None for width in (2 * H, H, H)
        )
        query = None if keys is None else make(steps, B, A)
        alpha = None if keys is None else make(T, B, S)
        # Without gaps: the kernel counts places itself.
        given = Inputs(*(None if y is None else y.contiguous() for y in given))  # type: ignore[arg-type]
        source = (given.keys, given.gates, given.bias, given.score)
        masks = (given.layer_masks, given.attention_masks)
        columns, stages = _tile(H, L, dtype, x.device) or (16, 1)
        sizes = {
            "BM": ROWS,
            "BA": _power(A),
            "BS": _power(S),
            "L": L,
            "ATTENDS": keys is not None,
            "DROPS": given.layer_masks is not None,
            "DROPS_WEIGHTS": given.attention_masks is not None,
            "PRECISION": _precision(),
            "num_warps": 8,
        }
        with _on(x.device):
            forward_kernel[(-(-B // ROWS),)](
                given.x, states, w_hh, b_hh, w_ih, b_ih, w_query, *source, *masks, given.hold,
                reset_update, new, recurrent_new, query, alpha, T, B, S, H, A, BN=columns,
                BH=_power(H), HOLDS=given.hold is not None, KEEPS=keep, num_stages=stages, **sizes,
            )  # fmt: skip
        if keep:
            ctx.dtypes, ctx.sizes = (dtype, x.dtype, state.dtype), sizes
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(
                states, reset_update, new, recurrent_new, query, alpha, w_hh, w_ih, w_query,
                given.keys, given.gates, given.score, *masks, given.query, *flat,
            )  # fmt: skip
        return states[1:], alpha

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_alpha: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from .triton_kernels import backward_kernel

        states, reset_update, new, recurrent_new, query, alpha = ctx.saved_tensors[:6]
        w_hh, w_ih, w_query, keys, gates, score = ctx.saved_tensors[6:12]
        layer_masks, attention_masks, query_weight, *flat = ctx.saved_tensors[12:]
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

        pairs = layer_pairs(flat)
        grads: list[Tensor] = []
        for layer in range(L):
            previous = states[:-1, layer]
            grads += weight_gradients(drec[:, layer], previous, pairs[layer], dtype)
        for layer in range(1, L):
            below = states[1:, layer - 1]
            if layer_masks is not None:
                below = below * layer_masks[:, layer - 1]
            grads += weight_gradients(dx[:, layer], below, pairs[L + layer - 1], dtype)
        dx, of_keys, of_gates, of_score, of_query = dx[:, 0], None, None, None, None
        if dkeys is not None and dquery is not None and dscore is not None:
            used = alpha if attention_masks is None else alpha * attention_masks
            of_keys = dkeys.to(keys.dtype)
            of_gates = torch.bmm(used.permute(1, 2, 0), dx.transpose(0, 1)).to(gates.dtype)
            of_score = dscore.sum(0).to(score.dtype)
            asked = states[:-1, -1].flatten(0, 1).to(dtype)
            of_query = multiply_turned(dquery.flatten(0, 1).to(dtype), asked)
            of_query = of_query.to(query_weight.dtype)
        of_x, of_state = dx.to(x_dtype), ds.transpose(0, 1).to(state_dtype)
        of = Inputs(of_x, of_state, of_keys, of_gates, None, of_score, of_query)
        return (None, *of, *grads)


def _precision() -> str:
    """How float32 is multiplied: exactly, unless PyTorch was told otherwise."""
    return "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32"


def _on(device: torch.device) -> Any:
    """Make a GPU the current one; Triton asks for no other."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
