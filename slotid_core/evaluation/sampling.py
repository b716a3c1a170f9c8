"""Sampling many videos at once, each row with its own prompt and its own identity."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..demo.prompts import Prompt, embed_empty, embed_prompt
from ..demo.seeds import stream
from ..demo.store import encode
from ..demo.wan_vae import WanVAE
from ..latents import denormalise_wan21
from ..pipelines.wan import TIME_SCALE, flow_times
from ..training.flow import conditioned
from ..video import Progress

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from ..model import SlotID

VAE_BATCH = 8
SAMPLING_BATCH = 32


@dataclass(frozen=True)
class Guidance:
    """How a video is sampled: Euler `steps` with `shift`, and

    v = v_uncond + cfg (v_text - v_uncond) + cfg identity_cfg (v_text,id - v_text), as `slotid_core.guidance` has it.
    """

    steps: int = 12
    shift: float = 3.0
    cfg: float = 1.0
    identity_cfg: float = 1.0

    def branches(self, identity: bool) -> dict[str, float]:
        """The transformer's calls that count, with their factors; they sum to 1."""
        pull = self.cfg * self.identity_cfg if identity else 0.0
        factors = {"uncond": 1 - self.cfg, "text": self.cfg - pull, "identity": pull}
        return {name: factor for name, factor in factors.items() if factor != 0.0}


@torch.no_grad()
def encode_clips(vae: WanVAE, frames: Tensor) -> Tensor:
    """Frames [B,T,H,W,3] in [0, 1], T = 4k+1, to latents [B,16,k+1,H/8,W/8] in the model's space, on the CPU."""
    device = vae.conv2.weight.device
    return torch.cat([encode(vae, part.to(device)).cpu() for part in frames.split(VAE_BATCH)])


@torch.no_grad()
def decode_clips(vae: WanVAE, latents: Tensor) -> Tensor:
    """Latents [B,16,F,h,w] in the model's space to frames [B,T,H,W,3] uint8, as a video file would hold them."""
    device = vae.conv2.weight.device
    made = []
    for part in latents.split(VAE_BATCH):
        pixels = vae.decode(denormalise_wan21(part.to(device))).clamp(-1, 1)
        made.append(((pixels + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 4, 1).cpu())
    return torch.cat(made)


def text_of(prompts: list[Prompt]) -> Tensor:
    """Embedded prompts [N, 4, 4096]."""
    made = {p: embed_prompt(p.pose, p.expression, p.background) for p in set(prompts)}
    return torch.stack([made[prompt] for prompt in prompts])


def noise_of(keys: list[tuple[int, int]], shape: tuple[int, ...]) -> Tensor:
    """Noise [N, *shape], each row a function of its (person, number of the video): every variant gets the same."""
    return torch.stack([torch.randn(shape, generator=stream("evaluation noise", *key)) for key in keys])


@torch.no_grad()
def sample(
    transformer: WanTransformer3DModel,
    noise: Tensor,
    text: Tensor,
    guidance: Guidance,
    *,
    model: SlotID | None = None,
    tokens: Tensor | None = None,
    progress: Progress | None = None,
) -> Tensor:
    """Noise [N,C,F,h,w] to latents of the same shape in the model's space, on the CPU.

    Args:
        text: [N, 4, 4096].
        model, tokens: what carries the identities, and their tokens [N, 2S, D_id]; None samples without.
        progress: called with (videos done, videos).
    """
    made = []
    for start in range(0, len(noise), SAMPLING_BATCH):
        rows = slice(start, start + SAMPLING_BATCH)
        mine = None if tokens is None else tokens[rows]
        made.append(_sample_batch(transformer, noise[rows], text[rows], guidance, model, mine))
        if progress is not None:
            progress(min(start + SAMPLING_BATCH, len(noise)), len(noise))
    return torch.cat(made)


def _sample_batch(
    transformer: WanTransformer3DModel,
    noise: Tensor,
    text: Tensor,
    guidance: Guidance,
    model: SlotID | None,
    tokens: Tensor | None,
) -> Tensor:
    device, dtype, count = transformer.device, transformer.dtype, len(noise)
    branches = guidance.branches(tokens is not None)
    texts = [embed_empty().expand_as(text) if name == "uncond" else text for name in branches]
    text = torch.cat(texts).to(device, dtype)
    carried = nullcontext()
    if "identity" in branches:
        keep = torch.tensor([float(name == "identity") for name in branches], device=device)
        rows = tokens.to(device).repeat(len(branches), 1, 1)
        carried = conditioned(model, transformer, rows, keep.repeat_interleave(count))
    latents = noise.to(device)
    times = flow_times(guidance.steps, guidance.shift)
    with carried:
        for time, following in pairwise(times):
            made = transformer(
                hidden_states=latents.repeat(len(branches), 1, 1, 1, 1).to(dtype),
                timestep=torch.full((len(text),), time * TIME_SCALE, device=device),
                encoder_hidden_states=text,
                return_dict=False,
            )[0].float()
            parts = zip(branches.values(), made.split(count), strict=True)
            latents = latents + (following - time) * sum(factor * part for factor, part in parts)
    return latents.cpu()
