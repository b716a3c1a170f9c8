"""What a run agrees on between two steps: whether to stop, and whether a checkpoint is overdue."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from accelerate import Accelerator

# A launcher passes on the Ctrl-C that its processes have had from the terminal already.
SAME_PRESS = 2.0


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Inside, the first Ctrl-C only sets the event; a second one, seconds later, interrupts as ever."""
    stopped = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stopped
        return
    pressed = 0.0

    def note(number: int, frame: Any) -> None:
        nonlocal pressed
        if stopped.is_set() and time.monotonic() - pressed > SAME_PRESS:
            raise KeyboardInterrupt
        if not stopped.is_set():
            pressed = time.monotonic()
            stopped.set()
            print("\nStopping after this step; the state will be saved.", file=sys.stderr)

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, before)


def anywhere(flags: tuple[bool, ...], accelerator: Accelerator) -> tuple[bool, ...]:
    """Which flags any process has set. Clocks differ: unless all do the same after a step, they wait for ever."""
    if accelerator.num_processes == 1:
        return flags
    counts = accelerator.reduce(torch.tensor(flags, dtype=torch.float32, device=accelerator.device), "sum")
    return tuple(count > 0 for count in counts.tolist())
