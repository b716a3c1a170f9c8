"""Colours of the demo world, and laying one over another. Every colour is RGB in [0, 1]."""

from __future__ import annotations

import torch
from torch import Tensor

from .people import MARKS


def hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """RGB [..., 3] of hue, saturation, value in 0 .. 1."""
    offset = torch.tensor([5.0, 3.0, 1.0])
    k = (offset + hue[..., None] * 6.0) % 6.0
    ramp = torch.minimum(k, 4.0 - k).clamp(0.0, 1.0)
    return value[..., None] * (1.0 - saturation[..., None] * ramp)


def over(below: Tensor, colour: Tensor, alpha: Tensor) -> Tensor:
    """`colour` [3, N, ...] laid over `below` [3, N, H, W] with `alpha` [N, H, W]."""
    return below + (colour - below) * alpha


def skin_colour(tone: Tensor, hue: Tensor) -> Tensor:
    """RGB [..., 3]: tone 0 (light) to 1 (dark), hue 0 (rosy) to 1 (olive)."""
    light = torch.tensor([0.98, 0.83, 0.73])
    middle = torch.tensor([0.78, 0.57, 0.42])
    dark = torch.tensor([0.33, 0.21, 0.15])
    t = tone[..., None]
    base = torch.where(t < 0.5, light + (middle - light) * 2 * t, middle + (dark - middle) * (2 * t - 1))
    shift = torch.tensor([-0.05, 0.03, -0.03])
    return (base + (hue[..., None] - 0.5) * 2 * shift).clamp(0.0, 1.0)


def mark_colour(kind: Tensor, hue: Tensor) -> Tensor:
    """RGB [..., 3] of a mark: earrings shine, moles are darker."""
    earring = kind == MARKS.index("earring")
    return hsv(hue, torch.full_like(hue, 0.85), torch.where(earring, 0.98, 0.55))


def planes(colours: Tensor) -> Tensor:
    """Colours [N, 3] as planes [3, N, 1, 1]."""
    return colours.T[:, :, None, None]
