"""Strict, bounded reading and deterministic writing of safetensors files.

A file that comes from someone else is read as untrusted input: the header is bounded and checked before anything is
allocated, tensors are held against the expected names, shapes and dtypes, and every number must be finite. Nothing is
ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from .atomic import write_atomic
from .errors import SlotIDError

MAX_HEADER_BYTES = 4 * 1024 * 1024
FORMAT_VERSION = 1
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "U8": 1, "F8_E4M3": 1, "F8_E5M2": 1}
FLOATS = ("F32", "F16", "BF16")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says of itself: metadata, and name -> (dtype, shape) of its tensors."""

    metadata: dict[str, str]
    tensors: dict[str, tuple[str, tuple[int, ...]]]


def file_sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def tensors_sha256(path: str | os.PathLike, leave_out: tuple[str, ...] = ()) -> str:
    """SHA-256 of a safetensors file's tensors with their names, dtypes and shapes, whatever else the file says.

    Args:
        leave_out: beginnings of names that do not count.

    Raises:
        SlotIDError: see `read_header`.
    """
    digest = hashlib.sha256()
    names = sorted(name for name in read_header(path).tensors if not name.startswith(leave_out))
    with safetensors.safe_open(path, framework="pt") as file:
        for name in names:
            tensor = file.get_tensor(name)
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
            digest.update(tensor.flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def read_header(path: str | os.PathLike, *, max_bytes: int | None = None) -> Header:
    """Read and check a safetensors header without touching the tensors.

    Args:
        path: the file.
        max_bytes: refuse a larger file.

    Raises:
        SlotIDError: no such file, not safetensors (a pickle, say), an oversized or broken header, a truncated file.
    """
    path = Path(path)
    if not path.is_file():
        raise SlotIDError(f"no file {path.name!r}", "a .safetensors file", "check the name and the folder.")
    size = path.stat().st_size
    if max_bytes is not None and size > max_bytes:
        raise _broken(path, f"is {size / 2**20:.1f} MB", f"at most {max_bytes / 2**20:.0f} MB")
    with open(path, "rb") as file:
        start = file.read(8)
        length = int.from_bytes(start, "little")
        # What a renamed .pt or .ckpt begins with; read as a length it is always beyond the limit.
        if length > MAX_HEADER_BYTES and (start[:4] == b"PK\x03\x04" or start[:1] == b"\x80"):
            raise SlotIDError(
                f"{path.name!r} is a pickle (.pt, .ckpt) with another name",
                "a safetensors file",
                "do not open it: a pickle can run code. Ask its author for safetensors.",
            )
        if len(start) < 8 or length > size - 8:
            raise _broken(path, f"is no whole safetensors file ({size} bytes)")
        if length > MAX_HEADER_BYTES:
            limit = f"at most {MAX_HEADER_BYTES / 2**20:.0f} MB"
            raise _broken(path, f"has a header of {length / 2**20:.1f} MB", limit)
        text = file.read(length)
    try:
        header = json.loads(text)
        return _parse(path, header, size - 8 - length)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        if isinstance(error, SlotIDError):
            raise
        raise _broken(path, f"has an unreadable header ({error!s:.80})") from error


def read_tensors(
    path: str | os.PathLike, expected: Mapping[str, tuple[Iterable[str], tuple[int, ...]]], header: Header
) -> dict[str, Tensor]:
    """Read exactly the expected tensors.

    Args:
        path: a file that `read_header` passed.
        expected: name -> (allowed dtypes, shape); None in a shape stands for any size.
        header: that header.

    Raises:
        SlotIDError: a missing or extra tensor, another shape or dtype, a NaN or infinity.
    """
    path = Path(path)
    missing, extra = sorted(expected.keys() - header.tensors.keys()), sorted(header.tensors.keys() - expected.keys())
    if missing or extra:
        found = [f"lacks {_some(missing)}"] * bool(missing) + [f"holds the unknown {_some(extra)}"] * bool(extra)
        raise _broken(path, " and ".join(found), f"exactly its {len(expected)} tensors")
    for name, (dtypes, shape) in expected.items():
        dtype, got = header.tensors[name]
        fits = len(got) == len(shape) and all(want in (None, size) for want, size in zip(shape, got, strict=True))
        if dtype not in dtypes or not fits:
            want = "x".join("*" if size is None else str(size) for size in shape)
            raise _broken(path, f"holds {name} as {dtype} {list(got)}", f"{' or '.join(dtypes)} of shape {want}")
    tensors = safetensors.torch.load_file(path)
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise _broken(path, f"holds a NaN or infinity in {name}", "finite numbers")
    return tensors


def check_format(path: str | os.PathLike, header: Header, name: str) -> None:
    """Hold the file's `format` and `format_version` against what this version reads.

    Raises:
        SlotIDError: another format, or a newer version of this one.
    """
    path = Path(path)
    found = header.metadata.get("format")
    if found != name:
        raise SlotIDError(
            f"{path.name!r} is of format {found!r}" if found else f"{path.name!r} does not say its format",
            f"a file of format {name!r}",
            "choose a Slot-ID model file here."
            if name == "slot-id"
            else "choose an identity file made by Save Identity or `slotid encode`.",
        )
    version = header.metadata.get("format_version", "")
    if version != str(FORMAT_VERSION):
        raise SlotIDError(
            f"{path.name!r} is of format version {version!r:.20}",
            f"version {FORMAT_VERSION}, the newest this version of Slot-ID reads",
            "update the Slot-ID pack." if version.isdigit() else "get the file again: its metadata is damaged.",
        )


def write(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file: the same content gives the same bytes, and a failure leaves no half-written file."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(tensors.items())}
    data = _canonical(safetensors.torch.save(plain, metadata=dict(metadata)))
    write_atomic(path, lambda temporary: temporary.write_bytes(data))


def _canonical(data: bytes) -> bytes:
    # safetensors keeps metadata in a hash map: their order in the header changes from process to process.
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    ordered = {"__metadata__": dict(sorted(header.pop("__metadata__").items())), **header}
    text = json.dumps(ordered, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


def _parse(path: Path, header: Any, data_bytes: int) -> Header:
    metadata = header.pop("__metadata__", {})
    if not all(isinstance(item, str) for pair in metadata.items() for item in pair):
        raise _broken(path, "has metadata that are not text")
    tensors, end_of_data = {}, 0
    for name, spec in header.items():
        dtype, shape, (start, end) = spec["dtype"], tuple(spec["shape"]), spec["data_offsets"]
        if not all(type(size) is int and size >= 0 for size in (*shape, start, end)):
            raise _broken(path, f"describes {name!r:.80} by {shape!r:.80}")
        if dtype in _BYTES and end - start != math.prod(shape) * _BYTES[dtype]:
            raise _broken(path, f"gives {name!r:.80} {end - start} bytes for {dtype} {list(shape)}")
        tensors[name] = (dtype, shape)
        end_of_data = max(end_of_data, end)
    if end_of_data != data_bytes:
        raise _broken(path, f"holds {data_bytes} bytes of data where its header names {end_of_data}")
    return Header(metadata, tensors)


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _broken(path: Path, found: str, expected: str = "a whole, undamaged file") -> SlotIDError:
    return SlotIDError(f"{path.name!r} {found}", expected, "get the file again from where it was published.")
