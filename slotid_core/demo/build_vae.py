"""Train the demo VAE: Wan 2.1's layout at width 16, on freshly rendered short clips."""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Tensor

from ..latents import WAN21_MEAN, WAN21_STD
from .clips import (
    REFERENCE_FRAMES,
    TARGET_FRAMES,
    reference_clips,
    reference_tracks,
    target_clips,
    target_prompt,
    target_tracks,
)
from .fitting import Plan, fit
from .people import TRAIN, VALIDATION
from .renderer import render
from .seeds import integer, stream
from .wan_vae import LATENT_CHANNELS, LATENT_NOISE, WanVAE

WIDTH = 16
PLAN = Plan(steps=1500, matrix_rate=0.02, other_rate=2e-3, warmup=30, decay=400, average=0.99)
CLIPS_PER_STEP = 4
FRAMES = 5
LONG_FRAMES = 9
LONG_EVERY = 4


def train_vae(folder: Path, seed: int, steps: int) -> WanVAE:
    """The VAE with the averaged weights of a run of `steps`, its latents brought to Wan 2.1's statistics."""
    torch.manual_seed(seed)
    vae = WanVAE(WIDTH, light=True)
    named = dict(vae.named_parameters())
    held_out = to_video(target_clips(VALIDATION[:4]).frames)

    def loss(step: int) -> Tensor:
        video = to_video(batch(seed, step))
        mean, _ = vae.encode(video)
        noise = torch.randn(mean.shape, generator=stream("vae noise", seed, step))
        return reconstruction_loss(vae.decode(mean + LATENT_NOISE * noise), video) + 1e-4 * mean.square().mean()

    def report(step: int) -> str:
        return f"PSNR {psnr(round_trip(vae, held_out), held_out):.2f} dB"

    def matrices(name: str) -> bool:
        return name not in ("encoder.conv1.weight", "decoder.head.2.weight") and not name.endswith("gamma")

    plan = Plan(**{**vars(PLAN), "steps": steps})
    vae.load_state_dict(fit("vae", named, loss, plan, folder, matrices=matrices, report=report))
    normalise(vae, to_video(target_clips(TRAIN[:48]).frames))
    return vae


def batch(seed: int, step: int) -> Tensor:
    """Short stretches [B, T, 64, 64, 3] of reference and target clips of people drawn for this step."""
    generator = stream("vae batch", seed, step)
    frames = LONG_FRAMES if step % LONG_EVERY == LONG_EVERY - 1 else FRAMES
    clips = CLIPS_PER_STEP * FRAMES // frames
    parts = []
    for kind in range(clips):
        people = [integer(generator, TRAIN.start, TRAIN.stop - 1)]
        if kind % 2:
            who, tracks = reference_tracks(people, step)
            start = integer(generator, 0, REFERENCE_FRAMES - frames)
        else:
            who, tracks = target_tracks(people, step, [target_prompt(people[0], step)])
            start = integer(generator, 0, TARGET_FRAMES - frames)
        parts.append(render(who, tracks.window(start, frames)))
    return torch.cat(parts)


def to_video(frames: Tensor) -> Tensor:
    """Frames [B,T,H,W,3] in [0, 1] to videos [B,3,T,H,W] in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3) * 2 - 1


def reconstruction_loss(made: Tensor, video: Tensor) -> Tensor:
    """Absolute error of pixels and, so that edges stay sharp, of their differences to the neighbours."""
    error = made - video
    down, across = error.diff(dim=-2), error.diff(dim=-1)
    return error.abs().mean() + 0.25 * (down.abs().mean() + across.abs().mean())


def psnr(made: Tensor, video: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of videos in [-1, 1], clamped as a host does."""
    return -10 * math.log10(float(((made.clamp(-1, 1) - video) / 2).square().mean()))


@torch.no_grad()
def normalise(vae: WanVAE, videos: Tensor) -> None:
    """Fold an affine map of each channel into the convolutions around the latents: they get Wan 2.1's statistics."""
    latents = torch.cat([vae.encode(part)[0] for part in videos.split(8)])
    mean = latents.mean((0, 2, 3, 4))
    deviation = latents.std((0, 2, 3, 4)).clamp_min(1e-3)
    scale = torch.tensor(WAN21_STD) / deviation
    shift = torch.tensor(WAN21_MEAN) - mean * scale
    channels = slice(0, LATENT_CHANNELS)
    vae.conv1.weight[channels] *= scale.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[channels] = vae.conv1.bias[channels] * scale + shift
    vae.conv1.bias[LATENT_CHANNELS:] += 2 * scale.log()
    # conv2 takes the latents back to what the decoder was trained on.
    vae.conv2.bias += -(vae.conv2.weight[:, :, 0, 0, 0] @ (shift / scale))
    vae.conv2.weight /= scale.view(1, -1, 1, 1, 1)


def validation_psnr(vae: WanVAE) -> dict[str, float]:
    """PSNR on held-out clips by kind."""
    kinds = {"target": target_clips(VALIDATION[8:24]), "reference": reference_clips(VALIDATION[24:32])}
    videos = {kind: to_video(clips.frames) for kind, clips in kinds.items()}
    made = {kind: torch.cat([round_trip(vae, part) for part in video.split(4)]) for kind, video in videos.items()}
    return {kind: psnr(made[kind], video) for kind, video in videos.items()}


@torch.no_grad()
def round_trip(vae: WanVAE, video: Tensor) -> Tensor:
    """Videos through encoder and decoder."""
    return vae.decode(vae.encode(video)[0])
