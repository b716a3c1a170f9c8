"""Make the demo VAE, Wan 2.1's layout at width 16: encoder in closed form, decoder trained on rendered clips."""

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
from .vae_start import start_encoder
from .wan_vae import LATENT_CHANNELS, WanVAE

WIDTH = 16
LATENT_NOISE = 0.03
PLAN = Plan(steps=1000, matrix_rate=0.02, other_rate=2e-3, warmup=30, decay=300, average=0.98)
FRAMES_PER_STEP = 25
# Lengths of the clips of successive steps: most short, so that a step sees many people.
LENGTHS = (5, 9, 5, 17)


def train_vae(folder: Path, seed: int, steps: int) -> WanVAE:
    """The VAE with the decoder's averaged weights of a run of `steps`; its latents have Wan 2.1's statistics."""
    vae = new_vae(seed)
    named = dict(vae.decoder.named_parameters())
    held_out = to_video(target_clips(VALIDATION[:4]).frames)

    def loss(step: int) -> Tensor:
        video = to_video(batch(seed, step))
        with torch.no_grad():
            codes = vae.conv2(vae.encode(video)[0])
        noise = torch.randn(codes.shape, generator=stream("vae noise", seed, step))
        with torch.autocast("cpu", torch.bfloat16):
            made = vae.decoder(codes + LATENT_NOISE * noise)
        return reconstruction_loss(made.float(), video)

    def report(step: int) -> str:
        return f"PSNR {psnr(round_trip(vae, held_out), held_out):.2f} dB"

    def matrices(name: str) -> bool:
        return name != "head.2.weight" and not name.endswith("gamma")

    plan = Plan(**{**vars(PLAN), "steps": steps})
    vae.decoder.load_state_dict(fit("vae", named, loss, plan, folder, matrices=matrices, report=report))
    return vae.eval().requires_grad_(False)


def new_vae(seed: int) -> WanVAE:
    """A VAE whose encoder is final and whose decoder has seeded weights."""
    torch.manual_seed(seed)
    vae = WanVAE(WIDTH, light=True)
    known = torch.cat([target_clips(TRAIN[:48]).frames, reference_clips(TRAIN[:24], frames=TARGET_FRAMES).frames])
    start_encoder(vae, to_video(known))
    normalise(vae, to_video(known))
    return vae


def batch(seed: int, step: int) -> Tensor:
    """Short stretches [B, T, 64, 64, 3] of reference and target clips of people drawn for this step."""
    generator = stream("vae batch", seed, step)
    frames = LENGTHS[step % len(LENGTHS)]
    clips = FRAMES_PER_STEP // frames
    parts = []
    for kind in range(clips):
        people = [integer(generator, TRAIN.start, TRAIN.stop - 1)]
        if (kind + step // len(LENGTHS)) % 2:
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
    """Give the latents Wan 2.1's mean and deviation per channel by the convolution after the encoder.

    The one before the decoder takes them to mean 0 and deviation 1.
    """
    latents = torch.cat([vae.encode(part)[0] for part in videos.split(8)])
    mean = latents.mean((0, 2, 3, 4))
    deviation = latents.std((0, 2, 3, 4)).clamp_min(1e-3)
    scale = torch.tensor(WAN21_STD) / deviation
    shift = torch.tensor(WAN21_MEAN) - mean * scale
    channels = slice(0, LATENT_CHANNELS)
    vae.conv1.weight[channels] *= scale.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[channels] = vae.conv1.bias[channels] * scale + shift
    vae.conv1.bias[LATENT_CHANNELS:] = 2 * (LATENT_NOISE * torch.tensor(WAN21_STD)).log()
    vae.conv2.weight.copy_(torch.diag(1 / torch.tensor(WAN21_STD)).view(vae.conv2.weight.shape))
    vae.conv2.bias.copy_(-torch.tensor(WAN21_MEAN) / torch.tensor(WAN21_STD))


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
