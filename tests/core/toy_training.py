"""A task small enough to train in a moment, and the command line that trains it in any number of processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import sys
from pathlib import Path

import torch

from slotid_core.training import loop
from slotid_core.training.config import Experiment, build
from slotid_core.training.flow import stream

TRUTH = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


class Toy:
    """A two-layer regression with a parameter that no row uses."""

    def __init__(self, config: Experiment) -> None:
        self.config = config
        torch.manual_seed(config.run.seed)
        self.module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.module.unused = torch.nn.Parameter(torch.ones(3))
        self.asked: list[range] = []

    def to(self, device):
        self.module.to(device)

    def report(self):
        return "toy data"

    def batch(self, step, rows):
        self.asked.append(rows)
        return {"x": torch.stack([torch.randn(6, generator=stream(self.config.run.seed, step, row)) for row in rows])}

    def loss(self, batch):
        error = (self.module(batch["x"]) - torch.tanh(batch["x"] @ TRUTH)).square().mean(1)
        large = (batch["x"][:, 0] > 0).float()
        return error.mean(), {"large": torch.stack([(error * large).sum(), large.sum()]).detach()}

    def matrices(self, name):
        return name.endswith("weight")

    def save(self, folder, steps):
        import safetensors.torch

        path = folder / "toy.safetensors"
        safetensors.torch.save_file({name: p.detach().clone() for name, p in self.module.named_parameters()}, path)
        return path


def experiment(**changes) -> Experiment:
    """A config; `changes` are "section.key" with a double underscore for the dot."""
    tables = {
        "task": "toy",
        "run": {"steps": 12, "batch": 8, "trained_on": "nothing", "license": "none", "save_every": 4, "log_every": 3},
        "optimiser": {"rate": 0.02, "warmup": 3, "average": 0.9},
    }
    for key, value in changes.items():
        section, name = key.split("__")
        tables.setdefault(section, {})[name] = value
    return build(Experiment, tables)


def run_once(folder: str, name: str, kill_at: int) -> None:
    """Train in this process; at the start of step `kill_at` the process dies as at a power cut."""
    usual = loop.rate_factor

    def killing(config, step, steps):
        if step == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return usual(config, step, steps)

    loop.rate_factor = killing
    config = experiment(optimiser__name=name)
    loop.train(Toy(config), config, Path(folder))


def fork_pair(folder: str, name: str, kill_at: int) -> list[int]:
    """Two processes as a launcher would start them, from one that has imported everything; their exit codes."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    os.environ.update(WORLD_SIZE="2", LOCAL_WORLD_SIZE="2", MASTER_ADDR="localhost", MASTER_PORT=port)
    pair = []
    for rank in range(2):
        os.environ.update(RANK=str(rank), LOCAL_RANK=str(rank))
        pair.append(multiprocessing.get_context("fork").Process(target=run_once, args=(folder, name, kill_at)))
        pair[-1].start()
    for process in pair:
        process.join()
    return [process.exitcode for process in pair]


if __name__ == "__main__":
    # toy_training.py FOLDER OPTIMISER: as one of the launched processes.
    # toy_training.py FOLDER OPTIMISER KILL_AT: two processes killed there, then two more that go on.
    if len(sys.argv) == 3:
        run_once(*sys.argv[1:], kill_at=-1)
    else:
        import torch._dynamo  # what data parallelism imports, once for all

        folder, name, kill_at = sys.argv[1:]
        print(fork_pair(folder, name, int(kill_at)), fork_pair(folder, name, -1))
