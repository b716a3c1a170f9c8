"""Compiles the routing kernels for GPUs that are not there, as the launcher would launch them, and reads what they use.

Run as a program in a process of its own (not under TRITON_INTERPRET): every case is a line of JSON on standard input;
what the call allocates and, unless the case says `"compile": false`, every kernel of it on every architecture are lines
on standard output.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

ARCHITECTURES = (80, 86, 89, 90, 120)
# Merges and the like: far from any limit, so one architecture is enough.
SMALL = ("split_start", "split_merge", "split_plan", "split_chain", "sum_splits", "upstream")
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.float16: "*fp16"}
PROCESSORS = 132


class Recorder:
    """Stands in a kernel's place and notes how it is launched."""

    def __init__(self, kernel, launches):
        self.kernel, self.launches = kernel, launches

    def __getitem__(self, grid):
        return lambda *args, **kwargs: self.launches.append((self.kernel, args, kwargs))


class Allocations(TorchDispatchMode):
    """Adds up the bytes of every tensor that is made, as if none were ever freed."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        made = function(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor) and function._schema.returns[0].alias_info is None:
            self.bytes += made.numel() * made.element_size()
        return made


def launches_of(case):
    """The launches of one call with tensors that hold nothing, and the bytes it allocates."""
    from slotid_core.ops import triton_backend, triton_backward, triton_forward
    from slotid_core.ops.sinkhorn import State
    from slotid_core.ops.tuning import Launch

    launches = []
    for module in (triton_forward, triton_backward):
        for name, kernel in vars(module).copy().items():
            if isinstance(kernel, Recorder):
                kernel.launches = launches
            elif getattr(kernel, "do_not_specialize", None):
                setattr(module, name, Recorder(kernel, launches))
    triton_backend._device = lambda device: (90, PROCESSORS)
    triton_backend._interpreted = lambda: False
    P, S, N, d, dv, K = (case[name] for name in ("P", "S", "N", "d", "dv", "K"))
    dtype = getattr(torch, case["dtype"])

    def empty(*shape, dtype=dtype):
        return torch.empty(shape, dtype=dtype, device="meta")

    inputs = (empty(1, P, S, d), empty(1, P, N, d), empty(1, P, N, dv))
    inputs += (empty(1, P, S, dtype=torch.float32), empty(1, P, N, dtype=torch.float32))
    launch = Launch(*case["launch"]) if case.get("launch") else None
    allocations = Allocations()
    if case["direction"] == "forward":
        with allocations:
            triton_backend.forward(*inputs, 0.2, K, case["plan"], case["grams"], launch=launch)
    else:
        state = State(*(empty(1, P, *shape, dtype=torch.float32) for shape in ((K, S), (K, S), (K - 1, S, S))))
        out, mass = empty(1, P, S, dv), empty(1, P, S, dtype=torch.float32)
        plan = empty(1, P, S, N, dtype=torch.float32) if case["plan"] else None
        with allocations:
            triton_backend.backward(out, mass, plan, *inputs, out, state, 0.2, launch=launch)
    return launches, allocations.bytes


def compile_for(architecture, kernel, args, kwargs):
    """Compile as the launch would be on a device, and read the registers, stack and shared memory it takes."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kwargs = dict(kwargs)
    options = {name: kwargs.pop(name) for name in ("num_warps", "num_stages") if name in kwargs}
    bound = inspect.signature(kernel.fn).bind(*args, **kwargs).arguments
    signature, constants, attributes = {}, {}, {}
    for index, (parameter, value) in enumerate(zip(kernel.params, bound.values(), strict=True)):
        loose = parameter.do_not_specialize
        if parameter.is_constexpr or (value == 1 if isinstance(value, int) and not loose else False):
            signature[parameter.name], constants[(index,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = TYPES[value.dtype]
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32" if value < 2**31 else "i64"
        aligned = isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0)
        if aligned and not loose:
            attributes[(index,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature=signature, constexprs=constants, attrs=attributes)
    compiled = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
    return {**resources(compiled.asm["cubin"]), "shared": compiled.metadata.shared}


def resources(cubin):
    import triton

    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        text = subprocess.run([tool, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return {name.lower(): int(re.search(rf"\b{name}:(\d+)", text).group(1)) for name in ("REG", "STACK", "LOCAL")}


def main():
    for line in sys.stdin:
        case = json.loads(line)
        launches, allocated = launches_of(case)
        print(json.dumps({"case": case, "allocated": allocated}), flush=True)
        seen = set()
        for kernel, args, kwargs in launches if case.get("compile", True) else ():
            if kernel.__name__ in seen:
                continue
            seen.add(kernel.__name__)
            for architecture in (90,) if kernel.__name__ in SMALL else case.get("architectures", ARCHITECTURES):
                try:
                    used = compile_for(architecture, kernel, args, kwargs)
                except Exception as error:
                    used = {"error": f"{type(error).__name__}: {error}"[:300]}
                row = {"case": case, "kernel": kernel.__name__, "architecture": architecture, **used}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
