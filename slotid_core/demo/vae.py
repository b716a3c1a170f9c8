"""The task that makes the demo VAE: Wan 2.1's layout, encoder begun in closed form, trained on clips as they are drawn.

A row is a stretch of a target clip or, every other row, of a reference clip with its occluded and blurred frames, of a
person drawn for that row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..latents import WAN21_MEAN, WAN21_STD, normalise_wan21
from ..sheets import rows_sheet
from ..training.config import Experiment, setting
from ..training.flow import stream
from ..training.packaged import packaged
from .backbone import write_demo_file
from .clips import (
    REFERENCE_FRAMES,
    TARGET_FRAMES,
    reference_clips,
    target_clips,
    target_prompt,
    target_tracks,
)
from .people import TRAIN, VALIDATION
from .renderer import render
from .seeds import integer
from .store import load_vae
from .vae_start import start_encoder
from .wan_vae import LATENT_CHANNELS, ResidualBlock, WanVAE

LATENT_NOISE = 0.03


@dataclass(frozen=True)
class VAESection:
    """The model and how it is trained.

    Args:
        width: of the thinnest layers.
        start: a file whose weights the training begins with; "" for an encoder in closed form and a seeded decoder.
        encoder: whether the encoder trains too. It must not, once latents of it are in use.
        size: side of the frames in pixels.
        frames: length of a row, 4k + 1, at most a target clip's.
        compile: whether torch compiles the model, which pays in long runs and needs a C++ compiler on a CPU.
    """

    width: int = setting(16, 8, 96)
    start: str = ""
    encoder: bool = True
    size: int = setting(64, 16, 1024)
    frames: int = setting(17, 1, TARGET_FRAMES)
    compile: bool = False


@dataclass(frozen=True)
class LossSection:
    """Weights beside the absolute error of pixels.

    Args:
        squared: of the squared error, which is what PSNR sees.
        edges: of the absolute error of the differences to the neighbours, so that edges stay sharp.
        drift: of the distance of the latents' mean and deviation from 0 and 1, where the encoder trains.
    """

    squared: float = setting(2.0, 0)
    edges: float = setting(0.25, 0)
    drift: float = setting(0.01, 0)


@dataclass(frozen=True, kw_only=True)
class VAEExperiment(Experiment):
    """The whole config of this task."""

    vae: VAESection
    loss: LossSection


class VAETask:
    """See the module. `module` is the VAE."""

    def __init__(self, config: VAEExperiment) -> None:
        self.config = config
        section = config.vae
        if section.start:
            self.module = load_vae(packaged(section.start, "vae"))
            torch.manual_seed(config.run.seed)
            for part in ("encoder", "decoder") if section.encoder else ("decoder",):
                self.module.wake(part)
        else:
            self.module = new_vae(section.width, config.run.seed)
        trained = ("encoder.", "conv1.weight", "decoder.") if section.encoder else ("decoder.",)
        for name, parameter in self.module.named_parameters():
            parameter.requires_grad_(name.startswith(trained))
        # What is skipped learns nothing.
        for module in self.module.modules():
            if isinstance(module, ResidualBlock) and module.skipped:
                module.residual.requires_grad_(False)
        self.codec = torch.compile(self._codec) if section.compile else self._codec

    def report(self) -> str:
        return "clips of the demo world, drawn as they are needed"

    def to(self, device: torch.device) -> None:
        self.module.to(device)

    def batch(self, step: int, rows: range) -> dict[str, Tensor]:
        run, section = self.config.run, self.config.vae
        clips, noise = [], []
        for row in rows:
            generator = stream("vae", run.seed, step, row)
            person = integer(generator, TRAIN.start, TRAIN.stop - 1)
            if (step + row) % 2:
                # All of it, since occluded and blurred frames have their place in the whole clip.
                start = integer(generator, 0, REFERENCE_FRAMES - section.frames)
                frames = reference_clips([person], step, size=section.size).frames
                clips.append(frames[0, start : start + section.frames])
            else:
                who, tracks = target_tracks([person], step, [target_prompt(person, step)])
                start = integer(generator, 0, TARGET_FRAMES - section.frames)
                clips.append(render(who, tracks.window(start, section.frames), section.size)[0])
            shape = (LATENT_CHANNELS, (section.frames + 3) // 4, section.size // 8, section.size // 8)
            noise.append(torch.randn(shape, generator=generator))
        return {"frames": torch.stack(clips), "noise": torch.stack(noise)}

    def loss(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        weights, video = self.config.loss, to_video(batch["frames"])
        latents, made = self.codec(video, batch["noise"])
        error = made.float() - video
        rows = error.abs().flatten(1).mean(1)
        squared = error.square().flatten(1).mean(1)
        edges = sum(error.diff(dim=axis).abs().flatten(1).mean(1) for axis in (-2, -1))
        loss = (rows + weights.squared * squared + weights.edges * edges).mean()
        latents = normalise_wan21(latents.float())
        drift = latents.mean((0, 2, 3, 4)).square().mean() + (latents.std((0, 2, 3, 4)) - 1).square().mean()
        if self.config.vae.encoder:
            loss = loss + weights.drift * drift
        count = torch.full_like(loss, len(rows))
        with torch.no_grad():
            # Values span 2, from -1 to 1.
            psnr_of_rows = -10 * (squared / 4).log10()
            parts = {"psnr": psnr_of_rows.sum(), "edges": edges.sum(), "drift": drift * count}
        return loss, {name: torch.stack([value, count]) for name, value in parts.items()}

    def matrices(self, name: str) -> bool:
        # The encoder begins in closed form; steps of one size in all directions would undo that.
        return name.startswith("decoder.") and name.endswith("weight") and name != "decoder.head.2.weight"

    @torch.no_grad()
    def sample(self, step: int) -> np.ndarray:
        count, device = self.config.samples.rows, next(self.module.parameters()).device
        size, rows, said = self.config.vae.size, [], []
        for kind, draw in (("target", target_clips), ("reference", reference_clips)):
            frames = draw(VALIDATION[:count], size=size).frames
            video = to_video(frames)
            made = torch.cat([round_trip(self.module, part.to(device)).cpu() for part in video.split(2)])
            said.append(f"{kind} {psnr(made, video):.2f} dB")
            shown = (made / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 4, 1)
            for truth, clip in zip(frames, shown, strict=True):
                rows += [(f"{kind}: truth", truth), (f"{kind}: through the VAE", clip)]
        return rows_sheet(rows, title=f"step {step}, {count} held-out people: PSNR " + ", ".join(said))

    def save(self, folder: Path, steps: int) -> Path:
        path = folder / "vae.safetensors"
        write_demo_file(path, self.module.state_dict(), "VAE", self.config, steps)
        return path

    def _codec(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Latents, and what is made of them with a little noise on what the decoder sees."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.vae.encoder):
            latents = self.module.encode(video)[0]
        return latents, self.module.decoder(self.module.conv2(latents) + LATENT_NOISE * noise)


def new_vae(width: int, seed: int) -> WanVAE:
    """A VAE whose encoder is in closed form and whose decoder has seeded weights; latents have Wan 2.1's statistics."""
    torch.manual_seed(seed)
    vae = WanVAE(width, light=True)
    known = torch.cat([target_clips(TRAIN[:48]).frames, reference_clips(TRAIN[:24], frames=TARGET_FRAMES).frames])
    start_encoder(vae, to_video(known))
    normalise(vae, to_video(known))
    return vae


def to_video(frames: Tensor) -> Tensor:
    """Frames [B,T,H,W,3] in [0, 1] to videos [B,3,T,H,W] in [-1, 1]."""
    return frames.permute(0, 4, 1, 2, 3) * 2 - 1


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


@torch.no_grad()
def round_trip(vae: WanVAE, video: Tensor) -> Tensor:
    """Videos through encoder and decoder."""
    return vae.decode(vae.encode(video)[0])
