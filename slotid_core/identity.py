"""An identity: the tokens read from one person's clip, with where they come from."""

from __future__ import annotations

import json
import math
import os
from dataclasses import asdict, dataclass, replace
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
    from .slots import RoutingTrace

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
        routing: [S, rows, columns] float32, where in the crop each slot looked, mean over the clip, each summing to 1;
            None where it was not kept.
        evidence: [S] float32, how much of what each slot asks for the clip held (`slots.SlotReader`); None where it was
            not kept.
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
    routing: Tensor | None = None
    evidence: Tensor | None = None

    def with_routing(self, trace: RoutingTrace) -> Identity:
        """The same with where each slot looked, from the plan that made it; merging matches slots by it."""
        rows = trace.plan[0, :, :-1].float().cpu().mean(0)
        rows = rows / rows.sum(-1, keepdim=True).clamp(min=1e-12)
        return replace(self, routing=rows.unflatten(-1, trace.grid))

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
        tensors = {"tokens": self.tokens.float(), "thumbnails": self.thumbnails}
        if self.routing is not None:
            tensors["routing"] = self.routing.float()
        if self.evidence is not None:
            tensors["evidence"] = self.evidence.float()
        checkpoint.write(path, tensors, metadata)

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
        # Files of version 0.1.0 hold neither.
        known = {"routing": (None, None, None), "evidence": (None,)}
        expected |= {name: (("F32",), shape) for name, shape in known.items() if name in header.tensors}
        tensors = checkpoint.read_tensors(path, expected, header)
        try:
            metadata = header.metadata
            backbone = Backbone.from_dict(json.loads(metadata["backbone"]))
            frames_used = tuple(float(time) for time in json.loads(metadata["frames_used"]))
            coverage = _checked(json.loads(metadata["coverage"]))
            texts = {name: metadata[name] for name in _TEXTS}
        except (ValueError, TypeError, KeyError, IndexError, RecursionError) as error:
            raise SlotIDError(
                f"{Path(path).name!r} has damaged metadata ({error!r:.80})",
                "the metadata every identity file carries",
                "make the identity again from its clip.",
            ) from error
        slots = len(tensors["tokens"]) // 2
        for name, told in (("routing", "where {} slots looked"), ("evidence", "what {} slots found")):
            if len(tensors.get(name, range(slots))) != slots:
                raise SlotIDError(
                    f"{Path(path).name!r} tells {told.format(len(tensors[name]))}, and holds {slots}",
                    "the same number of both",
                    "make the identity again from its clip.",
                )
        return cls(**tensors, coverage=coverage, backbone=backbone, frames_used=frames_used, **texts)

    def report(self) -> str:
        """In plain words: where the identity comes from, and what its clip held."""
        if "parts" in self.coverage:
            return "\n".join([*self._parts(), *self._made()])
        count = len(self.frames_used)
        detector, detected, frames = (self.coverage.get(key, "?") for key in ("detector", "detected", "frames"))
        span = f", {self.frames_used[0]:.2f} to {self.frames_used[-1]:.2f} s" if count else ""
        lines = [
            f"Read from {self.source or 'frames without a file'}: {count} frame{'s' * (count != 1)}{span}.",
            f"Face found by {detector} in {detected} of {frames} frames.",
        ]
        return "\n".join(lines + self._made())

    def _parts(self) -> list[str]:
        blend = self.coverage.get("how") == "blend"
        parts = self.coverage["parts"]
        lines = ["A blend of two people:" if blend else f"Merged from {len(parts)} clips of one person:"]
        lines += [f"- {part['weight']:.0%} {part['source'] or 'frames without a file'}" for part in parts]
        return [*lines, f"{self.coverage.get('matching', '')}."]

    def _made(self) -> list[str]:
        made = f"Made by {self.model_name} ({self.model_hash[:12]}) for {self.backbone}."
        return [made, *advice(self.coverage), *([f"Consent: {self.consent}"] if self.consent else [])]

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


def _checked(coverage: Any) -> dict[str, Any]:
    """What reports and pictures read of a file's coverage, held to its types; raises what plain conversions raise."""
    coverage = dict(coverage)
    coverage["poses"] = [pose and [_finite(pose[0]), _finite(pose[1])] for pose in coverage.get("poses", [])]
    coverage["expressions"] = {str(k): _finite(v) for k, v in dict(coverage.get("expressions", {})).items()}
    for name in coverage.keys() & {"frames", "detected"}:
        coverage[name] = int(coverage[name])
    for name in coverage.keys() & {"expression_source", "how", "matching"}:
        coverage[name] = str(coverage[name])
    if "parts" in coverage:
        coverage["parts"] = [
            {**part, "weight": _finite(part["weight"]), "source": str(part["source"])} for part in coverage["parts"]
        ]
    return coverage


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{value!r} in the coverage")
    return number


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
