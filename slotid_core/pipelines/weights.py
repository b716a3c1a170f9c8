"""Reading a backbone's safetensors file: names and shapes first, then tensor by tensor."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import FLOATS, read_header
from ..errors import SlotIDError

Shapes = dict[str, tuple[int, ...]]


class WeightsFile:
    """An open safetensors file of a video model, known by its tensors' names and shapes alone.

    Args:
        path: the file. Its name is used in messages only.
        prefix: dropped from the front of every tensor's name if the names carry it.

    Raises:
        SlotIDError: not there, or not a safetensors file of float16, bfloat16 or float32 tensors.
    """

    def __init__(self, path: str | os.PathLike[str], *, prefix: str = "") -> None:
        from safetensors import SafetensorError, safe_open

        self.path = Path(path)
        header = read_header(self.path)
        self.metadata = header.metadata
        self._stored = {name.removeprefix(prefix): name for name in header.tensors}
        self.shapes: Shapes = {name: header.tensors[stored][1] for name, stored in self._stored.items()}
        dtypes = {dtype for dtype, _ in header.tensors.values()} - set(FLOATS)
        if dtypes:
            raise self.refuse(
                f"tensors of type {', '.join(sorted(dtypes))}",
                "float16, bfloat16 or float32 weights",
                "use the fp16 or bf16 file of this model; quantised files (fp8, int8) run in ComfyUI only.",
            )
        try:
            self._file = safe_open(self.path, framework="pt", device="cpu")
        except SafetensorError as error:
            raise self.refuse(str(error), "a whole safetensors file", "get the file again.") from error

    def tensor(self, name: str) -> torch.Tensor:
        return self._file.get_tensor(self._stored[name])

    def refuse(self, found: str, expected: str, remedy: str) -> SlotIDError:
        return SlotIDError(f"{self.path.name!r}: {found}", expected, remedy)


def fill(
    module: torch.nn.Module,
    weights: WeightsFile,
    convert: Callable[[dict[str, Any]], dict[str, Any]],
    dtype_of: Callable[[str], torch.dtype],
    *,
    expected: str,
) -> None:
    """Fill `module` (made without memory) from the file, one tensor at a time, with every name and shape accounted for.

    Args:
        convert: maps a dictionary with the file's names to one with the module's names.
        dtype_of: the type in which the module keeps the tensor of that (module's) name.
        expected: the kind of file, for the message.

    Raises:
        SlotIDError: naming the first missing, unknown or differently shaped tensors.
    """
    source = convert({name: name for name in weights.shapes})
    wanted = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    missing, unknown = sorted(wanted.keys() - source.keys()), sorted(source.keys() - wanted.keys())
    if missing or unknown:
        parts = [f"missing tensors: {len(missing)} ({_some(missing)})"] * bool(missing)
        parts += [f"unknown tensors: {len(unknown)} ({_some(source[name] for name in unknown)})"] * bool(unknown)
        raise weights.refuse("; ".join(parts), expected, "use the model's own file, complete and unmodified.")
    wrong = [name for name, shape in wanted.items() if weights.shapes[source[name]] != shape]
    if wrong:
        raise weights.refuse(
            f"{source[wrong[0]]} has shape {list(weights.shapes[source[wrong[0]]])} ({len(wrong)} such tensors)",
            f"{list(wanted[wrong[0]])}, as the file's other tensors imply; {expected}",
            "use the model's own file, complete and unmodified.",
        )
    state = {name: weights.tensor(source[name]).to(dtype_of(name)) for name in wanted}
    module.load_state_dict(state, strict=True, assign=True)


def _some(names: Iterable[str]) -> str:
    names = list(names)
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
