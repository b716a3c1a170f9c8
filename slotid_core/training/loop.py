"""The training loop: one for every task, device count and precision.

Whatever chance decides (order, noise, dropout) is a function of the seed, the step and the row's number in the step's
whole batch. So a run that was killed goes on to the same losses, and one or two processes see the same batches.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import SlotIDError, load_package
from .config import Experiment
from .feed import Feed
from .log import Log
from .optim import Optimisers, move_average, rate_factor
from .state import Checkpoints, open_folder, restore
from .stop import anywhere, interruptible

if TYPE_CHECKING:
    from accelerate import Accelerator

Batch = dict[str, Tensor]
# Name -> [sum, count]: a part of the loss, and over how many rows; summed over parts of a batch and over devices.
Parts = dict[str, Tensor]


class Task(Protocol):
    """What there is to learn. `module` holds all that trains, and nothing else."""

    module: nn.Module

    def to(self, device: torch.device) -> None:
        """Move what the task holds beside `module`."""

    def batch(self, step: int, rows: range) -> Batch:
        """Some rows of a step's batch, on the CPU."""

    def loss(self, batch: Batch) -> tuple[Tensor, Parts]:
        """The mean loss of the rows, and what it consists of; the same parts every time."""

    def matrices(self, name: str) -> bool:
        """Whether Muon may have this parameter, if it has two or more dimensions."""

    def report(self) -> str:
        """A line about the data, said when a run begins or goes on."""

    def sample(self, step: int) -> np.ndarray:
        """A sheet, uint8 [H, W, 3]."""

    def save(self, folder: Path, steps: int) -> Path:
        """Write what was made, from the weights now in `module`, into the run's folder."""


def train(task: Task, config: Experiment, folder: Path) -> Path | None:
    """Train, from the start or from the run's last checkpoint, and write the averaged weights.

    Args:
        folder: of the run: config.toml, checkpoints, losses.csv, sheets, curves, and what was made.

    Returns:
        The file that was made; None in all but the first of several processes.

    Raises:
        SlotIDError: a batch that the devices cannot share, a precision that is not there, another run's folder.
        KeyboardInterrupt: Ctrl-C; the state is saved first.
    """
    with _accelerate(config, folder) as accelerator:
        return _train(task, config, folder, accelerator)


def _train(task: Task, config: Experiment, folder: Path, accelerator: Accelerator) -> Path | None:
    run, steps = config.run, config.run.steps
    main = accelerator.is_main_process
    if main:
        open_folder(folder, config)
        print(task.report())
    accelerator.wait_for_everyone()

    device = accelerator.device
    task.to(device)
    objective = accelerator.prepare(_Objective(task).to(device))
    named = {name: p for name, p in task.module.named_parameters() if p.requires_grad}
    average = {name: p.detach().clone() for name, p in named.items()}
    optimisers = Optimisers(config.optimiser, named, task.matrices)
    optimiser = accelerator.prepare_optimizer(optimisers, device_placement=False)

    checkpoints = Checkpoints(folder)
    start = _resume(checkpoints, named, average, optimisers, accelerator)

    def save(done: int) -> None:
        if main:
            groups = {"model": named, "average": average, "optimiser": optimisers.tensors()}
            checkpoints.save(done, groups, accelerator.scaler.state_dict() if accelerator.scaler else {})

    log = Log(config, folder, start, accelerator)
    feed = Feed(task, accelerator, run.batch, run.accumulation)
    saved = time.monotonic()
    with interruptible() as stopped:
        for step in range(start, steps):
            optimisers.scale(factor := rate_factor(config.optimiser, step, steps))
            for part in range(run.accumulation):
                last = part + 1 == run.accumulation
                with nullcontext() if last else accelerator.no_sync(objective):
                    loss, parts = objective(feed(step, part))
                    accelerator.backward(loss)
                log.add(loss, parts)
            norm = accelerator.clip_grad_norm_(named.values(), config.optimiser.clip)
            optimiser.step()
            optimiser.zero_grad()
            move_average(average.values(), named.values(), config.optimiser.average, step)

            done = step + 1
            log.step(done, norm, factor * config.optimiser.rate)
            overdue = time.monotonic() - saved > 60 * run.save_minutes
            stop, overdue = anywhere((stopped.is_set(), overdue), accelerator)
            if stop or overdue or done % run.save_every == 0 or done == steps:
                log.write()
                save(done)
                saved = time.monotonic()
            if stop and done < steps:
                raise KeyboardInterrupt
            if main and config.samples.every and done % config.samples.every == 0:
                with averaged(named, average):
                    _draw(task.sample(done), folder / "samples" / f"step_{done:08d}.png")
    log.close()
    with averaged(named, average):
        made = task.save(folder, steps) if main else None
    accelerator.wait_for_everyone()
    return made


class _Objective(nn.Module):
    """The task's loss as a module, as data parallelism wants it; what is frozen stays outside."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.module = task.module
        self._loss = task.loss

    def forward(self, batch: Batch) -> tuple[Tensor, Parts]:
        return self._loss(batch)


@contextmanager
def averaged(named: Mapping[str, Tensor], average: Mapping[str, Tensor]) -> Iterator[None]:
    """Inside, the weights are their averages."""
    own = {name: p.detach().clone() for name, p in named.items()}
    restore(named, average)
    try:
        yield
    finally:
        restore(named, own)


@contextmanager
def _accelerate(config: Experiment, folder: Path) -> Iterator[Accelerator]:
    """Accelerate for one run. What it keeps for the process goes afterwards, so that another run may differ."""
    accelerate = load_package("accelerate", "headless")
    from accelerate.state import AcceleratorState, GradientState
    from accelerate.utils import DistributedDataParallelKwargs

    # Accelerate takes several processes on CPUs for several devices only if it is told that the CPU is meant.
    gpu = torch.cuda.is_available() or torch.backends.mps.is_available()
    cpu = not gpu or os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if config.run.precision == "fp16" and cpu:
        raise SlotIDError("run.precision = 'fp16' on a CPU", "'no' or 'bf16' there", "change run.precision.")
    curves = find_spec("tensorboard") is not None
    try:
        accelerator = accelerate.Accelerator(
            cpu=cpu,
            mixed_precision=config.run.precision,
            gradient_accumulation_steps=config.run.accumulation,
            log_with="tensorboard" if curves else None,
            project_dir=str(folder),
            # What a photo or a clip does not use has no gradient in that step.
            kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
        )
        _check_processes(accelerator)
        if not curves:
            accelerator.print("No curves: TensorBoard is not installed (pip install tensorboard).")
        yield accelerator
        accelerator.end_training()
    except KeyboardInterrupt:
        accelerator.end_training()
        raise
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()


def _check_processes(accelerator: Accelerator) -> None:
    from accelerate.utils import DistributedType

    launched = int(os.environ.get("WORLD_SIZE", 1))
    if launched != accelerator.num_processes:
        raise SlotIDError(
            f"{launched} processes were launched, and Accelerate counts {accelerator.num_processes}",
            "processes that know of each other: all would write into one folder",
            "launch with torchrun or accelerate launch, with the GPUs of this computer visible.",
        )
    replicas = (DistributedType.NO, DistributedType.MULTI_CPU, DistributedType.MULTI_GPU, DistributedType.MULTI_XPU)
    if accelerator.distributed_type not in replicas:
        raise SlotIDError(
            f"Accelerate set to {accelerator.distributed_type.value}",
            "data parallelism (DDP): what trains is small, and the backbone is frozen",
            "run accelerate config again without FSDP, DeepSpeed and the like; save memory by backbone.checkpointing.",
        )


def _resume(
    checkpoints: Checkpoints,
    named: Mapping[str, Tensor],
    average: Mapping[str, Tensor],
    optimisers: Optimisers,
    accelerator: Accelerator,
) -> int:
    loaded = checkpoints.load()
    if loaded is None:
        return 0
    done, groups, scaler = loaded
    restore(named, groups["model"])
    restore(average, groups["average"])
    optimisers.restore(groups["optimiser"])
    if accelerator.scaler:
        accelerator.scaler.load_state_dict(scaler)
    return done


def _draw(picture: np.ndarray, path: Path) -> None:
    from ..sheets import save_image

    path.parent.mkdir(exist_ok=True)
    save_image(path, picture)
