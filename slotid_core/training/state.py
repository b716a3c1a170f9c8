"""What a run leaves on disk: its config, checkpoints from which it goes on exactly, and a line for every step."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from .. import checkpoint
from ..atomic import write_atomic
from ..errors import SlotIDError
from .config import build, differences, parse, read, to_toml

KEPT = 2


def open_folder(folder: Path, config: Any) -> None:
    """Begin a run's folder, or hold the config of the run that is there against this one.

    Raises:
        SlotIDError: the folder's run has another config; naming the keys.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.toml"
    text = to_toml(config)
    if path.exists():
        there = to_toml(build(type(config), read(path)))
        changed = list(differences(parse(text), parse(there)))
        if changed:
            raise SlotIDError(
                f"the run in {str(folder)!r} has another config: {'; '.join(changed[:3])}",
                "the config it began with (steps, saving, logging, accumulation and samples may change)",
                "name a new folder with --run, or go back to that config.",
            )
    write_atomic(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


class Checkpoints:
    """Whole states of a run, the last two of them, such as `checkpoints/step_00001000.safetensors`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "checkpoints"

    def save(self, step: int, groups: Mapping[str, Mapping[str, Tensor]], scaler: Mapping[str, Any]) -> None:
        """Write the state after `step` steps: groups of tensors, as "group/tensor", and the gradient scaler's."""
        tensors = {f"{group}/{name}": tensor for group, named in groups.items() for name, tensor in named.items()}
        path = self.folder / f"step_{step:08d}.safetensors"
        checkpoint.write(path, tensors, {"step": str(step), "scaler": json.dumps(dict(scaler))})
        for old in self._paths()[:-KEPT]:
            old.unlink()

    def load(self) -> tuple[int, dict[str, dict[str, Tensor]], dict[str, Any]] | None:
        """The last state: steps done, groups, gradient scaler; None if there is none yet."""
        paths = self._paths()
        if not paths:
            return None
        header = checkpoint.read_header(paths[-1])
        groups: dict[str, dict[str, Tensor]] = {}
        for name, tensor in safetensors.torch.load_file(paths[-1]).items():
            group, _, rest = name.partition("/")
            groups.setdefault(group, {})[rest] = tensor
        return int(header.metadata["step"]), groups, json.loads(header.metadata["scaler"])

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.safetensors"))


class Losses:
    """`losses.csv`: step, loss, its parts, rate, norm of the gradient; numbers read back as they were.

    Args:
        start: steps done; lines of later steps, from a run that was killed, go.
    """

    def __init__(self, folder: Path, start: int) -> None:
        self.path = folder / "losses.csv"
        self.columns: list[str] = []
        if start and self.path.exists():
            with self.path.open(newline="") as file:
                self.columns, *rows = csv.reader(file)
            kept = [row for row in rows if len(row) == len(self.columns) and int(row[0]) <= start]
            write_atomic(self.path, lambda temporary: _write(temporary, [self.columns, *kept]))

    def add(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Append lines. A NaN, of a part that no row of the step has, becomes an empty cell."""
        rows = list(rows)
        if not self.columns:
            self.columns = list(rows[0])
            _write(self.path, [self.columns])
        with self.path.open("a", newline="") as file:
            csv.writer(file).writerows([_text(row[name]) for name in self.columns] for row in rows)


def restore(named: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> None:
    """Copy into tensors in place."""
    if named.keys() != tensors.keys():
        raise SlotIDError(
            f"a checkpoint with {len(tensors)} tensors for {len(named)}",
            "a checkpoint of the same model",
            "name a new folder with --run.",
        )
    with torch.no_grad():
        for name, tensor in named.items():
            tensor.copy_(tensors[name])


def _write(path: Path, rows: Iterable[Iterable[str]]) -> None:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)


def _text(value: float | int) -> str:
    return "" if value != value else repr(value)
