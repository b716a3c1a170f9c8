"""How often a person blinks, from the blinks of one short clip.

A clip of a second holds half a blink to two. A network asked for the rate learns it badly; but the world's law of
blinking is known, and so is the best that can be said of a track under it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..demo.clips import FPS
from ..demo.people import DYNAMIC

# How far eyes close in a blink that a soft picture shows: a video model's blinks are fainter than the renderer's.
_DEPTHS = (0.4, 0.6, 0.8, 1.0)
# The least that the probe's blink of a frame (0 open .. 1 closed) is off by.
_LEAST_NOISE = 0.1
_RATES, _PHASES = 76, 64


def blink_track(rate: Tensor, phase: Tensor, frames: int) -> Tensor:
    """How far the eyes are closed [N, frames], 0 .. 1, at `rate` [N] per second and `phase` [N] in 0 .. 1.

    As `demo.clips` moves the lids.
    """
    cycle = (torch.arange(frames, device=rate.device) / FPS * rate[:, None] + phase[:, None]) % 1.0
    since = torch.minimum(cycle, 1.0 - cycle) / rate[:, None]
    return (1.35 - since * FPS * 0.75).clamp(0.0, 1.0)


def blink_rates(tracks: Tensor) -> Tensor:
    """The expected rate [B] per second given tracks [B, T] of closed eyes.

    The posterior mean under the world's own spread of people and phases, any of the depths, and normal noise of unknown
    deviation s: with the prior 1 / s, a hypothesis that leaves the squared error e over T frames has likelihood
    e^(-T / 2).
    """
    frames = tracks.shape[1]
    rates = torch.linspace(*DYNAMIC["blink_rate"], _RATES, device=tracks.device).repeat_interleave(_PHASES)
    phases = ((torch.arange(_PHASES, device=tracks.device) + 0.5) / _PHASES).repeat(_RATES)
    blinks = blink_track(rates, phases, frames)
    away = torch.stack([torch.cdist(tracks, depth * blinks).square() for depth in _DEPTHS])
    likely = torch.logsumexp(-frames / 2 * (away + frames * _LEAST_NOISE**2).log(), dim=0)
    return torch.softmax(likely, dim=-1) @ rates
