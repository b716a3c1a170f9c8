"""What a run says while it goes on."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .config import Experiment
from .state import Losses

if TYPE_CHECKING:
    from accelerate import Accelerator


class Log:
    """Losses of all devices to losses.csv, TensorBoard and the progress bar; fetched from the device now and then."""

    def __init__(self, config: Experiment, folder: Path, start: int, accelerator: Accelerator) -> None:
        from tqdm import tqdm

        self.accelerator, self.every = accelerator, config.run.log_every
        self.main = accelerator.is_main_process
        self.now: dict[str, Tensor] = {}
        self.names: list[str] = []
        self.waiting: list[tuple[int, float, Tensor]] = []
        if self.main:
            self.losses = Losses(folder, start)
            title = config.task if start == 0 else f"{config.task} (from step {start})"
            self.bar = tqdm(desc=title, initial=start, total=config.run.steps, mininterval=1, file=sys.stderr)
            if accelerator.log_with:
                accelerator.init_trackers("curves", init_kwargs={"tensorboard": {"purge_step": start + 1}})

    def add(self, loss: Tensor, parts: dict[str, Tensor]) -> None:
        for name, value in {"loss": torch.stack([loss.detach(), torch.ones_like(loss)]), **parts}.items():
            self.now[name] = self.now[name] + value.detach() if name in self.now else value.detach()

    def step(self, done: int, norm: Tensor, rate: float) -> None:
        self.now["norm"] = torch.stack([norm, torch.ones_like(norm)]).to(self.now["loss"])
        self.names = list(self.now)
        self.waiting.append((done, rate, torch.stack(list(self.now.values()))))
        self.now = {}
        if self.main:
            self.bar.update()
        if done % self.every == 0:
            self.write()

    def write(self) -> None:
        if not self.waiting:
            return
        sums = self.accelerator.reduce(torch.stack([sums for _, _, sums in self.waiting]), "sum").cpu()
        means = (sums[..., 0] / sums[..., 1]).tolist()
        rows = [
            {"step": done, **dict(zip(self.names, values, strict=True)), "rate": rate}
            for (done, rate, _), values in zip(self.waiting, means, strict=True)
        ]
        self.waiting = []
        if self.main:
            self.losses.add(rows)
            self.bar.set_postfix_str(f"loss {sum(row['loss'] for row in rows) / len(rows):.4f}", refresh=False)
            if self.accelerator.log_with:
                for row in rows:
                    curves = {name: value for name, value in row.items() if name != "step" and value == value}
                    self.accelerator.log(curves, step=row["step"])

    def close(self) -> None:
        self.write()
        if self.main:
            self.bar.close()
