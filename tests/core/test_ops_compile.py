"""The routing kernels compiled ahead of time for GPUs that are not there: no spills, and room in shared memory."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

if importlib.util.find_spec("triton") is None:
    pytest.skip("Triton is not installed: `pip install triton` needs no GPU", allow_module_level=True)

ROOT = Path(__file__).parents[2]
# Bytes that one program may ask for.
SHARED = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 120: 101376}
# By direction; the shapes A, B and C of the benchmarks, as the defaults launch them, training included.
SHAPES = ((168, 32, 256), (168, 32, 1560), (8, 64, 32760))


def cases(direction):
    # The backward pass has one form for A and B.
    for P, S, N in SHAPES if direction == "forward" else SHAPES[1:]:
        about = {"P": P, "S": S, "N": N, "d": 64, "dv": 64, "K": 5, "dtype": "bfloat16", "direction": direction}
        yield {**about, "plan": direction == "forward", "grams": True}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """A row for each kernel and architecture; both directions at once."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("triton"))
    environment["XDG_CACHE_HOME"] = environment["TRITON_CACHE_DIR"]  # no measured launches
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    command = [sys.executable, str(Path(__file__).with_name("kernel_gate.py"))]
    runs = []
    for direction in ("forward", "backward"):
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        run = subprocess.Popen(command, env=environment, **pipes)
        run.stdin.write("".join(json.dumps(case) + "\n" for case in cases(direction)))
        run.stdin.close()
        runs.append(run)
    rows = []
    for run in runs:
        rows += [json.loads(line) for line in run.stdout]
        assert run.wait() == 0, run.stderr.read()[-2000:]
    return rows


def test_every_kernel_compiles(compiled):
    assert [row for row in compiled if "error" in row] == []
    assert {row["architecture"] for row in compiled} == set(SHARED)
    forms = {"resident_forward", "stream_forward", "split_step", "split_read", "stream_backward", "split_walk_2"}
    assert forms <= {row["kernel"] for row in compiled}


def test_the_default_launches_spill_nothing(compiled):
    spilling = {
        (row["kernel"], row["case"]["S"], row["architecture"]): row["stack"]
        for row in compiled
        if row["stack"] or row["local"]
    }
    assert spilling == {}


def test_the_default_launches_fit_into_shared_memory(compiled):
    assert [row for row in compiled if row["shared"] > SHARED[row["architecture"]]] == []
