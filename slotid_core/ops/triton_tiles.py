"""What the routing kernels share. Imported only where Triton is; see `ops/sinkhorn.py` for the formulas.

A tile holds BLOCK_N tokens on its rows and S_PAD slots along them, so a softmax over slots is a reduction within rows.
Scores, potentials and log marginals are in units of log 2 (one exp2 each, the scale folded in); masses are plain. A
padded slot has log a = -inf, a token past the end has log b = -inf: both vanish by the rules for real ones.

Hazards that every kernel minds:
  * a masked token may hold NaN or anything else: its k and v are never loaded, since 0 * NaN would leak;
  * tests for an empty sum say `== 0`: `> 0` would hide a NaN;
  * `tl.dot` wants 16 of everything, so S, d and dv are padded to powers of 2 from 16 on;
  * offsets up to a tile are int64: k of a long clip passes 2^31 elements before it fills a card;
  * what belongs to the slots is the same for every tile, and the compiler would keep it in registers throughout, in
    every layout it is used in. With many slots that spills. Under RELOAD it is loaded anew for each tile, at an offset
    of `first * zero`: zero is an argument that is always 0, which the compiler cannot know; and no address is made
    before the loop (disable_licm). For the same reason sums over tokens are then kept as vectors, at the price of a
    reduction for each tile;
  * a softmax over slots wants whole rows within a warp, so the compiler gives every warp 16 rows: more warps than
    BLOCK_N / 16 would do the same work twice.
"""

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)
NOTHING = tl.constexpr(float("-inf"))


@triton.jit
def product(a, b, WORK: tl.constexpr):
    """a @ b in float32, from operands of which one was computed in float32.

    WORK: as many digits as the inputs have. "bf16": both as bfloat16, whose range no plan or gradient leaves. "tf32"
    (float16 inputs, whose range they would leave) and "tf32x3" (float32 inputs): both as float32. "interpreted": the
    same in Triton's interpreter, which cuts off where it should round and multiplies the bit patterns of bfloat16.
    """
    if WORK == "bf16":
        return tl.dot(a.to(tl.bfloat16), b.to(tl.bfloat16))
    elif WORK == "interpreted":
        return tl.dot(a.to(tl.float32), b.to(tl.float32))
    else:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision=WORK)


@triton.jit
def scores(keys, q, scale, WORK: tl.constexpr):
    """x [BLOCK_N, S_PAD] in units of log 2: products of the inputs as they are."""
    if WORK == "interpreted":
        return tl.dot(keys.to(tl.float32), tl.trans(q).to(tl.float32)) * scale
    else:
        # For float32 alone: tf32 would be wrong in the third digit, and without tensor cores registers overflow.
        return tl.dot(keys, tl.trans(q), input_precision="tf32x3") * scale


@triton.jit
def token_marginal(log_b, stride_n, first, end, BLOCK_N: tl.constexpr):
    """Number of the tile's first token (int64), which of its tokens are there, and their log2 b, -inf past the end."""
    start = tl.program_id(0).to(tl.int64) * 0 + first
    local = tl.arange(0, BLOCK_N)
    inside = first + local < end
    marginal = tl.load(log_b + start * stride_n + local * stride_n, mask=inside, other=NOTHING)
    return start, inside, marginal.to(tl.float32) * LOG2E


@triton.jit
def token_rows(base, stride_n, stride_d, start, log_b, D: tl.constexpr, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr):
    """k or v of the tile [BLOCK_N, D_PAD]; 0 for a token that is masked."""
    local = tl.arange(0, BLOCK_N)
    features = tl.arange(0, D_PAD)
    mask = (log_b != NOTHING)[:, None]
    if D != D_PAD:
        mask = mask & (features < D)[None, :]
    # Within a tile 32 bits do: the launcher sees to strides of less than 2^24.
    return tl.load(
        base + start * stride_n + local[:, None] * stride_n + features[None, :] * stride_d, mask=mask, other=0.0
    )


@triton.jit
def store_token_rows(base, values, start, inside, D, D_PAD: tl.constexpr, BLOCK_N: tl.constexpr):
    """Rows of the tile [BLOCK_N, D_PAD] to a dense [N, D]."""
    local = tl.arange(0, BLOCK_N)
    features = tl.arange(0, D_PAD)
    at = base + start * D + local[:, None] * D + features[None, :]
    tl.store(at, values.to(base.dtype.element_ty), mask=inside[:, None] & (features < D)[None, :])


@triton.jit
def slot_rows(base, S, D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr):
    """Rows of the slots [S_PAD, D_PAD] from a dense [S, D]."""
    slots = tl.arange(0, S_PAD)
    features = tl.arange(0, D_PAD)
    mask = (slots < S)[:, None] & (features < D)[None, :]
    return tl.load(base + slots[:, None] * D + features[None, :], mask=mask, other=0.0)


@triton.jit
def store_slot_rows(base, values, S, D: tl.constexpr, S_PAD: tl.constexpr, D_PAD: tl.constexpr):
    """`slot_rows`, written."""
    slots = tl.arange(0, S_PAD)
    features = tl.arange(0, D_PAD)
    mask = (slots < S)[:, None] & (features < D)[None, :]
    tl.store(base + slots[:, None] * D + features[None, :], values.to(base.dtype.element_ty), mask=mask)


@triton.jit
def slot_vector(base, S, other, S_PAD: tl.constexpr):
    """[S_PAD] in float32 from a dense [S]; `other` for padded slots."""
    slots = tl.arange(0, S_PAD)
    return tl.load(base + slots, mask=slots < S, other=other).to(tl.float32)


@triton.jit
def store_slot_vector(base, values, S, S_PAD: tl.constexpr):
    """`slot_vector`, written."""
    slots = tl.arange(0, S_PAD)
    tl.store(base + slots, values.to(base.dtype.element_ty), mask=slots < S)


@triton.jit
def divide(x, y):
    """x / y, and 0 where y is 0; a NaN stays."""
    return tl.where(y == 0.0, 0.0, x / y)


@triton.jit
def assignment(x, f):
    """A: softmax over slots of x + f; a row whose slots are all off is 0."""
    z = x + f[None, :]
    top = tl.max(z, 1)
    # -inf - -inf would be NaN. tl.max passes a NaN over, but exp2 brings it back.
    top = tl.where(top == NOTHING, 0.0, top)
    weights = tl.exp2(z - top[:, None])
    total = tl.sum(weights, 1)
    return weights * tl.where(total == 0.0, 0.0, 1.0 / total)[:, None]


@triton.jit
def first_potential(log_a, top, total):
    """f_0 = log a - logsumexp_j(x_ij + log b_j) from the largest term and the sum of the terms relative to it."""
    # With every token masked there is nothing to start from.
    start = tl.where(total == 0.0, 0.0, tl.where(top == NOTHING, 0.0, top) + tl.log2(total))
    return log_a - start


@triton.jit
def next_potential(f, log_a, mass):
    """f + log a - log r; unchanged for a slot that is off or a problem with no tokens."""
    return f + tl.where(mass == 0.0, 0.0, log_a - tl.log2(mass))


@triton.jit
def empty_sum(BLOCK_N: tl.constexpr, S_PAD: tl.constexpr, RELOAD: tl.constexpr):
    """Where a sum over tokens [S_PAD] begins."""
    if RELOAD:
        return tl.zeros([S_PAD], tl.float32)
    else:
        # Added up element by element and reduced once, at the end.
        return tl.zeros([BLOCK_N, S_PAD], tl.float32)


@triton.jit
def added(total, values, RELOAD: tl.constexpr):
    if RELOAD:
        return total + tl.sum(values, 0)
    else:
        return total + values


@triton.jit
def summed(total, RELOAD: tl.constexpr):
    if RELOAD:
        return total
    else:
        return tl.sum(total, 0)
