"""Where in the picture an identity acts: masks of pixels to weights of the backbone's tokens, over space and time."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from .errors import SlotIDError

# A Wan latent frame: the first frame alone, then one of every four.
STRIDE = 4
OVERLAP_SIDE = 64


def checked_mask(mask: Tensor) -> Tensor:
    """A mask as hosts hand it, [H, W] or [n, H, W], as [n, H, W] float32 in [0, 1] on the CPU.

    Raises:
        SlotIDError: another shape, no frame, or NaN in it.
    """
    frames = mask.unsqueeze(0) if mask.ndim == 2 else mask
    if frames.ndim != 3 or 0 in frames.shape:
        raise SlotIDError(
            f"a mask of shape {list(mask.shape)}", "[frames, height, width], or one frame", "connect a MASK."
        )
    frames = frames.detach().to("cpu", torch.float32)
    if not torch.isfinite(frames).all():
        raise SlotIDError("a mask with NaN or infinity in it", "numbers from 0 to 1", "look at where the mask is made.")
    return frames.clamp(0, 1)


def latent_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """A mask [n, H, W] in [0, 1] at the latents' size: [F, h, w], the mean over what each latent stands for.

    One frame serves every latent frame. Several are those of the video, 4 (F - 1) + 1; another number is stretched over
    its length.

    Args:
        shape: (F, h, w) of the whole video's latents.
    """
    count, *size = shape
    small = F.interpolate(mask.unsqueeze(1), size=size, mode="area").squeeze(1)
    if len(small) == 1:
        return small.expand(count, -1, -1)
    frames = video_frames(count)
    if len(small) != frames:
        rows = small.flatten(1).T.unsqueeze(0)
        small = F.interpolate(rows, frames, mode="linear", align_corners=True)[0].T.unflatten(1, size)
    return torch.cat([small[:1], small[1:].unflatten(0, (-1, STRIDE)).mean(1)]) if count > 1 else small[:1]


def video_frames(latent_frames: int) -> int:
    """Frames of a video of so many latent frames."""
    return STRIDE * (latent_frames - 1) + 1


def token_weights(latent: Tensor, patch: Sequence[int]) -> Tensor:
    """A mask [F, h, w] at the latents' size to a weight for each token of the video [tokens], in the backbone's order.

    Args:
        patch: latents to a token over time, height and width. A patch over the edge counts what is there.
    """
    missing = [-size % step for size, step in zip(latent.shape, patch, strict=True)]
    padding = [amount for side in reversed(missing) for amount in (0, side)]
    padded = F.pad(latent[None, None], padding, mode="replicate") if any(missing) else latent[None, None]
    return F.avg_pool3d(padded, tuple(patch)).flatten()


def within(latent: Tensor, area: Sequence[int]) -> Tensor:
    """The part of a mask [F, h, w] in an area: sizes of its last sides, then their offsets, as hosts cut latents."""
    sides = len(area) // 2
    for i in range(sides):
        side = 3 - sides + i
        length = min(latent.shape[side] - area[sides + i], area[i])
        latent = latent.narrow(side, area[sides + i], length)
    return latent


def described(mask: Tensor) -> str:
    """In words: how much of the picture a mask [n, H, W] covers, and over how many frames."""
    covered = mask.mean((1, 2))
    if len(covered) == 1:
        return f"{_percent(float(covered))} of the picture, still"
    low, high = float(covered.min()), float(covered.max())
    share = _percent(low) if high - low < 0.005 else f"{_percent(low)} to {_percent(high)}"
    return f"{share} of the picture, {len(covered)} frames"


def overlap(one: Tensor, other: Tensor) -> float:
    """Share of the smaller of two masks [n, H, W] that lies in the other as well, over the mean of their frames."""
    small = [
        F.interpolate(mask.mean(0)[None, None], (OVERLAP_SIDE, OVERLAP_SIDE), mode="area") for mask in (one, other)
    ]
    area = min(float(mask.sum()) for mask in small)
    return float(torch.minimum(*small).sum()) / area if area > 0 else 0.0


def _percent(share: float) -> str:
    # A small mask is not an empty one.
    return "under 1%" if 0 < share < 0.005 else f"{share:.0%}"
