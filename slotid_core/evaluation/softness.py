"""Renders as soft as what comes out of a video model, made without one: what the judges also learn from."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# A Wan VAE gives one latent cell to 4 frames of 8 x 8 pixels; one frame alone stands at the start.
_GROUP, _CELL = 4, 8
_MOST, _FEWEST = 64, 12
# Of a head, in pixels a frame: it bobs more than it turns.
_DRIFT = (1.5, 0.4)


def softened(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Clips [B, T, 3, H, W] with the kind of softness a VAE leaves: blurred or sharpened edges, frames that shine
    through into their neighbours, noise; each clip its own amount."""

    def amount(low: float, high: float, share: float) -> Tensor:
        drawn = low + (high - low) * torch.rand(len(frames), generator=generator)
        used = torch.rand(len(frames), generator=generator) < share
        return (drawn * used)[:, None, None, None, None]

    flat = frames.flatten(0, 1)
    blurred = F.avg_pool2d(F.pad(flat, (1, 1, 1, 1), mode="replicate"), 3, 1).view_as(frames)
    frames = torch.lerp(frames, blurred, amount(-0.3, 1.0, 0.8))
    neighbours = (frames[:, [0, *range(frames.shape[1] - 1)]] + frames[:, [*range(1, frames.shape[1]), -1]]) / 2
    frames = torch.lerp(frames, neighbours, amount(0.0, 0.4, 0.4))
    # Frames of one small bank of noise, each many times: drawing fresh noise would take longer than learning from it.
    bank = torch.randn(64, *frames.shape[2:], generator=generator)
    picked = torch.randint(len(bank), frames.shape[:2], generator=generator)
    return torch.addcmul(frames, bank[picked], amount(0.0, 0.08, 0.8))


class Codec:
    """Clips as they look after a linear codec that keeps a few numbers of each cell of 4 frames of 8 x 8 pixels.

    The numbers are the first principal components of such cells of renders. It loses what a video VAE loses (small
    features, quick moves) and has never seen one.
    """

    def __init__(self, clips: Tensor) -> None:
        """`clips` [N, 4 n, 3, H, W] in [-1, 1]: `grouped` or `drifting` renders to find the components of."""
        cells = _cells(clips).flatten(0, -2)
        self.mean = cells.mean(0)
        centred = cells - self.mean
        self.axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :_MOST].contiguous()

    def clips(self, clips: Tensor, generator: torch.Generator) -> Tensor:
        """Clips [B, 1 + 4 n, 3, H, W] through the codec, each with its own count of numbers kept."""
        return self._kept(grouped(clips), generator)[:, _GROUP - 1 :]

    def stills(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        """Frames [N, 3, H, W] through the codec as one of four frames in which the head drifts."""
        return self._kept(drifting(frames, generator), generator)[:, 1]

    def _kept(self, frames: Tensor, generator: torch.Generator) -> Tensor:
        few, many = torch.tensor([_FEWEST, _MOST]).log()
        counts = (few + (many - few) * torch.rand(len(frames), generator=generator)).exp()
        kept = torch.arange(_MOST) < counts[:, None]
        made = []
        # The mean of two tilings, so that their edges do not show.
        for shift in (0, _CELL // 2):
            tiled = F.pad(frames.flatten(0, 1), (shift, _CELL - shift) * 2, mode="replicate") if shift else frames
            tiled = tiled.view(*frames.shape[:3], *tiled.shape[-2:])
            cells = _cells(tiled)
            numbers = ((cells - self.mean) @ self.axes) * kept[:, None, None, None]
            height, width = frames.shape[-2:]
            whole = _pictures(numbers @ self.axes.T + self.mean)
            made.append(whole[..., shift : shift + height, shift : shift + width])
        return (made[0] + made[1]) / 2


def grouped(clips: Tensor) -> Tensor:
    """Clips [B, 1 + 4 n, 3, H, W] with the first frame four times, so that each cell has four frames."""
    return torch.cat([clips[:, :1].expand(-1, _GROUP - 1, -1, -1, -1), clips], dim=1)


def drifting(frames: Tensor, generator: torch.Generator) -> Tensor:
    """Four frames [N, 4, 3, H, W] of each picture [N, 3, H, W], moved as a whole; the second is the picture itself."""
    speed = torch.tensor(_DRIFT) * torch.randn(len(frames), 2, generator=generator)
    shift = (speed[:, None] * (torch.arange(_GROUP)[:, None] - 1)).round().long()
    height, width = frames.shape[-2:]
    rows = (torch.arange(height) + shift[..., :1]).clamp(0, height - 1)
    columns = (torch.arange(width) + shift[..., 1:]).clamp(0, width - 1)
    number = torch.arange(len(frames))[:, None, None, None]
    return frames.movedim(1, -1)[number, rows[..., :, None], columns[..., None, :]].movedim(-1, 2)


def _cells(clips: Tensor) -> Tensor:
    """[B, 4 g, 3, H, W] to [B, g, H / 8, W / 8, 768]."""
    parts = clips.unflatten(4, (-1, _CELL)).unflatten(3, (-1, _CELL)).unflatten(1, (-1, _GROUP))
    return parts.permute(0, 1, 4, 6, 2, 3, 5, 7).flatten(4)


def _pictures(cells: Tensor) -> Tensor:
    """The inverse of `_cells`."""
    parts = cells.unflatten(-1, (_GROUP, 3, _CELL, _CELL)).permute(0, 1, 4, 5, 2, 6, 3, 7)
    return parts.flatten(6, 7).flatten(4, 5).flatten(1, 2)
