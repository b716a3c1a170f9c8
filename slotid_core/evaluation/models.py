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
from ..training.variants import VARIANTS, new_variant
from .sampling import encode_clips

VARIANT_FORMAT = "slot-id-variant"
_TOLD = "encoder.told.0.weight"
ENCODING_BATCH = 16


@dataclass(frozen=True)
class Trained:
    """A trained encoder with its conditioning.

    Attributes:
        seed, steps: of its training, as the file says; None where it does not.
        sha256: of the file.
    """

    model: SlotID
    variant: str
    seed: int | None
    steps: int | None
    sha256: str
    trained_on: str


def load_trained(path: Path) -> Trained:
    """A Slot-ID model ("full"), or one with another encoder as training writes it.

    Raises:
        SlotIDError: another file, an unknown variant, damage.
    """
    header = checkpoint.read_header(path, max_bytes=MAX_BYTES)
    metadata = header.metadata
    try:
        experiment = json.loads(metadata.get("experiment", "{}"))
        run = experiment.get("run", {})
        seed, steps = run.get("seed", metadata.get("seed")), run.get("steps", metadata.get("steps"))
        seed, steps = (None if value is None else int(value) for value in (seed, steps))
        config = json.loads(metadata.get("config", "null"))
    except (ValueError, AttributeError, TypeError) as error:
        found = f"{path.name!r} has unreadable metadata"
        raise SlotIDError(found, "a file that slotid train wrote", "get the file again.") from error
    if metadata.get("format") == FORMAT:
        model, variant = SlotID.load(path), "full"
    else:
        checkpoint.check_format(path, header, VARIANT_FORMAT)
        variant = metadata.get("variant", "")
        told = header.tensors.get(_TOLD, ("", (0, 0)))[1][-1]
        model = new_variant(variant, SlotIDConfig.from_dict(config), 0, told)
        expected = {name: (checkpoint.FLOATS, tuple(t.shape)) for name, t in model.state_dict().items()}
        tensors = checkpoint.read_tensors(path, expected, header)
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
        model.eval().requires_grad_(False)
    return Trained(model, variant, seed, steps, checkpoint.file_sha256(path), metadata.get("trained_on", "not said"))


@torch.no_grad()
def identity_tokens(trained: Trained, vae: WanVAE, references: DemoClips, take: int) -> Tensor:
    """Tokens [B, 2S, D_id] of reference clips, each variant given what it reads; on the CPU."""
    inputs = _read(VARIANTS[trained.variant].reference, vae, references, take)
    device = next(trained.model.parameters()).device
    made = [trained.model.encoder(part.to(device))[0].cpu() for part in inputs.split(ENCODING_BATCH)]
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
