"""The forward pass: three forms of one computation.

    start        f_0 = log a - logsumexp_j(x_ij + log b_j)
    K-1 times    A = softmax over slots of (x + f);  r = A b;  G = A diag(b) A^T;  f <- f + log a - log r
    last         A as above;  r = A b;  out = (A * b) v / r;  P = A * b

`resident`  one program a problem, all its scores in registers: k is read once. For a frame's few hundred tokens.
`stream`    one program a problem, which walks the tokens K + 1 times and makes the scores anew each time.
`split`     each walk is a launch, in which SPLITS programs share a problem's tokens. What a walk adds up is merged at
            the beginning of the next launch, by every program for itself and in one order: no atomics, the same bits
            every time.

G is accumulated only where a gradient is wanted. Dense tensors, with P problems: q [P, S, D], log_a [P, S],
out [P, S, DV], row_mass [P, S], plan [P, N, S], potentials and row_masses [P, K, S], grams [P, K-1, S, S].
k, v and log_b come with their strides, for problem p = batch * heads + head.
"""

import triton
import triton.language as tl

from .triton_tiles import (
    LOG2E,
    NOTHING,
    added,
    assignment,
    divide,
    empty_sum,
    first_potential,
    next_potential,
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

RUNTIME = ("heads", "S", "N", "iterations", "step", "span", "splits", "zero")


@triton.jit
def _start_walk(k, sk_n, sk_d, log_b, sb_n, q, scale, begin, end, S, zero,
                D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr,
                RELOAD: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """Largest x + log b of each slot, and the sum of exp2 relative to it."""
    top = tl.full([S_PAD], NOTHING, tl.float32)
    total = tl.zeros([S_PAD], tl.float32)
    kept = slot_rows(q, S, D, S_PAD, D_PAD)
    for first in tl.range(begin, end, BLOCK_N, disable_licm=RELOAD):
        slots = slot_rows(q + first * zero, S, D, S_PAD, D_PAD) if RELOAD else kept
        start, _inside, lb = token_marginal(log_b, sb_n, first, end, BLOCK_N)
        keys = token_rows(k, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
        z = scores(keys, slots, scale, WORK) + lb[:, None]
        higher = tl.maximum(top, tl.max(z, 0))
        safe = tl.where(higher == NOTHING, 0.0, higher)
        total = total * tl.exp2(top - safe) + tl.sum(tl.exp2(z - safe[None, :]), 0)
        top = higher
    return top, total


@triton.jit
def _mass_walk(k, sk_n, sk_d, log_b, sb_n, q, f, scale, begin, end, S, zero,
               D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr,
               GRAMS: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """r and, with GRAMS, G (else zeros) of one step."""
    masses = empty_sum(BLOCK_N, S_PAD, RELOAD)
    gram = tl.zeros([S_PAD, S_PAD], tl.float32)
    kept = slot_rows(q, S, D, S_PAD, D_PAD)
    for first in tl.range(begin, end, BLOCK_N, disable_licm=RELOAD):
        slots = slot_rows(q + first * zero, S, D, S_PAD, D_PAD) if RELOAD else kept
        start, _inside, lb = token_marginal(log_b, sb_n, first, end, BLOCK_N)
        keys = token_rows(k, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
        A = assignment(scores(keys, slots, scale, WORK), f)
        P = A * tl.exp2(lb)[:, None]
        masses = added(masses, P, RELOAD)
        if GRAMS:
            gram += product(tl.trans(P), A, WORK)
    return summed(masses, RELOAD), gram


@triton.jit
def _read_walk(k, sk_n, sk_d, v, sv_n, sv_d, log_b, sb_n, q, f, scale, begin, end, S, zero,
               D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
               BLOCK_N: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr):  # fmt: skip
    """r and P v of the last step."""
    masses = empty_sum(BLOCK_N, S_PAD, RELOAD)
    read = tl.zeros([S_PAD, DV_PAD], tl.float32)
    kept = slot_rows(q, S, D, S_PAD, D_PAD)
    for first in tl.range(begin, end, BLOCK_N, disable_licm=RELOAD):
        slots = slot_rows(q + first * zero, S, D, S_PAD, D_PAD) if RELOAD else kept
        start, _inside, lb = token_marginal(log_b, sb_n, first, end, BLOCK_N)
        keys = token_rows(k, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
        P = assignment(scores(keys, slots, scale, WORK), f) * tl.exp2(lb)[:, None]
        masses = added(masses, P, RELOAD)
        values = token_rows(v, sv_n, sv_d, start, lb, DV, DV_PAD, BLOCK_N)
        read += _read(P, values, WORK)
    return summed(masses, RELOAD), read


@triton.jit
def _read(P, values, WORK: tl.constexpr):
    return product(tl.trans(P), values, WORK)


@triton.jit
def _store_gram(grams, gram, S, S_PAD: tl.constexpr):
    slots = tl.arange(0, S_PAD)
    mask = (slots < S)[:, None] & (slots < S)[None, :]
    tl.store(grams + slots[:, None] * S + slots[None, :], gram, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def resident_forward(
    q, k, v, log_a, log_b, out, row_mass, plan, potentials, row_masses, grams,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sb_b, sb_h, sb_n, heads, S, N, iterations, scale,
    D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr, PLAN: tl.constexpr, GRAMS: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One program a problem, N <= BLOCK_N."""
    problem = tl.program_id(0).to(tl.int64)
    batch, head = problem // heads, problem % heads
    q_ = slot_rows(q + problem * S * D, S, D, S_PAD, D_PAD)
    la = slot_vector(log_a + problem * S, S, NOTHING, S_PAD) * LOG2E
    start, inside, lb = token_marginal(log_b + batch * sb_b + head * sb_h, sb_n, 0, N, BLOCK_N)
    b = tl.exp2(lb)[:, None]
    keys = token_rows(k + batch * sk_b + head * sk_h, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
    x = scores(keys, q_, scale, WORK)
    potentials += problem * iterations * S
    row_masses += problem * iterations * S
    grams += problem * (iterations - 1) * S * S

    top = tl.max(x + lb[:, None], 0)
    safe = tl.where(top == NOTHING, 0.0, top)
    f = first_potential(la, top, tl.sum(tl.exp2(x + lb[:, None] - safe[None, :]), 0))
    for step in range(iterations - 1):
        A = assignment(x, f)
        P = A * b
        mass = tl.sum(P, 0)
        store_slot_vector(potentials + step * S, f, S, S_PAD)
        store_slot_vector(row_masses + step * S, mass, S, S_PAD)
        if GRAMS:
            _store_gram(grams + step * S * S, product(tl.trans(P), A, WORK), S, S_PAD)
        f = next_potential(f, la, mass)

    P = assignment(x, f) * b
    mass = tl.sum(P, 0)
    if PLAN:
        store_token_rows(plan + problem * S * N, P, start, inside, S, S_PAD, BLOCK_N)
    values = token_rows(v + batch * sv_b + head * sv_h, sv_n, sv_d, start, lb, DV, DV_PAD, BLOCK_N)
    read = divide(_read(P, values, WORK), mass[:, None])
    store_slot_rows(out + problem * S * DV, read, S, DV, S_PAD, DV_PAD)
    store_slot_vector(row_mass + problem * S, mass, S, S_PAD)
    store_slot_vector(potentials + (iterations - 1) * S, f, S, S_PAD)
    store_slot_vector(row_masses + (iterations - 1) * S, mass, S, S_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def stream_forward(
    q, k, v, log_a, log_b, out, row_mass, potentials, row_masses, grams,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sb_b, sb_h, sb_n, heads, S, N, iterations, zero, scale,
    D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr, GRAMS: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One program a problem, any N."""
    problem = tl.program_id(0).to(tl.int64)
    batch, head = problem // heads, problem % heads
    q += problem * S * D
    la = slot_vector(log_a + problem * S, S, NOTHING, S_PAD) * LOG2E
    k += batch * sk_b + head * sk_h
    v += batch * sv_b + head * sv_h
    log_b += batch * sb_b + head * sb_h
    potentials += problem * iterations * S
    row_masses += problem * iterations * S
    grams += problem * (iterations - 1) * S * S

    top, total = _start_walk(
        k, sk_n, sk_d, log_b, sb_n, q, scale, 0, N, S, zero, D, S_PAD, D_PAD, BLOCK_N, RELOAD, WORK
    )
    f = first_potential(la, top, total)
    for step in range(iterations - 1):
        mass, gram = _mass_walk(
            k, sk_n, sk_d, log_b, sb_n, q, f, scale, 0, N, S, zero,
            D, S_PAD, D_PAD, BLOCK_N, GRAMS, RELOAD, WORK,
        )  # fmt: skip
        store_slot_vector(potentials + step * S, f, S, S_PAD)
        store_slot_vector(row_masses + step * S, mass, S, S_PAD)
        if GRAMS:
            _store_gram(grams + step * S * S, gram, S, S_PAD)
        f = next_potential(f, la, mass)

    mass, read = _read_walk(
        k, sk_n, sk_d, v, sv_n, sv_d, log_b, sb_n, q, f, scale, 0, N, S, zero,
        D, DV, S_PAD, D_PAD, DV_PAD, BLOCK_N, RELOAD, WORK,
    )  # fmt: skip
    store_slot_rows(out + problem * S * DV, divide(read, mass[:, None]), S, DV, S_PAD, DV_PAD)
    store_slot_vector(row_mass + problem * S, mass, S, S_PAD)
    store_slot_vector(potentials + (iterations - 1) * S, f, S, S_PAD)
    store_slot_vector(row_masses + (iterations - 1) * S, mass, S, S_PAD)


@triton.jit
def merged_sum(parts, splits, S, SPLITS_PAD: tl.constexpr, S_PAD: tl.constexpr):
    """[S_PAD]: the sum of dense [splits, S], in one order whatever ran first."""
    rows = tl.arange(0, SPLITS_PAD)
    slots = tl.arange(0, S_PAD)
    mask = (rows < splits)[:, None] & (slots < S)[None, :]
    return tl.sum(tl.load(parts + rows[:, None] * S + slots[None, :], mask=mask, other=0.0), 0)


@triton.jit
def _merged_start(tops, totals, splits, S, SPLITS_PAD: tl.constexpr, S_PAD: tl.constexpr):
    rows = tl.arange(0, SPLITS_PAD)
    slots = tl.arange(0, S_PAD)
    mask = (rows < splits)[:, None] & (slots < S)[None, :]
    each = tl.load(tops + rows[:, None] * S + slots[None, :], mask=mask, other=NOTHING)
    total = tl.load(totals + rows[:, None] * S + slots[None, :], mask=mask, other=0.0)
    top = tl.max(each, 0)
    safe = tl.where(top == NOTHING, 0.0, top)
    return top, tl.sum(total * tl.exp2(each - safe[None, :]), 0)


@triton.jit
def _arrive(la, tops, parts, potentials, row_masses, step, splits, problem, split, S,
            FIRST: tl.constexpr, SPLITS_PAD: tl.constexpr, S_PAD: tl.constexpr):  # fmt: skip
    """f of this step, from what the programs of the launch before left; one program keeps it."""
    if FIRST:
        top, total = _merged_start(
            tops + problem * splits * S, parts + problem * splits * S, splits, S, SPLITS_PAD, S_PAD
        )
        f = first_potential(la, top, total)
    else:
        mass = merged_sum(parts + problem * splits * S, splits, S, SPLITS_PAD, S_PAD)
        f = next_potential(slot_vector(potentials + (step - 1) * S, S, NOTHING, S_PAD), la, mass)
        if split == 0:
            store_slot_vector(row_masses + (step - 1) * S, mass, S, S_PAD)
    if split == 0:
        store_slot_vector(potentials + step * S, f, S, S_PAD)
    return f


@triton.jit(do_not_specialize=RUNTIME)
def split_start(
    q, k, log_b, tops, totals, sk_b, sk_h, sk_n, sk_d, sb_b, sb_h, sb_n, heads, S, N, span, splits, zero, scale,
    D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr, RELOAD: tl.constexpr,
    WORK: tl.constexpr,
):  # fmt: skip
    """First launch; `span` tokens a program. tops, totals: [P, splits, S]."""
    problem, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = problem // heads, problem % heads
    q += problem * S * D
    begin = split * span
    top, total = _start_walk(
        k + batch * sk_b + head * sk_h, sk_n, sk_d, log_b + batch * sb_b + head * sb_h, sb_n, q, scale,
        begin, tl.minimum(begin + span, N), S, zero, D, S_PAD, D_PAD, BLOCK_N, RELOAD, WORK,
    )  # fmt: skip
    store_slot_vector(tops + (problem * splits + split) * S, top, S, S_PAD)
    store_slot_vector(totals + (problem * splits + split) * S, total, S, S_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def split_step(
    q, k, log_a, log_b, tops, parts, made, gram_parts, potentials, row_masses,
    sk_b, sk_h, sk_n, sk_d, sb_b, sb_h, sb_n, heads, S, N, iterations, step, span, splits, zero, scale,
    D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr, SPLITS_PAD: tl.constexpr,
    FIRST: tl.constexpr, GRAMS: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """One launch for each step but the last. parts: what the launch before made, made: what this one makes."""
    problem, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = problem // heads, problem % heads
    q += problem * S * D
    la = slot_vector(log_a + problem * S, S, NOTHING, S_PAD) * LOG2E
    kept = problem * iterations * S
    f = _arrive(
        la, tops, parts, potentials + kept, row_masses + kept, step, splits, problem, split, S, FIRST, SPLITS_PAD, S_PAD
    )
    begin = split * span
    mass, gram = _mass_walk(
        k + batch * sk_b + head * sk_h, sk_n, sk_d, log_b + batch * sb_b + head * sb_h, sb_n, q, f, scale,
        begin, tl.minimum(begin + span, N), S, zero, D, S_PAD, D_PAD, BLOCK_N, GRAMS, RELOAD, WORK,
    )  # fmt: skip
    store_slot_vector(made + (problem * splits + split) * S, mass, S, S_PAD)
    if GRAMS:
        _store_gram(gram_parts + (problem * splits + split) * S * S, gram, S, S_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def split_read(
    q, k, v, log_a, log_b, tops, parts, made, reads, potentials, row_masses,
    sk_b, sk_h, sk_n, sk_d, sv_b, sv_h, sv_n, sv_d, sb_b, sb_h, sb_n, heads, S, N, iterations, span, splits, zero,
    scale,
    D: tl.constexpr, DV: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, DV_PAD: tl.constexpr,
    BLOCK_N: tl.constexpr, SPLITS_PAD: tl.constexpr, FIRST: tl.constexpr, RELOAD: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """The last step. reads: [P, splits, S, DV]."""
    problem, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    batch, head = problem // heads, problem % heads
    q += problem * S * D
    la = slot_vector(log_a + problem * S, S, NOTHING, S_PAD) * LOG2E
    kept, last = problem * iterations * S, iterations - 1
    f = _arrive(
        la, tops, parts, potentials + kept, row_masses + kept, last, splits, problem, split, S, FIRST, SPLITS_PAD, S_PAD
    )
    begin = split * span
    mass, read = _read_walk(
        k + batch * sk_b + head * sk_h, sk_n, sk_d, v + batch * sv_b + head * sv_h, sv_n, sv_d,
        log_b + batch * sb_b + head * sb_h, sb_n, q, f, scale, begin,
        tl.minimum(begin + span, N), S, zero, D, DV, S_PAD, D_PAD, DV_PAD, BLOCK_N, RELOAD, WORK,
    )  # fmt: skip
    store_slot_vector(made + (problem * splits + split) * S, mass, S, S_PAD)
    store_slot_rows(reads + (problem * splits + split) * S * DV, read, S, DV, S_PAD, DV_PAD)


@triton.jit(do_not_specialize=RUNTIME)
def split_plan(
    q, k, log_b, plan, potentials, sk_b, sk_h, sk_n, sk_d, sb_b, sb_h, sb_n, heads, S, N, iterations, scale,
    D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr, WORK: tl.constexpr,
):  # fmt: skip
    """The plan, where it is asked for and not resident: one program a tile, from the last potentials."""
    problem, first = tl.program_id(0).to(tl.int64), tl.program_id(1) * BLOCK_N
    batch, head = problem // heads, problem % heads
    slots = slot_rows(q + problem * S * D, S, D, S_PAD, D_PAD)
    f = slot_vector(potentials + (problem * iterations + iterations - 1) * S, S, NOTHING, S_PAD)
    start, inside, lb = token_marginal(log_b + batch * sb_b + head * sb_h, sb_n, first, N, BLOCK_N)
    keys = token_rows(k + batch * sk_b + head * sk_h, sk_n, sk_d, start, lb, D, D_PAD, BLOCK_N)
    P = assignment(scores(keys, slots, scale, WORK), f) * tl.exp2(lb)[:, None]
    store_token_rows(plan + problem * S * N, P, start, inside, S, S_PAD, BLOCK_N)


@triton.jit(do_not_specialize=RUNTIME)
def split_merge(
    parts, reads, out, row_mass, row_masses, S, iterations, splits,
    DV: tl.constexpr, S_PAD: tl.constexpr, DV_PAD: tl.constexpr, SPLITS_PAD: tl.constexpr,
):  # fmt: skip
    """Last launch, one program a problem: r and out."""
    problem = tl.program_id(0).to(tl.int64)
    mass = merged_sum(parts + problem * splits * S, splits, S, SPLITS_PAD, S_PAD)
    read = tl.zeros([S_PAD, DV_PAD], tl.float32)
    for split in range(splits):
        read += slot_rows(reads + (problem * splits + split) * S * DV, S, DV, S_PAD, DV_PAD)
    store_slot_rows(out + problem * S * DV, divide(read, mass[:, None]), S, DV, S_PAD, DV_PAD)
    store_slot_vector(row_mass + problem * S, mass, S, S_PAD)
    store_slot_vector(row_masses + (problem * iterations + iterations - 1) * S, mass, S, S_PAD)


@triton.jit(do_not_specialize=("size", "splits"))
def sum_splits(parts, out, stride_out, size, splits, factor, BLOCK: tl.constexpr):
    """out[p, i] = factor * sum over splits of dense parts [P, splits, size], in one order."""
    problem = tl.program_id(0).to(tl.int64)
    where = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for split in range(splits):
        total += tl.load(parts + (problem * splits + split) * size + where, mask=where < size, other=0.0)
    tl.store(out + problem * stride_out + where, (total * factor).to(out.dtype.element_ty), mask=where < size)
