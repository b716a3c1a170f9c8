"""Reference Sinkhorn routing: plain torch, the ground truth for every other backend, and the default on the CPU.

One problem routes N tokens to S slots by entropic optimal transport with kernel exp(x), x = q k^T / (sqrt(d) eps),
row marginal a (slots) and column marginal b (tokens). S is small, so a whole column of the plan is at hand for each
token and the only state carried between iterations is the slots' potential f [S]:

    start        f_0 = log a - logsumexp_j(x_ij + log b_j)                    (g_0 = log b: part of the definition)
    K-1 times    A = softmax over slots of (x + f);  r = A b;  f <- f + log a - log r
    last         A as above;  r = A b;  out = (A * b) v / r;  plan P = A * b

Columns of P sum to b exactly; |r - a| is the marginal error of stopping after K iterations (Cuturi 2013, with the
column update last).

Two things make it quick without changing the map. Tokens are walked in tiles, so no memory beyond a fixed budget grows
with N. And the exponential is taken once: with E = exp(x + h - max over slots), h a past f,

    u = exp(f - h),  c = E^T u,  w = b / c:      A = u E / c,   r = u * (E w),   P = u E w

so an iteration is two matrix-vector products (stabilised scaling: Schmitzer 2019). E is made anew, with the f of that
moment, before u spans more than exp(SPREAD): what E has rounded to 0 by then could not have mattered. Where all tokens
fit into memory, the first E is exp(x + h) with h = -max over tokens of x, which gives f_0 too; that holds as long as no
column and no sum over tokens is less than exp(-SPREAD).

The gradient is that of this K-step map, not of the converged plan. With G_t = A_t diag(b) A_t^T [S, S], the chain
through the iterations needs no token (y = lambda / r_t, lambda = dL/df):

    r_t = A_t b      d r_t = -y,  so  dz_t = A_t b (-y_i + sum_i' A_t,i'j y_i')  with z = x + f
    f_{t+1} = f_t + log a - log r_t      =>      lambda <- lambda - diag(r_t) y + G_t y = G_t y

so the backward pass is: lambda from the last step (one pass over the tokens), the S x S chain, and a second pass that
makes dq, dk, dv and dlog_b, where the sum of all dz_t is E times a product of rank 2 (K - 1).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from functools import wraps
from typing import NamedTuple

import torch
from torch import Tensor

from .tiles import Tile, Tokens, groups

TILE = 1 << 21  # scores in a tile: eight megabytes in float32
GRADIENT_TILE = 1 << 15  # of the backward pass, where many tensors of a tile's size live at once
SMALL_GRADIENT_TILE = 1 << 18  # the same, of problems that fit into one tile
KEPT = 1 << 22  # scores kept from one iteration to the next; a problem with more makes them anew
SPREAD = 30.0  # float32 holds exp(-87): weights that were rounded to 0 stay below exp(30 - 87) of their column


class State(NamedTuple):
    """What the forward pass hands to the backward pass: K (S^2 + 2 S) numbers a problem, whatever N is.

    potentials: [..., K, S] f at the beginning of each step.
    row_masses: [..., K, S] r of each step.
    grams: [..., K - 1, S, S] G_t of each step but the last; [..., 0, S, S] where no gradient is wanted.
    """

    potentials: Tensor
    row_masses: Tensor
    grams: Tensor


class Gradients(NamedTuple):
    """dL/d each input, in its shape and dtype."""

    q: Tensor
    k: Tensor
    v: Tensor
    log_a: Tensor
    log_b: Tensor


def precision(q: Tensor, eps: float) -> torch.dtype:
    """The dtype in which the reference computes and keeps its state."""
    # At small eps the scores reach thousands, where float32 leaves errors of 1e-4. MPS knows no float64.
    small = eps <= 0.05 and q.device.type != "mps"
    return torch.promote_types(torch.float64 if small else torch.float32, q.dtype)


def _in_full_precision(function: Callable) -> Callable:
    """Switch autocast off inside: half-precision scores would be up to 5e-2 wrong."""

    @wraps(function)
    def run(first: Tensor, *rest):
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *rest)

    return run


@_in_full_precision
def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    eps: float,
    iterations: int,
    with_plan: bool,
    with_grams: bool,
) -> tuple[Tensor, Tensor, Tensor, State]:
    """Route. Shapes as in `sinkhorn_routing`; the plan is [..., S, 0] and the Gram matrices none unless asked for."""
    dtype, (*batch, S, _), N = precision(q, eps), q.shape, k.shape[-2]
    P, reported = math.prod(batch), torch.promote_types(torch.float32, q.dtype)
    out = v.new_empty(P, S, v.shape[-1])
    row_mass = q.new_empty(P, S, dtype=reported)
    plan = q.new_empty(P, S, N if with_plan else 0, dtype=reported)
    potentials, row_masses = (q.new_empty(P, iterations, S, dtype=dtype) for _ in range(2))
    grams = q.new_empty(P, iterations - 1 if with_grams else 0, S, S, dtype=dtype)
    flat_a = log_a.reshape(P, S)
    for some, tokens in groups(q, k, v, log_b, eps, TILE, dtype):
        a = flat_a[some].to(dtype)
        weights = _Weights(tokens, a)
        for step in range(iterations - 1):
            potentials[some, step] = weights.potential()
            row_masses[some, step] = mass = weights.masses(grams[some, step] if with_grams else None)
            # A mass of 0 is a slot that is off or a problem with no tokens: f stays. NaN is not hidden.
            weights.move((a - mass.log()).masked_fill_(mass == 0, 0))
        potentials[some, -1] = weights.potential()
        out[some], mass = weights.read_out(plan[some] if with_plan else None)
        row_masses[some, -1] = row_mass[some] = mass
    made = (out, row_mass, plan, potentials, row_masses, grams)
    out, row_mass, plan, *state = (t.view(*batch, *t.shape[1:]) for t in made)
    return out, row_mass, plan, State(*state)


@_in_full_precision
def backward(
    d_out: Tensor,
    d_row_mass: Tensor,
    d_plan: Tensor | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    out: Tensor,
    state: State,
    eps: float,
) -> Gradients:
    """Gradients of the K-step map from those of out, row mass and (None for none) plan."""
    dtype, batch = precision(q, eps), q.shape[:-2]
    P = math.prod(batch)
    made = Gradients(*(t.new_empty(P, *t.shape[len(batch) :]) for t in (q, k, v, log_a, log_b)))
    flat = [t.reshape(P, *t.shape[len(batch) :]) for t in (q, log_a, out, d_out, d_row_mass, *state)]
    d_plans = None if d_plan is None else d_plan.reshape(P, *d_plan.shape[-2:])
    # Small problems go several at once all the same: beside their gradients the tiles are small.
    small = q.shape[-2] * k.shape[-2] <= GRADIENT_TILE
    for some, tokens in groups(q, k, v, log_b, eps, SMALL_GRADIENT_TILE if small else GRADIENT_TILE, dtype):
        q_, a, out_, d_out_, d_mass, f, r, grams = (t[some].to(dtype) for t in flat)
        d_read = _divide(d_out_, r[:, -1].unsqueeze(-1))
        d_mass = (d_mass - (d_read * out_).sum(-1)).unsqueeze(-1)
        last = _LastStep(f[:, -1], d_read, d_mass, None if d_plans is None else d_plans[some])

        chain = torch.zeros_like(a)
        for tile in tokens.tiles():
            _, A, M = last.of(tile, tile.scores())
            chain += (M @ tile.b.mT - A @ (M.sum(-2, keepdim=True) * tile.b).mT).squeeze(-1)

        d_log_a, y = torch.zeros_like(a), torch.empty_like(f[:, 1:])
        for step in range(f.shape[1] - 2, -1, -1):
            d_log_a += chain
            y[:, step] = _divide(chain, r[:, step])
            chain = (grams[:, step] @ y[:, step].unsqueeze(-1)).squeeze(-1)
        made.log_a[some] = d_log_a + chain

        d_q, at_start = torch.zeros_like(q_), (a - f[:, 0]).masked_fill(a == -math.inf, math.inf)
        sharing = _sharing(f)
        for tile in tokens.tiles():
            x = tile.scores()
            E, A, M = last.of(tile, x)
            d_b = M.sum(-2, keepdim=True)
            d_x = M.addcmul_(A, d_b, value=-1).mul_(tile.b)
            made.v[some, tile.where] = A.mul_(tile.b).mT @ d_read
            del A
            for base, steps in sharing:
                weights = E if base is None else _weights(x + base.unsqueeze(-1))
                u = _scaling(_moves(f[:, steps], f[:, -1] if base is None else base))
                uy = u * y[:, steps]
                c = _one_for_zero(u @ weights)
                w, s = tile.b / c, (uy @ weights) / c
                d_x.addcmul_(weights, (u.mT @ (w * s)).baddbmm_(uy.mT, w, alpha=-1))
                d_b = d_b - s.sum(-2, keepdim=True)
            # The start: f_0 = log a - logsumexp_j(x_ij + log b_j).
            start = x.add_(tile.log_b).sub_(at_start.unsqueeze(-1)).exp_().mul_(chain.unsqueeze(-1))
            made.log_b[some, tile.where] = (tile.b * d_b - start.sum(-2, keepdim=True)).squeeze(-2)
            d_x -= start
            made.k[some, tile.where] = (d_x.mT @ q_).mul_(tokens.scale)
            d_q += d_x @ tile.k()
        made.q[some] = d_q.mul_(tokens.scale)
    return Gradients(*(t.view(*batch, *t.shape[1:]) for t in made))


class _Weights:
    """E of every tile for one f, and how far f has moved since."""

    def __init__(self, tokens: Tokens, log_a: Tensor) -> None:
        self.tokens = tokens
        self.keeps = tokens.scores * tokens.count <= KEPT
        if self.keeps and tokens.may_look and self._start_from_largest(log_a):
            return
        scores = self._scores()
        scores = list(scores) if self.keeps else scores
        mass = torch.full_like(log_a, -math.inf)
        for tile, x in scores:
            mass = torch.logaddexp(mass, _log_sum(x + tile.log_b))
        # With every token masked there is nothing to start from.
        self._rest(log_a - mass.masked_fill_(mass == -math.inf, 0), scores if self.keeps else self._scores())

    def _start_from_largest(self, log_a: Tensor) -> bool:
        """The start without the maximum over slots; False where that would lose something, or for a NaN."""
        scores = list(self._scores())
        top = torch.stack([x.amax(-1) for _, x in scores]).amax(0)
        mass, least = torch.zeros_like(top), []
        for tile, E in scores:
            E.sub_(top.unsqueeze(-1)).exp_()
            mass += torch.bmm(E, tile.b.mT).squeeze(-1)
            least.append(E.amax(-2).amin())
        self.base, self.moved, self.kept = -top, log_a - mass.log(), scores
        held = torch.stack([*least, mass.amin()]).amin() >= math.exp(-SPREAD)
        return bool(held) and _spread(self.moved) <= SPREAD

    def potential(self) -> Tensor:
        """f [g, S]."""
        return self.base + self.moved

    def masses(self, gram: Tensor | None) -> Tensor:
        """r [g, S] of one step; writes G of that step into `gram` [g, S, S]."""
        u = _scaling(self.moved)
        total = torch.zeros_like(u).unsqueeze(-1)
        grams = None if gram is None else total.new_zeros(gram.shape)
        for tile, E in self._each():
            c = _one_for_zero(torch.bmm(u.unsqueeze(-2), E))
            w = tile.b / c
            total += torch.bmm(E, w.mT)
            if grams is not None:
                grams += (E * (w / c)) @ E.mT
        if gram is not None:
            gram[:] = grams * u.unsqueeze(-1) * u.unsqueeze(-2)
        return u * total.squeeze(-1)

    def move(self, change: Tensor) -> None:
        """f <- f + change."""
        self.moved = self.moved + change
        near = self.tokens.may_look and _spread(self.moved) <= SPREAD
        if not near:
            self._rest(self.potential(), self._scores())

    def read_out(self, plan: Tensor | None) -> tuple[Tensor, Tensor]:
        """out [g, S, dv] and r [g, S] of the last step, which uses E up; writes the plan into `plan` [g, S, N]."""
        u = _scaling(self.moved).unsqueeze(-1)
        total, read = torch.zeros_like(u), u.new_zeros(*u.shape[:2], self.tokens.v.shape[-1])
        for tile, E in self._each():
            E.mul_(tile.b / _one_for_zero(torch.bmm(u.mT, E)))
            total += E.sum(-1, keepdim=True)
            read.baddbmm_(E, tile.v())
            if plan is not None:
                plan[..., tile.where] = E * u
        return _divide(read, total), (u * total).squeeze(-1)

    def _rest(self, potential: Tensor, scores: Iterable[tuple[Tile, Tensor]]) -> None:
        self.base, self.moved = potential, torch.zeros_like(potential)
        self.kept = list(self._make(scores)) if self.keeps else None

    def _each(self) -> Iterable[tuple[Tile, Tensor]]:
        return self._make(self._scores()) if self.kept is None else self.kept

    def _scores(self) -> Iterator[tuple[Tile, Tensor]]:
        return ((tile, tile.scores()) for tile in self.tokens.tiles())

    def _make(self, scores: Iterable[tuple[Tile, Tensor]]) -> Iterator[tuple[Tile, Tensor]]:
        return ((tile, _weights(x.add_(self.base.unsqueeze(-1)))) for tile, x in scores)


class _LastStep(NamedTuple):
    """The last step's part of the gradient, for one tile after another.

    f, d_read, d_mass: [g, S], dL/d(plan v) [g, S, dv] and what every token of a slot adds to dL/dA [g, S, 1].
    d_plan: [g, S, N] or None.
    """

    f: Tensor
    d_read: Tensor
    d_mass: Tensor
    d_plan: Tensor | None

    def of(self, tile: Tile, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """E, A and M = A * dL/dA, each [g, S, T] and new."""
        E = _weights(x + self.f.unsqueeze(-1))
        A = E / _one_for_zero(E.sum(-2, keepdim=True))
        d_A = (self.d_read @ tile.v().mT).add_(self.d_mass)
        if self.d_plan is not None:
            d_A += self.d_plan[..., tile.where]
        return E, A, d_A.mul_(A)


def _weights(z: Tensor) -> Tensor:
    """E of z = x + f [g, S, T], in its place; each column's largest is 1, or all are 0 where its slots are all off."""
    top = z.amax(-2, keepdim=True)
    return z.sub_(top.masked_fill_(top == -math.inf, 0)).exp_()


def _log_sum(z: Tensor) -> Tensor:
    """logsumexp of z [g, S, T] over the tokens, which overwrites z; -inf where every token is masked."""
    top = z.amax(-1, keepdim=True)
    top.masked_fill_(top == -math.inf, 0)
    return top.squeeze(-1) + z.sub_(top).exp_().sum(-1).log()


def _spread(moved: Tensor) -> float:
    """The widest range [nats] of one problem's moves [..., S]; NaN where there is one."""
    return float((moved.amax(-1) - moved.amin(-1)).max())


def _sharing(f: Tensor) -> list[tuple[Tensor | None, slice]]:
    """Which steps before the last can use one E: (the f of that E, None for the last step's; the steps)."""
    steps = f.shape[1] - 1
    if steps == 0:
        return []
    if f.device.type == "cpu" and _spread(_moves(f[:, :-1], f[:, -1])) <= SPREAD:
        return [(None, slice(0, steps))]
    return [(f[:, step], slice(step, step + 1)) for step in range(steps)]


def _moves(f: Tensor, base: Tensor) -> Tensor:
    """How far f [g, t, S] is from `base` [g, S]; 0 for a slot that is off."""
    off = (base == -math.inf).unsqueeze(1)
    return (f - base.unsqueeze(1)).masked_fill(off, 0)


def _scaling(moved: Tensor) -> Tensor:
    """u [..., S], up to a factor, which nothing depends on: the largest is 1."""
    return (moved - moved.amax(-1, keepdim=True)).exp()


def _one_for_zero(x: Tensor) -> Tensor:
    return x.masked_fill(x == 0, 1)


def _divide(x: Tensor, y: Tensor) -> Tensor:
    """x / y, and 0 where y is exactly 0; a NaN stays a NaN."""
    return x / y.masked_fill(y == 0, math.inf)
