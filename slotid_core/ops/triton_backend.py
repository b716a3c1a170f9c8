"""The Triton backend: what it can serve, and how its kernels are launched.

Triton is imported only where it is used: a host without it routes by the reference. Set TRITON_INTERPRET=1 before
Triton is first imported to run the kernels on the CPU, slowly, for tests.
"""

from __future__ import annotations

import importlib.util
import math
import os
from functools import lru_cache

import torch
from torch import Tensor

from . import tuning
from .sinkhorn import Gradients, State
from .tuning import Launch, Problem, power_of_two

LOG2E = math.log2(math.e)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LEAST_CAPABILITY = (8, 0)
WIDEST = 128
HAS_TRITON = importlib.util.find_spec("triton") is not None
# Slots times width, in powers of 2, that fit into a program's registers; in float32 some spill even so.
MOST_HELD = {torch.float32: 32 * 64, torch.bfloat16: 64 * 64, torch.float16: 64 * 64}
LEAST_EPS = 0.05  # below, scores reach thousands, where float32 leaves errors of 1e-4


def refuses(q: Tensor, k: Tensor, v: Tensor, eps: float) -> str | None:
    """The reason why these tensors cannot be served, or None."""
    if not HAS_TRITON:
        return "Triton is not installed"
    if q.device.type == "cpu":
        return "it wants CUDA tensors, got cpu"
    if q.device.type != "cuda" or torch.version.hip:
        return f"it wants an NVIDIA GPU, got {'an AMD GPU' if torch.version.hip else q.device.type}"
    if (capability := _capability(q.device)) < LEAST_CAPABILITY:
        return f"it wants compute capability 8.0 or more, got {capability[0]}.{capability[1]}"
    if k.device != q.device or v.device != q.device:
        return f"it wants one device, got {q.device}, {k.device} and {v.device}"
    if q.dtype != k.dtype or q.dtype not in DTYPES or v.dtype not in DTYPES:
        found = ", ".join(str(t.dtype).removeprefix("torch.") for t in (q, k, v))
        return f"it wants q and k in one of float32, bfloat16, float16 and v in any of them, got {found}"
    if q.dtype == torch.float32 and eps < LEAST_EPS:
        return f"float32 inputs at eps below {LEAST_EPS} want scores in float64, got {eps}"
    width = max(q.shape[-1], v.shape[-1])
    if width > WIDEST:
        return f"it wants d and dv up to {WIDEST}, got {q.shape[-1]} and {v.shape[-1]}"
    most = min(MOST_HELD[q.dtype], MOST_HELD[v.dtype]) // power_of_two(width)
    if q.shape[-2] > most:
        return f"it wants up to {most} slots at this width and dtype, got {q.shape[-2]}"
    return None


# The choice of a backend is part of a compiled caller's graph; this is a constant in it.
@torch.compiler.assume_constant_result
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def precision(q: Tensor, eps: float) -> torch.dtype:
    """The dtype of the state."""
    return torch.float32


def _interpreted() -> bool:
    return os.environ.get("TRITON_INTERPRET", "0") == "1"


class _Call:
    """Sizes, strides and constants that every launch of one call shares."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, log_a: Tensor, log_b: Tensor, eps: float) -> None:
        self.batch, (self.S, self.D), (self.N, self.DV) = q.shape[:-2], q.shape[-2:], v.shape[-2:]
        self.P = math.prod(self.batch)
        # Small beside k and v: a copy where they are not dense costs less than strides in every kernel.
        self.q, self.log_a = q.contiguous(), log_a.contiguous()
        self.k, self.v, self.log_b = (self._by_head(t) for t in (k, v, log_b))
        self.heads = self.k.shape[1]
        self.factor = 1.0 / (math.sqrt(self.D) * eps)
        self.k_strides, self.v_strides, self.b_strides = self.k.stride(), self.v.stride(), self.log_b.stride()
        self.sizes = {"D": self.D, "S_PAD": power_of_two(self.S), "D_PAD": power_of_two(self.D)}
        halves = {torch.bfloat16: "bf16", torch.float16: "tf32"}
        work = halves.get(q.dtype, "tf32x3") if q.dtype == v.dtype else "tf32x3"
        self.sizes["WORK"] = "interpreted" if _interpreted() else work
        self.values = {"DV": self.DV, "DV_PAD": power_of_two(self.DV)}
        # From here on, what belongs to the slots fills the registers.
        self.reload = {"RELOAD": self.sizes["S_PAD"] * max(self.sizes["D_PAD"], self.values["DV_PAD"]) >= 4096}

    def _by_head(self, t: Tensor) -> Tensor:
        """[batch, heads, ...], as a view wherever there are two leading dimensions or less."""
        lead = len(self.batch)
        t = t.reshape(-1, self.batch[-1] if lead else 1, *t.shape[lead:]) if lead != 2 else t
        # Within a tile the kernels count in 32 bits: 128 tokens or features of such a stride.
        return t if max(t.stride()[2:]) < 1 << 24 else t.contiguous()

    def new(self, *shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=self.q.device)

    def launch(self, direction: str) -> Launch:
        return tuning.chosen(problem_of(direction, self.q, self.k, self.v))

    def split(self, launch: Launch) -> tuple[int, int]:
        """Number of splits, and tokens of each: a multiple of the block."""
        wanted = -(-launch.programs * _device(self.q.device)[1] // self.P)
        wanted = min(wanted, tuning.MOST_SPLITS, max(1, self.N // tuning.LEAST_SPAN))
        span = -(-self.N // (wanted * launch.block)) * launch.block
        return -(-self.N // span), span


def problem_of(direction: str, q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Problem:
    """What the launch of a call is chosen by."""
    capability, processors = _device(q.device)
    S, d, dv = (power_of_two(n) for n in (q.shape[-2], q.shape[-1], v.shape[-1]))
    element = max(q.element_size(), v.element_size())
    return Problem(direction, S, d, dv, k.shape[-2], math.prod(q.shape[:-2]), element, capability, processors)


@lru_cache
def _device(device: torch.device) -> tuple[int, int]:
    """Compute capability (90 for 9.0) and multiprocessors."""
    if device.type != "cuda":
        return 0, 1
    properties = torch.cuda.get_device_properties(device)
    return properties.major * 10 + properties.minor, properties.multi_processor_count


def _on(device: torch.device):
    """Triton launches on the current device, whichever the tensors are on."""
    return torch.cuda.device(device if device.type == "cuda" else -1)


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
    launch: Launch | None = None,
) -> tuple[Tensor, Tensor, Tensor, State]:
    """As `sinkhorn.forward`."""
    from . import triton_forward as kernels

    call = _Call(q, k, v, log_a, log_b, eps)
    launch = launch or call.launch(tuning.FORWARD)
    P, S, N = call.P, call.S, call.N
    out = call.new(P, S, call.DV, dtype=v.dtype)
    row_mass = call.new(P, S)
    # Slots beside one another while the kernels write, so that they write rows.
    plan = call.new(P, N if with_plan else 0, S)
    state = State(
        call.new(P, iterations, S), call.new(P, iterations, S), call.new(P, iterations - 1 if with_grams else 0, S, S)
    )
    tile = {"BLOCK_N": launch.block, **call.sizes, "num_warps": launch.warps, "num_stages": launch.stages}
    scale = call.factor * LOG2E
    strides = (*call.k_strides, *call.v_strides, *call.b_strides, call.heads, S, N, iterations)
    with _on(q.device):
        if launch.form == tuning.RESIDENT:
            kernels.resident_forward[(P,)](
                call.q, call.k, call.v, call.log_a, call.log_b, out, row_mass, plan, *state, *strides, scale,
                PLAN=with_plan, GRAMS=with_grams, **tile, **call.values,
            )  # fmt: skip
        elif launch.form == tuning.STREAM:
            kernels.stream_forward[(P,)](
                call.q, call.k, call.v, call.log_a, call.log_b, out, row_mass, *state, *strides, 0, scale,
                GRAMS=with_grams, **tile, **call.values, **call.reload,
            )  # fmt: skip
        else:
            _split_forward(kernels, call, launch, scale, out, row_mass, state, with_grams, tile)
        if with_plan and launch.form != tuning.RESIDENT:
            kernels.split_plan[(P, -(-N // launch.block))](
                call.q, call.k, call.log_b, plan, state.potentials, *call.k_strides, *call.b_strides, call.heads,
                S, N, iterations, scale, **tile,
            )  # fmt: skip
    shaped = (t.view(*call.batch, *t.shape[1:]) for t in (out, row_mass, plan.mT.contiguous(), *state))
    out, row_mass, plan, *kept = shaped
    return out, row_mass, plan, State(*kept)


def _split_forward(kernels, call, launch, scale, out, row_mass, state, with_grams, tile) -> None:
    P, S, N, iterations = call.P, call.S, call.N, state.potentials.shape[1]
    splits, span = call.split(launch)
    tops, parts, made = (call.new(P, splits, S) for _ in range(3))
    reads = call.new(P, splits, S, call.DV)
    grams = call.new(P, splits if with_grams else 0, S, S)
    padded = power_of_two(splits, 1)
    grid, strides = (P, splits), (*call.k_strides, *call.b_strides)
    tile = {**tile, **call.reload}
    kernels.split_start[grid](
        call.q, call.k, call.log_b, tops, parts, *strides, call.heads, S, N, span, splits, 0, scale, **tile
    )
    for step in range(iterations - 1):
        kernels.split_step[grid](
            call.q, call.k, call.log_a, call.log_b, tops, parts, made, grams, state.potentials, state.row_masses,
            *strides, call.heads, S, N, iterations, step, span, splits, 0, scale,
            SPLITS_PAD=padded, FIRST=step == 0, GRAMS=with_grams, **tile,
        )  # fmt: skip
        if with_grams:
            _sum(kernels, grams, state.grams[:, step], splits, 1.0)
        parts, made = made, parts
    kernels.split_read[grid](
        call.q, call.k, call.v, call.log_a, call.log_b, tops, parts, made, reads, state.potentials,
        state.row_masses, *call.k_strides, *call.v_strides, *call.b_strides, call.heads, S, N, iterations, span,
        splits, 0, scale, SPLITS_PAD=padded, FIRST=iterations == 1, **call.values, **tile,
    )  # fmt: skip
    kernels.split_merge[(P,)](
        made, reads, out, row_mass, state.row_masses, S, iterations, splits,
        S_PAD=call.sizes["S_PAD"], SPLITS_PAD=padded, **call.values,
    )  # fmt: skip


def _sum(kernels, parts: Tensor, out: Tensor, splits: int, factor: float) -> None:
    """out[p] = factor * sum over splits of parts[p]; each out[p] is dense."""
    size, block = math.prod(out.shape[1:]), 1024
    kernels.sum_splits[(out.shape[0], -(-size // block))](parts, out, out.stride(0), size, splits, factor, BLOCK=block)


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
    launch: Launch | None = None,
) -> Gradients:
    """As `sinkhorn.backward`."""
    from . import triton_backward as kernels

    call = _Call(q, k, v, log_a, log_b, eps)
    launch = launch or call.launch(tuning.BACKWARD)
    P, S, N, iterations = call.P, call.S, call.N, state.potentials.shape[-2]
    made = Gradients(*(torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (q, k, v, log_a, log_b)))
    d_plan, with_plan = (call.new(0), False) if d_plan is None else (d_plan.mT.contiguous(), True)
    d_read = call.new(P, S, call.DV, dtype=torch.bfloat16 if call.sizes["WORK"] == "bf16" else torch.float32)
    d_each, ys, ends = call.new(P, S), call.new(P, iterations - 1, S), call.new(P, S)
    wanted = (d_read, d_each, d_plan)
    strides = (*call.k_strides, *call.v_strides, *call.b_strides, call.heads, S, N, iterations)
    scale = call.factor * LOG2E
    compiled = {"num_warps": launch.warps, "num_stages": launch.stages}
    tile = {"BLOCK_N": launch.block, "PLAN": with_plan, **call.sizes, **call.values, **call.reload, **compiled}
    padded = {"S_PAD": call.sizes["S_PAD"]}
    with _on(q.device):
        kernels.upstream[(P,)](
            out.contiguous(), d_out.contiguous(), d_row_mass.contiguous(), state.row_masses, d_read, d_each,
            S, iterations, **padded, **call.values,
        )  # fmt: skip
        if launch.form != tuning.SPLIT:
            kernels.stream_backward[(P,)](
                call.q, call.k, call.v, call.log_a, call.log_b, *wanted, *state, ys, ends, *made, *strides, 0,
                scale, call.factor, **tile,
            )  # fmt: skip
            return made
        from . import triton_forward

        splits, span = call.split(launch)
        chains, q_parts = call.new(P, splits, S), call.new(P, splits, S, call.D)
        kernels.split_walk_1[(P, splits)](
            call.q, call.k, call.v, call.log_b, *wanted, state.potentials, chains, *strides, span, splits, 0, scale,
            **tile,
        )  # fmt: skip
        kernels.split_chain[(P,)](
            chains, state.row_masses, state.grams, ys, ends, made.log_a, S, iterations, splits,
            SPLITS_PAD=power_of_two(splits, 1), num_warps=8, **padded,
        )  # fmt: skip
        kernels.split_walk_2[(P, splits)](
            call.q, call.k, call.v, call.log_a, call.log_b, *wanted, state.potentials, ys, ends, q_parts,
            made.k, made.v, made.log_b, *strides, span, splits, 0, scale, call.factor, **tile,
        )  # fmt: skip
        _sum(triton_forward, q_parts, made.q.view(P, S, call.D), splits, call.factor)
    return made
