"""Each process's rows of each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import SlotIDError

if TYPE_CHECKING:
    from accelerate import Accelerator

    from .loop import Task


class Feed:
    """This process's rows of each step, on its device. Beside a GPU the next are made while it computes."""

    def __init__(self, task: Task, accelerator: Accelerator, batch: int, accumulation: int) -> None:
        share, rest = divmod(batch, accelerator.num_processes * accumulation)
        if rest or not share:
            raise SlotIDError(
                f"run.batch = {batch} for {accelerator.num_processes} processes with {accumulation} parts each",
                f"a multiple of {accelerator.num_processes * accumulation}",
                "change run.batch or run.accumulation.",
            )
        self.task, self.device, self.accumulation = task, accelerator.device, accumulation
        self.share, self.place, self.processes = share, accelerator.process_index, accelerator.num_processes
        self.ahead = None
        if self.device.type != "cpu":
            from concurrent.futures import ThreadPoolExecutor

            self.pool, self.ahead = ThreadPoolExecutor(1), {}

    def __call__(self, step: int, part: int) -> dict[str, Tensor]:
        if self.ahead is None:
            return self._make(step, part)
        waiting = self.ahead.pop((step, part), None) or self.pool.submit(self._make, step, part)
        following = (step, part + 1) if part + 1 < self.accumulation else (step + 1, 0)
        self.ahead[following] = self.pool.submit(self._make, *following)
        return {name: tensor.to(self.device, non_blocking=True) for name, tensor in waiting.result().items()}

    def _make(self, step: int, part: int) -> dict[str, Tensor]:
        first = (part * self.processes + self.place) * self.share
        batch = self.task.batch(step, range(first, first + self.share))
        return {name: t.pin_memory() for name, t in batch.items()} if self.device.type == "cuda" else batch
