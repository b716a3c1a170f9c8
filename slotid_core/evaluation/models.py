"""Trained encoders for comparison: what a file holds, and what each reads of a reference."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .. import checkpoint
from ..config import SlotIDConfig
from ..demo.clips import DemoClips
from ..demo.store import normalised_parameters, stills
from ..demo.wan_vae import WanVAE
from ..errors import SlotIDError
from ..model import FORMAT, MAX_BYTES, SlotID
from ..training.variants import new_variant, variant
from .sampling import encode_clips

VARIANT_FORMAT = "slot-id-variant"
FORMATS = (FORMAT, VARIANT_FORMAT)
_TOLD = "encoder.told.0.weight"
ENCODING_BATCH = 16


@dataclass(frozen=True)
class Origin:
    """Where a trained encoder comes from, by its file's own words; None where it does not say."""

    variant: str
    seed: int | None
    steps: int | None
    sha256: str
    trained_on: str


def read_origin(path: Path) -> Origin:
    """The origin of a Slot-ID model ("full"), or of one with another encoder as training writes it.

    Raises:
        SlotIDError: another file, an unknown variant, damaged metadata.
    """
    header = checkpoint.read_header(path, max_bytes=MAX_BYTES)
    metadata = header.metadata
    if metadata.get("format") != FORMAT:
        checkpoint.check_format(path, header, VARIANT_FORMAT)
    try:
        run = json.loads(metadata.get("experiment", "{}")).get("run", {})
        seed, steps = (None if run.get(name) is None else int(run[name]) for name in ("seed", "steps"))
    except (ValueError, AttributeError, TypeError) as error:
        found = f"{path.name!r} has unreadable metadata"
        raise SlotIDError(found, "a file that slotid train wrote", "get the file again.") from error
    name = "full" if metadata["format"] == FORMAT else metadata.get("variant", "")
    variant(name)
    return Origin(name, seed, steps, checkpoint.file_sha256(path), metadata.get("trained_on", "not said"))


def load_trained(path: Path) -> SlotID:
    """The model of a file that `read_origin` passed, whatever its encoder.

    Raises:
        SlotIDError: damage.
    """
    header = checkpoint.read_header(path, max_bytes=MAX_BYTES)
    if header.metadata["format"] == FORMAT:
        return SlotID.load(path)
    told = header.tensors.get(_TOLD, ("", (0, 0)))[1][-1]
    config = SlotIDConfig.from_dict(json.loads(header.metadata.get("config", "null")))
    model = new_variant(header.metadata["variant"], config, 0, told)
    expected = {name: (checkpoint.FLOATS, tuple(t.shape)) for name, t in model.state_dict().items()}
    tensors = checkpoint.read_tensors(path, expected, header)
    model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    return model.eval().requires_grad_(False)


def find_trained(folder: Path) -> list[Path]:
    """All files of trained encoders in a folder and below, checkpoints left out, in order of their names.

    Raises:
        SlotIDError: no such folder.
    """
    if not folder.is_dir():
        raise SlotIDError(f"no folder {str(folder)!r}", "a folder of trained encoders", "check its name.")
    found = []
    for path in sorted(folder.rglob("*.safetensors")):
        if "checkpoints" not in path.parts and checkpoint.read_header(path).metadata.get("format") in FORMATS:
            found.append(path)
    return found


@torch.no_grad()
def identity_tokens(model: SlotID, name: str, vae: WanVAE, references: DemoClips, take: int) -> Tensor:
    """Tokens [B, 2S, D_id] of reference clips, the variant of that name given what it reads; on the CPU."""
    inputs = _read(variant(name).reference, vae, references, take)
    device = next(model.parameters()).device
    made = [model.encoder(part.to(device))[0].cpu() for part in inputs.split(ENCODING_BATCH)]
    return torch.cat(made)


def _read(what: str, vae: WanVAE, references: DemoClips, take: int) -> Tensor:
    if what == "parameters":
        return normalised_parameters(references.people)
    if what == "clip":
        return encode_clips(vae, references.frames)
    rows = torch.arange(len(references.frames))
    shown = {"first": torch.zeros_like(rows), **stills(references, take)}[what]
    # A photo is encoded alone, as the first frame of a Wan clip is.
    return encode_clips(vae, references.frames[rows, shown][:, None])
