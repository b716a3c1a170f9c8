"""The small training loop of the demo weights: an optimiser, averaged weights, and exact resume from safetensors.

Every batch is a function of its step's number, so a run that was stopped goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from .. import checkpoint


@dataclass(frozen=True)
class Plan:
    """How long and how fast to train.

    The rate rises over `warmup` steps, stays, and falls to zero over the last `decay` steps: until the fall begins, a
    run does not depend on `steps`.
    """

    steps: int
    matrix_rate: float
    other_rate: float
    warmup: int = 50
    decay: int = 200
    average: float = 0.99
    save_every: int = 50

    def scale(self, step: int) -> float:
        """Factor 0 .. 1 of the rates at a step."""
        return min(1.0, (step + 1) / self.warmup, (self.steps - step) / self.decay)


class Optimiser:
    """Momentum with orthogonalised updates (Muon) for weight matrices and convolutions, Adam for everything else.

    Orthogonalised updates learn about twice as much per sample, and samples are what a CPU is short of.
    """

    def __init__(self, named: dict[str, nn.Parameter], matrices: Callable[[str], bool]) -> None:
        self.named = named
        self.matrices = {name for name, p in named.items() if p.ndim >= 2 and matrices(name)}
        self.state: dict[str, Tensor] = {}
        for name, parameter in named.items():
            self.state[f"{name}/first"] = torch.zeros_like(parameter)
            if name not in self.matrices:
                self.state[f"{name}/second"] = torch.zeros_like(parameter)

    @torch.no_grad()
    def step(self, step: int, matrix_rate: float, other_rate: float) -> None:
        """Apply and clear the gradients. `step` counts from 0."""
        for name, parameter in self.named.items():
            gradient, parameter.grad = parameter.grad, None
            if gradient is None:
                continue
            first = self.state[f"{name}/first"]
            if name in self.matrices:
                first.lerp_(gradient, 0.1)
                update = orthogonal(gradient.lerp(first, 0.9).flatten(1))
                rate = matrix_rate * max(1.0, update.shape[0] / update.shape[1]) ** 0.5
                parameter.add_(update.view_as(parameter), alpha=-rate)
            else:
                second = self.state[f"{name}/second"]
                first.lerp_(gradient, 0.1)
                second.lerp_(gradient.square(), 0.02)
                mean, spread = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.98 ** (step + 1))
                parameter.addcdiv_(mean, spread.sqrt() + 1e-8, value=-other_rate)


def orthogonal(matrix: Tensor, iterations: int = 5) -> Tensor:
    """The nearest matrix of about equal singular values, by Newton-Schulz iteration."""
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)
    for _ in range(iterations):
        square = x @ x.T
        x = 3.4445 * x + (2.0315 * square @ square - 4.7750 * square) @ x
    return x.T if tall else x


def fit(
    name: str,
    named: dict[str, nn.Parameter],
    loss: Callable[[int], Tensor],
    plan: Plan,
    folder: Path,
    *,
    matrices: Callable[[str], bool] = lambda name: True,
    report: Callable[[int], str] | None = None,
) -> dict[str, Tensor]:
    """Train `named` in place and return their averages over the last steps.

    Args:
        name: of the stage; its checkpoint is `folder/name.safetensors`, from which a stopped run goes on.
        loss: the loss of a step's batch.
        matrices: which parameters of two or more dimensions get orthogonalised updates.
        report: a few words for the progress bar, asked every `save_every` steps.
    """
    from tqdm import tqdm

    optimiser = Optimiser(named, matrices)
    average = {key: p.detach().clone() for key, p in named.items()}
    path = folder / f"{name}.safetensors"
    start = _resume(path, named, average, optimiser.state) if path.exists() else 0
    bar = tqdm(range(start, plan.steps), desc=name, initial=start, total=plan.steps, mininterval=5)
    smooth = None
    for step in bar:
        value = loss(step)
        value.backward()
        torch.nn.utils.clip_grad_norm_(named.values(), 1.0)
        optimiser.step(step, plan.matrix_rate * plan.scale(step), plan.other_rate * plan.scale(step))
        keep = min(plan.average, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.values()), [p.detach() for p in named.values()], 1.0 - keep)
        smooth = value.item() if smooth is None else 0.95 * smooth + 0.05 * value.item()
        bar.set_postfix_str(f"loss {smooth:.4f}", refresh=False)
        if (step + 1) % plan.save_every == 0 or step + 1 == plan.steps:
            _save(path, step + 1, named, average, optimiser.state)
            if report is not None:
                tqdm.write(f"{name} {step + 1}: loss {smooth:.4f} {report(step + 1)}")
    return average


def _save(path: Path, step: int, *groups: dict[str, Tensor]) -> None:
    tensors = {f"{number}/{key}": t for number, group in enumerate(groups) for key, t in group.items()}
    checkpoint.write(path, tensors, {"step": str(step)})


@torch.no_grad()
def _resume(path: Path, *groups: dict[str, Tensor]) -> int:
    header = checkpoint.read_header(path)
    tensors = safetensors.torch.load_file(path)
    for number, group in enumerate(groups):
        for key, tensor in group.items():
            tensor.copy_(tensors[f"{number}/{key}"])
    return int(header.metadata["step"])


def batches(indices: Iterable[int], size: int) -> Iterable[list[int]]:
    """`indices` in lists of at most `size`."""
    indices = list(indices)
    return (indices[start : start + size] for start in range(0, len(indices), size))
