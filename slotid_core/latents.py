"""Face crops through the backbone's own VAE."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .config import Backbone
from .errors import SlotIDError

# Frames [T, H, W, 3] in [0, 1], T = 4k+1, to latents [C, F, h, w] in the model's normalised space, F = k+1, and h = H/8
# (H/16 for the VAE of Wan 2.2 5B).
# Each host makes one from its own VAE: nodes/host.py (ComfyUI), pipelines/wan.py (diffusers).
EncodeVideo = Callable[[Tensor], Tensor]

# Statistics of the Wan 2.1 VAE's latents, as published in Wan 2.1's own code (wan/modules/vae.py).
WAN21_MEAN = (
    -0.7571, -0.7089, -0.9113, 0.1075, -0.1745, 0.9653, -0.1517, 1.5508,
    0.4134, -0.0715, 0.5517, -0.3632, -0.1922, -0.9497, 0.2503, -0.2921,
)  # fmt: skip
WAN21_STD = (
    2.8184, 1.4541, 2.3275, 2.6558, 1.2196, 1.7708, 2.6052, 2.0743,
    3.2687, 2.1526, 2.8652, 1.5579, 1.6382, 1.1253, 2.8251, 1.9160,
)  # fmt: skip


def normalise_wan21(latents: Tensor) -> Tensor:
    """Raw latents [..., 16, F, h, w] of the Wan 2.1 VAE to the model's space (what ComfyUI calls process_in)."""
    mean, std = _statistics(latents)
    return (latents - mean) / std


def denormalise_wan21(latents: Tensor) -> Tensor:
    """The inverse of `normalise_wan21`."""
    mean, std = _statistics(latents)
    return latents * std + mean


def encode_frames(frames: Tensor, encode_video: EncodeVideo, backbone: Backbone) -> Tensor:
    """Encode a clip and hold the result against what the model was made for.

    Args:
        frames: [T, H, W, 3] in [0, 1], T = 4k+1, H and W multiples of the VAE's stride.
        encode_video: the backbone's VAE.
        backbone: whose latents the Slot-ID model expects.

    Returns:
        [C, F, h, w] float32, F = (T - 1) / 4 + 1, in the model's normalised space.

    Raises:
        SlotIDError: frames of another shape, a VAE of another kind, a NaN from the VAE.
    """
    if frames.ndim != 4 or frames.shape[-1] != 3 or frames.shape[0] % 4 != 1:
        raise SlotIDError(
            f"frames of shape {tuple(frames.shape)}", "[T, H, W, 3] with T = 4k+1", "load the clip with load_video."
        )
    latents = encode_video(frames).float()
    T, H, W, _ = frames.shape
    channels, stride = backbone.latent_channels, backbone.spatial_stride
    expected = (channels, (T - 1) // 4 + 1, H // stride, W // stride)
    if tuple(latents.shape) != expected:
        raise SlotIDError(
            f"this VAE makes latents of shape {tuple(latents.shape)} from {T} frames of {W}x{H}",
            f"shape {expected}: {channels} channels, 4 frames to one, {stride} pixels to one",
            "use the VAE of the video model: wan_2.1_vae for Wan 2.1 and Wan 2.2 14B, wan2.2_vae for Wan 2.2 5B.",
        )
    if not torch.isfinite(latents).all():
        raise SlotIDError("the VAE made NaN from this clip", "finite latents", "run the VAE in float32 or bfloat16.")
    return latents


def _statistics(latents: Tensor) -> tuple[Tensor, Tensor]:
    shape = (len(WAN21_MEAN), 1, 1, 1)
    return latents.new_tensor(WAN21_MEAN).view(shape), latents.new_tensor(WAN21_STD).view(shape)
