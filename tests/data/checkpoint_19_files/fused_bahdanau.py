"""The loop of GRU layers, with or without attention, and its hand-written backward through time.

Dimensions: T steps, B batch, S source, H hidden, A attention, L layers.

Against autograd over the same steps: nothing of size S * A is kept for a step (the attention's
features are recomputed from the query), weight gradients are one product after the loop instead of
one per step, and tanh is computed as 2 * sigmoid(2x) - 1, ten times faster on CPUs. Under autocast
(or with half-precision weights) the products alone run in the lower precision; state, gates, scores
and softmax stay in float32.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .packed_bahdanau import Product, make_product
from .products_bahdanau import multiply, multiply_turned, outside_autocast

Weights = tuple[tuple[Tensor, Tensor], ...]  # (weight, bias) of each layer


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    states: Tensor  # (T + 1, L, B, H), the start state first
    reset_update: Tensor  # (T, L, B, 2H), the gates' values
    new: Tensor  # (T, L, B, H)
    recurrent_new: Tensor  # (T, L, B, H), U s + b of the new gate, before the reset gate
    query: Tensor | None  # (T, B, A)
    alpha: Tensor | None  # (T, B, S)


@torch.compiler.disable  # a compiler would unroll the steps; it compiles what is around them
def recur(
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
    """Run T steps of L GRU layers, the first fed by `x` and by what the attention finds.

    Args:
        x: the first layer's input gates, bias added, `(T, B, 3H)`.
        state: states before the first step, `(B, L, H)`.
        recurrent: each layer's `weight_hh` and `bias_hh`, `(3H, H)` and `(3H,)`; with attention the
            query's weights follow in the last layer's: `(3H + A, H)` and `(3H + A,)`.
        inputs: `weight_ih` and `bias_ih`, `(3H, H)` and `(3H,)`, of every layer but the first.
        keys: projected annotations `(B, S, A)`; `None`: no attention, nor the next three.
        gates: annotations through the first layer's weights, `(B, S, 3H)`.
        bias: `(B, S)`, 0 on real tokens, hugely negative elsewhere.
        score: `(A,)`, the vector v.
        layer_masks: dropout factors `(T, L - 1, B, H)`.
        attention_masks: dropout factors `(T, B, S)`.
        hold: `(T, B)`, added to the update gates before their sigmoid.

    Returns:
        States after each step, `(T, L, B, H)`, and attention weights before dropout `(T, B, S)`.
    """
    device = x.device.type
    product_dtype = recurrent[0][0].dtype
    if torch.is_autocast_enabled(device):
        product_dtype = torch.get_autocast_dtype(device)
    flat = [tensor for pair in (*recurrent, *inputs) for tensor in pair]
    # Autocast would narrow the products with the annotations too, and cast these at every step.
    with torch.autocast(device, enabled=False):
        states, alpha = _Recurrence.apply(
            x, state, keys, gates, bias, score, layer_masks, attention_masks, hold, product_dtype,
            *flat,
        )  # fmt: skip
    return states, alpha if keys is not None else None


def update_state(
    x: Tensor, rec: Tensor, s: Tensor, hold: Tensor | None, rz: Tensor, n: Tensor, out: Tensor
) -> None:
    """Write a GRU layer's new state into `out`; see `gru_step` for the equations.

    Args:
        x: gates from the input, `(B, 3H)`.
        rec: gates from the state, at least `(B, 3H)`.
        s: state, `(B, H)`.
        hold: `(B,)`, added to the update gate before its sigmoid.
        rz: where the reset and update gates go, `(B, 2H)`.
        n: where the new gate goes, `(B, H)`.
        out: where the new state goes, `(B, H)`.
    """
    H = s.shape[1]
    torch.add(x[:, : 2 * H], rec[:, : 2 * H], out=rz)
    if hold is not None:
        rz[:, H:] += hold.unsqueeze(-1)
    rz.sigmoid_()
    torch.addcmul(x[:, 2 * H :], rz[:, :H], rec[:, 2 * H : 3 * H], out=n)
    n.mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh
    torch.lerp(n, s, rz[:, H:], out=out)


class Stepper:
    """The weights and the source side, laid out for one step after the other.

    Training takes its steps with it and so does decoding, where `num_beams` rows of a batch look at
    one sentence: its keys and gates are never copied.

    Args:
        recurrent: each layer's product with its state; the top one's gives the query as well.
        inputs: the products with the state of the layer below, of every layer but the first.
        keys: `(B, S, A)`, or `None` without attention.
        gates: `(B, S, 3H)`.
        bias: `(B, S)`.
        score: `(A,)`.
        num_beams: K, rows for each sentence.
        dtype: what everything but the products is computed in.
    """

    def __init__(
        self,
        recurrent: Sequence[Product],
        inputs: Sequence[Product],
        keys: Tensor | None,
        gates: Tensor | None,
        bias: Tensor | None,
        score: Tensor | None,
        num_beams: int = 1,
        dtype: torch.dtype = torch.float32,
    ):
        self.dtype = dtype
        self.num_beams = num_beams
        self._recurrent, self._inputs = recurrent, inputs
        self._attends = keys is not None
        if keys is not None and gates is not None and bias is not None and score is not None:
            self._double_keys = 2 * keys.to(self.dtype)
            self._double_score = 2 * score.to(self.dtype)
            self._gates, self._bias = gates.to(self.dtype), bias.to(self.dtype)
            self._make_room()

    def _make_room(self) -> None:
        B, S, A = self._double_keys.shape
        self._features = self._double_keys.new_empty(B, self.num_beams, S, A)

    def widen(self, num_beams: int) -> None:
        """Go on with so many rows for each sentence."""
        self.num_beams = num_beams
        if self._attends:
            self._make_room()

    def keep_sentences(self, kept: Tensor) -> None:
        """Go on with the given sentences alone."""
        self._double_keys = self._double_keys.index_select(0, kept)
        self._gates = self._gates.index_select(0, kept)
        self._bias = self._bias.index_select(0, kept)
        self._make_room()

    def read_top(self, s: Tensor) -> Tensor:
        """The top layer's state to its gates and, behind them, the query: `(B K, 3H + A)`."""
        return self._recurrent[-1](s)

    def read_state(self, layer: int, s: Tensor) -> Tensor:
        """A lower layer's state to its gates, `(B K, 3H)`."""
        return self._recurrent[layer](s)

    def read_below(self, layer: int, below: Tensor) -> Tensor:
        """The state of the layer below to this layer's gates, `(B K, 3H)`."""
        return self._inputs[layer - 1](below)

    def attend(self, query: Tensor) -> Tensor:
        """Attention weights `(B K, S)` of the queries `(B K, A)`; see `additive_attention`."""
        B, K, S, A = self._features.shape
        # tanh(k + q) = 2 sigmoid(2k + 2q) - 1; the softmax does not see the -1.
        query = query.view(B, K, 1, A)
        torch.add(self._double_keys.unsqueeze(1), query, alpha=2, out=self._features).sigmoid_()
        scores = torch.mv(self._features.view(-1, A), self._double_score).view(B, K, S)
        return (scores + self._bias.unsqueeze(1)).softmax(dim=-1).view(B * K, S)

    def add_context(self, x: Tensor, alpha: Tensor) -> Tensor:
        """The first layer's gates `(B K, 3H)` with what `alpha` `(B K, S)` finds added."""
        B, S, D = self._gates.shape
        x, alpha = x.view(B, self.num_beams, D), alpha.view(B, self.num_beams, S)
        return torch.baddbmm(x, alpha, self._gates).view(-1, D)


def _product(x: Tensor, weight: Tensor) -> Tensor:
    """`x W^T`, computed in the type of W, in that of x."""
    return multiply(x.to(weight.dtype), weight).to(x.dtype)


def _weight_gradients(
    grad: Tensor, x: Tensor, pair: Sequence[Tensor], dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of `x W^T + b` over all steps at once; grad `(T, B, out)`, x `(T, B, in)`."""
    weight, bias = pair
    grad, x = grad.flatten(0, 1), x.flatten(0, 1)
    weight_grad = multiply_turned(grad.to(dtype), x.to(dtype))
    return weight_grad.to(weight.dtype), grad.sum(0).to(bias.dtype)


def _fill_with_factors(
    trace: _Trace, dx: Tensor, drec: Sequence[Tensor]
) -> list[tuple[Tensor, Tensor]]:
    """Write what turns the gradient of a new state into those of its gates, for all steps at once.

    With s' = (1 - z) n + z s and n = tanh(x_n + r u), u being the new gate's part of the state:

        n: (1 - z) (1 - n^2)        z: (s - n) z (1 - z)        r: [that of n] u r (1 - r)

    The way to u itself is that of n, times r.

    Args:
        trace: what the forward pass left.
        dx: gets the factors of the input's gates, `(T, L, B, 3H)`.
        drec: gets those of the state's gates, of each layer, at least `(T, B, 3H)`.

    Returns:
        Each layer's two, gate by gate: views `(T, B, 3, H)`.
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


class _Recurrence(torch.autograd.Function):
    """`recur` as one node of the graph."""

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
        product_dtype: torch.dtype,
        *flat: Tensor,
    ) -> tuple[Tensor, Tensor | None]:
        T, B, _ = x.shape
        L, H = state.shape[1:]
        keep = any(ctx.needs_input_grad)
        products = [
            make_product(*pair, product_dtype) for pair in zip(flat[::2], flat[1::2], strict=True)
        ]
        dtype = torch.promote_types(product_dtype, torch.float32)
        stepper = Stepper(products[:L], products[L:], keys, gates, bias, score, dtype=dtype)
        x_dtype, x = x.dtype, x.to(dtype)
        states = x.new_empty(T + 1, L, B, H)
        states[0] = state.transpose(0, 1)
        steps = T if keep else 1
        reset_update = x.new_empty(steps, L, B, 2 * H)
        new = x.new_empty(steps, L, B, H)
        recurrent_new = x.new_empty(T, L, B, H) if keep else None
        alpha = query = None
        if keys is not None:
            alpha = x.new_empty(T, B, keys.shape[1])
            query = x.new_empty(T, B, keys.shape[2]) if keep else None
        for t in range(T):
            i = t if keep else 0
            from_top = stepper.read_top(states[t, L - 1])
            x_t = x[t]
            if alpha is not None:
                q = from_top[:, 3 * H :]
                alpha[t] = stepper.attend(q)
                used = alpha[t] if attention_masks is None else alpha[t] * attention_masks[t]
                x_t = stepper.add_context(x_t, used)
                if query is not None:
                    query[t] = q
            for layer in range(L):
                if layer > 0:
                    below = states[t + 1, layer - 1]
                    if layer_masks is not None:
                        below = below * layer_masks[t, layer - 1]
                    x_t = stepper.read_below(layer, below)
                s = states[t, layer]
                rec = from_top if layer == L - 1 else stepper.read_state(layer, s)
                hold_t = None if hold is None else hold[t]
                update_state(
                    x_t, rec, s, hold_t, reset_update[i, layer], new[i, layer], states[t + 1, layer]
                )
                if recurrent_new is not None:
                    recurrent_new[t, layer] = rec[:, 2 * H : 3 * H]
        if keep:
            ctx.product_dtype, ctx.dtypes = product_dtype, (x_dtype, state.dtype)
            ctx.set_materialize_grads(False)
            ctx.save_for_backward(
                states, reset_update, new, recurrent_new, query, alpha,
                keys, gates, score, layer_masks, attention_masks, *flat,
            )  # fmt: skip
        return states[1:], alpha

    @staticmethod
    @once_differentiable
    @outside_autocast
    def backward(
        ctx: Any, grad_states: Tensor | None, grad_alpha: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors
        trace, product_dtype = _Trace(*saved[:6]), ctx.product_dtype
        keys, gates, score, layer_masks, attention_masks, *flat = saved[6:]
        T, L, B, H = trace.new.shape
        # Turned round once, for all steps.
        turned = [weight.to(product_dtype).t().contiguous() for weight in flat[::2]]
        recurrent, inputs = turned[:L], turned[L:]
        attends = keys is not None
        A = keys.shape[2] if attends else 0
        make = trace.states.new_empty
        ds = list(trace.states.new_zeros(L, B, H).unbind(0))
        dx = make(T, L, B, 3 * H)
        # The top layer's also has the query's gradient, so that one product serves both.
        drec = [make(T, B, 3 * H) for _ in range(L - 1)] + [make(T, B, 3 * H + A)]
        z = trace.reset_update[..., H:]
        per_gate = _fill_with_factors(trace, dx, drec)
        alphas, queries = trace.alpha, trace.query
        used = alphas
        if alphas is not None and attention_masks is not None:
            used = alphas * attention_masks
        if attends:
            dtype = trace.states.dtype
            double_keys, wide_gates = 2 * keys.to(dtype), gates.to(dtype)
            quadruple_score = 4 * score.to(dtype)
            features, dkeys = torch.empty_like(double_keys), torch.zeros_like(double_keys)
            dscore = torch.zeros_like(quadruple_score)
        for t in reversed(range(T)):
            for layer in reversed(range(L)):
                d = ds[layer] if grad_states is None else ds[layer].add_(grad_states[t, layer])
                for factors in per_gate[layer]:
                    factors[t].mul_(d.unsqueeze(1))
                d.mul_(z[t, layer])
                if layer > 0:
                    below = _product(dx[t, layer], inputs[layer - 1])
                    if layer_masks is not None:
                        below.mul_(layer_masks[t, layer - 1])
                    ds[layer - 1].add_(below)
            if alphas is not None and queries is not None:
                # This way round, bmm copies neither operand.
                da = torch.bmm(dx[t, 0].unsqueeze(1), wide_gates.transpose(1, 2)).squeeze(1)
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
                torch.mul(dq, quadruple_score, out=drec[-1][t, :, 3 * H :])
            for layer in range(L):
                ds[layer].add_(_product(drec[layer][t], recurrent[layer]))

        grads: list[Tensor] = []
        for layer in range(L):
            previous = trace.states[:-1, layer]
            pair = flat[2 * layer : 2 * layer + 2]
            grads += _weight_gradients(drec[layer], previous, pair, product_dtype)
        for layer in range(1, L):
            below = trace.states[1:, layer - 1]
            if layer_masks is not None:
                below = below * layer_masks[:, layer - 1]
            pair = flat[2 * (L + layer - 1) : 2 * (L + layer)]
            grads += _weight_gradients(dx[:, layer], below, pair, product_dtype)
        dx = dx[:, 0]
        keys_grad = gates_grad = score_grad = None
        if used is not None:
            keys_grad = dkeys.mul_(quadruple_score).to(keys.dtype)
            gates_grad = torch.bmm(used.permute(1, 2, 0), dx.transpose(0, 1)).to(gates.dtype)
            # The softmax's gradients sum to 0 in each row: what tanh's -1 would add is nothing.
            score_grad = dscore.mul_(2).to(score.dtype)
        x_dtype, state_dtype = ctx.dtypes
        dstate = torch.stack(ds, dim=1).to(state_dtype)
        return (
            dx.to(x_dtype), dstate, keys_grad, gates_grad, None, score_grad,
            None, None, None, None, *grads,
        )  # fmt: skip
