"""The loop of GRU layers, with or without attention, and its hand-written backward through time.

Dimensions: T steps, B batch, S source, H hidden, A attention, L layers.

Against autograd over the same steps: nothing of size S * A is kept for a step (the attention's
features are recomputed from the query), weight gradients are one product after the loop instead of
one per step, and tanh is computed as 2 * sigmoid(2x) - 1, ten times faster on CPUs. Under autocast
(or with half-precision weights) the products alone run in the lower precision; state, gates, scores
and softmax stay in float32.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

Weights = tuple[tuple[Tensor, Tensor], ...]  # (weight, bias) of each layer


class _Trace(NamedTuple):
    """What the forward pass leaves for the backward pass."""

    states: Tensor  # (T + 1, L, B, H), the start state first
    reset_update: Tensor  # (T, L, B, 2H), the gates' values
    new: Tensor  # (T, L, B, H)
    recurrent_new: Tensor  # (T, L, B, H), U s + b of the new gate, before the reset gate
    query: Tensor | None  # (T, B, A)
    alpha: Tensor | None  # (T, B, S)


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
    states, alpha = _Recurrence.apply(
        x, state, keys, gates, bias, score, layer_masks, attention_masks, hold, product_dtype, *flat
    )
    return states, alpha if keys is not None else None


def _linear(x: Tensor, weight_t: Tensor, bias: Tensor, dtype: torch.dtype) -> Tensor:
    """X W^T + b with the product in `dtype` and the result in x's."""
    if dtype == x.dtype:
        return torch.addmm(bias, x, weight_t)
    return torch.addmm(bias, x.to(dtype), weight_t).to(x.dtype)


def _product(x: Tensor, weight: Tensor, dtype: torch.dtype) -> Tensor:
    return x @ weight if dtype == x.dtype else (x.to(dtype) @ weight).to(x.dtype)


def _weight_gradients(
    grad: Tensor, x: Tensor, weight: Tensor, bias: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Gradients of `x W^T + b` over all steps at once; grad `(T, B, out)`, x `(T, B, in)`."""
    grad, x = grad.flatten(0, 1), x.flatten(0, 1)
    weight_grad = grad.to(dtype).t() @ x.to(dtype)
    return weight_grad.to(weight.dtype), grad.sum(0).to(bias.dtype)


class _Recurrence(torch.autograd.Function):
    """`recur` as one node of the graph."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx,
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
        dtype = torch.promote_types(x.dtype, torch.float32)
        weights = [tensor.to(product_dtype) for tensor in flat]
        recurrent = [(weights[2 * i].t(), weights[2 * i + 1]) for i in range(L)]
        inputs = [(weights[2 * i].t(), weights[2 * i + 1]) for i in range(L, 2 * L - 1)]
        keep = any(ctx.needs_input_grad)
        x_dtype, x = x.dtype, x.to(dtype)
        states = x.new_empty(T + 1, L, B, H)
        states[0] = state.transpose(0, 1)
        steps = T if keep else 1
        reset_update = x.new_empty(steps, L, B, 2 * H)
        new = x.new_empty(steps, L, B, H)
        recurrent_new = x.new_empty(steps if keep else 0, L, B, H)
        alpha = query = features = double_keys = double_score = wide_gates = None
        if keys is not None and gates is not None and score is not None:
            double_keys, wide_gates = 2 * keys.to(dtype), gates.to(dtype)
            double_score = 2 * score.to(dtype)
            alpha = x.new_empty(T, B, keys.shape[1])
            query = x.new_empty(steps if keep else 0, B, keys.shape[2])
            features = torch.empty_like(double_keys)
        for t in range(T):
            i = t if keep else 0
            from_top = _linear(states[t, L - 1], *recurrent[-1], product_dtype)
            x_t = x[t]
            if features is not None:
                q = from_top[:, 3 * H :]
                # tanh(k + q) = 2 sigmoid(2k + 2q) - 1; the softmax does not see the -1.
                torch.add(double_keys, q.unsqueeze(1), alpha=2, out=features).sigmoid_()
                scores = torch.mv(features.flatten(0, 1), double_score).view_as(bias) + bias
                weights_t = alpha[t].copy_(scores.softmax(dim=-1))
                if attention_masks is not None:
                    weights_t = weights_t * attention_masks[t]
                x_t = torch.baddbmm(x_t.unsqueeze(1), weights_t.unsqueeze(1), wide_gates).squeeze(1)
                if keep:
                    query[t] = q
            for layer in range(L):
                if layer > 0:
                    below = states[t + 1, layer - 1]
                    if layer_masks is not None:
                        below = below * layer_masks[t, layer - 1]
                    x_t = _linear(below, *inputs[layer - 1], product_dtype)
                s = states[t, layer]
                rec = from_top if layer == L - 1 else _linear(s, *recurrent[layer], product_dtype)
                rz, n = reset_update[i, layer], new[i, layer]
                torch.add(x_t[:, : 2 * H], rec[:, : 2 * H], out=rz)
                if hold is not None:
                    rz[:, H:] += hold[t].unsqueeze(-1)
                rz.sigmoid_()
                torch.addcmul(x_t[:, 2 * H :], rz[:, :H], rec[:, 2 * H : 3 * H], out=n)
                n.mul_(2).sigmoid_().mul_(2).sub_(1)  # tanh
                torch.lerp(n, s, rz[:, H:], out=states[t + 1, layer])
                if keep:
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
    def backward(ctx, grad_states: Tensor | None, grad_alpha: Tensor | None):  # type: ignore[override]
        saved = ctx.saved_tensors
        trace, product_dtype = _Trace(*saved[:6]), ctx.product_dtype
        keys, gates, score, layer_masks, attention_masks, *flat = saved[6:]
        T, L, B, H = trace.new.shape
        weights = [tensor.to(product_dtype) for tensor in flat]
        recurrent, inputs = weights[0 : 2 * L : 2], weights[2 * L :: 2]
        attends = keys is not None
        A = keys.shape[2] if attends else 0
        make = trace.states.new_empty
        ds = trace.states.new_zeros(L, B, H)
        dx = make(T, L, B, 3 * H)
        # The top layer's also has the query's gradient, so that one product serves both.
        dtop = make(T, B, 3 * H + A)
        drec = [make(T, B, 3 * H) for _ in range(L - 1)] + [dtop]
        if attends:
            dtype = trace.states.dtype
            double_keys, wide_gates, wide_score = (
                2 * keys.to(dtype),
                gates.to(dtype),
                score.to(dtype),
            )
            features, dkeys = torch.empty_like(double_keys), torch.zeros_like(double_keys)
            dscore = torch.zeros_like(wide_score)
            used = trace.alpha if attention_masks is None else trace.alpha * attention_masks
        for t in reversed(range(T)):
            if grad_states is not None:
                ds += grad_states[t]
            for layer in reversed(range(L)):
                d, s, n = ds[layer], trace.states[t, layer], trace.new[t, layer]
                r, z = trace.reset_update[t, layer].chunk(2, dim=-1)
                dx_t, drec_t = dx[t, layer], drec[layer][t]
                d_keep = d * z
                dn = torch.addcmul(d - d_keep, d - d_keep, n * n, value=-1)  # d (1 - z) (1 - n^2)
                dz = (s - n).mul_(d_keep).mul_(1 - z)
                dr = (dn * trace.recurrent_new[t, layer]).mul_(torch.addcmul(r, r, r, value=-1))
                dx_t[:, :H], dx_t[:, H : 2 * H], dx_t[:, 2 * H :] = dr, dz, dn
                drec_t[:, : 2 * H] = dx_t[:, : 2 * H]
                torch.mul(dn, r, out=drec_t[:, 2 * H : 3 * H])
                ds[layer] = d_keep
                if layer > 0:
                    below = _product(dx_t, inputs[layer - 1], product_dtype)
                    if layer_masks is not None:
                        below.mul_(layer_masks[t, layer - 1])
                    ds[layer - 1] += below
            if attends:
                alpha = trace.alpha[t]
                da = torch.bmm(wide_gates, dx[t, 0].unsqueeze(-1)).squeeze(-1)
                if attention_masks is not None:
                    da.mul_(attention_masks[t])
                if grad_alpha is not None:
                    da += grad_alpha[t]
                de = alpha * (da - (alpha * da).sum(-1, keepdim=True))
                torch.add(
                    double_keys, trace.query[t].unsqueeze(1), alpha=2, out=features
                ).sigmoid_()
                dscore += torch.mv(features.flatten(0, 1).t(), de.flatten())
                # tanh' = 4 sigmoid (1 - sigmoid); the factor 4 v waits until after the loop.
                torch.addcmul(features, features, features, value=-1, out=features)
                dkeys.addcmul_(features, de.unsqueeze(-1))
                dq = torch.bmm(de.unsqueeze(1), features).squeeze(1)
                torch.mul(dq, 4 * wide_score, out=dtop[t, :, 3 * H :])
            for layer in range(L):
                ds[layer] += _product(drec[layer][t], recurrent[layer], product_dtype)

        grads: list[Tensor] = []
        for layer in range(L):
            previous = trace.states[:-1, layer]
            pair = flat[2 * layer : 2 * layer + 2]
            grads += _weight_gradients(drec[layer], previous, *pair, product_dtype)
        for layer in range(1, L):
            below = trace.states[1:, layer - 1]
            if layer_masks is not None:
                below = below * layer_masks[:, layer - 1]
            pair = flat[2 * (L + layer - 1) : 2 * (L + layer)]
            grads += _weight_gradients(dx[:, layer], below, *pair, product_dtype)
        dx = dx[:, 0]
        dgates = None
        if attends:
            dkeys = dkeys.mul_(4 * wide_score).to(keys.dtype)
            dscore = dscore.mul_(2).to(score.dtype)  # the softmax's gradients sum to 0 in each row
            dgates = torch.bmm(used.permute(1, 2, 0), dx.transpose(0, 1)).to(gates.dtype)
        else:
            dkeys = dscore = None
        x_dtype, state_dtype = ctx.dtypes
        dstate = ds.transpose(0, 1).to(state_dtype)
        return dx.to(x_dtype), dstate, dkeys, dgates, None, dscore, None, None, None, None, *grads
