"""The loop of GRU layers on a CUDA device: a product and a Triton kernel a transition.

It computes what `recurrence_bahdanau.recur` does, with everything between two products in one
kernel (`kernels`). What is looked at, keys and gates, stays in the type of the products, half the
bytes; states and sums are at least float32. Several groups of rows with weights of their own, such
as the directions of an encoder, take their steps together.

Dimensions as there; G groups, R = G B rows, N = 3H or, with the query, 3H + A.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ..modeling import recurrence_bahdanau as plain
from ..modeling.matmul_bahdanau import linear, outside_autocast, product_dtype
from ..modeling.recurrence_bahdanau import Inputs, Room, Stepper, Weights, join_query, layer_pairs
from . import kernels

Seen = tuple[Any, Any, Any, Any]  # keys, gates, bias and score; all `None` without attention


def recur(given: Inputs, recurrent: Weights, inputs: Weights = ()) -> tuple[Tensor, Tensor | None]:
    """Do what `recurrence_bahdanau.recur` does; it takes over sources longer than the kernels'."""
    if given.keys is not None and given.keys.shape[1] > kernels.LONGEST:
        return plain.recur(given, recurrent, inputs)
    flat = [x.unsqueeze(0) for pair in (*recurrent, *inputs) for x in pair]
    return _run(given, flat)


def _run(given: Inputs, flat: list[Tensor]) -> tuple[Tensor, Tensor | None]:
    dtype = product_dtype(given.x.device, flat[0].dtype)
    with torch.autocast(given.x.device.type, enabled=False):
        states, alpha = _Recurrence.apply(dtype, *given, *flat)
    return states, alpha if given.keys is not None else None


def run_grus(steps: Sequence[Tensor], layers: Sequence[nn.GRU], int8: bool = False) -> list[Tensor]:
    """Run GRU layers from zero states, each over its `(S, B, input)`, to `(S, B, H)` each.

    They are of one size and take their steps together. `int8` is never set on a device.
    """
    B, G, H = steps[0].shape[1], len(layers), layers[0].hidden_size
    weights = [layer.all_weights[0] for layer in layers]
    # (S, G, B, 3H): gates from the input, and the bias of the state's beside its weight.
    pairs = zip(steps, weights, strict=True)
    x = torch.stack([linear(x, w[0], w[2]) for x, w in pairs], dim=1)
    flat = [torch.stack([w[i] for w in weights]) for i in (1, 3)]
    states, _ = _run(Inputs(x.flatten(1, 2), x.new_zeros(G * B, 1, H)), flat)
    return [own.to(x.dtype) for own in states[:, 0].unflatten(1, (G, B)).unbind(1)]


class _Recurrence(torch.autograd.Function):
    """`recur` as one node of the graph; weights `(G, N, H)` and biases `(G, N)` in turn."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        given = Inputs(*tensors[: len(Inputs._fields)])  # type: ignore[arg-type]
        flat = [tensor for tensor in tensors[len(Inputs._fields) :] if tensor is not None]
        keep = any(ctx.needs_input_grad)
        wide = torch.promote_types(dtype, torch.float32)
        (T, R, _), (L, H) = given.x.shape, given.state.shape[1:]
        P = 1 if given.context_bias is None else 2  # transitions a step
        end = P - 1 + L  # of the recurrent weights
        make = partial(torch.empty, device=given.x.device)
        pairs = _joined(flat, end, given.query)
        products = [_product(*pair, dtype) for pair in pairs]
        x = given.x.contiguous()
        looked_at = [x if x is None else x.to(dtype).contiguous() for x in given[2:4]]
        score = given.score
        states = make(P * T + 1, L, R, H, dtype=wide)
        states[0] = given.state.transpose(0, 1)
        narrow = states if wide == dtype else torch.empty_like(states, dtype=dtype)
        if narrow is not states:
            narrow[0] = states[0]
        steps = T if keep else 1
        gate_values = make(P * steps, L, R, 3 * H, dtype=wide) if keep else None
        recs = [make(steps, R, weight.shape[1], dtype=dtype) for weight, _ in pairs[:end]]
        keys, alpha = looked_at[0], None
        if keys is not None:
            alpha = make(T, R, keys.shape[1], dtype=wide)
        masks = [None if m is None else m.contiguous() for m in (*given[7:9], given.hold)]
        layer_masks, attention_masks, hold = masks
        context = None
        if given.context_bias is not None:
            context = given.context_bias.to(x.dtype).expand(R, -1).contiguous()
        for t in range(T):
            kept, i, of_words = t if keep else 0, P * t + P - 1, x[t]
            if context is not None:
                products[0](narrow[i - 1, 0], recs[0][kept])
                kernels.forward_step(
                    *(of_words, recs[0][kept], None, states[i - 1, 0], *(None,) * 5),
                    *(None if hold is None else hold[t], None),
                    None if gate_values is None else gate_values[i - 1, 0],
                    *(states[i, 0], None if narrow is states else narrow[i, 0]),
                )
            for layer, rec in enumerate(recs[P - 1 :]):
                products[P - 1 + layer](narrow[i, layer], rec[kept])
            query = None if keys is None else recs[-1][kept, :, 3 * H :]
            for layer in range(L):
                if layer == 0:
                    x_t = of_words if context is None else context
                    seen = (keys, looked_at[1], given.bias, score)
                    drop = None if attention_masks is None else attention_masks[t]
                else:
                    below = narrow[i + 1, layer - 1]
                    if layer_masks is not None:
                        below = below * layer_masks[t, layer - 1].to(dtype)
                    x_t, seen, drop = products[L + layer - 1](below), (None,) * 4, None
                rec = recs[P - 1 + layer][kept]
                kernels.forward_step(
                    *(x_t, rec, query if layer == 0 else None, states[i, layer]),
                    *(*seen, drop, None if hold is None else hold[t]),
                    alpha[t] if alpha is not None and layer == 0 else None,
                    None if gate_values is None else gate_values[i, layer],
                    states[i + 1, layer],
                    None if narrow is states else narrow[i + 1, layer],
                )
        if keep:
            ctx.dtypes = dtype, given.x.dtype, given.state.dtype
            ctx.set_materialize_grads(False)
            ctx.num_layers, ctx.has_transitions = L, P == 2
            trace = (states, narrow, gate_values, alpha, *looked_at, layer_masks, attention_masks)
            rest = (given.keys, given.gates, score, given.query, given.context_bias)
            ctx.save_for_backward(*trace, *rest, *recs, *flat)
        return states[P::P], alpha

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_alpha: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        L, P = ctx.num_layers, 1 + ctx.has_transitions
        end = P - 1 + L  # of the recurrent weights
        states, narrow, gate_values, alpha, keys, gates, *saved = ctx.saved_tensors
        layer_masks, attention_masks, own_keys, own_gates, score, query, *saved = saved
        context_bias, recs, flat = saved[0], saved[1 : end + 1], saved[end + 1 :]
        dtype, x_dtype, state_dtype = ctx.dtypes
        pairs = _joined(flat, end, query)
        weights = [weight.to(dtype) for weight, _ in pairs]
        N, _, R, _ = gate_values.shape
        T = N // P
        G, H, wide = len(flat[0]), states.shape[-1], states.dtype
        make = partial(torch.empty, device=states.device)
        dx = [make(T, R, 3 * H, dtype=dtype) for _ in range(end)]
        drec = [torch.empty_like(rec) for rec in recs]
        carry = torch.zeros(L, R, H, dtype=wide, device=states.device)
        de = None if alpha is None else torch.empty_like(alpha)
        if grad_states is not None:
            grad_states = grad_states.contiguous()
        if grad_alpha is not None:
            grad_alpha = grad_alpha.contiguous()
        back: list[Tensor | None] = [None] * L
        for t in reversed(range(T)):
            i = P * t + P - 1
            for layer in reversed(range(L)):
                own = P - 1 + layer
                attends: tuple = ()
                if layer == 0 and alpha is not None and de is not None:
                    attends = (
                        *(recs[-1][t, :, 3 * H :], keys, gates, score),
                        None if attention_masks is None else attention_masks[t],
                        alpha[t],
                        None if grad_alpha is None else grad_alpha[t],
                        *(de[t], drec[-1][t, :, 3 * H :]),
                    )
                kernels.backward_step(
                    None if grad_states is None else grad_states[t, layer],
                    *(back[layer], carry[layer], gate_values[i, layer], recs[own][t]),
                    *(states[i, layer], dx[own][t], drec[own][t], *attends),
                )
                if layer > 0:
                    below = _back(dx[layer][t], weights[L + layer - 1])
                    if layer_masks is not None:
                        below = below * layer_masks[t, layer - 1]
                    carry[layer - 1].add_(below)
            back = [_back(drec[own][t], weights[own]) for own in range(P - 1, end)]
            if P == 2:
                kernels.backward_step(
                    *(None, back[0], carry[0], gate_values[i - 1, 0], recs[0][t]),
                    *(states[i - 1, 0], dx[0][t], drec[0][t]),
                )
                back = [_back(drec[0][t], weights[0])]
        for layer in range(L):
            carry[layer].add_(back[layer])  # type: ignore[arg-type]

        below = narrow[1:, :-1]
        if layer_masks is not None:
            below = below * layer_masks.to(dtype)
        by_product = [narrow[:-1:2, 0], narrow[1::2, 0]] if P == 2 else narrow[:-1].unbind(1)
        read = (*by_product, *below.unbind(1))
        grads: list[Tensor] = []  # of the weights, over all steps at once
        for grad, x, (weight, bias) in zip((*drec, *dx[P:]), read, pairs, strict=True):
            grad, x = (_by_group(y, G) for y in (grad, x))  # (G, T B, N) and (G, T B, H)
            grads.append(torch.bmm(grad.transpose(1, 2), x).to(weight.dtype))
            ones = grad.new_ones(G, 1, grad.shape[1])  # a reduction takes longer
            grads.append(torch.bmm(ones, grad)[:, 0].to(bias.dtype))
        of = Inputs(dx[0].to(x_dtype), carry.transpose(0, 1).to(state_dtype))
        if context_bias is not None:
            of_bias = dx[1].sum((0, 1), dtype=wide).to(context_bias.dtype)
            of = of._replace(context_bias=of_bias)
        if alpha is not None and de is not None:
            top = slice(2 * end - 2, 2 * end)
            weight_grad, bias_grad = grads[top]
            grads[top] = weight_grad[:, : 3 * H], bias_grad[:, : 3 * H]
            used = (alpha if attention_masks is None else alpha * attention_masks).to(dtype)
            dkeys, dscore = kernels.backward_of_keys(recs[-1][:, :, 3 * H :], keys, score, de)
            of = of._replace(
                keys=dkeys.to(own_keys.dtype),
                gates=torch.bmm(used.permute(1, 2, 0), dx[P - 1].transpose(0, 1)).to(
                    own_gates.dtype
                ),
                score=dscore.to(score.dtype),
                query=weight_grad[0, 3 * H :].to(query.dtype),
            )
        return (None, *of, *grads)


def _joined(flat: Sequence[Tensor], end: int, query: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """Pairs of `(G, N, H)` and `(G, N)`; the last recurrent one gives the query as well."""
    pairs = layer_pairs(flat)
    if query is not None:
        (weight,), (bias,) = pairs[end - 1]
        weight, bias = join_query([(weight, bias)], query)[0]
        pairs[end - 1] = weight.unsqueeze(0), bias.unsqueeze(0)
    return pairs


def _product(weight: Tensor, bias: Tensor, dtype: torch.dtype) -> Any:
    """`(G B, H)` to `(G B, N)`, in `dtype`, into `out` if it is given."""
    weight, bias = weight.to(dtype), bias.to(dtype)
    if len(weight) == 1:
        turned, row = weight[0].t(), bias[0]
        return lambda x, out=None: torch.addmm(row, x, turned, out=out)
    turned, row = weight.transpose(1, 2), bias.unsqueeze(1)

    def call(x: Tensor, out: Tensor | None = None) -> Tensor:
        G = len(weight)
        if out is not None:
            out = out.unflatten(0, (G, -1))
        return torch.baddbmm(row, x.unflatten(0, (G, -1)), turned, out=out).flatten(0, 1)

    return call


def _back(grad: Tensor, weight: Tensor) -> Tensor:
    """Gradient `(G B, N)` of a product by `(G, N, H)`: that of what it read, `(G B, H)`."""
    if len(weight) == 1:
        return grad @ weight[0]
    return torch.bmm(grad.unflatten(0, (len(weight), -1)), weight).flatten(0, 1)


def _by_group(x: Tensor, G: int) -> Tensor:
    """`(T, G B, N)` as `(G, T B, N)`."""
    return x.unflatten(1, (G, -1)).transpose(0, 1).flatten(1, 2)


class KernelStepper(Stepper):
    """The decoder step of a search: `Stepper`'s, with all between its products in kernels."""

    def __init__(
        self,
        recurrent: Any,
        inputs: Any = (),
        keys: Tensor | None = None,
        gates: Tensor | None = None,
        bias: Tensor | None = None,
        score: Tensor | None = None,
        num_beams: int = 1,
        dtype: torch.dtype = torch.float32,
        narrow: torch.dtype | None = None,
    ):
        self.dtype, self.num_beams = dtype, num_beams
        self.recurrent, self.inputs = recurrent, inputs
        self.attends = keys is not None
        self._seen: Seen = (None, None, None, None)
        if keys is not None and gates is not None:
            keys, gates = (x.to(narrow or dtype).contiguous() for x in (keys, gates))
            self._seen = (keys, gates, bias, score)

    def widen(self, num_beams: int) -> None:
        """Go on with so many rows for each sentence."""
        self.num_beams = num_beams

    def step(self, x: Tensor, states: Any, out: Any, room: Room, *masks: Any) -> Tensor | None:
        """Look with the top state, update the layers; return alpha `(B K, S)`; no dropout."""
        top, H, alpha = len(states) - 1, out[0].shape[1], None
        rec = [product(s) for product, s in zip(self.recurrent, states, strict=True)]
        x = x.contiguous()
        for layer, (s, new_s) in enumerate(zip(states, out, strict=True)):
            seen: Seen = (None, None, None, None)
            query = None
            if layer > 0:
                x = self.inputs[layer - 1](out[layer - 1])
            elif self.attends:
                seen, query = self._seen, rec[top][:, 3 * H :]
                alpha = x.new_empty(len(x), seen[0].shape[1], dtype=self.dtype)
            given = (x, rec[layer], query, s, *seen, None, None, alpha, None, new_s, None)
            kernels.forward_step(*given, self.num_beams)
        return alpha
