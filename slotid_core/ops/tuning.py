"""How the kernels are launched: defaults that need no measuring, and a cache of what was measured on this machine.

`python -m slotid_core.ops tune` measures and writes the cache (`ops/tune.py`); nothing is measured in the middle of a
run. A key holds what the best launch depends on: direction, padded slots, d, dv, a power of 2 of the tokens, bytes of
an element, compute capability.
"""

from __future__ import annotations

import json
import logging
import os
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..atomic import write_atomic

FORWARD, BACKWARD = "forward", "backward"
RESIDENT, STREAM, SPLIT = "resident", "stream", "split"
FORMS = {FORWARD: (RESIDENT, STREAM, SPLIT), BACKWARD: (STREAM, SPLIT)}
MOST_SPLITS = 64
LEAST_SPAN = 256  # tokens of one split: what a split leaves behind stays small beside what it reads

_log = logging.getLogger(__name__)


class Launch(NamedTuple):
    """One way to launch.

    form: resident, stream or split (`ops/triton_forward.py`).
    block: tokens of a tile; the resident form's only tile holds them all.
    warps, stages: of Triton's compiler.
    programs: of the split form, for each multiprocessor.
    """

    form: str
    block: int
    warps: int
    stages: int = 2
    programs: int = 2


class Problem(NamedTuple):
    """What a launch is chosen by.

    direction: forward or backward.
    slots, d, dv: padded to powers of 2.
    tokens, count: N and the number of problems.
    element: bytes of an element of q and k.
    capability: of the device, as 90 for 9.0; 0 for none.
    processors: multiprocessors of the device.
    """

    direction: str
    slots: int
    d: int
    dv: int
    tokens: int
    count: int
    element: int
    capability: int
    processors: int


def power_of_two(n: int, least: int = 16) -> int:
    """The smallest power of 2 that is n or more, and `least` or more."""
    return max(least, 1 << (n - 1).bit_length())


def chosen(problem: Problem) -> Launch:
    """The launch that was measured best on this machine, or the default."""
    return measured().get(key(problem)) or default(problem)


def default(problem: Problem) -> Launch:
    """A launch that is never foolish; in bfloat16 at d = 64 it compiles without spills on every architecture."""
    if problem.direction == FORWARD and may_be_resident(problem):
        held = power_of_two(problem.tokens)
        return Launch(RESIDENT, held, min(held // 16, max(4, held * problem.slots // 1024)))
    alone = problem.tokens <= 2048 or problem.count >= 2 * problem.processors
    # Kernels of one walk each hold less at once, which more than 32 slots need.
    return Launch(STREAM if alone and problem.slots <= 32 else SPLIT, 64, 4)


def may_be_resident(problem: Problem) -> bool:
    """Whether all scores of a problem fit into the registers of one program, and its keys into shared memory."""
    held = power_of_two(problem.tokens)
    return held <= 512 and held * problem.slots <= 8192 and held * problem.d * problem.element <= 32768


def key(problem: Problem) -> str:
    """What a measured launch is filed under."""
    p = problem
    bucket = power_of_two(p.tokens)
    return f"{p.direction} S{p.slots} d{p.d} dv{p.dv} N{bucket} bytes{p.element} sm{p.capability}"


def cache_file() -> Path:
    """Where measured launches are kept."""
    folder = os.environ.get("XDG_CACHE_HOME")
    return (Path(folder) if folder else Path.home() / ".cache") / "slotid" / "routing-launches.json"


@lru_cache(1)
def measured() -> dict[str, Launch]:
    """The launches in the cache file; none if it is missing or not what `remember` writes."""
    path = cache_file()
    if not path.is_file():
        return {}
    try:
        return {name: _read(name, entry) for name, entry in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        _log.warning("%s is not used (%s); `python -m slotid_core.ops tune` writes it anew", path, error)
        return {}


def remember(launches: dict[str, Launch]) -> Path:
    """Add to the cache file. Raises SlotIDError where it cannot be written."""
    path = cache_file()
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**measured(), **launches}, indent=1, sort_keys=True)
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))
    measured.cache_clear()
    return path


def _read(name: str, entry: Any) -> Launch:
    launch = Launch(*entry)
    numbers = launch[1:]
    if launch.form not in FORMS[name.split()[0]] or not all(type(n) is int and 1 <= n <= 512 for n in numbers):
        raise ValueError(f"{name}: {entry}")
    return launch
