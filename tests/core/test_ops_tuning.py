"""Launches: the default for a problem, the cache of what was measured, and what the command prints."""

import json

import pytest
import torch

from slotid_core.ops import __main__ as command
from slotid_core.ops import triton_backend, tuning
from slotid_core.ops.tuning import BACKWARD, FORWARD, RESIDENT, SPLIT, STREAM, Launch, Problem


def of(direction=FORWARD, slots=32, tokens=256, count=168, d=64, element=2):
    return Problem(direction, slots, d, d, tokens, count, element, 90, 132)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    tuning.measured.cache_clear()
    yield tuning.cache_file()
    tuning.measured.cache_clear()


def test_default_forms():
    assert tuning.default(of()).form == RESIDENT
    assert tuning.default(of(tokens=1560)).form == STREAM
    assert tuning.default(of(slots=64, tokens=32760, count=8)).form == SPLIT
    assert tuning.default(of(slots=64, tokens=1560)).form == SPLIT, "more slots than one program holds for all walks"
    assert tuning.default(of(tokens=32760, count=1000)).form == STREAM, "enough problems to fill the device"
    assert tuning.default(of(BACKWARD)).form == STREAM
    assert tuning.default(of(tokens=512, slots=64)).form != RESIDENT


@pytest.mark.parametrize("tokens", [1, 16, 17, 200, 256])
def test_the_resident_tile_holds_every_token(tokens):
    launch = tuning.default(of(slots=16, tokens=tokens))
    assert launch.form == RESIDENT and launch.block >= tokens and launch.warps <= launch.block // 16


def test_measured_launches_are_kept_and_used(cache):
    problem, launch = of(tokens=1560), Launch(STREAM, 128, 8, 3, 1)
    assert tuning.chosen(problem) == tuning.default(problem) != launch
    assert tuning.remember({tuning.key(problem): launch}) == cache
    assert tuning.chosen(problem) == launch
    assert tuning.chosen(of(tokens=2000)) == launch, "the same power of 2 of tokens"
    assert tuning.chosen(problem._replace(capability=80)) != launch
    tuning.remember({tuning.key(of(BACKWARD)): Launch(SPLIT, 64, 4)})
    assert tuning.chosen(problem) == launch, "an earlier entry stays"


@pytest.mark.parametrize(
    "text",
    [
        "not json",
        "[1]",
        json.dumps({"forward S32": ["warp", 64, 4, 2, 2]}),
        json.dumps({"backward S32": [RESIDENT, 64, 4, 2, 2]}),
        json.dumps({"forward S32": [STREAM, 64, 0, 2, 2]}),
        json.dumps({"sideways": [STREAM, 64, 4, 2, 2]}),
    ],
)
def test_a_broken_cache_is_left_out_and_said(cache, caplog, text):
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert tuning.chosen(of()) == tuning.default(of())
    assert "routing-launches.json is not used" in caplog.text


def refused(q, k=None, v=None, eps=0.2):
    return triton_backend.refuses(q, q if k is None else k, q if v is None else v, eps)


def test_what_the_triton_backend_refuses(monkeypatch):
    q = torch.empty(1, 4, 64)
    monkeypatch.setattr(triton_backend, "HAS_TRITON", False)
    assert "not installed" in refused(q)
    monkeypatch.setattr(triton_backend, "HAS_TRITON", True)
    assert "wants CUDA tensors, got cpu" in refused(q)
    assert "NVIDIA" in refused(q.to("meta"))


class OnGpu:
    """What of a tensor on a GPU the declaration looks at."""

    def __init__(self, dtype=torch.float32, width=64, index=0, slots=17):
        self.dtype, self.shape, self.device = dtype, (1, slots, width), torch.device("cuda", index)


def test_what_the_triton_backend_refuses_on_a_gpu(monkeypatch):
    monkeypatch.setattr(triton_backend, "HAS_TRITON", True)
    monkeypatch.setattr(triton_backend, "_capability", lambda device: (9, 0))
    assert refused(OnGpu()) is None and refused(OnGpu(torch.bfloat16), eps=1e-4) is None
    assert refused(OnGpu(), v=OnGpu(torch.bfloat16)) is None
    assert "float64" in refused(OnGpu(), eps=0.01)
    assert "one device" in refused(OnGpu(), k=OnGpu(index=1))
    assert "got float32, bfloat16" in refused(OnGpu(), k=OnGpu(torch.bfloat16))
    assert "float64" in refused(OnGpu(torch.float64))
    assert "up to 128, got 200" in refused(OnGpu(width=200))
    assert refused(OnGpu(torch.bfloat16, slots=64)) is None
    assert "up to 64 slots" in refused(OnGpu(torch.bfloat16, slots=65))
    assert "up to 32 slots" in refused(OnGpu(torch.float32, slots=33))
    assert "up to 32 slots" in refused(OnGpu(torch.bfloat16, slots=33, width=128))
    monkeypatch.setattr(triton_backend, "_capability", lambda device: (7, 5))
    assert "8.0 or more, got 7.5" in refused(OnGpu())


def test_the_command_says_which_backend_serves_and_why(cache, capsys):
    assert command.main([]) == 0
    said = capsys.readouterr().out
    assert "cpu, float32: reference" in said and "not triton: " in said and "0 measured launches" in said


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU to tune")
def test_tuning_wants_a_gpu(capsys):
    assert command.main(["tune"]) == 1
    assert "an NVIDIA GPU" in capsys.readouterr().err
