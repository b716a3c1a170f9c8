"""The routing op: entropic optimal transport of tokens to slots, by whichever backend serves the machine."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SlotIDError
from .backends import BACKENDS, ENVIRONMENT_VARIABLE, Backend, choose_backend
from .operator import sinkhorn_forward

__all__ = ["BACKENDS", "ENVIRONMENT_VARIABLE", "Backend", "Routing", "choose_backend", "sinkhorn_routing"]


class Routing(NamedTuple):
    """What one routing returns.

    out: [..., S, dv] row-normalised read-out, in the dtype of v; 0 for a slot that is off.
    row_mass: [..., S] mass r that each slot received; |r - a| is the marginal error. float32 (float64 if q is).
    plan: [..., S, N] transport plan in the dtype of row_mass; each column sums to b. [..., S, 0] if not asked for.
    """

    out: Tensor
    row_mass: Tensor
    plan: Tensor


def sinkhorn_routing(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    *,
    eps: float,
    iterations: int,
    with_plan: bool = True,
    backend: str | None = None,
) -> Routing:
    """Route tokens to slots by entropic optimal transport, K iterations (`ops/sinkhorn.py` has the formulas).

    Differentiable once in q, k, v, log_a and log_b, through out, row_mass and plan.

    Args:
        q: [..., S, d] slot queries. S is 1 to 128.
        k: [..., N, d] token keys.
        v: [..., N, dv] token values.
        log_a: [..., S] log marginal of the slots; -inf switches a slot off.
        log_b: [..., N] log marginal of the tokens; -inf drops a token, whatever its k and v hold.
        eps: entropic regularisation, > 0.
        iterations: K >= 1.
        with_plan: the plan is the one output that grows with S x N; without it the memory does not.
        backend: a name in `BACKENDS`, or None for the environment variable, or "auto".

    Returns:
        `Routing` (out, row_mass, plan).

    Raises:
        SlotIDError: shapes that do not fit, eps or iterations out of range, a backend that cannot serve the call.
    """
    _check(q, k, v, log_a, log_b, eps, iterations)
    name = choose_backend(q, k, v, eps, backend)
    with_grams = torch.is_grad_enabled() and any(t.requires_grad for t in (q, k, v, log_a, log_b))
    made = sinkhorn_forward(q, k, v, log_a, log_b, float(eps), int(iterations), with_plan, with_grams, name)
    return Routing(*made[:3])


def _check(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float, iterations: int) -> None:
    batch, S, d = q.shape[:-2], q.shape[-2], q.shape[-1]
    N = k.shape[-2]
    shapes = {"k": (k, (*batch, N, d)), "v": (v, (*batch, N, v.shape[-1]))}
    shapes |= {"log_a": (log_a, (*batch, S)), "log_b": (log_b, (*batch, N))}
    for name, (tensor, expected) in shapes.items():
        if tuple(tensor.shape) != tuple(expected):
            raise SlotIDError(
                f"{name} of shape {tuple(tensor.shape)} beside q of shape {tuple(q.shape)}",
                f"{name} of shape {tuple(expected)}",
                "give every tensor the same leading dimensions.",
            )
    if not (1 <= S <= 128 and N >= 1):
        raise SlotIDError(f"{S} slots and {N} tokens", "1 to 128 slots, 1 token or more", "change the number of slots.")
    if not eps > 0 or iterations < 1:
        raise SlotIDError(f"eps {eps}, {iterations} iterations", "eps > 0, iterations >= 1", "change these settings.")
