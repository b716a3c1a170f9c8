"""Latent frames to tokens with positions, and the small trunk that mixes them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .config import EncoderConfig

# Fourier bands of the positions: enough to tell 16 x 16 patches of a crop, and 0.25 s steps over a minute, apart.
SPACE_BANDS = 6
TIME_BANDS = 8


def patchify(latents: Tensor, patch: int) -> Tensor:
    """[B, C, F, h, w] -> [B, F, (h/p)(w/p), C p p]; h and w divisible by p."""
    B, C, T, h, w = latents.shape
    x = latents.reshape(B, C, T, h // patch, patch, w // patch, patch)
    return x.permute(0, 2, 3, 5, 1, 4, 6).reshape(B, T, (h // patch) * (w // patch), C * patch * patch)


def space_positions(rows: int, columns: int, device: torch.device) -> Tensor:
    """Fourier features [rows * columns, 4 * SPACE_BANDS] of places relative to the crop, whatever its size."""
    y = (torch.arange(rows, device=device) + 0.5) / rows * 2 - 1
    x = (torch.arange(columns, device=device) + 0.5) / columns * 2 - 1
    grid = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1).reshape(rows * columns, 2, 1)
    angles = grid * (2.0 ** torch.arange(SPACE_BANDS, device=device) * (math.pi / 2))
    return torch.cat([angles.sin(), angles.cos()], -1).flatten(1)


def time_positions(count: int, device: torch.device) -> Tensor:
    """Sinusoids [count, 2 * TIME_BANDS] of the latent frame's number, from the fastest rate up to 4 ** 7 frames."""
    angles = torch.arange(count, device=device).unsqueeze(-1) / 4.0 ** torch.arange(TIME_BANDS, device=device)
    return torch.cat([angles.sin(), angles.cos()], -1)


class Attention(nn.Module):
    """Self-attention over the last axis but one of [..., N, D]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).movedim(-3, 0).transpose(-2, -3)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(-2, -3).flatten(-2))


def mlp(width: int) -> nn.Sequential:
    """The usual four-times-wide MLP."""
    return nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))


class TrunkBlock(nn.Module):
    """Spatial attention within a frame, temporal attention across frames at a place, then an MLP; all pre-norm."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_space, self.space = nn.LayerNorm(width), Attention(width, heads)
        self.norm_time, self.time = nn.LayerNorm(width), Attention(width, heads)
        self.norm_mlp, self.mlp = nn.LayerNorm(width), mlp(width)

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, F, N, D]."""
        x = x + self.space(self.norm_space(x))
        x = x + self.time(self.norm_time(x).transpose(1, 2)).transpose(1, 2)
        return x + self.mlp(self.norm_mlp(x))


class Tokenizer(nn.Module):
    """Latents [B, C, F, h, w] to mixed tokens [B, F, N, D]."""

    def __init__(self, config: EncoderConfig, latent_channels: int) -> None:
        super().__init__()
        self.patch = config.patch
        self.project = nn.Linear(latent_channels * config.patch**2, config.width)
        self.space_position = nn.Linear(4 * SPACE_BANDS, config.width)
        self.time_position = nn.Linear(2 * TIME_BANDS, config.width)
        self.blocks = nn.ModuleList(TrunkBlock(config.width, config.heads) for _ in range(config.depth))

    def forward(self, latents: Tensor) -> Tensor:
        rows, columns = latents.shape[-2] // self.patch, latents.shape[-1] // self.patch
        space = space_positions(rows, columns, latents.device).to(latents.dtype)
        time = time_positions(latents.shape[2], latents.device).to(latents.dtype)
        x = self.project(patchify(latents, self.patch))
        x = x + self.space_position(space) + self.time_position(time).unsqueeze(1)
        for block in self.blocks:
            x = block(x)
        return x
