"""Memory of one routing, beside the same map through autograd.

    python -m benchmarks.bench_memory [--tokens 4096 16384 262144] [--iterations 10]

The most that a call holds at once beyond its inputs, and that beside what it must hold: the gradients of k and v.
"""

from __future__ import annotations

import argparse

import torch

from slotid_core.ops import choose_backend

from . import common, peers
from .bench_routing import EPS, WIDTH, inputs_of, ours, with_gradient

PROBLEMS, SLOTS = 1, 32
LOG_DOMAIN = "log-domain"  # through autograd
# Forward and backward at so many tokens, as a part of what autograd takes.
TOKENS, SHARE = 16384, 0.2
# Bytes of the forward pass, however many tokens: the reference keeps the weights of as many as fit into 16 MB.
BUDGET = 1.25 * (16 << 20)


def measure(tokens: int, iterations: int, device: torch.device, dtype: torch.dtype) -> list[dict]:
    """Rows of one N: forward and forward with backward, ours and plain log-domain torch."""
    inputs = inputs_of((PROBLEMS, SLOTS, tokens), device, dtype)
    served = choose_backend(*inputs[:3], EPS)
    routes = {served: lambda t: ours(t, iterations), LOG_DOMAIN: lambda t: peers.log_domain(*t, EPS, iterations)}
    gradients = sum(t.numel() * t.element_size() for t in inputs)
    kept = 4 * iterations * (SLOTS**2 + 2 * SLOTS) * PROBLEMS
    rows = []
    for name, route in routes.items():
        for mode, run in (("forward", lambda r=route: r(inputs)), ("forward+backward", with_gradient(route, inputs))):
            with torch.set_grad_enabled(mode != "forward"):
                run()
                peak = common.peak_bytes(run, device)
            must = gradients + kept if mode != "forward" else 0
            rows.append(
                {
                    "problems": PROBLEMS, "slots": SLOTS, "tokens": tokens, "width": WIDTH, "iterations": iterations,
                    "dtype": str(dtype).removeprefix("torch."), "mode": mode, "route": name, "peak_bytes": peak,
                    "of_gradients_and_state": round(peak / must, 3) if must else "",
                }
            )  # fmt: skip
            print(f"N={tokens:6d} K={iterations} {mode:17} {name:12} {peak / 1e6:9.2f} MB", flush=True)
    return rows


def verdicts(rows: list[dict]) -> list[str]:
    """The bars, each held or missed; of those rows that are there."""
    peaks = {(int(r["tokens"]), r["mode"], r["route"] == LOG_DOMAIN): int(r["peak_bytes"]) for r in rows}
    lines, most = [], max(tokens for tokens, *_ in peaks)
    both = [peaks.get((TOKENS, "forward+backward", plain)) for plain in (False, True)]
    if all(both):
        what = f"forward and backward at {TOKENS:,} tokens: of autograd's memory"
        lines.append(common.verdict(what, both[0] / both[1], "<=", SHARE))
    for row in rows:
        if row["of_gradients_and_state"] and int(row["tokens"]) == most and row["route"] != LOG_DOMAIN:
            what = f"forward and backward at {most:,} tokens: of its gradients and its state"
            lines.append(common.verdict(what, float(row["of_gradients_and_state"]), "<=", 1.1))
    what = f"forward at {most:,} tokens: of the budget"
    return [*lines, common.verdict(what, peaks[most, "forward", False] / BUDGET, "<=", 1.0)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", nargs="+", type=int, default=[1024, 4096, 16384, 65536, 262144])
    parser.add_argument("--iterations", type=int, default=10)
    arguments = parser.parse_args()
    device = common.device_to_measure()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = [row for n in arguments.tokens for row in measure(n, arguments.iterations, device, dtype)]
    path = common.write("memory", rows, device)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        group = groups.setdefault(f"N = {row['tokens']}", {})
        group[f"{row['route']}, {row['mode']}"] = row["peak_bytes"] / 1e6
    common.bars(path, f"Memory of one routing, S = {SLOTS}, K = {arguments.iterations}", groups, "MB")
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
