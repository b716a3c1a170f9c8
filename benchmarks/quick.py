"""Ratios that must not get worse, in two minutes on a CPU: `make bench`, or `python -m benchmarks.quick`.

Times are ratios of runs that take turns; operations and memory are counted, not timed. Exits with 1 if a bar is missed.
"""

from __future__ import annotations

import sys

import torch

from . import bench_memory, bench_overhead, common, peers, wan_shapes
from .bench_routing import EPS, ON_CPU, SHAPES, inputs_of, ours
from .wan_shapes import LATENT, SIZES

CPU = torch.device("cpu")
META = torch.device("meta")
# Of one block at few tokens, where the block itself does less than at 32,760: the identity's part is larger there.
TIMED_LATENT, TIMED_BAR = (1, 60, 104), 1.05


def main() -> int:
    torch.manual_seed(0)
    held = [*routing(), *memory(), *overhead(), timed_overhead()]
    return 0 if all(held) else 1


def bar(what: str, value: float, limit: float) -> bool:
    print(common.verdict(what, value, "<=", limit), flush=True)
    return value <= limit


def routing() -> list[bool]:
    """Forward, K = 5, beside compiled log-domain torch."""
    compiled = torch.compile(peers.log_domain, dynamic=False)
    held = []
    for name in ON_CPU:
        inputs = inputs_of(SHAPES[name], CPU, torch.float32)
        runs = {"ours": lambda i=inputs: ours(i, 5), "compiled": lambda i=inputs: compiled(*i, EPS, 5)}
        with torch.no_grad():
            torch.testing.assert_close(runs["ours"](), runs["compiled"](), rtol=1e-4, atol=1e-5)
            times = common.milliseconds(runs, CPU, seconds=3.0)
        held.append(bar(f"of compiled log-domain torch's time, routing {name}", times["ours"] / times["compiled"], 1.0))
    return held


def memory() -> list[bool]:
    """K = 10."""
    rows = [row for tokens in (16384, 262144) for row in bench_memory.measure(tokens, 10, CPU, torch.float32)]
    lines = bench_memory.verdicts(rows)
    print(*lines, sep="\n", flush=True)
    return [line.startswith(common.HELD) for line in lines]


def overhead() -> list[bool]:
    """Operations of one step of the whole model at 81 frames of 480p, and of encoding an 81-frame clip."""
    held = []
    encoding = bench_overhead.operations(bench_overhead.encoding(SIZES["1.3B"], META, torch.bfloat16))
    for name, size in SIZES.items():
        runs = bench_overhead.runs_of(size, size.depth, LATENT, META, torch.bfloat16)
        off, on = (bench_overhead.operations(runs[mode]) for mode in ("off", "slot-id"))
        held.append(bar(f"of a step's operations with Slot-ID, {name}", on / off, bench_overhead.BARS[name]))
        held.append(bar(f"of a step's operations to encode a clip, {name}", encoding / off, 1.0))
        added = sum(p.numel() for p in wan_shapes.slotid(size, size.depth, META, torch.bfloat16).parameters())
        limit = {"1.3B": 0.05, "14B": 0.01}[name]
        held.append(bar(f"of the model's parameters added, {name}", added / size.parameters, limit))
    return held


def timed_overhead() -> bool:
    """One block of the 1.3B model."""
    runs = bench_overhead.runs_of(SIZES["1.3B"], 1, TIMED_LATENT, CPU, torch.float32)
    times = common.milliseconds({mode: runs[mode] for mode in ("off", "slot-id")}, CPU, seconds=12.0)
    return bar("of one block's time with Slot-ID, 1,560 tokens", times["slot-id"] / times["off"], TIMED_BAR)


if __name__ == "__main__":
    sys.exit(main())
