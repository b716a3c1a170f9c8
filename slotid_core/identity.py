"""An identity: the tokens read from one person's clip, with where they come from."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from . import checkpoint
from .config import Backbone
from .errors import SlotIDError
from .faces.coverage import advice

if TYPE_CHECKING:
    from .model import SlotID

FORMAT = "slot-id-identity"
# An identity of 2 x 128 tokens of width 1,024 in float32 is 1 MB; sixteen times that is no identity.
MAX_BYTES = 16 * 1024 * 1024
THUMBNAIL_SIZE = 64
MAX_THUMBNAILS = 4
_TEXTS = ("model_name", "model_hash", "source", "source_hash", "consent")


@dataclass(frozen=True)
class Identity:
    """Identity tokens with their provenance.

    Args:
        tokens: [2 S, D_id] float32: S appearance tokens, then S dynamics tokens.
        thumbnails: [n, 64, 64, 3] uint8, n = 1 .. 4 face crops, to recognise the file by.
        coverage: what the clip held (`Coverage.to_dict()`), plain JSON values.
        model_name, model_hash: the Slot-ID model file that made it, and the SHA-256 of its bytes.
        backbone: the video model it is for.
        source, source_hash: name and SHA-256 of the reference clip.
        frames_used: times in the source, in seconds, of the frames read.
        consent: a note by whoever made it: who agreed to what.
    """

    tokens: Tensor
    thumbnails: Tensor
    coverage: dict[str, Any]
    model_name: str
    model_hash: str
    backbone: Backbone
    source: str
    source_hash: str
    frames_used: tuple[float, ...]
    consent: str = ""

    def save(self, path: str | os.PathLike) -> None:
        """Write a safetensors file; the same identity gives the same bytes."""
        metadata = {name: getattr(self, name) for name in _TEXTS}
        metadata |= {
            "format": FORMAT,
            "format_version": str(checkpoint.FORMAT_VERSION),
            "backbone": json.dumps(asdict(self.backbone), sort_keys=True),
            "coverage": json.dumps(self.coverage, sort_keys=True),
            "frames_used": json.dumps([round(time, 6) for time in self.frames_used]),
        }
        checkpoint.write(path, {"tokens": self.tokens.float(), "thumbnails": self.thumbnails}, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> Identity:
        """Read an identity file, strictly.

        Raises:
            SlotIDError: not an identity file, of a newer version, damaged, or not what an identity holds.
        """
        header = checkpoint.read_header(path, max_bytes=MAX_BYTES)
        checkpoint.check_format(path, header, FORMAT)
        thumbnails = (None, THUMBNAIL_SIZE, THUMBNAIL_SIZE, 3)
        expected = {"tokens": (("F32",), (None, None)), "thumbnails": (("U8",), thumbnails)}
        tensors = checkpoint.read_tensors(path, expected, header)
        try:
            metadata = header.metadata
            backbone = Backbone.from_dict(json.loads(metadata["backbone"]))
            frames_used = tuple(float(time) for time in json.loads(metadata["frames_used"]))
            coverage = dict(json.loads(metadata["coverage"]))
            texts = {name: metadata[name] for name in _TEXTS}
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise SlotIDError(
                f"{Path(path).name!r} has damaged metadata ({error!r:.80})",
                "the metadata every identity file carries",
                "make the identity again from its clip.",
            ) from error
        return cls(**tensors, coverage=coverage, backbone=backbone, frames_used=frames_used, **texts)

    def report(self) -> str:
        """In plain words: where the identity comes from, and what its clip held."""
        count = len(self.frames_used)
        detector, detected, frames = (self.coverage.get(key, "?") for key in ("detector", "detected", "frames"))
        span = f", {self.frames_used[0]:.2f} to {self.frames_used[-1]:.2f} s" if count else ""
        lines = [
            f"Read from {self.source or 'frames without a file'}: {count} frame{'s' * (count != 1)}{span}.",
            f"Face found by {detector} in {detected} of {frames} frames.",
            f"Made by {self.model_name} ({self.model_hash[:12]}) for {self.backbone}.",
        ]
        lines += advice(self.coverage)
        return "\n".join(lines + [f"Consent: {self.consent}"] * bool(self.consent))

    def check_model(self, model: SlotID) -> None:
        """Hold the identity against the model that is to use it.

        Raises:
            SlotIDError: another model file made it (its tokens mean nothing to this one).
        """
        if self.model_hash != model.hash:
            raise SlotIDError(
                f"this identity was made by {self.model_name!r} ({self.model_hash[:12]})",
                f"an identity made by {model.name!r} ({model.hash[:12]}), the model loaded here",
                f"load {self.model_name!r}, or read the identity from its clip again with this model.",
            )


def thumbnails_of(crops: Tensor) -> Tensor:
    """Up to four evenly spaced crops [T, H, W, 3] in [0, 1] as [n, 64, 64, 3] uint8."""
    count = min(MAX_THUMBNAILS, crops.shape[0])
    chosen = torch.linspace(0, crops.shape[0] - 1, count).round().long()
    return (resize(crops[chosen], THUMBNAIL_SIZE) * 255).round().clamp(0, 255).to(torch.uint8)


def resize(images: Tensor, size: int) -> Tensor:
    """Square images [T, H, W, C] to [T, size, size, C], antialiased; unchanged if they have that size."""
    if images.shape[1:3] == (size, size):
        return images
    channels_first = images.movedim(-1, 1)
    resized = torch.nn.functional.interpolate(channels_first, (size, size), mode="bilinear", antialias=True)
    return resized.movedim(1, -1)
