"""Measures which launch is quickest on this GPU, for the shapes that matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor

from . import triton_backend, tuning
from .tuning import Launch, Problem

# (problems, slots, tokens, d): frames of a clip, frames at full size, whole clips.
SHAPES = ((168, 32, 256, 64), (168, 32, 1560, 64), (8, 64, 32760, 64))
EPS, ITERATIONS = 0.2, 5


def tune(device: torch.device, dtypes: tuple[torch.dtype, ...], say: Callable[[str], None]) -> dict[str, Launch]:
    """The quickest launch of each shape and direction, by its key; `say` is told what was found."""
    from triton.testing import do_bench

    found = {}
    for dtype in dtypes:
        for shape in SHAPES:
            for direction, problem, run in _calls(shape, dtype, device):
                times = {}
                for launch in candidates(problem):
                    try:
                        times[launch] = do_bench(partial(run, launch), warmup=5, rep=20)
                    except Exception as error:  # a launch that this GPU has no room for is no candidate
                        say(f"{direction} {shape} {launch}: {type(error).__name__}")
                best = min(times, key=times.__getitem__)
                found[tuning.key(problem)] = best
                usual = times.get(tuning.default(problem))
                beside = f", {usual:.3f} ms by default" if usual else ""
                say(f"{direction} {shape} {str(dtype).removeprefix('torch.')}: {best}, {times[best]:.3f} ms{beside}")
    return found


def candidates(problem: Problem) -> Iterator[Launch]:
    """Every launch worth measuring."""
    yield tuning.default(problem)
    if problem.direction == tuning.FORWARD and tuning.may_be_resident(problem):
        for warps in (4, 8, 16):
            yield Launch(tuning.RESIDENT, tuning.power_of_two(problem.tokens), warps)
    splits = (1, 2, 4) if problem.tokens > 2 * tuning.LEAST_SPAN else ()
    forms = [(tuning.STREAM, 1), *((tuning.SPLIT, programs) for programs in splits)]
    for form, programs in forms:
        for block in (32, 64, 128):
            for warps in (4, 8):
                for stages in (1, 2, 3):
                    yield Launch(form, block, warps, stages, programs)


def _calls(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Iterator[tuple[str, Problem, Callable]]:
    P, S, N, d = shape
    generator = torch.Generator(device).manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.randn(1, P, *size, generator=generator, device=device)

    inputs = [random(n, d).to(dtype) for n in (S, N, N)]
    inputs += [torch.log_softmax(random(n), -1) for n in (S, N)]
    for direction in (tuning.FORWARD, tuning.BACKWARD):
        problem = triton_backend.problem_of(direction, *inputs)
        settings = (EPS, ITERATIONS, False, True)
        if direction == tuning.FORWARD:
            yield direction, problem, partial(triton_backend.forward, *inputs, *settings)
        else:
            out, mass, _, state = triton_backend.forward(*inputs, *settings)
            yield direction, problem, partial(triton_backend.backward, out, mass, None, *inputs, out, state, EPS)
