"""Optimisers and the schedule of their rates."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import SlotIDError
from .config import Optimiser

ADAM_BETAS = (0.9, 0.98)
MUON_MOMENTUM = 0.9


class Optimisers:
    """Muon for some parameters and AdamW for the others, or AdamW for all, stepped as one optimiser.

    Muon takes matrices only; a convolution's kernel [out, in, ...] is seen as the matrix [out, in * ...] over the same
    memory, so the parameters must stay where they are from here on.
    """

    def __init__(self, config: Optimiser, named: dict[str, nn.Parameter], matrices: Callable[[str], bool]) -> None:
        self.names = {id(p): name for name, p in named.items()}
        chosen = {n: p for n, p in named.items() if config.name == "muon" and p.ndim >= 2 and matrices(n)}
        rest = [p for n, p in named.items() if n not in chosen]
        groups = [
            {"params": [p for p in rest if p.ndim >= 2], "weight_decay": config.weight_decay, "base": config.rate},
            {"params": [p for p in rest if p.ndim < 2], "weight_decay": 0.0, "base": config.rate},
        ]
        # One fused kernel over all parameters, where torch has it.
        fused = all(p.device.type in ("cpu", "cuda") for p in rest)
        kernel = {"fused": True} if fused else {"foreach": True}
        self.parts = [torch.optim.AdamW([g for g in groups if g["params"]], lr=config.rate, betas=ADAM_BETAS, **kernel)]
        self.flat: list[tuple[nn.Parameter, Tensor]] = []
        if chosen:
            self.flat = [(p, p.detach().flatten(1)) for p in chosen.values()]
            for (_, flat), name in zip(self.flat, chosen, strict=True):
                self.names[id(flat)] = name
            group = {"params": [flat for _, flat in self.flat], "base": config.matrix_rate}
            settings = {"weight_decay": 0.0, "momentum": MUON_MOMENTUM, "nesterov": True}
            self.parts.append(_muon()([group], lr=config.matrix_rate, **settings))
        # A gradient scaler looks at the parameters themselves.
        self.param_groups = [{"params": list(named.values())}]

    def scale(self, factor: float) -> None:
        """Set every rate to `factor` of its own."""
        for part in self.parts:
            for group in part.param_groups:
                group["lr"] = group["base"] * factor

    def step(self, closure: Any = None) -> None:
        for p, flat in self.flat:
            flat.grad = None if p.grad is None else p.grad.flatten(1)
        for part in self.parts:
            part.step()

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """What the optimisers remember: "parameter/entry" -> tensor, the optimisers' own."""
        return {
            f"{self.names[id(p)]}/{entry}": value
            for part in self.parts
            for p, entries in part.state.items()
            for entry, value in entries.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Take back what `tensors` gave."""
        entries: dict[str, dict[str, Tensor]] = defaultdict(dict)
        for key, tensor in tensors.items():
            name, _, entry = key.rpartition("/")
            entries[name][entry] = tensor
        for part in self.parts:
            order = [self.names[id(p)] for group in part.param_groups for p in group["params"]]
            state = {index: entries[name] for index, name in enumerate(order) if name in entries}
            part.load_state_dict({"state": state, "param_groups": part.state_dict()["param_groups"]})


def rate_factor(config: Optimiser, step: int, steps: int) -> float:
    """Factor 0 .. 1 of the rates at `step` (from 0) of `steps`."""
    rise = min(1.0, (step + 1) / config.warmup)
    if config.schedule == "tail":
        return min(rise, (steps - step) / config.decay)
    done = min(1.0, max(0.0, (step - config.warmup) / max(1, steps - config.warmup)))
    return rise * (config.floor + (1 - config.floor) * (1 + math.cos(math.pi * done)) / 2)


@torch.no_grad()
def move_average(average: Iterable[Tensor], parameters: Iterable[Tensor], decay: float, step: int) -> None:
    """average <- keep * average + (1 - keep) * parameters, keep = min(decay, (step + 1) / (step + 10)).

    The second term lets the average leave the initial weights behind early on.
    """
    keep = min(decay, (step + 1) / (step + 10))
    torch._foreach_lerp_(list(average), [p.detach() for p in parameters], 1.0 - keep)


def _muon() -> type[torch.optim.Optimizer]:
    if not hasattr(torch.optim, "Muon"):
        raise SlotIDError(
            f"optimiser.name = 'muon' with torch {torch.__version__}",
            "torch 2.9 or newer, which has torch.optim.Muon",
            "update torch, or set optimiser.name to 'adamw'.",
        )
    return torch.optim.Muon
