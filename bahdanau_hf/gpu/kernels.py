"""Triton kernels of the recurrence: all of a step that is no product, a program for each row.

They compute what `recurrence_bahdanau.Stepper.step` and its backward pass do between the products.
Dimensions: R rows, K rows of a sentence (beams; 1 in training), S source, H hidden, A attention.
`WIDE` is the type that everything is computed in; tensors are of any type, rows without gaps.
A tensor that is `None` is a part that is left out.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

LONGEST = 1024  # source tokens that a program can hold the weights of
_TILE = 8192  # numbers of a tile
_WIDE = {torch.float32: tl.float32, torch.float64: tl.float64}
# Their addresses and sizes change from batch to batch: no code of their own for each.
_VARYING = ["alpha", "bias", "drop", "hold", "grad_alpha", "de"]


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit(do_not_specialize=["S", "K"], do_not_specialize_on_alignment=_VARYING)
def _forward(
    x,  # (R, 3H)
    rec,  # (R, rec_stride), gates from the state
    query,  # (R, query_stride)
    state,  # (R, H)
    keys,  # (R / K, S, A)
    gates,  # (R / K, S, 3H)
    bias,  # (R / K, S)
    score,  # (A,)
    drop,  # (R, S), factors on alpha
    hold,  # (R,), added to the update gate before its sigmoid
    alpha,  # (R, S), out
    gate_values,  # (R, 3H), out: reset, update, new
    out,  # (R, H), out: the new state
    narrow,  # (R, H), out: the same for the products
    S,
    K,
    rec_stride,
    query_stride,
    H: tl.constexpr,
    A: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_H: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, BLOCK_S)
    is_word = s < S
    if keys is not None:
        sentence = row // K
        scores = tl.zeros([BLOCK_S], WIDE)
        for a0 in range(0, A, BLOCK_A):
            a = a0 + tl.arange(0, BLOCK_A)
            is_a = a < A
            q = tl.load(query + row * query_stride + a, mask=is_a, other=0).to(WIDE)
            v = tl.load(score + a, mask=is_a, other=0).to(WIDE)
            k = tl.load(
                keys + (sentence * S + s)[:, None] * A + a[None, :],
                mask=is_word[:, None] & is_a[None, :],
                other=0,
            ).to(WIDE)
            # tanh(k + q) = 2 sigmoid(2k + 2q) - 1; the softmax does not see the -1.
            scores += tl.sum(2 * v[None, :] * _sigmoid(2 * (k + q[None, :])), axis=1)
        scores += tl.load(bias + sentence * S + s, mask=is_word, other=0).to(WIDE)
        scores = tl.where(is_word, scores, float("-inf"))
        weights = tl.exp(scores - tl.max(scores, axis=0))
        weights = weights / tl.sum(weights, axis=0)
        tl.store(alpha + row * S + s, weights, mask=is_word)
        if drop is not None:
            weights *= tl.load(drop + row * S + s, mask=is_word, other=0).to(WIDE)
    for h0 in range(0, H, BLOCK_H):
        h = h0 + tl.arange(0, BLOCK_H)
        is_h = h < H
        place = row * 3 * H + h
        x_r = tl.load(x + place, mask=is_h, other=0).to(WIDE)
        x_z = tl.load(x + place + H, mask=is_h, other=0).to(WIDE)
        x_n = tl.load(x + place + 2 * H, mask=is_h, other=0).to(WIDE)
        if keys is not None:
            of_words = gates + (sentence * S + s)[:, None] * (3 * H) + h[None, :]
            seen = is_word[:, None] & is_h[None, :]
            g = tl.load(of_words, mask=seen, other=0).to(WIDE)
            x_r += tl.sum(weights[:, None] * g, axis=0)
            g = tl.load(of_words + H, mask=seen, other=0).to(WIDE)
            x_z += tl.sum(weights[:, None] * g, axis=0)
            g = tl.load(of_words + 2 * H, mask=seen, other=0).to(WIDE)
            x_n += tl.sum(weights[:, None] * g, axis=0)
        own = rec + row * rec_stride + h
        r = _sigmoid(x_r + tl.load(own, mask=is_h, other=0).to(WIDE))
        z = x_z + tl.load(own + H, mask=is_h, other=0).to(WIDE)
        if hold is not None:
            z += tl.load(hold + row).to(WIDE)
        z = _sigmoid(z)
        n = x_n + r * tl.load(own + 2 * H, mask=is_h, other=0).to(WIDE)
        n = 2 * _sigmoid(2 * n) - 1
        new = n + z * (tl.load(state + row * H + h, mask=is_h, other=0).to(WIDE) - n)
        tl.store(out + row * H + h, new, mask=is_h)
        if narrow is not None:
            tl.store(narrow + row * H + h, new, mask=is_h)
        if gate_values is not None:
            tl.store(gate_values + place, r, mask=is_h)
            tl.store(gate_values + place + H, z, mask=is_h)
            tl.store(gate_values + place + 2 * H, n, mask=is_h)


@triton.jit(do_not_specialize=["S"], do_not_specialize_on_alignment=_VARYING)
def _backward(
    grad,  # (R, H), of the new state from outside
    back,  # (R, H), of the same from the later step's products
    carry,  # (R, H), in: of the same from the later step itself; out: of the old state
    gate_values,  # (R, 3H)
    rec,  # (R, rec_stride)
    state,  # (R, H), the old one
    dx,  # (R, 3H), out
    drec,  # (R, rec_stride), out; of the query too, behind the gates
    query,  # (R, query_stride)
    keys,
    gates,
    score,
    drop,
    alpha,
    grad_alpha,
    de,  # (R, S), out: of the scores
    dquery,  # (R, query_stride), out
    S,
    rec_stride,
    query_stride,
    H: tl.constexpr,
    A: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_A: tl.constexpr,
    BLOCK_H: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    s = tl.arange(0, BLOCK_S)
    is_word = s < S
    da = tl.zeros([BLOCK_S], WIDE)
    for h0 in range(0, H, BLOCK_H):
        h = h0 + tl.arange(0, BLOCK_H)
        is_h = h < H
        place, own = row * 3 * H + h, row * rec_stride + h
        d = tl.load(carry + row * H + h, mask=is_h, other=0).to(WIDE)
        if grad is not None:
            d += tl.load(grad + row * H + h, mask=is_h, other=0).to(WIDE)
        if back is not None:
            d += tl.load(back + row * H + h, mask=is_h, other=0).to(WIDE)
        r = tl.load(gate_values + place, mask=is_h, other=0).to(WIDE)
        z = tl.load(gate_values + place + H, mask=is_h, other=0).to(WIDE)
        n = tl.load(gate_values + place + 2 * H, mask=is_h, other=0).to(WIDE)
        u = tl.load(rec + own + 2 * H, mask=is_h, other=0).to(WIDE)
        old = tl.load(state + row * H + h, mask=is_h, other=0).to(WIDE)
        # s' = (1 - z) n + z s and n = tanh(x_n + r u)
        d_n = d * (1 - z) * (1 - n * n)
        d_z = d * (old - n) * z * (1 - z)
        d_r = d_n * u * r * (1 - r)
        tl.store(carry + row * H + h, d * z, mask=is_h)
        tl.store(dx + place, d_r, mask=is_h)
        tl.store(dx + place + H, d_z, mask=is_h)
        tl.store(dx + place + 2 * H, d_n, mask=is_h)
        tl.store(drec + own, d_r, mask=is_h)
        tl.store(drec + own + H, d_z, mask=is_h)
        tl.store(drec + own + 2 * H, d_n * r, mask=is_h)
        if keys is not None:
            of_words = gates + (row * S + s)[:, None] * (3 * H) + h[None, :]
            seen = is_word[:, None] & is_h[None, :]
            g = tl.load(of_words, mask=seen, other=0).to(WIDE)
            da += tl.sum(d_r[None, :] * g, axis=1)
            g = tl.load(of_words + H, mask=seen, other=0).to(WIDE)
            da += tl.sum(d_z[None, :] * g, axis=1)
            g = tl.load(of_words + 2 * H, mask=seen, other=0).to(WIDE)
            da += tl.sum(d_n[None, :] * g, axis=1)
    if keys is not None:
        if drop is not None:
            da *= tl.load(drop + row * S + s, mask=is_word, other=0).to(WIDE)
        if grad_alpha is not None:
            da += tl.load(grad_alpha + row * S + s, mask=is_word, other=0).to(WIDE)
        weights = tl.load(alpha + row * S + s, mask=is_word, other=0).to(WIDE)
        d_scores = weights * (da - tl.sum(weights * da, axis=0))
        tl.store(de + row * S + s, d_scores, mask=is_word)
        for a0 in range(0, A, BLOCK_A):
            a = a0 + tl.arange(0, BLOCK_A)
            is_a = a < A
            q = tl.load(query + row * query_stride + a, mask=is_a, other=0).to(WIDE)
            v = tl.load(score + a, mask=is_a, other=0).to(WIDE)
            k = tl.load(
                keys + (row * S + s)[:, None] * A + a[None, :],
                mask=is_word[:, None] & is_a[None, :],
                other=0,
            ).to(WIDE)
            f = _sigmoid(2 * (k + q[None, :]))  # tanh' = 4 f (1 - f)
            dq = 4 * v * tl.sum(d_scores[:, None] * (f - f * f), axis=0)
            tl.store(dquery + row * query_stride + a, dq, mask=is_a)


@triton.jit(do_not_specialize=["S", "T", "R"], do_not_specialize_on_alignment=_VARYING)
def _backward_of_keys(
    query,  # (T, R, query_stride)
    keys,  # (R, S, A)
    score,
    de,  # (T, R, S)
    dkeys,  # (R, S, A), out
    dscore,  # (R, S / BLOCK_S, A), out: its part
    T,
    R,
    S,
    query_stride,
    A: tl.constexpr,
    BLOCK_S: tl.constexpr,
    BLOCK_A: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    s = tl.program_id(1) * BLOCK_S + tl.arange(0, BLOCK_S)
    a = tl.program_id(2) * BLOCK_A + tl.arange(0, BLOCK_A)
    is_word, is_a = s < S, a < A
    seen = is_word[:, None] & is_a[None, :]
    place = (row * S + s)[:, None] * A + a[None, :]
    k = tl.load(keys + place, mask=seen, other=0).to(WIDE)
    d_keys = tl.zeros([BLOCK_S, BLOCK_A], WIDE)
    d_score = tl.zeros([BLOCK_A], WIDE)
    t = 0
    while t < T:  # the interpreter of the tests takes no bound of `range` from an argument
        of_step = (t * R + row).to(tl.int64)
        q = tl.load(query + of_step * query_stride + a, mask=is_a, other=0).to(WIDE)
        d = tl.load(de + of_step * S + s, mask=is_word, other=0).to(WIDE)
        f = _sigmoid(2 * (k + q[None, :]))
        d_keys += d[:, None] * (f - f * f)
        # The softmax's gradients sum to 0 in each row: what tanh's -1 would add is nothing.
        d_score += tl.sum(2 * d[:, None] * f, axis=0)
        t += 1
    v = tl.load(score + a, mask=is_a, other=0).to(WIDE)
    tl.store(dkeys + place, 4 * v[None, :] * d_keys, mask=seen)
    part = row * tl.num_programs(1) + tl.program_id(1)
    tl.store(dscore + part * A + a, d_score, mask=is_a)


@triton.jit(do_not_specialize_on_alignment=["labels", "real", "loss"])
def _cross_entropy(
    logits,  # (N, V), in: logits; out: their gradients
    labels,  # (N,)
    real,  # (N,), whether a row counts; or None
    loss,  # (N,), out
    V: tl.constexpr,
    LABEL_SMOOTHING: tl.constexpr,
    BLOCK: tl.constexpr,
    GRADIENTS: tl.constexpr,
    WIDE: tl.constexpr,
):
    row = tl.program_id(0).to(tl.int64)
    first, label = logits + row * V, tl.load(labels + row)
    counts = 1.0
    if real is not None:
        counts = tl.load(real + row).to(WIDE)
        label = tl.where(counts != 0, label, 0)
    largest = tl.full([BLOCK], -3.4e38, WIDE)
    total, of_all = tl.zeros([BLOCK], WIDE), tl.zeros([BLOCK], WIDE)
    for v0 in range(0, V, BLOCK):
        v = v0 + tl.arange(0, BLOCK)
        z = tl.load(first + v, mask=v < V, other=float("-inf")).to(WIDE)
        larger = tl.maximum(largest, z)
        total = total * tl.exp(largest - larger) + tl.exp(z - larger)
        of_all += tl.where(v < V, z, 0)
        largest = larger
    most = tl.max(largest, axis=0)
    log_sum = most + tl.log(tl.sum(total * tl.exp(largest - most), axis=0))
    value = log_sum - (1 - LABEL_SMOOTHING) * tl.load(first + label).to(WIDE)
    if LABEL_SMOOTHING > 0:
        value -= LABEL_SMOOTHING / V * tl.sum(of_all, axis=0)
    tl.store(loss + row, counts * value)
    if GRADIENTS:
        tl.debug_barrier()  # the label's logit is read before it is written over
        for v0 in range(0, V, BLOCK):
            v = v0 + tl.arange(0, BLOCK)
            z = tl.load(first + v, mask=v < V, other=0).to(WIDE)
            is_label = tl.where(v == label, 1.0, 0.0).to(WIDE)
            target = (1 - LABEL_SMOOTHING) * is_label + LABEL_SMOOTHING / V
            tl.store(first + v, counts * (tl.exp(z - log_sum) - target), mask=v < V)


def _blocks(keys: Tensor | None, H: int) -> dict[str, int]:
    """Sizes of tiles. Few different ones, since each has machine code of its own."""
    S, A = (1, 1) if keys is None else keys.shape[1:]
    block_s = max(32, triton.next_power_of_2(S))
    most = 1024 if keys is None else max(16, _TILE // block_s)
    block_a, block_h = (min(most, max(16, triton.next_power_of_2(size))) for size in (A, H))
    return {"H": H, "A": A, "BLOCK_S": block_s, "BLOCK_A": block_a, "BLOCK_H": block_h}


def forward_step(
    x: Tensor,
    rec: Tensor,
    query: Tensor | None,
    state: Tensor,
    keys: Tensor | None,
    gates: Tensor | None,
    bias: Tensor | None,
    score: Tensor | None,
    drop: Tensor | None,
    hold: Tensor | None,
    alpha: Tensor | None,
    gate_values: Tensor | None,
    out: Tensor,
    narrow: Tensor | None,
    rows_per_sentence: int = 1,
) -> None:
    """Attend and update a layer's states; shapes as in `_forward`, results into the last four."""
    R, H = out.shape
    S = 1 if keys is None else keys.shape[1]
    strides = rec.stride(-2), 0 if query is None else query.stride(-2)
    _forward[(R,)](
        *(x, rec, query, state, keys, gates, bias, score, drop, hold),
        *(alpha, gate_values, out, narrow, S, rows_per_sentence, *strides),
        **_blocks(keys, H),
        WIDE=_WIDE[out.dtype],
        num_warps=8,
    )


def backward_step(
    grad: Tensor | None,
    back: Tensor | None,
    carry: Tensor,
    gate_values: Tensor,
    rec: Tensor,
    state: Tensor,
    dx: Tensor,
    drec: Tensor,
    query: Tensor | None = None,
    keys: Tensor | None = None,
    gates: Tensor | None = None,
    score: Tensor | None = None,
    drop: Tensor | None = None,
    alpha: Tensor | None = None,
    grad_alpha: Tensor | None = None,
    de: Tensor | None = None,
    dquery: Tensor | None = None,
) -> None:
    """Write a step's gradients; shapes as in `_backward`."""
    R, H = carry.shape
    S = 1 if keys is None else keys.shape[1]
    strides = rec.stride(-2), 0 if query is None else query.stride(-2)
    _backward[(R,)](
        *(grad, back, carry, gate_values, rec, state, dx, drec),
        *(query, keys, gates, score, drop, alpha, grad_alpha, de, dquery, S, *strides),
        **_blocks(keys, H),
        WIDE=_WIDE[carry.dtype],
        num_warps=8,
    )


def backward_of_keys(
    query: Tensor, keys: Tensor, score: Tensor, de: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of keys `(R, S, A)` and score `(A,)` from those of all steps' scores."""
    (T, R, S), A = de.shape, keys.shape[2]
    block_s, block_a = 32, min(64, max(16, triton.next_power_of_2(A)))
    grid = (R, triton.cdiv(S, block_s), triton.cdiv(A, block_a))
    dkeys, parts = torch.empty_like(keys), de.new_empty(R, grid[1], A)
    _backward_of_keys[grid](
        *(query, keys, score, de, dkeys, parts, T, R, S, query.stride(-2)),
        A=A,
        BLOCK_S=block_s,
        BLOCK_A=block_a,
        WIDE=_WIDE[de.dtype],
        num_warps=4,
    )
    return dkeys, parts.flatten(0, 1).sum(0)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    real: Tensor | None,
    label_smoothing: float,
    gradients: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Each row's cross-entropy `(N,)`, in `dtype`; if wanted its gradient in place of the logits.

    What is not `real` counts 0, whatever its label is.
    """
    N, V = logits.shape
    loss = logits.new_empty(N, dtype=dtype)
    _cross_entropy[(N,)](
        *(logits, labels, real, loss),
        V=V,
        LABEL_SMOOTHING=label_smoothing,
        BLOCK=min(4096, triton.next_power_of_2(V)),
        GRADIENTS=gradients,
        WIDE=_WIDE[dtype],
        num_warps=8,
    )
    return loss
