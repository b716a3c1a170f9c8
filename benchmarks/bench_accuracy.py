"""Accuracy of the routing and of its gradient, beside float64 on the same rounded inputs; repeatability.

    python -m benchmarks.bench_accuracy

By whichever backend serves the device. On a GPU also: how far the split form's counts of splits differ, whether a
CUDA graph of it gives the same bits, and whether a call waits for the device.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from slotid_core.ops import choose_backend, sinkhorn_routing

from . import common
from .bench_routing import SHAPES, WIDTH, inputs_of

# (problems, slots, tokens): those of bench_routing with fewer problems, and sizes that fill no tile.
SIZES = {"A": (8, *SHAPES["A"][1:]), "B": (4, *SHAPES["B"][1:]), "C": (1, *SHAPES["C"][1:])}
SIZES |= {"odd": (3, 7, 37), "a slot": (3, 1, 3), "33 slots": (2, 33, 1000)}
# eps, iterations.
SETTINGS = ((0.2, 5), (0.05, 5), (0.2, 10))
# Largest error of the read-out (of its largest value, if that is above 1) and of a gradient (of its largest value).
BARS = {torch.float32: (5e-6, 2e-5), torch.float16: (1e-3, 2e-2), torch.bfloat16: (6e-3, 2e-2)}
MASS_BAR, COLUMN_BAR, ROW_ERROR_BAR, SPLIT_BAR = 5e-6, 1e-6, 1e-5, 1e-6


def run(inputs: list[Tensor], eps: float, iterations: int, backend: str | None = None) -> tuple[list[Tensor], ...]:
    """Read-out, row mass and plan, and the gradients of the inputs for upstreams that are not 1."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    made = sinkhorn_routing(*inputs, eps=eps, iterations=iterations, backend=backend)
    upstream = [3 * torch.randn(t.shape, generator=torch.Generator().manual_seed(i)).to(t) for i, t in enumerate(made)]
    return [t.detach() for t in made], list(torch.autograd.grad(made, inputs, upstream))


def error(got: Tensor, want: Tensor, least: float = 0.0) -> float:
    """The largest difference, as a part of the largest value (of `least`, if that is more)."""
    return ((got.double() - want).abs().max() / want.abs().max().clamp_min(max(least, 1e-30))).item()


def measure(name: str, eps: float, iterations: int, dtype: torch.dtype, device: torch.device) -> dict:
    """A row."""
    inputs = inputs_of(SIZES[name], device, dtype)
    made, gradients = run(inputs, eps, iterations)
    want, want_gradients = run([t.double() for t in inputs], eps, iterations, "reference")
    again = run(inputs, eps, iterations)
    a, b = (t.double().exp() for t in inputs[3:])
    row_errors = [(mass.double() - a).abs().sum(-1) for mass in (made[1], want[1])]
    found = {
        "out": (error(made[0], want[0], 1.0), BARS[dtype][0]),
        "row_mass": ((made[1] - want[1]).abs().max().item(), MASS_BAR),
        "columns": ((made[2].double().sum(-2) - b).abs().max().item(), COLUMN_BAR),
        "row_error": ((row_errors[0] - row_errors[1]).abs().max().item(), ROW_ERROR_BAR),
        "gradient": (max(error(g, w) for g, w in zip(gradients, want_gradients, strict=True)), BARS[dtype][1]),
        "repeats": (float(not _same([*made, *gradients], [*again[0], *again[1]])), 0.0),
    }
    served = choose_backend(*inputs[:3], eps)
    if served == "triton":
        found |= on_gpu(inputs, eps, iterations)
    row = {"shape": name, "slots": SIZES[name][1], "tokens": SIZES[name][2], "width": WIDTH, "eps": eps}
    row |= {"iterations": iterations, "dtype": str(dtype).removeprefix("torch."), "route": served}
    # What only a GPU is asked stays empty elsewhere.
    row |= dict.fromkeys(("splits", "graph", "waits"), "")
    row |= {what: f"{value:.1e}" for what, (value, _) in found.items()}
    missed = [f"{what} {value:.1e} > {limit:.0e}" for what, (value, limit) in found.items() if not value <= limit]
    return row | {"missed": "; ".join(missed)}


def on_gpu(inputs: list[Tensor], eps: float, iterations: int) -> dict[str, tuple[float, float]]:
    """What is asked of the kernels beyond their accuracy; 0 is as it should be."""
    from slotid_core.ops import triton_backend
    from slotid_core.ops.tuning import SPLIT, Launch

    def call() -> list[Tensor]:
        return list(sinkhorn_routing(*inputs, eps=eps, iterations=iterations))

    with torch.no_grad():
        first = call()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            call()
            waits = 0.0
        except RuntimeError as refusal:
            print(refusal)
            waits = 1.0
        finally:
            torch.cuda.set_sync_debug_mode("default")
        replay, captured = common.graphed(call)
        replay()
        torch.cuda.synchronize()
        splits = []
        for programs in (1, 2, 4):
            launch = Launch(SPLIT, 64, 4, 2, programs)
            splits.append(triton_backend.forward(*inputs, eps, iterations, True, False, launch=launch)[:3])
    # A read-out in half precision differs by its last digit.
    kept = slice(0 if inputs[2].dtype == torch.float32 else 1, None)
    pairs = [pair for other in splits[1:] for pair in zip(other[kept], splits[0][kept], strict=True)]
    apart = max(error(a, b.double(), 1.0) for a, b in pairs)
    return {"splits": (apart, SPLIT_BAR), "graph": (float(not _same(first, captured)), 0.0), "waits": (waits, 0.0)}


def _same(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SIZES, default=list(SIZES))
    arguments = parser.parse_args()
    device = common.device_to_measure()
    rows = []
    for dtype in BARS:
        for name in arguments.shapes:
            for eps, iterations in SETTINGS:
                rows.append(measure(name, eps, iterations, dtype, device))
                row = rows[-1]
                print(*(f"{row[key]!s:9}" for key in ("dtype", "shape", "eps", "iterations", "route", "out")), end=" ")
                print(f"gradient {row['gradient']}", row["missed"] and f"MISSED {row['missed']}", flush=True)
    common.write("accuracy", rows, device)


if __name__ == "__main__":
    main()
