"""The recurrence over a whole time range as one Triton kernel, and its way back.

Dimensions: T steps, B batch, S source, H hidden, A attention, L layers.

Rows of a batch do not know of each other, so a program takes `BM` of them through all T steps, and
none waits for another. Weights do not fit beside one multiprocessor: tile by tile they come from
the second-level cache at every step. What a step hands to the next is written once, as the trace
that the backward pass needs anyway, and read back by the program that wrote it.

All tensors are contiguous. Everything is float32 but the weights and what is multiplied with them.
Loops over `n0` run over tiles of columns, those over `j` over the source.
"""

try:
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("the Triton kernel needs the package triton") from error


@triton.jit
def _tanh(x):
    return 2 * tl.sigmoid(2 * x) - 1


@triton.jit
def _sum_product(
    total, x, width, rows, real, weight, depth, columns, inside, BK: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """`total + x W` of the columns, x `(rows, depth)` and W `(depth, width)` in memory."""
    for k0 in range(0, depth, BK):
        k = k0 + tl.arange(0, BK)
        w_at = weight + k[:, None] * width + columns[None, :]
        w = tl.load(w_at, (k < depth)[:, None] & inside[None, :], 0.0)
        left = tl.load(
            x + rows[:, None] * depth + k[None, :], real[:, None] & (k < depth)[None, :], 0.0
        )
        total = tl.dot(left.to(w.dtype), w, total, input_precision=PRECISION)
    return total


@triton.jit
def forward_kernel(
    x, states, w_hh, b_hh, w_ih, b_ih, w_query, b_query, keys, gates, bias, score,
    layer_masks, attention_masks, hold, reset_update, new, recurrent_new, query, alpha,
    T, B, S, H, A,
    L: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BH: tl.constexpr, BA: tl.constexpr,
    BS: tl.constexpr, ATTENDS: tl.constexpr, DROPS: tl.constexpr, DROPS_WEIGHTS: tl.constexpr,
    HOLDS: tl.constexpr, KEEPS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take T steps; the arguments are those of `recur`, and where its results and trace go."""
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    real = rows < B
    h, a, j_all = tl.arange(0, BH), tl.arange(0, BA), tl.arange(0, BS)
    for t in range(T):
        before = states + t * L * B * H  # (L, B, H)
        after = before + L * B * H
        # Where this step's values go; without a backward pass to come, on those of the last one.
        i = t if KEEPS else 0
        if ATTENDS:
            alpha_t = alpha + t * B * S
            s = tl.load(
                before + (L - 1) * B * H + rows[:, None] * H + h[None, :],
                real[:, None] & (h < H)[None, :], 0.0,
            ).to(w_query.dtype.element_ty)  # fmt: skip
            query_t = query + i * B * A
            for n0 in range(0, A, BN):
                n = n0 + tl.arange(0, BN)
                w_at = w_query + n[None, :] * H + h[:, None]
                w = tl.load(w_at, (h < H)[:, None] & (n < A)[None, :], 0.0)
                q_n = tl.dot(s, w, input_precision=PRECISION)
                q_n += tl.load(b_query + n, n < A, 0.0).to(tl.float32)[None, :]
                q_at = query_t + rows[:, None] * A + n[None, :]
                tl.store(q_at, q_n, real[:, None] & (n < A)[None, :])
            tl.debug_barrier()
            mask = real[:, None] & (a < A)[None, :]
            q = tl.load(query_t + rows[:, None] * A + a[None, :], mask, 0.0)
            v = tl.load(score + a, a < A, 0.0).to(tl.float32)
            e = tl.zeros([BM, BS], tl.float32)
            for j in range(S):
                key = tl.load(keys + (rows * S + j)[:, None] * A + a[None, :], mask, 0.0)
                e_j = tl.sum(_tanh(q + key.to(tl.float32)) * v[None, :], 1)
                e = tl.where((j_all == j)[None, :], e_j[:, None], e)
            places = real[:, None] & (j_all < S)[None, :]
            place_at = rows[:, None] * S + j_all[None, :]
            e += tl.load(bias + place_at, places, 0.0)
            e = tl.where((j_all < S)[None, :], e, float("-inf"))
            p = tl.exp(e - tl.max(e, 1)[:, None])
            tl.store(alpha_t + place_at, p / tl.sum(p, 1)[:, None], places)
            tl.debug_barrier()
        for layer in tl.static_range(L):
            row = layer * B + rows  # of (L, B, ...)
            wide = (i * L * B + row)[:, None] * 2 * H
            s = tl.load(
                before + row[:, None] * H + h[None, :], real[:, None] & (h < H)[None, :], 0.0
            ).to(w_hh.dtype.element_ty)
            if layer > 0:
                below = tl.load(
                    after + (row - B)[:, None] * H + h[None, :],
                    real[:, None] & (h < H)[None, :], 0.0,
                )  # fmt: skip
                if DROPS:
                    dropped = (t * (L - 1) + layer - 1) * B + rows
                    below *= tl.load(
                        layer_masks + dropped[:, None] * H + h[None, :],
                        real[:, None] & (h < H)[None, :], 0.0,
                    ).to(tl.float32)  # fmt: skip
                below = below.to(w_hh.dtype.element_ty)
            for n0 in range(0, H, BN):
                n = n0 + tl.arange(0, BN)
                inside = real[:, None] & (n < H)[None, :]
                tile = (h < H)[:, None] & (n < H)[None, :]
                w_at = w_hh + layer * 3 * H * H + n[None, :] * H + h[:, None]
                b_at = b_hh + layer * 3 * H + n
                s_r = tl.dot(s, tl.load(w_at, tile, 0.0), input_precision=PRECISION)
                s_r += tl.load(b_at, n < H, 0.0).to(tl.float32)[None, :]
                s_z = tl.dot(s, tl.load(w_at + H * H, tile, 0.0), input_precision=PRECISION)
                s_z += tl.load(b_at + H, n < H, 0.0).to(tl.float32)[None, :]
                s_n = tl.dot(s, tl.load(w_at + 2 * H * H, tile, 0.0), input_precision=PRECISION)
                s_n += tl.load(b_at + 2 * H, n < H, 0.0).to(tl.float32)[None, :]
                if layer == 0:
                    x_at = x + (t * B + rows)[:, None] * 3 * H + n[None, :]
                    x_r = tl.load(x_at, inside, 0.0).to(tl.float32)
                    x_z = tl.load(x_at + H, inside, 0.0).to(tl.float32)
                    x_n = tl.load(x_at + 2 * H, inside, 0.0).to(tl.float32)
                    if ATTENDS:
                        for j in range(S):
                            alpha_j = tl.load(alpha_t + rows * S + j, real, 0.0)
                            if DROPS_WEIGHTS:
                                mask_at = attention_masks + (t * B + rows) * S + j
                                alpha_j *= tl.load(mask_at, real, 0.0).to(tl.float32)
                            g_at = gates + (rows * S + j)[:, None] * 3 * H + n[None, :]
                            part = alpha_j[:, None]
                            x_r += part * tl.load(g_at, inside, 0.0).to(tl.float32)
                            x_z += part * tl.load(g_at + H, inside, 0.0).to(tl.float32)
                            x_n += part * tl.load(g_at + 2 * H, inside, 0.0).to(tl.float32)
                else:
                    w_at = w_ih + (layer - 1) * 3 * H * H + n[None, :] * H + h[:, None]
                    b_at = b_ih + (layer - 1) * 3 * H + n
                    x_r = tl.dot(below, tl.load(w_at, tile, 0.0), input_precision=PRECISION)
                    x_r += tl.load(b_at, n < H, 0.0).to(tl.float32)[None, :]
                    w_at += H * H
                    x_z = tl.dot(below, tl.load(w_at, tile, 0.0), input_precision=PRECISION)
                    x_z += tl.load(b_at + H, n < H, 0.0).to(tl.float32)[None, :]
                    w_at += H * H
                    x_n = tl.dot(below, tl.load(w_at, tile, 0.0), input_precision=PRECISION)
                    x_n += tl.load(b_at + 2 * H, n < H, 0.0).to(tl.float32)[None, :]
                if HOLDS:
                    x_z += tl.load(hold + t * B + rows, real, 0.0).to(tl.float32)[:, None]
                r, z = tl.sigmoid(x_r + s_r), tl.sigmoid(x_z + s_z)
                n_new = _tanh(x_n + r * s_n)
                at = row[:, None] * H + n[None, :]
                s_old = tl.load(before + at, inside, 0.0)
                # In this form a held state stays to the last bit, as z = 1.
                tl.store(after + at, s_old + (1 - z) * (n_new - s_old), inside)
                if KEEPS:
                    at += t * L * B * H
                    tl.store(reset_update + wide + n[None, :], r, inside)
                    tl.store(reset_update + wide + H + n[None, :], z, inside)
                    tl.store(new + at, n_new, inside)
                    tl.store(recurrent_new + at, s_n, inside)
            tl.debug_barrier()


@triton.jit
def backward_kernel(
    states, reset_update, new, recurrent_new, query, alpha, w_hh, w_ih, w_query, keys, gates, score,
    layer_masks, attention_masks, grad_states, grad_alpha,
    ds, dx, drec, dquery, dkeys, dscore, de,
    T, B, S, H, A,
    L: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, BA: tl.constexpr,
    BS: tl.constexpr, ATTENDS: tl.constexpr, DROPS: tl.constexpr, DROPS_WEIGHTS: tl.constexpr,
    HAS_STATES: tl.constexpr, HAS_ALPHA: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Take the steps back; `ds` `(L, B, H)` and `dkeys` begin at 0, the others are written.

    `drec` `(T, L, B, 3H)` and `dquery` `(T, B, A)` are the gradients of what the states were
    multiplied to, `dx` `(T, L, B, 3H)` those of the layers' input gates; the weights' follow from
    these in one product each. `dscore` `(programs, A)` has a row for each program.
    """
    rows = tl.program_id(0) * BM + tl.arange(0, BM)
    real = rows < B
    a, j_all = tl.arange(0, BA), tl.arange(0, BS)
    if ATTENDS:
        dv = tl.zeros([BM, BA], tl.float32)
        v = tl.load(score + a, a < A, 0.0).to(tl.float32)
    for back in range(T):
        t = T - 1 - back
        for layer in tl.static_range(L - 1, -1, -1):
            row = layer * B + rows
            step = t * L * B + row  # of (T, L, B, ...)
            for n0 in range(0, H, BN):
                n = n0 + tl.arange(0, BN)
                inside = real[:, None] & (n < H)[None, :]
                at, at_step = row[:, None] * H + n[None, :], step[:, None] * H + n[None, :]
                d = tl.load(ds + at, inside, 0.0)
                if HAS_STATES:
                    d += tl.load(grad_states + at_step, inside, 0.0).to(tl.float32)
                rz_at = reset_update + step[:, None] * 2 * H + n[None, :]
                r, z = tl.load(rz_at, inside, 0.0), tl.load(rz_at + H, inside, 0.0)
                n_new = tl.load(new + at_step, inside, 0.0)
                s = tl.load(states + at_step, inside, 0.0)
                d_keep = d * z
                dn = (d - d_keep) * (1 - n_new * n_new)
                dz = (s - n_new) * d_keep * (1 - z)
                dr = dn * tl.load(recurrent_new + at_step, inside, 0.0) * r * (1 - r)
                to = step[:, None] * 3 * H + n[None, :]
                tl.store(dx + to, dr, inside)
                tl.store(dx + to + H, dz, inside)
                tl.store(dx + to + 2 * H, dn, inside)
                tl.store(drec + to, dr, inside)
                tl.store(drec + to + H, dz, inside)
                tl.store(drec + to + 2 * H, dn * r, inside)
                tl.store(ds + at, d_keep, inside)
            tl.debug_barrier()
            if layer > 0:
                dx_t = dx + (t * L + layer) * B * 3 * H
                w = w_ih + (layer - 1) * 3 * H * H
                for n0 in range(0, H, BN):
                    n = n0 + tl.arange(0, BN)
                    inside = real[:, None] & (n < H)[None, :]
                    total = tl.zeros([BM, BN], tl.float32)
                    total = _sum_product(
                        total, dx_t, H, rows, real, w, 3 * H, n, n < H, BK, PRECISION
                    )
                    if DROPS:
                        dropped = (t * (L - 1) + layer - 1) * B + rows
                        mask_at = layer_masks + dropped[:, None] * H + n[None, :]
                        total *= tl.load(mask_at, inside, 0.0).to(tl.float32)
                    ds_at = ds + (row - B)[:, None] * H + n[None, :]
                    tl.store(ds_at, tl.load(ds_at, inside, 0.0) + total, inside)
                tl.debug_barrier()
        if ATTENDS:
            da = tl.zeros([BM, BS], tl.float32)
            dx_t = dx + t * L * B * 3 * H
            for j in range(S):
                da_j = tl.zeros([BM], tl.float32)
                for n0 in range(0, 3 * H, BN):
                    n = n0 + tl.arange(0, BN)
                    inside = real[:, None] & (n < 3 * H)[None, :]
                    d = tl.load(dx_t + rows[:, None] * 3 * H + n[None, :], inside, 0.0)
                    g_at = gates + (rows * S + j)[:, None] * 3 * H + n[None, :]
                    da_j += tl.sum(tl.load(g_at, inside, 0.0).to(tl.float32) * d, 1)
                da = tl.where((j_all == j)[None, :], da_j[:, None], da)
            places = real[:, None] & (j_all < S)[None, :]
            place_at = (t * B + rows)[:, None] * S + j_all[None, :]
            if DROPS_WEIGHTS:
                da *= tl.load(attention_masks + place_at, places, 0.0).to(tl.float32)
            if HAS_ALPHA:
                da += tl.load(grad_alpha + place_at, places, 0.0).to(tl.float32)
            alpha_t = tl.load(alpha + place_at, places, 0.0)
            de_t = alpha_t * (da - tl.sum(alpha_t * da, 1)[:, None])
            tl.store(de + rows[:, None] * S + j_all[None, :], de_t, places)
            tl.debug_barrier()
            mask = real[:, None] & (a < A)[None, :]
            q_at = (t * B + rows)[:, None] * A + a[None, :]
            q = tl.load(query + q_at, mask, 0.0)
            dq = tl.zeros([BM, BA], tl.float32)
            for j in range(S):
                de_j = tl.load(de + rows * S + j, real, 0.0)[:, None]
                key_at = (rows * S + j)[:, None] * A + a[None, :]
                f = _tanh(q + tl.load(keys + key_at, mask, 0.0).to(tl.float32))
                g = (1 - f * f) * de_j * v[None, :]
                dq += g
                dv += f * de_j
                tl.store(dkeys + key_at, tl.load(dkeys + key_at, mask, 0.0) + g, mask)
            tl.store(dquery + q_at, dq, mask)
            tl.debug_barrier()
        for layer in tl.static_range(L):
            row = layer * B + rows
            drec_t = drec + (t * L + layer) * B * 3 * H
            w = w_hh + layer * 3 * H * H
            for n0 in range(0, H, BN):
                n = n0 + tl.arange(0, BN)
                total = tl.zeros([BM, BN], tl.float32)
                total = _sum_product(
                    total, drec_t, H, rows, real, w, 3 * H, n, n < H, BK, PRECISION
                )
                if ATTENDS and layer == L - 1:
                    total = _sum_product(
                        total, dquery + t * B * A, H, rows, real, w_query, A, n, n < H, BK,
                        PRECISION,
                    )  # fmt: skip
                inside = real[:, None] & (n < H)[None, :]
                ds_at = ds + row[:, None] * H + n[None, :]
                tl.store(ds_at, tl.load(ds_at, inside, 0.0) + total, inside)
        tl.debug_barrier()
    if ATTENDS:
        tl.store(dscore + tl.program_id(0) * A + a, tl.sum(dv, 0), a < A)


# Told by the environment variable TRITON_INTERPRET, Triton runs its programs in Python.
INTERPRETED = not isinstance(forward_kernel, triton.JITFunction)
