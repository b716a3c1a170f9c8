"""The routing as operators registered with torch: opaque to torch.compile, with shapes it can infer and a gradient.

The backend is chosen before the call and goes with it by name, so that the gradient runs where the forward pass ran.
"""

from __future__ import annotations

import re

import torch

from .backends import BACKENDS
from .sinkhorn import State

# A process may hold this package twice (as ComfyUI's pack and as an installed one); each registers its own operators.
_NAMESPACE = "slotid_" + re.sub(r"\W", "_", __package__)

_FORWARD = "(Tensor q, Tensor k, Tensor v, Tensor log_a, Tensor log_b, float eps, int iterations, bool with_plan, "
_FORWARD += "bool with_grams, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
_BACKWARD = "(Tensor d_out, Tensor d_row_mass, Tensor? d_plan, Tensor q, Tensor k, Tensor v, Tensor log_a, "
_BACKWARD += "Tensor log_b, Tensor out, Tensor potentials, Tensor row_masses, Tensor grams, float eps, str backend) "
_BACKWARD += "-> (Tensor, Tensor, Tensor, Tensor, Tensor)"


@torch.library.custom_op(f"{_NAMESPACE}::sinkhorn_forward", mutates_args=(), schema=_FORWARD)
def sinkhorn_forward(q, k, v, log_a, log_b, eps, iterations, with_plan, with_grams, backend):
    """out, row mass, plan and the three tensors of `State`."""
    run = BACKENDS[backend].forward
    out, row_mass, plan, state = run(q, k, v, log_a, log_b, eps, iterations, with_plan, with_grams)
    return out, row_mass, plan, *state


@sinkhorn_forward.register_fake
def _(q, k, v, log_a, log_b, eps, iterations, with_plan, with_grams, backend):
    *batch, S, _ = q.shape
    kept, reported = BACKENDS[backend].precision(q, eps), torch.promote_types(torch.float32, q.dtype)
    return (
        v.new_empty(*batch, S, v.shape[-1]),
        q.new_empty(*batch, S, dtype=reported),
        q.new_empty(*batch, S, k.shape[-2] if with_plan else 0, dtype=reported),
        q.new_empty(*batch, iterations, S, dtype=kept),
        q.new_empty(*batch, iterations, S, dtype=kept),
        q.new_empty(*batch, iterations - 1 if with_grams else 0, S, S, dtype=kept),
    )


@torch.library.custom_op(f"{_NAMESPACE}::sinkhorn_backward", mutates_args=(), schema=_BACKWARD)
def sinkhorn_backward(
    d_out, d_row_mass, d_plan, q, k, v, log_a, log_b, out, potentials, row_masses, grams, eps, backend
):
    """Gradients of q, k, v, log_a and log_b."""
    state = State(potentials, row_masses, grams)
    run = BACKENDS[backend].backward
    return tuple(run(d_out, d_row_mass, d_plan, q, k, v, log_a, log_b, out, state, eps))


@sinkhorn_backward.register_fake
def _(d_out, d_row_mass, d_plan, q, k, v, log_a, log_b, out, potentials, row_masses, grams, eps, backend):
    return tuple(t.new_empty(t.shape) for t in (q, k, v, log_a, log_b))


def _keep(ctx, inputs, output):
    *tensors, eps, _, _, with_grams, backend = inputs
    out, row_mass, _, *state = output
    # A plan nobody differentiates must not cost a plan of zeros.
    ctx.set_materialize_grads(False)
    ctx.eps, ctx.backend = eps, backend
    ctx.save_for_backward(*tensors, out, row_mass, *(state if with_grams else ()))


def _differentiate(ctx, d_out, d_row_mass, d_plan, *_):
    *tensors, out, row_mass, potentials, row_masses, grams = ctx.saved_tensors
    d_out = torch.zeros_like(out) if d_out is None else d_out
    d_row_mass = torch.zeros_like(row_mass) if d_row_mass is None else d_row_mass
    grads = sinkhorn_backward(
        d_out, d_row_mass, d_plan, *tensors, out, potentials, row_masses, grams, ctx.eps, ctx.backend
    )
    return *grads, None, None, None, None, None


torch.library.register_autograd(f"{_NAMESPACE}::sinkhorn_forward", _differentiate, setup_context=_keep)
