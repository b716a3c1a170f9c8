"""`python -m slotid_core.ops`: which backend routes on this machine, and why. `tune`: measure launches on its GPU."""

from __future__ import annotations

import argparse
import sys

import torch

from ..errors import SlotIDError
from . import tuning
from .backends import BACKENDS, ENVIRONMENT_VARIABLE, choose_backend

DTYPES = (torch.float32, torch.bfloat16)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m slotid_core.ops", description=__doc__)
    parser.add_argument("action", nargs="?", choices=["show", "tune"], default="show")
    action = parser.parse_args(arguments).action
    try:
        return _tune() if action == "tune" else _show()
    except SlotIDError as error:
        print(error, file=sys.stderr)
        return 1


def _show() -> int:
    devices = [torch.device("cpu"), *(torch.device("cuda", i) for i in range(torch.cuda.device_count()))]
    print(f"torch {torch.__version__}, Triton {_triton_version()}")
    for device in devices:
        name = f" ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else ""
        for dtype in DTYPES:
            q = torch.empty(1, 16, 64, device=device, dtype=dtype)
            print(f"{device}{name}, {str(dtype).removeprefix('torch.')}: {choose_backend(q, q, q, 0.2)}")
            for other, backend in BACKENDS.items():
                if reason := backend.refuses(q, q, q, 0.2):
                    print(f"    not {other}: {reason}")
    print(f"{len(tuning.measured())} measured launches in {tuning.cache_file()}")
    print(f"{ENVIRONMENT_VARIABLE} chooses another of: auto, {', '.join(BACKENDS)}")
    return 0


def _tune() -> int:
    if not torch.cuda.is_available():
        raise SlotIDError("no CUDA device", "an NVIDIA GPU, whose kernels are to be measured", "run this on one.")
    from .tune import tune

    print(f"written: {tuning.remember(tune(torch.device('cuda'), DTYPES, print))}")
    return 0


def _triton_version() -> str:
    try:
        import triton
    except ImportError:
        return "not installed"
    return triton.__version__


if __name__ == "__main__":
    sys.exit(main())
