"""Other ways to route, as baselines: each as its own documentation has it, none required."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable

import torch
from torch import Tensor

Route = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, float, int], Tensor]


def log_domain(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float, iterations: int) -> Tensor:
    """The same K-step map with two log-sum-exps an iteration, as any textbook writes it. Returns the read-out."""
    x = (q.float() @ k.float().mT) * (1.0 / (math.sqrt(q.shape[-1]) * eps))
    f = log_a - torch.logsumexp(x + log_b.unsqueeze(-2), -1)
    for step in range(iterations):
        g = log_b - torch.logsumexp(x + f.unsqueeze(-1), -2)
        if step < iterations - 1:
            f = log_a - torch.logsumexp(x + g.unsqueeze(-2), -1)
    plan = (x + f.unsqueeze(-1) + g.unsqueeze(-2)).exp()
    return ((plan @ v.float()) / plan.sum(-1, keepdim=True)).to(v.dtype)


def pot(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float, iterations: int) -> Tensor:
    """POT's batched log-domain solver, stopped after K iterations."""
    from ot.batch import solve_batch

    cost = (q.float() @ k.float().mT) * (-1.0 / math.sqrt(q.shape[-1]))
    a, b = log_a.exp().flatten(0, -2), log_b.exp().flatten(0, -2)
    solved = solve_batch(
        cost.flatten(0, -3), eps, a, b, max_iter=iterations, tol=0.0, method="log_sinkhorn", grad="autodiff"
    )
    plan = solved.plan.view_as(cost)
    return ((plan @ v.float()) / plan.sum(-1, keepdim=True)).to(v.dtype)


def geomloss(q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float, iterations: int) -> Tensor:
    """GeomLoss's batched solver on the dense cost, stopped after K iterations."""
    from geomloss.ot import solve_batch

    cost = (q.float() @ k.float().mT) * (-1.0 / math.sqrt(q.shape[-1]))
    a, b = log_a.exp().flatten(0, -2), log_b.exp().flatten(0, -2)
    plan = solve_batch(cost.flatten(0, -3), reg=eps, a=a, b=b, max_iter=iterations).plan.view_as(cost)
    return ((plan @ v.float()) / plan.sum(-1, keepdim=True)).to(v.dtype)


def flash_sinkhorn(
    q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float, iterations: int
) -> Tensor:
    """flash-sinkhorn's kernels: half the squared distance is the dot product up to what the potentials absorb.

    It has no batch: one problem after another.
    """
    from flash_sinkhorn.kernels.apply_flash import apply_plan_mat_flashstyle
    from flash_sinkhorn.sinkhorn_solvers import sinkhorn_flashstyle_alternating

    temperature = eps * math.sqrt(q.shape[-1])
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=v.dtype, device=v.device)
    problems = zip(*(t.flatten(0, -3) for t in (q, k, v)), log_a.flatten(0, -2), log_b.flatten(0, -2), strict=True)
    for i, (x, y, values, la, lb) in enumerate(problems):
        x, y = x.float(), y.float()
        f, g = sinkhorn_flashstyle_alternating(
            x, y, la.exp(), lb.exp(), eps=temperature, n_iters=iterations, cost_scale=0.5
        )
        f_hat, g_hat = f - 0.5 * x.square().sum(-1), g - 0.5 * y.square().sum(-1)
        read = apply_plan_mat_flashstyle(
            x, y, f_hat, g_hat, la, lb, values.float(), eps=temperature, axis=1, cost_scale=0.5
        )
        out.flatten(0, -3)[i] = read / la.exp().unsqueeze(-1)
    return out


def installed(device: torch.device) -> dict[str, Route]:
    """The peers that can run here, and a line about each that cannot."""
    needed = {"POT": ("ot", pot), "GeomLoss": ("geomloss", geomloss)}
    needed["flash-sinkhorn"] = ("flash_sinkhorn", flash_sinkhorn)
    found = {}
    for name, (module, route) in needed.items():
        if importlib.util.find_spec(module) is None:
            print(f"without {name}: not installed")
        elif name == "flash-sinkhorn" and device.type != "cuda":
            print(f"without {name}: it wants a GPU")
        else:
            found[name] = route
    return found
