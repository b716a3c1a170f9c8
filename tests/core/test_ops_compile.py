"""The routing kernels for GPUs that are not there: compiled ahead of time without spills, and what a call allocates."""

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
LONGER = (8, 64, 1000000)


def cases(direction):
    # The backward pass has one form for A and B.
    for P, S, N in SHAPES if direction == "forward" else SHAPES[1:]:
        about = {"P": P, "S": S, "N": N, "d": 64, "dv": 64, "K": 5, "dtype": "bfloat16", "direction": direction}
        yield {**about, "plan": direction == "forward", "grams": True}
    for P, S, N in (*SHAPES, LONGER):
        yield {**about, "P": P, "S": S, "N": N, "plan": False, "grams": False, "compile": False}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """What the gate says of every case; both directions at once."""
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


@pytest.fixture(scope="module")
def compiled(answers):
    """A row for each kernel and architecture."""
    return [row for row in answers if "kernel" in row]


@pytest.fixture(scope="module")
def allocated(answers):
    """Bytes by direction and shape, without the plan."""
    rows = [row for row in answers if "allocated" in row and not row["case"]["plan"]]
    return {(row["case"]["direction"], tuple(row["case"][x] for x in "PSN")): row["allocated"] for row in rows}


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


def test_the_forward_pass_needs_no_more_for_more_tokens(allocated):
    """The split form's parts: as many as fill the device, whatever they share."""
    assert allocated["forward", LONGER] <= 1.05 * allocated["forward", SHAPES[-1]] < 5e6


@pytest.mark.parametrize("shape", [*SHAPES, LONGER], ids=str)
def test_training_needs_little_more_than_its_gradients(allocated, shape):
    """Gradients of bfloat16 inputs and the state K (S^2 + 2 S) in float32, and a tenth."""
    P, S, N = shape
    state = 4 * 5 * P * (S * S + 2 * S)
    gradients = 2 * P * 64 * (S + 2 * N) + 4 * P * (S + N)
    assert allocated["backward", shape] + state <= 1.1 * (gradients + state)
