"""The implementations of the routing, and the choice between them.

A backend declares what it can serve; the choice is made from that declaration before the call, never by catching a
failure. An explicit choice (the argument, or the environment variable SLOTID_ROUTING_BACKEND) that cannot serve the
call raises with its reason; `auto` takes the first backend, in the order of `BACKENDS`, that can, and says once in the
log why it passed over another.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ..errors import SlotIDError
from . import sinkhorn, triton_backend

ENVIRONMENT_VARIABLE = "SLOTID_ROUTING_BACKEND"

_log = logging.getLogger(__name__)
_told: set[str] = set()


class Backend(NamedTuple):
    """One implementation of the routing.

    refuses: (q, k, v, eps) -> the reason why this backend cannot serve them, or None if it can.
    forward, backward: called as those of `ops/sinkhorn.py` are.
    precision: (q, eps) -> dtype of the state that goes from one to the other.
    """

    refuses: Callable[[Tensor, Tensor, Tensor, float], str | None]
    forward: Callable
    backward: Callable
    precision: Callable[[Tensor, float], torch.dtype]


# In order of preference; the reference serves everything and stays last.
BACKENDS: dict[str, Backend] = {
    "triton": Backend(
        triton_backend.refuses, triton_backend.forward, triton_backend.backward, triton_backend.precision
    ),
    "reference": Backend(lambda q, k, v, eps: None, sinkhorn.forward, sinkhorn.backward, sinkhorn.precision),
}


def choose_backend(q: Tensor, k: Tensor, v: Tensor, eps: float, backend: str | None = None) -> str:
    """Name of the backend that will serve these tensors: the argument, else the environment variable, else auto."""
    name = backend or os.environ.get(ENVIRONMENT_VARIABLE, "auto")
    if name == "auto":
        return _first(q, k, v, eps)
    if name not in BACKENDS:
        raise SlotIDError(
            f"routing backend {name!r}",
            f"auto, {', '.join(BACKENDS)}",
            f"name one of these as the argument or in the environment variable {ENVIRONMENT_VARIABLE}.",
        )
    reason = BACKENDS[name].refuses(q, k, v, eps)
    if reason is not None:
        raise SlotIDError(f"routing backend {name!r}: {reason}", "tensors it can serve", "choose auto or reference.")
    return name


def _first(q: Tensor, k: Tensor, v: Tensor, eps: float) -> str:
    for name, backend in BACKENDS.items():
        reason = backend.refuses(q, k, v, eps)
        if reason is None:
            return name
        # A log line would break the graph of a compiled caller.
        if not torch.compiler.is_compiling() and reason not in _told:
            _told.add(reason)
            _log.info("routing without the %s backend: %s", name, reason)
    raise SlotIDError("no routing backend", "the reference backend, which serves everything", "report this as a bug.")
