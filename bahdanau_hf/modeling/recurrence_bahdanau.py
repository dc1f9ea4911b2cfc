"""The fast loop of GRU layers, with or without attention, and its hand-written backward pass.

It computes what the modules of `modeling_bahdanau` say in their `forward`, for known inputs
(training, scoring) and, a step at a time, for the searches. Dimensions: T steps, B batch, K beams
of a sentence, S source, H hidden, A attention, L layers.

What does not depend on the state is taken out of the loop. The context's way into the first layer's
gates is linear: the weights are applied to each annotation once (`gates`), and the weighted sum is
taken of the results. Query and top layer's gates are one product of the same state. Nothing of size
S * A is kept for a step, weight gradients are one product after the loop, and tanh is
2 * sigmoid(2x) - 1, ten times faster on CPUs. The products alone run in lower precision.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .matmul_bahdanau import (
    Product,
    can_pack,
    linear,
    make_product,
    multiply,
    multiply_turned,
    outside_autocast,
    product_dtype,
    remember,
)

Weights = Sequence[tuple[Tensor, Tensor]]  # (weight, bias) of each layer


class Inputs(NamedTuple):
    """What the loop runs over; `keys` and the four after it are `None` without attention."""

    x: Tensor  # (T, B, 3H), the first layer's gates from the words, bias added
    state: Tensor  # (B, L, H), states before the first step
    keys: Tensor | None = None  # (B, S, A), projected annotations
    gates: Tensor | None = None  # (B, S, 3H), annotations through the first layer's weights
    bias: Tensor | None = None  # (B, S), 0 on real tokens, hugely negative elsewhere
    score: Tensor | None = None  # (A,), the vector v_a
    query: Tensor | None = None  # (A, H), W_a
    layer_masks: Tensor | None = None  # (T, L - 1, B, H), dropout between layers
    attention_masks: Tensor | None = None  # (T, B, S), dropout on the attention weights
    hold: Tensor | None = None  # (T, B), added to the update gates before their sigmoid
    # (3H,): with it, of two transitions the first one reads x alone, and the second the context.
    context_bias: Tensor | None = None


class Room(NamedTuple):
    """Where a step writes what it computes on the way; the last two if they are wanted."""

    reset_update: Sequence[Tensor] | Tensor  # of each layer (B, 2H), the gates' values
    new: Sequence[Tensor] | Tensor  # of each layer (B, H)
    recurrent_new: Tensor | None = None  # (L, B, H), U s + b of the new gate, not yet reset
    query: Tensor | None = None  # (B, A)


class Stepper:
    """The decoder step: training takes it, and so do the searches, on a CPU as on a GPU.

    In a search `num_beams` rows of a batch look at one sentence: its keys and gates are not copied.
    """

    def __init__(
        self,
        recurrent: Sequence[Product],  # each layer's H to 3H; with attention the top's to 3H + A
        inputs: Sequence[Product] = (),  # H to 3H, with the state below, of all but the first
        keys: Tensor | None = None,  # (B, S, A); it and the next three: `None` without attention
        gates: Tensor | None = None,  # (B, S, 3H)
        bias: Tensor | None = None,  # (B, S)
        score: Tensor | None = None,  # (A,)
        num_beams: int = 1,  # K, rows for each sentence
        dtype: torch.dtype = torch.float32,  # of everything but the products
    ):
        self.dtype, self.num_beams = dtype, num_beams
        self.recurrent, self.inputs = recurrent, inputs
        self.attends = keys is not None
        if keys is not None and gates is not None and bias is not None and score is not None:
            self._double_keys, self._double_score = 2 * keys.to(dtype), 2 * score.to(dtype)
            self._gates, self._bias = gates.to(dtype), bias.to(dtype)
            self._make_room()

    def _make_room(self) -> None:
        B, S, A = self._double_keys.shape
        self._features = self._double_keys.new_empty(B, self.num_beams, S, A)

    def widen(self, num_beams: int) -> None:
        """Go on with so many rows for each sentence."""
        self.num_beams = num_beams
        if self.attends:
            self._make_room()

    def keep_sentences(self, kept: Tensor) -> None:
        """Go on with the given sentences alone."""
        if self.attends:
            parts = (self._double_keys, self._gates, self._bias)
            self._double_keys, self._gates, self._bias = (x.index_select(0, kept) for x in parts)
            self._make_room()

    def step(
        self,
        x: Tensor,  # (B K, 3H), the first layer's gates from the word
        states: Sequence[Tensor],  # of each layer (B K, H)
        out: Sequence[Tensor],  # where the new ones go; `states` itself will do
        room: Room,
        layer_masks: Tensor | None = None,  # (L - 1, B, H), dropout factors
        attention_mask: Tensor | None = None,  # (B, S), dropout factors
        hold: Tensor | None = None,  # (B,), added to the update gates before their sigmoid
    ) -> Tensor | None:
        """Look with the top state, update the layers; return alpha `(B K, S)` before dropout."""
        top, H, alpha = len(states) - 1, out[0].shape[1], None
        from_top = self.recurrent[top](states[top])
        if self.attends:
            query = from_top[:, 3 * H :]
            alpha = self.attend(query)
            used = alpha if attention_mask is None else alpha * attention_mask
            (B, S, D), K = self._gates.shape, self.num_beams
            x = torch.baddbmm(x.view(B, K, D), used.view(B, K, S), self._gates).view(-1, D)
            if room.query is not None:
                room.query.copy_(query)
        for layer, (s, new_s) in enumerate(zip(states, out, strict=True)):
            if layer > 0:
                below = out[layer - 1]
                if layer_masks is not None:
                    below = below * layer_masks[layer - 1]
                x = self.inputs[layer - 1](below)
            rec = from_top if layer == top else self.recurrent[layer](s)
            update_state(x, rec, s, hold, room.reset_update[layer], room.new[layer], new_s)
            if room.recurrent_new is not None:
                room.recurrent_new[layer].copy_(rec[:, 2 * H : 3 * H])
        return alpha

    def attend(self, query: Tensor) -> Tensor:
        """Attention weights `(B K, S)` of the queries `(B K, A)`; see `BahdanauAttention`."""
        B, K, S, A = self._features.shape
        # tanh(k + q) = 2 sigmoid(2k + 2q) - 1; the softmax does not see the -1.
        query = query.reshape(B, K, 1, A)
        torch.add(self._double_keys.unsqueeze(1), query, alpha=2, out=self._features).sigmoid_()
        scores = torch.mv(self._features.view(-1, A), self._double_score).view(B, K, S)
        return (scores + self._bias.unsqueeze(1)).softmax(dim=-1).view(B * K, S)


def update_state(
    x: Tensor,  # (B, 3H), gates from the input
    rec: Tensor,  # at least (B, 3H), gates from the state
    s: Tensor,  # (B, H), state
    hold: Tensor | None,  # (B,), added to the update gate before its sigmoid
    rz: Tensor,  # (B, 2H), where the reset and update gates go
    n: Tensor,  # (B, H), where the new gate goes
    out: Tensor,  # (B, H), where the new state goes; `s` itself will do
) -> None:
    """Write a GRU layer's new state into `out`; see `BahdanauGRUCell` for the equations."""
    H = s.shape[1]
    torch.add(x[:, : 2 * H], rec[:, : 2 * H], out=rz)
    if hold is not None:
        rz[:, H:] += hold.unsqueeze(-1)
    rz.sigmoid_()
    torch.addcmul(x[:, 2 * H :], rz[:, :H], rec[:, 2 * H : 3 * H], out=n)
    n.mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh
    torch.lerp(n, s, rz[:, H:], out=out)


@torch.compiler.disable  # a compiler would unroll the steps; it compiles what is around them
def recur(given: Inputs, recurrent: Weights, inputs: Weights = ()) -> tuple[Tensor, Tensor | None]:
    """Run T steps of L GRU layers, the first fed by `x` and by what the attention finds.

    `recurrent` are each layer's `weight_hh` and `bias_hh`, `(3H, H)` and `(3H,)`, of a conditional
    GRU those of both transitions; `inputs` are `weight_ih` and `bias_ih`, of the same shapes, of
    every layer but the first.

    Returned are states `(T, L, B, H)` and attention weights before dropout, `(T, B, S)`.
    """
    dtype = product_dtype(given.x.device, recurrent[0][0].dtype)
    flat = [tensor for pair in (*recurrent, *inputs) for tensor in pair]
    # Autocast would narrow the products with the annotations too, and cast these at every step.
    with torch.autocast(given.x.device.type, enabled=False):
        states, alpha = _Recurrence.apply(dtype, *given, *flat)
    return states, alpha if given.keys is not None else None


def join_query(recurrent: Weights, query: Tensor | None) -> list[tuple[Tensor, Tensor]]:
    """The layers' pairs; the top one gives the query as well: `(3H + A, H)` and `(3H + A,)`."""
    if query is None:
        return list(recurrent)
    weight, bias = recurrent[-1]
    no_bias = bias.new_zeros(query.shape[0])
    top = torch.cat([weight, query.to(weight)]), torch.cat([bias, no_bias])
    return [*recurrent[:-1], top]


def layer_pairs(flat: Sequence[Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Weights and biases in turn, as pairs."""
    return list(zip(flat[::2], flat[1::2], strict=True))


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass; the last two with attention.

    N are the transitions: T, or 2T of a conditional GRU, whose words and contexts take turns.
    """

    states: Tensor  # (N + 1, L, B, H), the start state first
    reset_update: Tensor  # (N, L, B, 2H), the gates' values
    new: Tensor  # (N, L, B, H)
    recurrent_new: Tensor  # (N, L, B, H)
    query: Tensor | None = None  # (T, B, A)
    alpha: Tensor | None = None  # (T, B, S)


class _Recurrence(torch.autograd.Function):
    """`recur` as one node of the graph."""

    @staticmethod
    def forward(
        ctx: Any, dtype: torch.dtype, *tensors: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        given = Inputs(*tensors[: len(Inputs._fields)])  # type: ignore[arg-type]
        flat = [tensor for tensor in tensors[len(Inputs._fields) :] if tensor is not None]
        (T, B, _), (L, H) = given.x.shape, given.state.shape[1:]
        keep, keys, bias = any(ctx.needs_input_grad), given.keys, given.context_bias
        wide = torch.promote_types(dtype, torch.float32)
        P = 1 if bias is None else 2  # transitions a step
        end = P - 1 + L  # of the recurrent weights
        pairs = layer_pairs(flat)
        pairs[:end] = join_query(pairs[:end], given.query)
        products = [make_product(*pair, dtype) for pair in pairs]
        stepper = Stepper(products[P - 1 : end], products[end:], *given[2:6], dtype=wide)
        reader = None if bias is None else Stepper(products[:1], dtype=wide)
        make = partial(given.x.new_empty, dtype=wide)
        states, steps = make(P * T + 1, L, B, H), P * T if keep else 1
        states[0] = given.state.transpose(0, 1)
        kept = [make(steps, L, B, 2 * H), make(steps, L, B, H)]
        alpha, queries = None if keys is None else make(T, B, keys.shape[1]), None
        if keep:
            kept.append(make(steps, L, B, H))
        if keep and keys is not None:
            queries = make(T, B, keys.shape[2])
        rooms = [Room(*step) for step in zip(*kept, strict=True)] * (1 if keep else P * T)
        layers = [step.unbind() for step in states]
        masks = (given.layer_masks, given.attention_masks, given.hold)
        of_steps = [[None] * T if mask is None else mask.unbind() for mask in masks]
        context = None if bias is None else bias.to(wide).expand(B, 3 * H)
        for t, (x, layer_mask, mask, hold) in enumerate(
            zip(given.x.to(wide), *of_steps, strict=True)
        ):
            i = P * t
            if reader is not None and context is not None:  # it reads the word
                reader.step(x, layers[i], layers[i + 1], rooms[i], hold=hold)
                i, x = i + 1, context
            room = rooms[i] if queries is None else rooms[i]._replace(query=queries[t])
            found = stepper.step(x, layers[i], layers[i + 1], room, layer_mask, mask, hold)
            if alpha is not None and found is not None:
                alpha[t] = found
        if keep:
            trace = _Trace._make((states, *kept, queries, alpha))
            ctx.dtypes = dtype, given.x.dtype, given.state.dtype
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(*trace, *given[2:], *flat)
        return states[P::P], alpha

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_alpha: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        trace = _Trace(*ctx.saved_tensors[:6])
        keys, gates, _, score, query, layer_masks, attention_masks, _, *rest = ctx.saved_tensors[6:]
        context_bias, *flat = rest
        dtype, x_dtype, state_dtype = ctx.dtypes
        (N, L, B, H), wide = trace.new.shape, trace.new.dtype
        P = 1 if context_bias is None else 2
        end = P - 1 + L  # of the recurrent weights
        pairs, alphas, queries = layer_pairs(flat), trace.alpha, trace.query
        pairs[:end] = join_query(pairs[:end], query)
        # Turned round once, for all steps.
        turned = [weight.to(dtype).t().contiguous() for weight, _ in pairs]
        make = trace.new.new_empty
        ds = list(trace.new.new_zeros(L, B, H))
        dx = make(N, L, B, 3 * H)
        # The top layer's also has the query's gradient, so that one product serves both.
        drec = [make(N, B, weight.shape[0]) for weight, _ in pairs[P - 1 : end]]
        z = trace.reset_update[..., H:]
        per_gate = _fill_with_factors(trace, dx, drec)
        if keys is not None:
            double_keys, wide_gates = 2 * keys.to(wide), gates.to(wide)
            quadruple_score = 4 * score.to(wide)
            features, dkeys = torch.empty_like(double_keys), torch.zeros_like(double_keys)
            dscore = torch.zeros_like(quadruple_score)
        for i in reversed(range(N)):
            t, reads_word = i // P, P == 2 and i % 2 == 0
            for layer in reversed(range(L)):
                d = ds[layer]
                if grad_states is not None and not reads_word:
                    d.add_(grad_states[t, layer])
                for factors in per_gate[layer]:
                    factors[i].mul_(d.unsqueeze(1))
                d.mul_(z[i, layer])
                if layer > 0:
                    below = multiply(dx[i, layer].to(dtype), turned[L + layer - 1]).to(wide)
                    if layer_masks is not None:
                        below.mul_(layer_masks[t, layer - 1])
                    ds[layer - 1].add_(below)
            if reads_word:
                back = multiply(drec[0][i, :, : 3 * H].to(dtype), turned[0])
                ds[0].add_(back.to(wide))
                continue
            if alphas is not None and queries is not None:
                # This way round, bmm copies neither operand.
                da = torch.bmm(dx[i, 0].unsqueeze(1), wide_gates.transpose(1, 2)).squeeze(1)
                if attention_masks is not None:
                    da.mul_(attention_masks[t])
                if grad_alpha is not None:
                    da += grad_alpha[t]
                de = torch._softmax_backward_data(da, alphas[t], -1, da.dtype)
                torch.add(double_keys, queries[t].unsqueeze(1), alpha=2, out=features).sigmoid_()
                dscore.addmv_(features.flatten(0, 1).t(), de.flatten())
                # tanh' = 4 sigmoid (1 - sigmoid); the keys' factor 4 v waits until after the loop.
                torch.addcmul(features, features, features, value=-1, out=features)
                dkeys.addcmul_(features, de.unsqueeze(-1))
                dq = torch.bmm(de.unsqueeze(1), features).squeeze(1)
                torch.mul(dq, quadruple_score, out=drec[-1][i, :, 3 * H :])
            for layer in range(L):
                back = multiply(drec[layer][i].to(dtype), turned[P - 1 + layer])
                ds[layer].add_(back.to(wide))

        read = list(trace.states[:-1].unbind(1))
        if P == 2:  # words and contexts apart
            drec, read = [drec[0][::2, :, : 3 * H], drec[0][1::2]], [read[0][::2], read[0][1::2]]
        below = trace.states[1:, :-1]
        if layer_masks is not None:
            below = below * layer_masks
        read += below.unbind(1)
        grads: list[Tensor] = []  # of the weights, over all steps at once
        for grad, x, (weight, bias) in zip((*drec, *dx[:, 1:].unbind(1)), read, pairs, strict=True):
            grad, x = grad.flatten(0, 1), x.flatten(0, 1)
            grads.append(multiply_turned(grad.to(dtype), x.to(dtype)).to(weight.dtype))
            grads.append(grad.sum(0).to(bias.dtype))
        of_words, dx = dx[::P, 0], dx[P - 1 :: P, 0]
        of = Inputs(of_words.to(x_dtype), torch.stack(ds, dim=1).to(state_dtype))
        if context_bias is not None:
            of = of._replace(context_bias=dx.sum((0, 1)).to(context_bias.dtype))
        if alphas is not None:
            top = slice(2 * end - 2, 2 * end)
            weight_grad, bias_grad = grads[top]
            grads[top] = weight_grad[: 3 * H], bias_grad[: 3 * H]
            used = alphas if attention_masks is None else alphas * attention_masks
            of = of._replace(
                keys=dkeys.mul_(quadruple_score).to(keys.dtype),
                gates=torch.bmm(used.permute(1, 2, 0), dx.transpose(0, 1)).to(gates.dtype),
                # The softmax's gradients sum to 0 in each row: what tanh's -1 would add is nothing.
                score=dscore.mul_(2).to(score.dtype),
                query=weight_grad[3 * H :].to(query.dtype),
            )
        return (None, *of, *grads)


def _fill_with_factors(
    trace: _Trace,
    dx: Tensor,  # (N, L, B, 3H), gets the factors of the input's gates
    drec: Sequence[Tensor],  # at least (N, B, 3H), get those of the state's gates, of each layer
) -> list[tuple[Tensor, Tensor]]:
    """Write what turns the gradient of a new state into those of its gates, for all steps at once.

    With s' = (1 - z) n + z s and n = tanh(x_n + r u), u being the new gate's part of the state:

        n: (1 - z) (1 - n^2)        z: (s - n) z (1 - z)        r: [that of n] u r (1 - r)

    The way to u itself is that of n, times r. Returns each layer's two, gate by gate: views
    `(N, B, 3, H)`.
    """
    H, n = trace.new.shape[-1], trace.new
    r, z = trace.reset_update.chunk(2, dim=-1)
    factors = dx.unflatten(-1, (3, H))
    of_r, of_z, of_n = factors.unbind(-2)
    torch.mul(n, n, out=of_n).sub_(1).mul_(z - 1)
    torch.sub(trace.states[:-1], n, out=of_z).mul_(z).mul_(1 - z)
    torch.mul(of_n, trace.recurrent_new, out=of_r).mul_(r).mul_(1 - r)
    per_gate = []
    for layer, own in enumerate(drec):
        own = own[..., : 3 * H].unflatten(-1, (3, H))
        own[..., :2, :] = factors[:, layer, :, :2]
        torch.mul(of_n[:, layer], r[:, layer], out=own[..., 2, :])
        per_gate.append((factors[:, layer], own))
    return per_gate


def run_grus(steps: Sequence[Tensor], layers: Sequence[nn.GRU], int8: bool = False) -> list[Tensor]:
    """Run GRU layers from zero states, each over its `(S, B, input)`, to `(S, B, H)` each."""
    return [run_gru(x, layer, int8) for x, layer in zip(steps, layers, strict=True)]


def run_gru(x: Tensor, layer: nn.GRU, int8: bool = False) -> Tensor:
    """Run one GRU layer from a zero state, `(S, B, input)` to `(S, B, H)`, in 8 bits if `int8`.

    By the same loop as the decoder's (cuDNN rounds float32 to TF32, and bfloat16 to float16 under
    autocast). Outside the graph the weights stay laid out on CPUs.
    """
    weights = weight_ih, weight_hh, bias_ih, bias_hh = layer.all_weights[0]  # three gates in each
    S, B, H = *x.shape[:2], layer.hidden_size
    if not can_pack(x.device):
        given = Inputs(linear(x, weight_ih, bias_ih), x.new_zeros(B, 1, H))
        return recur(given, ((weight_hh, bias_hh),))[0][:, 0].to(x.dtype)
    dtype = product_dtype(x.device, x.dtype)
    product = partial(make_product, dtype=dtype, pack=True, int8=int8)
    with torch.autocast("cpu", enabled=False):  # the products know their type
        read_input, read_state = remember(
            *(layer, (dtype, int8), weights),
            lambda: (product(weight_ih, bias_ih), product(weight_hh, bias_hh, within_one=True)),
        )
        gates = read_input(x.flatten(0, 1)).unflatten(0, (S, B))  # at least float32
        states = gates.new_empty(S + 1, B, H)
        states[0] = 0
        rz, n = gates.new_empty(B, 2 * H), gates.new_empty(B, H)
        for x_t, s, out in zip(gates, states[:-1], states[1:], strict=True):
            update_state(x_t, read_state(s), s, None, rz, n, out)
    return states[1:].to(x.dtype)
