"""Time of one routing, beside other ways to do the same.

    python -m benchmarks.bench_routing [--shapes A B C] [--iterations 5 10] [--seconds 1]

Shapes as (problems, slots, tokens): A frames of a clip, B frames at full size, C whole clips; D and E one frame, on a
GPU alone; d = dv = 64. On a GPU in bfloat16, with the modelled floor (k and v read once at 3 TB/s) beside it; on a CPU
in float32, and with the gradient for the first number of iterations alone. Pip installs of pot, geomloss and
flash-sinkhorn are measured where they are found.
"""

from __future__ import annotations

import argparse

import torch
from torch import Tensor

from slotid_core.ops import choose_backend, sinkhorn_routing

from . import common, peers

SHAPES = {"A": (168, 32, 256), "B": (168, 32, 1560), "C": (8, 64, 32760), "D": (4, 17, 64), "E": (8, 17, 1024)}
ON_CPU = ("A", "B", "C")
WIDTH, EPS = 64, 0.2
BANDWIDTH = 3e12
# On a GPU: largest multiple of the floor at K = 5 and 10; least gain on compiled log-domain torch, forward and with the
# gradient, and on flash-sinkhorn. Nowhere is the backend that is chosen to be slower than what it replaces.
FLOOR_BARS = {"A": (4.0, 6.0), "B": (3.5, 6.0), "C": (3.5, 6.0)}
GAIN_BARS = {"A": 2.0, "B": 3.0, "C": 3.0, "D": 1.0, "E": 1.0}
GRADIENT_BARS = {"A": 2.0, "B": 2.0, "C": 2.0, "D": 1.0, "E": 1.0}
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
    # Past a handful of shapes it would no longer be compiled.
    torch._dynamo.reset()
    compiled = torch.compile(peers.log_domain, dynamic=False)
    made = {served: lambda t: ours(t, iterations)}
    if served != "reference":
        made["reference"] = lambda t: ours(t, iterations, "reference")
    made["log-domain compiled"] = lambda t: compiled(*t, EPS, iterations)
    made["log-domain"] = lambda t: peers.log_domain(*t, EPS, iterations)
    for name, route in peers.installed(device).items():
        made[name] = lambda t, route=route: route(*t, EPS, iterations)
    return made


def measure(
    name: str, iterations: int, modes: tuple[str, ...], device: torch.device, dtype: torch.dtype, seconds: float
) -> list[dict]:
    """Rows of one shape; modes: of forward and forward+backward."""
    shape = SHAPES[name]
    inputs = inputs_of(shape, device, dtype)
    made = routes(inputs, iterations, device)
    first = next(iter(made))
    want = ours([t.double() for t in inputs], iterations, "reference")
    rows = []
    for mode in modes:
        runs = {}
        for route_name, route in made.items():
            if mode == "forward":
                runs[route_name] = lambda route=route: route(inputs)
            elif route_name not in ("GeomLoss", "flash-sinkhorn"):  # neither differentiates the K-step map
                runs[route_name] = with_gradient(route, inputs)
        if device.type == "cuda" and mode == "forward":
            with torch.no_grad():
                runs |= {f"{n}, graph": common.graphed(runs[n])[0] for n in (first, "log-domain compiled")}
        with torch.set_grad_enabled(mode != "forward"):
            times = common.milliseconds(runs, device, seconds, least=5 if mode == "forward" else 3)
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


def verdicts(rows: list[dict]) -> list[str]:
    """The bars of the device that the rows are from, each held or missed."""
    lines = []
    on_gpu = any(row["route"].endswith(", graph") for row in rows)
    for row in rows:
        shape, mode = row["shape"], row["mode"]
        at = f"{shape}, K = {row['iterations']}, {mode}"
        near = [r for r in rows if (r["shape"], r["iterations"], r["mode"]) == (shape, row["iterations"], mode)]
        others = {r["route"]: float(r["milliseconds"]) for r in near}
        time = float(row["milliseconds"])
        # The first of a shape is the backend that is chosen; a GPU's launches are not what its kernels are held to.
        chosen = near[0]["route"]
        if on_gpu and row["route"] == f"{chosen}, graph":
            if shape in FLOOR_BARS:
                limit = FLOOR_BARS[shape][int(row["iterations"]) > 5]
                lines.append(common.verdict(f"{at}: of the floor", float(row["of_floor"]), "<=", limit))
            gain = others["log-domain compiled, graph"] / time
            lines.append(common.verdict(f"{at}: gain on compiled log-domain", gain, ">=", GAIN_BARS[shape]))
        elif on_gpu and row["route"] == chosen:
            if mode != "forward":
                gain = others["log-domain compiled"] / time
                lines.append(common.verdict(f"{at}: gain on compiled log-domain", gain, ">=", GRADIENT_BARS[shape]))
            elif "flash-sinkhorn" in others and shape in PEER_BARS:
                gain = others["flash-sinkhorn"] / time
                lines.append(common.verdict(f"{at}: gain on flash-sinkhorn", gain, ">=", PEER_BARS[shape]))
        elif row["route"] == chosen and mode == "forward":
            gain = others["log-domain compiled"] / time
            lines.append(common.verdict(f"{at}: gain on compiled log-domain", gain, ">=", 1.0))
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    device = common.device_to_measure()
    on_gpu = device.type == "cuda"
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=list(SHAPES if on_gpu else ON_CPU))
    parser.add_argument("--iterations", nargs="+", type=int, default=[5, 10])
    parser.add_argument("--seconds", type=float, default=1.0, help="for each row")
    arguments = parser.parse_args()
    dtype = torch.bfloat16 if on_gpu else torch.float32
    rows = []
    for name in arguments.shapes:
        for iterations in arguments.iterations:
            both = on_gpu or iterations == arguments.iterations[0]
            modes = ("forward", "forward+backward") if both else ("forward",)
            rows += measure(name, iterations, modes, device, dtype, arguments.seconds)
    path = common.write("routing", rows, device)
    groups: dict[str, dict[str, float]] = {}
    for row in rows:
        group = f"{row['shape']}, K={row['iterations']}\n{row['mode']}"
        groups.setdefault(group, {})[row["route"]] = row["of_log_domain_compiled"]
    common.bars(path, "Time of one routing", groups, "of compiled log-domain torch", line=1.0)
    print(*verdicts(rows), sep="\n")


if __name__ == "__main__":
    main()
