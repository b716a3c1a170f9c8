"""The routing op and the choice of its backend.

A backend declares what it can serve; the choice is made from that declaration before the call, never by catching a
failure. An explicit choice (the argument, or the environment variable SLOTID_ROUTING_BACKEND) that cannot serve the
call raises with its reason; `auto` takes the first backend, in the order of `BACKENDS`, that can.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NamedTuple

from torch import Tensor

from ..errors import SlotIDError
from .sinkhorn import Routing, sinkhorn_reference

ENVIRONMENT_VARIABLE = "SLOTID_ROUTING_BACKEND"


class Backend(NamedTuple):
    """One implementation of the routing.

    refuses: (q, k, v) -> the reason why this backend cannot serve them, or None if it can.
    run: called as `sinkhorn_reference` is.
    """

    refuses: Callable[[Tensor, Tensor, Tensor], str | None]
    run: Callable[..., Routing]


# In order of preference; the reference serves everything and stays last.
BACKENDS: dict[str, Backend] = {"reference": Backend(lambda q, k, v: None, sinkhorn_reference)}


def sinkhorn_routing(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_a: Tensor,
    log_b: Tensor,
    *,
    eps: float,
    iterations: int,
    backend: str | None = None,
) -> Routing:
    """Route tokens to slots by entropic optimal transport, K iterations (`ops/sinkhorn.py` has the formulas).

    Args:
        q: [..., S, d] slot queries. S is 1 to 128.
        k: [..., N, d] token keys.
        v: [..., N, dv] token values.
        log_a: [..., S] log marginal of the slots; -inf switches a slot off.
        log_b: [..., N] log marginal of the tokens; -inf drops a token.
        eps: entropic regularisation, > 0.
        iterations: K >= 1.
        backend: a name in `BACKENDS`, or None for the environment variable, or "auto".

    Returns:
        `Routing` (out, row_mass, plan).

    Raises:
        SlotIDError: shapes that do not fit, eps or iterations out of range, a backend that cannot serve the call.
    """
    _check(q, k, v, log_a, log_b, eps, iterations)
    return choose_backend(q, k, v, backend).run(q, k, v, log_a, log_b, eps, iterations)


def choose_backend(q: Tensor, k: Tensor, v: Tensor, backend: str | None = None) -> Backend:
    """The backend that will serve these tensors: the argument, else the environment variable, else auto."""
    name = backend or os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name == "auto":
        return next(b for b in BACKENDS.values() if b.refuses(q, k, v) is None)
    if name not in BACKENDS:
        raise SlotIDError(
            f"routing backend {name!r}",
            f"auto, {', '.join(BACKENDS)}",
            f"name one of these as the argument or in the environment variable {ENVIRONMENT_VARIABLE}.",
        )
    reason = BACKENDS[name].refuses(q, k, v)
    if reason is not None:
        raise SlotIDError(f"routing backend {name!r}: {reason}", "tensors it can serve", "choose auto or reference.")
    return BACKENDS[name]


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
