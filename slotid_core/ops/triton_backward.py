"""The exact gradient of the K-step map in two walks over the tokens.

With z_t = x + f_t, A_t = softmax over slots of z_t, r_t = A_t b, G_t = A_t diag(b) A_t^T (kept by the forward pass),
D = dL/d out / r, m_j = sum over slots of A dL/dA:

    walk 1       dL/dA = D v^T + dL/dr - D . out + dL/dP;   dz = A b (dL/dA - m);   lambda = sum over tokens of dz
    S x S only   for t = K-2 .. 0:   dlog_a += lambda;  y_t = lambda / r_t;  lambda <- G_t y_t;   and dlog_a += lambda
    walk 2       dx = dz + sum over t of A_t b (s_t - y_t) - w,   s_tj = sum over slots of A_t y_t,
                 w = lambda exp(x + log b + f_0 - log a)                            (the start's softmax over tokens)
                 dk = dx^T q,  dq = dx k,  dv = (A b)^T D,  dlog_b = b (m - sum over t of s_t) - sum over slots of w

`upstream` makes D. `stream_backward` then does all in one program a problem. The split form has a launch for walk 1,
for the chain and for walk 2; what walk 1 leaves is merged in the chain and dq by `sum_splits`, each in one order.

Dense tensors: as in the forward pass; d_out [P, S, DV], d_mass [P, S], d_plan [P, N, S]; d_q, d_k, d_v, d_log_b in the
shapes of q, k, v, log_b; d_read [P, S, DV], d_each [P, S]; chains [P, splits, S]; ys [P, K-1, S]; ends [P, S].
"""

import triton
import triton.language as tl

from .triton_forward import merged_sum
from .triton_tiles import (
    LOG2E,
    NOTHING,
    added,
    assignment,
    divide,
    empty_sum,
    product,
    scores,
    slot_rows,
    slot_vector,
    store_slot_rows,
    store_slot_vector,
    store_token_rows,
    summed,
    token_marginal,
    token_rows,
)

RUNTIME = ("heads", "S", "N", "iterations", "span", "splits", "zero")


@triton.jit(do_not_specialize=RUNTIME)
def upstream(
    out, d_out, d_mass, row_masses, d_read, d_each, S, iterations,
    DV: tl.constexpr, S_PAD: tl.constexpr, DV_PAD: tl.constexpr,
):  # fmt: skip
    """D, and what every token of a slot adds to dL/dA: [P, S, DV] and [P, S]. One program a problem."""
    problem = tl.program_id(0).to(tl.int64)
    mass = slot_vector(row_masses + (problem * iterations + iterations - 1) * S, S, 0.0, S_PAD)
    read = slot_rows(out + problem * S * DV, S, DV, S_PAD, DV_PAD).to(tl.float32)
    wanted = slot_rows(d_out + problem * S * DV, S, DV, S_PAD, DV_PAD).to(tl.float32)
    wanted = divide(wanted, mass[:, None])
    each = slot_vector(d_mass + problem * S, S, 0.0, S_PAD) - tl.sum(wanted * read, 1)
    store_slot_rows(d_read + problem * S * DV, wanted, S, DV, S_PAD, DV_PAD)
    store_slot_vector(d_each + problem * S, each, S, S_PAD)


@triton.jit
def _last_step(keys, q, scale, f, lb, values, d_read, d_each, d_plan, start, inside, S,
               S_PAD: tl.constexpr, BLOCK_N: tl.constexpr, PLAN: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """x, A b, dz and m of the last step."""
    # The products before the scores: fewer registers at once.
    d_A = product(values, tl.trans(d_read), WORK) + d_each[None, :]
    if PLAN:
        slots = tl.arange(0, S_PAD)
        local = tl.arange(0, BLOCK_N)
        mask = inside[:, None] & (slots < S)[None, :]
        d_A += tl.load(d_plan + start * S + local[:, None] * S + slots[None, :], mask=mask, other=0.0)
    x = scores(keys, q, scale, WORK)
    A = assignment(x, f)
    m = tl.sum(A * d_A, 1)
    P = A * tl.exp2(lb)[:, None]
    return x, P, P * (d_A - m[:, None]), m


@triton.jit
def _walk_1(k, sk_n, sk_d, v, sv_n, sv_d, log_b, sb_n, q, f, d_read, d_each, d_plan, scale, begin, end, S, zero,
            D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
            BLOCK_N: tl.constexpr, PLAN: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """lambda; f: where the last step's potentials lie."""
    chain = empty_sum(BLOCK_N, S_PAD, RELOAD)
    q_kept = slot_rows(q, S, D, S_PAD, D_PAD)
    d_read_kept = slot_rows(d_read, S, DV, S_PAD, DV_PAD)
    for first in tl.range(begin, end, BLOCK_N, disable_licm=RELOAD):
        again = first * zero
        start, inside, lb = token_marginal(log_b, sb_n, first, end, BLOCK_N)
        keys = token_rows(k, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
        slots = slot_rows(q + again, S, D, S_PAD, D_PAD) if RELOAD else q_kept
        values = token_rows(v, sv_n, sv_d, start, lb, DV, DV_PAD, BLOCK_N)
        wanted = slot_rows(d_read + again, S, DV, S_PAD, DV_PAD) if RELOAD else d_read_kept
        _x, _P, dz, _m = _last_step(
            keys, slots, scale, slot_vector(f + again, S, NOTHING, S_PAD), lb, values, wanted,
            slot_vector(d_each + again, S, 0.0, S_PAD), d_plan, start, inside, S, S_PAD, BLOCK_N, PLAN, WORK,
        )  # fmt: skip
        chain = added(chain, dz, RELOAD)
    return summed(chain, RELOAD)


@triton.jit
def _run_chain(chain, row_masses, grams, ys, iterations, S, S_PAD: tl.constexpr):
    """Last lambda and dlog_a; writes every y_t."""
    slots = tl.arange(0, S_PAD)
    mask = (slots < S)[:, None] & (slots < S)[None, :]
    d_log_a = tl.zeros([S_PAD], tl.float32)
    for back in range(iterations - 1):
        step = iterations - 2 - back
        d_log_a += chain
        y = divide(chain, slot_vector(row_masses + step * S, S, 0.0, S_PAD))
        store_slot_vector(ys + step * S, y, S, S_PAD)
        gram = tl.load(grams + step * S * S + slots[:, None] * S + slots[None, :], mask=mask, other=0.0)
        chain = tl.sum(gram * y[None, :], 1)
    return chain, d_log_a + chain


@triton.jit
def _walk_2(k, sk_n, sk_d, v, sv_n, sv_d, log_b, sb_n, q, log_a, d_read, d_each, d_plan, potentials, ys, ends,
            d_k, d_v, d_log_b, iterations, scale, factor, begin, end, S, zero,
            D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
            BLOCK_N: tl.constexpr, PLAN: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """dq without its factor; writes dk, dv and dlog_b of these tokens. ends: where the last lambda lies."""
    last = (iterations - 1) * S
    q_kept = slot_rows(q, S, D, S_PAD, D_PAD)
    d_read_kept = slot_rows(d_read, S, DV, S_PAD, DV_PAD)
    d_q = tl.zeros([S_PAD, D_PAD], tl.float32)
    for first in tl.range(begin, end, BLOCK_N, disable_licm=RELOAD):
        again = first * zero
        start, inside, lb = token_marginal(log_b, sb_n, first, end, BLOCK_N)
        b = tl.exp2(lb)
        keys = token_rows(k, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
        slots = slot_rows(q + again, S, D, S_PAD, D_PAD) if RELOAD else q_kept
        values = token_rows(v, sv_n, sv_d, start, lb, DV, DV_PAD, BLOCK_N)
        wanted = slot_rows(d_read + again, S, DV, S_PAD, DV_PAD) if RELOAD else d_read_kept
        x, P, dx, d_b = _last_step(
            keys, slots, scale, slot_vector(potentials + last + again, S, NOTHING, S_PAD), lb, values, wanted,
            slot_vector(d_each + again, S, 0.0, S_PAD), d_plan, start, inside, S, S_PAD, BLOCK_N, PLAN, WORK,
        )  # fmt: skip
        wanted = slot_rows(d_read + again, S, DV, S_PAD, DV_PAD) if RELOAD else d_read_kept
        store_token_rows(d_v, product(P, wanted, WORK), start, inside, DV, DV_PAD, BLOCK_N)
        for step in range(iterations - 1):
            # Registers again: scores made anew for each step need not outlive it.
            z = scores(keys, slot_rows(q + step * zero, S, D, S_PAD, D_PAD), scale, WORK) if RELOAD else x
            A = assignment(z, slot_vector(potentials + step * S + again, S, NOTHING, S_PAD))
            y = slot_vector(ys + step * S + again, S, 0.0, S_PAD)
            s = tl.sum(A * y[None, :], 1)
            d_b -= s
            dx += A * b[:, None] * (s[:, None] - y[None, :])
        # A slot that is off took no part in the start: its weights are exp2(-inf).
        la = slot_vector(log_a + again, S, NOTHING, S_PAD) * LOG2E
        norm = tl.where(la == NOTHING, float("inf"), la - slot_vector(potentials + again, S, NOTHING, S_PAD))
        z = scores(keys, slot_rows(q + again, S, D, S_PAD, D_PAD), scale, WORK) if RELOAD else x
        w = tl.exp2(z + lb[:, None] - norm[None, :]) * slot_vector(ends + again, S, 0.0, S_PAD)[None, :]
        dx -= w
        d_marginal = b * d_b - tl.sum(w, 1)
        at = d_log_b + start + tl.arange(0, BLOCK_N)
        tl.store(at, d_marginal.to(d_log_b.dtype.element_ty), mask=inside)
        slots = slot_rows(q + again, S, D, S_PAD, D_PAD) if RELOAD else q_kept
        store_token_rows(d_k, product(dx, slots, WORK) * factor, start, inside, D, D_PAD, BLOCK_N)
        d_q += product(tl.trans(dx), keys, WORK)
    return d_q


@triton.jit(do_not_specialize=RUNTIME)
def stream_backward(
    q, k, v, log_a, log_b, d_read, d_each, d_plan, potentials, row_masses, grams, ys, ends,
    d_q, d_k, d_v, d_log_a, d_log_b,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sb_b, sb_h, sb_n, heads, S, N, iterations, zero, scale, factor,
    D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr, PLAN: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One program a problem, any N."""
    problem = tl.program_id(0).to(tl.int64)
    batch, head = problem // heads, problem % heads
    q += problem * S * D
    k += batch * sk_b + head * sk_h
    v += batch * sv_b + head * sv_h
    log_b += batch * sb_b + head * sb_h
    d_read += problem * S * DV
    d_each += problem * S
    d_plan += problem * S * N
    potentials += problem * iterations * S
    ys += problem * (iterations - 1) * S
    ends += problem * S
    chain = _walk_1(
        k, sk_n, sk_d, v, sv_n, sv_d, log_b, sb_n, q, potentials + (iterations - 1) * S, d_read, d_each, d_plan,
        scale, 0, N, S, zero, D, DV, S_PAD, D_PAD, DV_PAD, BLOCK_N, PLAN, RELOAD, WORK,
    )  # fmt: skip
    chain, d_la = _run_chain(
        chain, row_masses + problem * iterations * S, grams + problem * (iterations - 1) * S * S, ys,
        iterations, S, S_PAD,
    )  # fmt: skip
    store_slot_vector(d_log_a + problem * S, d_la, S, S_PAD)
    store_slot_vector(ends, chain, S, S_PAD)
    # Walk 2 reads what other threads of this program have just written.
    tl.debug_barrier()
    d_slots = _walk_2(
        k, sk_n, sk_d, v, sv_n, sv_d, log_b, sb_n, q, log_a + problem * S, d_read, d_each, d_plan, potentials, ys, ends,
        d_k + problem * N * D, d_v + problem * N * DV, d_log_b + problem * N, iterations, scale, factor, 0, N, S,
        zero, D, DV, S_PAD, D_PAD, DV_PAD, BLOCK_N, PLAN, RELOAD, WORK,
    )  # fmt: skip
    store_slot_rows(d_q + problem * S * D, d_slots * factor, S, D, S_PAD, D_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def split_walk_1(
    q, k, v, log_b, d_read, d_each, d_plan, potentials, chains,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sb_b, sb_h, sb_n, heads, S, N, iterations, span, splits, zero,
    scale,
    D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr, PLAN: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    problem, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = problem // heads, problem % heads
    begin = split * span
    chain = _walk_1(
        k + batch * sk_b + head * sk_h, sk_n, sk_d, v + batch * sv_b + head * sv_h, sv_n, sv_d,
        log_b + batch * sb_b + head * sb_h, sb_n, q + problem * S * D,
        potentials + (problem * iterations + iterations - 1) * S, d_read + problem * S * DV, d_each + problem * S,
        d_plan + problem * S * N, scale, begin, tl.minimum(begin + span, N), S, zero,
        D, DV, S_PAD, D_PAD, DV_PAD, BLOCK_N, PLAN, RELOAD, WORK,
    )  # fmt: skip
    store_slot_vector(chains + (problem * splits + split) * S, chain, S, S_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def split_chain(
    chains, row_masses, grams, ys, ends, d_log_a, S, iterations, splits, S_PAD: tl.constexpr, SPLITS_PAD: tl.constexpr
):
    """One program a problem."""
    problem = tl.program_id(0).to(tl.int64)
    chain = merged_sum(chains + problem * splits * S, splits, S, SPLITS_PAD, S_PAD)
    chain, d_la = _run_chain(
        chain, row_masses + problem * iterations * S, grams + problem * (iterations - 1) * S * S,
        ys + problem * (iterations - 1) * S, iterations, S, S_PAD,
    )  # fmt: skip
    store_slot_vector(ends + problem * S, chain, S, S_PAD)
    store_slot_vector(d_log_a + problem * S, d_la, S, S_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def split_walk_2(
    q, k, v, log_a, log_b, d_read, d_each, d_plan, potentials, ys, ends, q_parts, d_k, d_v, d_log_b,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sb_b, sb_h, sb_n, heads, S, N, iterations, span, splits, zero,
    scale, factor,
    D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr, PLAN: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """q_parts: [P, splits, S, D]."""
    problem, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = problem // heads, problem % heads
    begin = split * span
    d_slots = _walk_2(
        k + batch * sk_b + head * sk_h, sk_n, sk_d, v + batch * sv_b + head * sv_h, sv_n, sv_d,
        log_b + batch * sb_b + head * sb_h, sb_n, q + problem * S * D, log_a + problem * S, d_read + problem * S * DV,
        d_each + problem * S, d_plan + problem * S * N, potentials + problem * iterations * S,
        ys + problem * (iterations - 1) * S, ends + problem * S, d_k + problem * N * D, d_v + problem * N * DV,
        d_log_b + problem * N, iterations, scale, factor, begin, tl.minimum(begin + span, N), S, zero,
        D, DV, S_PAD, D_PAD, DV_PAD, BLOCK_N, PLAN, RELOAD, WORK,
    )  # fmt: skip
    store_slot_rows(q_parts + (problem * splits + split) * S * D, d_slots, S, D, S_PAD, D_PAD)
