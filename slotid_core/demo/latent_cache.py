"""Latents of rendered training clips, kept on disk in parts so that an interrupted build goes on where it was."""

from __future__ import annotations

from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from .. import checkpoint
from ..latents import normalise_wan21
from .build_vae import to_video
from .clips import reference_clips, target_clips
from .people import TRAIN
from .wan_vae import WanVAE

PART = 64


def cached_latents(kind: str, vae: WanVAE, count: int, folder: Path) -> Tensor:
    """Latents [count, 16, F, 8, 8] float16 in the model's space of the first `count` training people.

    Args:
        kind: "target" or "reference": which clip of each person (take 0).
        vae: trained and normalised.
        count: a multiple of 64.
        folder: where the parts are kept.
    """
    from tqdm import tqdm

    draw = {"target": target_clips, "reference": reference_clips}[kind]
    parts = []
    for start in tqdm(range(0, count, PART), desc=f"{kind} latents", mininterval=5):
        path = folder / f"{kind}_{start:06d}.safetensors"
        if not path.exists():
            with torch.no_grad():
                pieces = [encode(vae, draw(TRAIN[first : first + 8]).frames) for first in range(start, start + PART, 8)]
            checkpoint.write(path, {"latents": torch.cat(pieces).half()}, {})
        parts.append(safetensors.torch.load_file(path)["latents"])
    return torch.cat(parts)[:count]


def encode(vae: WanVAE, frames: Tensor) -> Tensor:
    """Frames [B,T,H,W,3] in [0, 1] to latents [B,16,F,h,w] in the model's space."""
    return normalise_wan21(vae.encode(to_video(frames))[0])
