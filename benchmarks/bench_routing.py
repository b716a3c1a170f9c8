"""Time of one routing, beside other ways to do the same.

    python -m benchmarks.bench_routing [--shapes A B C] [--iterations 5 10] [--seconds 3]

Shapes as (problems, slots, tokens): A frames of a clip, B frames at full size, C whole clips; d = dv = 64. On a GPU in
bfloat16, with the modelled floor (k and v read once at 3 TB/s) beside it; on a CPU in float32. Pip installs of pot,
geomloss and flash-sinkhorn are measured where they are found.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from slotid_core.ops import choose_backend, sinkhorn_routing

from . import common, peers

SHAPES = {"A": (168, 32, 256), "B": (168, 32, 1560), "C": (8, 64, 32760)}
WIDTH, EPS = 64, 0.2
BANDWIDTH = 3e12
# Of KERNEL: largest multiple of the floor at K = 5 and 10, least gain on compiled log-domain torch, forward.
FLOOR_BARS = {"A": (4.0, 6.0), "B": (3.5, 6.0), "C": (3.5, 6.0)}
GAIN_BARS = {"A": 2.0, "B": 3.0, "C": 3.0}
PEER_BARS = {"A": 10.0, "C": 2.0}


def inputs_of(shape: tuple[int, int, int], device: torch.device, dtype: torch.dtype) -> list[Tensor]:
    """q, k, v, log_a and log_b of one call, leading dimensions [1, problems]."""
    P, S, N = shape
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(1, P, *size, generator=generator)

    q, k, v = (random(n, WIDTH).to(device, dtype) for n in (S, N, N))
    log_a, log_b = (torch.log_softmax(0.5 * random(n), -1).to(device) for n in (S, N))
    return [q, k, v, log_a, log_b]


def ours(inputs: list[Tensor], iterations: int, backend: str | None = None) -> Tensor:
    """The read-out of `sinkhorn_routing`."""
    return sinkhorn_routing(*inputs, eps=EPS, iterations=iterations, with_plan=False, backend=backend).out


def with_gradient(route, inputs: list[Tensor]):
    """A run of `route` and of its gradient with an upstream that is not 1."""
    inputs = [t.detach().clone().requires_grad_() for t in inputs]
    upstream = torch.randn(route(inputs).shape, generator=torch.Generator().manual_seed(1)).to(inputs[2])
    return lambda: torch.autograd.grad(route(inputs), inputs, upstream)


def routes(inputs: list[Tensor], iterations: int, device: torch.device) -> dict:
    """By name, functions of the inputs."""
    served = choose_backend(*inputs[:3], EPS)
    compiled = torch.compile(peers.log_domain, dynamic=False)
    made = {served: lambda t: ours(t, iterations)}
    if served != "reference":
        made["reference"] = lambda t: ours(t, iterations, "reference")
    made["log-domain compiled"] = lambda t: compiled(*t, EPS, iterations)
    made["log-domain"] = lambda t: peers.log_domain(*t, EPS, iterations)
    for name, route in peers.installed(device).items():
        made[name] = lambda t, route=route: route(*t, EPS, iterations)
    return made


def measure(name: str, iterations: int, device: torch.device, dtype: torch.dtype, seconds: float) -> list[dict]:
    """Rows of one shape, forward and forward with backward."""
    shape = SHAPES[name]
    inputs = inputs_of(shape, device, dtype)
    made = routes(inputs, iterations, device)
    first = next(iter(made))
    want = ours([t.double() for t in inputs], iterations, "reference")
    rows = []
    for mode in ("forward", "forward+backward"):
        runs = {}
        for route_name, route in made.items():
            if mode == "forward":
                runs[route_name] = lambda route=route: route(inputs)
            elif route_name not in ("GeomLoss", "flash-sinkhorn"):  # neither differentiates the K-step map
                runs[route_name] = with_gradient(route, inputs)
        if device.type == "cuda" and mode == "forward":
            with torch.no_grad():
                runs |= {f"{n}, graph": common.graphed(runs[n]) for n in (first, "log-domain compiled")}
        with torch.set_grad_enabled(mode != "forward"):
            times = common.milliseconds(runs, device, seconds)
            errors = {n: (made[n](inputs) - want).abs().max().item() for n in made} if mode == "forward" else {}
        beside = times["log-domain compiled"]
        P, S, N = shape
        floor = P * N * 2 * WIDTH * inputs[1].element_size() / BANDWIDTH * 1e3 if device.type == "cuda" else ""
        for route_name, time in times.items():
            rows.append(
                {
                    "shape": name, "problems": P, "slots": S, "tokens": N, "width": WIDTH, "iterations": iterations,
                    "dtype": str(dtype).removeprefix("torch."), "mode": mode, "route": route_name,
                    "milliseconds": round(time, 4), "of_log_domain_compiled": round(time / beside, 4),
                    "of_floor": round(time / floor, 2) if floor else "",
                    "error": f"{errors[route_name]:.1e}" if route_name in errors else "",
                }
            )  # fmt: skip
            print(f"{name} K={iterations} {mode:17} {route_name:28} {time:10.3f} ms  {time / beside:6.3f}", flush=True)
    return rows


def verdicts(rows: list[dict], served: str) -> list[str]:
    """The bars of a GPU, each held or missed."""
    lines = []
    for row in rows:
        if row["route"] != f"{served}, graph":
            continue
        shape, at = row["shape"], (row["shape"], row["iterations"], row["mode"])
        limit = FLOOR_BARS[shape][row["iterations"] > 5]
        lines.append(_verdict(f"{at} of the floor", row["of_floor"], "<=", limit))
        others = {r["route"]: r["milliseconds"] for r in rows if (r["shape"], r["iterations"], r["mode"]) == at}
        gain = others["log-domain compiled, graph"] / row["milliseconds"]
        lines.append(_verdict(f"{at} gain on compiled log-domain", gain, ">=", GAIN_BARS[shape]))
        if "flash-sinkhorn" in others and shape in PEER_BARS:
            gain = others["flash-sinkhorn"] / others[served]
            lines.append(_verdict(f"{at} gain on flash-sinkhorn", gain, ">=", PEER_BARS[shape]))
    for row in rows:
        if row["route"] == served and row["mode"] == "forward+backward":
            gain = 1 / row["of_log_domain_compiled"]
            lines.append(_verdict(f"{row['shape']} K={row['iterations']} forward+backward gain", gain, ">=", 2.0))
    return lines


def _verdict(what: str, value: float, sign: str, limit: float) -> str:
    held = value <= limit if sign == "<=" else value >= limit
    return f"{'held  ' if held else 'MISSED'} {what}: {value:.2f} {sign} {limit}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES))
    parser.add_argument("--iterations", nargs="+", type=int, default=[5, 10])
    parser.add_argument("--seconds", type=float, default=3.0, help="for each row")
    arguments = parser.parse_args()
    device = common.device_to_measure()
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = []
    for name in arguments.shapes:
        for iterations in arguments.iterations:
            rows += measure(name, iterations, device, dtype, arguments.seconds)
    path = common.write("routing", rows, device)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        group = f"{row['shape']}, K={row['iterations']}\n{row['mode']}"
        groups.setdefault(group, {})[row["route"]] = row["of_log_domain_compiled"]
    common.bars(path, "Time of one routing", groups, "of compiled log-domain torch", line=1.0)
    if device.type == "cuda":
        print(*verdicts(rows, rows[0]["route"]), sep="\n")


if __name__ == "__main__":
    main()
