"""Reference Sinkhorn routing: plain torch, the ground truth for every other backend, and the default on the CPU.

One problem routes N tokens to S slots by entropic optimal transport with kernel exp(x), x = q k^T / (sqrt(d) eps),
row marginal a (slots) and column marginal b (tokens). S is small, so a whole column of the plan is at hand for each
token and the only state carried between iterations is the slots' potential f [S]:

    start        f_0 = log a - logsumexp_j(x_ij + log b_j)                    (g_0 = log b: part of the definition)
    K-1 times    A = softmax over slots of (x + f);  r = A b;  f <- f + log a - log r
    last         A as above;  r = A b;  out = (A * b) v / r;  plan P = A * b

Columns of P sum to b exactly; |r - a| is the marginal error of stopping after K iterations (Cuturi 2013, with the
column update last).

The gradient is that of this K-step map, not of the converged plan. With G_t = A_t diag(b) A_t^T [S, S], the chain
through the iterations needs no token (y = lambda / r_t, lambda = dL/df):

    r_t = A_t b      d r_t = -y,  so  dz_t = A_t b (-y_i + sum_i' A_t,i'j y_i')  with z = x + f
    f_{t+1} = f_t + log a - log r_t      =>      lambda <- lambda - diag(r_t) y + G_t y = G_t y

so the backward pass is: lambda from the last step (one pass over the tokens), the S x S chain, and a second pass that
makes dq, dk, dv and dlog_b with A_t made anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


class Routing(NamedTuple):
    """What one routing returns.

    out: [..., S, dv] row-normalised read-out; 0 for a slot that is off.
    row_mass: [..., S] mass r that each slot received; |r - a| is the marginal error.
    plan: [..., S, N] transport plan; each column sums to b.
    """

    out: Tensor
    row_mass: Tensor
    plan: Tensor


def sinkhorn_reference(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float, iterations: int
) -> Routing:
    """Route tokens to slots; differentiable once in q, k, v, log_a and log_b through out, row_mass and plan.

    Args:
        q: [..., S, d] slot queries.
        k: [..., N, d] token keys.
        v: [..., N, dv] token values.
        log_a: [..., S] log of the slots' marginal; -inf switches a slot off.
        log_b: [..., N] log of the tokens' marginal; -inf drops a token, whatever its k and v hold.
        eps: entropic regularisation, > 0.
        iterations: K >= 1.

    Returns:
        `Routing`, `out` in the dtype of v, `row_mass` and `plan` in float32 (float64 if the inputs are).
    """
    out, row_mass, plan = _SinkhornRouting.apply(q, k, v, log_a, log_b, float(eps), int(iterations))
    return Routing(out, row_mass, plan)


def _in_full_precision(method: Callable) -> Callable:
    """Switch autocast off inside: half-precision scores would be up to 5e-2 wrong."""

    @wraps(method)
    def run(ctx, *tensors):
        with torch.autocast(tensors[0].device.type, enabled=False):
            return method(ctx, *tensors)

    return run


class _SinkhornRouting(torch.autograd.Function):
    @staticmethod
    @_in_full_precision
    def forward(ctx, q, k, v, log_a, log_b, eps, iterations):
        ctx.dtypes = tuple(t.dtype for t in (q, k, v, log_a, log_b))
        q, k, v, log_a, log_b = _prepare(q, k, v, log_a, log_b, eps)
        b = log_b.exp()
        x = _scores(q, k, eps)
        potentials, row_masses, grams = [_start(x, log_a, log_b)], [], []
        for step in range(iterations):
            A = _assignment(x, potentials[-1])
            r = (A @ b.unsqueeze(-1)).squeeze(-1)
            row_masses.append(r)
            if step < iterations - 1:
                if any(ctx.needs_input_grad):
                    grams.append((A * b.unsqueeze(-2)) @ A.mT)
                potentials.append(_update(potentials[-1], log_a, r))
        plan = A * b.unsqueeze(-2)
        out = _divide(plan @ v, r.unsqueeze(-1))
        ctx.eps = eps
        ctx.save_for_backward(q, k, v, log_a, log_b, out, *potentials, *row_masses, *grams)
        ctx.iterations = iterations
        reported = torch.promote_types(torch.float32, ctx.dtypes[0])
        return out.to(ctx.dtypes[2]), r.to(reported), plan.to(reported)

    @staticmethod
    @once_differentiable
    @_in_full_precision
    def backward(ctx, d_out, d_row_mass, d_plan):
        q, k, v, log_a, log_b, out, *per_step = ctx.saved_tensors
        K = ctx.iterations
        potentials, row_masses, grams = per_step[:K], per_step[K : 2 * K], per_step[2 * K :]
        b, x = log_b.exp().unsqueeze(-2), _scores(q, k, ctx.eps)
        d_out, d_row_mass, d_plan = (grad.to(out.dtype) for grad in (d_out, d_row_mass, d_plan))
        r = row_masses[-1].unsqueeze(-1)

        # The last step: out = (A * b) v / r, with r = A b.
        A = _assignment(x, potentials[-1])
        d_read = _divide(d_out, r)
        d_r = d_row_mass.unsqueeze(-1) - (d_read * out).sum(-1, keepdim=True)
        d_A = d_read @ v.mT + d_r + d_plan
        d_v = (A * b).mT @ d_read
        d_b = (A * d_A).sum(-2)
        d_x = _softmax_backward(A, d_A * b)
        chain = d_x.sum(-1)

        # The iterations, last to first: the potentials' gradient travels through the Gram matrices alone.
        d_log_a = torch.zeros_like(log_a)
        for step in range(K - 2, -1, -1):
            d_log_a = d_log_a + chain
            y = _divide(chain, row_masses[step])
            A = _assignment(x, potentials[step])
            d_b = d_b - (A * y.unsqueeze(-1)).sum(-2)
            d_x = d_x + _softmax_backward(A, -y.unsqueeze(-1) * b)
            chain = (grams[step] @ y.unsqueeze(-1)).squeeze(-1)

        # The start: f_0 = log a - logsumexp_j(x_ij + log b_j).
        d_log_a = d_log_a + chain
        weights = _start_weights(x, log_b) * chain.unsqueeze(-1)
        d_x = d_x - weights
        d_log_b = b.squeeze(-2) * d_b - weights.sum(-2)

        scale = 1.0 / (math.sqrt(q.shape[-1]) * ctx.eps)
        grads = (d_x @ k * scale, d_x.mT @ q * scale, d_v, d_log_a, d_log_b)
        return *(grad.to(dtype) for grad, dtype in zip(grads, ctx.dtypes, strict=True)), None, None


def _prepare(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float) -> tuple[Tensor, ...]:
    """Cast to the precision of the computation, and drop what masked tokens hold."""
    # At small eps the scores reach thousands, where float32 leaves errors of 1e-4. MPS knows no float64.
    small = eps <= 0.05 and q.device.type != "mps"
    dtype = torch.promote_types(torch.float64 if small else torch.float32, q.dtype)
    # A masked token may hold NaN: 0 * NaN would leak, so its key and value are taken out, not weighted away.
    masked = (log_b == -math.inf).unsqueeze(-1)
    k, v = k.masked_fill(masked, 0), v.masked_fill(masked, 0)
    return tuple(t.to(dtype) for t in (q, k, v, log_a, log_b))


def _scores(q: Tensor, k: Tensor, eps: float) -> Tensor:
    return q @ k.mT * (1.0 / (math.sqrt(q.shape[-1]) * eps))


def _assignment(x: Tensor, f: Tensor) -> Tensor:
    """Softmax over slots of x + f; a column whose slots are all off is 0."""
    z = x + f.unsqueeze(-1)
    top = z.amax(-2, keepdim=True)
    weights = (z - top.masked_fill(top == -math.inf, 0)).exp()
    return _divide(weights, weights.sum(-2, keepdim=True))


def _start(x: Tensor, log_a: Tensor, log_b: Tensor) -> Tensor:
    mass = torch.logsumexp(x + log_b.unsqueeze(-2), -1)
    # With every token masked there is nothing to start from.
    return log_a - mass.masked_fill(mass == -math.inf, 0)


def _start_weights(x: Tensor, log_b: Tensor) -> Tensor:
    z = x + log_b.unsqueeze(-2)
    mass = torch.logsumexp(z, -1, keepdim=True)
    return (z - mass.masked_fill(mass == -math.inf, 0)).exp()


def _update(f: Tensor, log_a: Tensor, r: Tensor) -> Tensor:
    # r == 0 is a slot that is off or a problem with no tokens: f stays. Tested so that a NaN in r is not hidden.
    return f + (log_a - r.log()).masked_fill(r == 0, 0)


def _softmax_backward(A: Tensor, d_A: Tensor) -> Tensor:
    return A * (d_A - (A * d_A).sum(-2, keepdim=True))


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is exactly 0; a NaN stays a NaN."""
    return (x / y.masked_fill(y == 0, 1)).masked_fill(y == 0, 0)
