"""The sample sheets of the identity task and the sampling they need."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..pipelines.wan import TIME_SCALE, decode_video, flow_times, load_wan_vae
from ..sheets import rows_sheet
from .config import Samples
from .flow import conditioned, stream
from .packaged import packaged

if TYPE_CHECKING:
    from diffusers import WanTransformer3DModel

    from .identity import IdentityTask


@torch.no_grad()
def sample_batch(
    transformer: WanTransformer3DModel, noise: Tensor, text: Tensor, empty: Tensor, settings: Samples
) -> Tensor:
    """Euler steps from noise [B, C, F, h, w] to latents, with guidance by the prompt.

    The transformer is called with 2 B rows, the B with text first.
    """
    latents, texts = noise, torch.cat([text, empty])
    for time, following in pairwise(flow_times(settings.steps, settings.shift)):
        with torch.autocast(noise.device.type, transformer.dtype, enabled=transformer.dtype != torch.float32):
            velocity = transformer(
                hidden_states=torch.cat([latents, latents]),
                timestep=noise.new_full((len(texts),), time * TIME_SCALE),
                encoder_hidden_states=texts,
                return_dict=False,
            )[0].float()
        with_text, without = velocity.chunk(2)
        latents = latents + (following - time) * (without + settings.cfg * (with_text - without))
    return latents


def identity_sheet(
    task: IdentityTask, targets: list[int], references: list[int], tokens: Tensor, title: str
) -> np.ndarray:
    """Reference, video with the identity, the same without, and the target itself, of each person."""
    settings, store, transformer = task.config.samples, task.store, task.transformer
    device = tokens.device
    vae = load_wan_vae(packaged(settings.vae, "vae"), device=device)
    clean = store.targets.take("latents", targets).float()
    noise = torch.randn(clean.shape, generator=stream("sample", task.config.run.seed)).to(device)
    text = store.text(store.targets.take("text", targets).tolist()).float().to(device)
    empty = store.text([0]).float().to(device).expand_as(text)
    keep = torch.cat([torch.ones(len(text)), torch.zeros(len(text))]).to(device)
    with conditioned(task.module, transformer, torch.cat([tokens, tokens]), keep):
        made = sample_batch(transformer, noise, text, empty, settings)
    plain = sample_batch(transformer, noise, text, empty, settings)
    rows = []
    for i, (target, reference) in enumerate(zip(targets, references, strict=True)):
        person = store.targets.entries[target].person
        seen = store.references.take("latents", [reference])[0].float()
        for words, latents in (("reference", seen), ("with", made[i]), ("without", plain[i]), ("target", clean[i])):
            rows.append((f"{person}: {words}", decode_video(vae, latents)))
    return rows_sheet(rows, title=title)
