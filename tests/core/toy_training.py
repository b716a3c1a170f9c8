"""A task small enough to train in a moment, and the command line that trains it in any number of processes."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import torch

from slotid_core.training.config import Experiment, build
from slotid_core.training.flow import stream
from slotid_core.training.loop import train

TRUTH = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))


class Toy:
    """A two-layer regression with a parameter that no row uses; `delay` seconds a batch give a killer time."""

    def __init__(self, config: Experiment, delay: float = 0.0) -> None:
        self.config, self.delay = config, delay
        torch.manual_seed(config.run.seed)
        self.module = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.Tanh(), torch.nn.Linear(8, 4))
        self.module.unused = torch.nn.Parameter(torch.ones(3))
        self.asked: list[range] = []

    def to(self, device):
        self.module.to(device)

    def report(self):
        return "toy data"

    def batch(self, step, rows):
        time.sleep(self.delay)
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


if __name__ == "__main__":
    folder, name, delay = Path(sys.argv[1]), sys.argv[2], float(sys.argv[3])
    config = experiment(optimiser__name=name)
    train(Toy(config, delay), config, folder)
