"""Frames in [0, 1] with their times, and the checks that every way in shares."""

from __future__ import annotations

import hashlib
import math
import warnings
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import SlotIDError, SlotIDWarning

MAX_FPS = 240


@dataclass(frozen=True)
class Clip:
    """Frames of one clip, evenly spaced in time.

    Args:
        frames: [T, H, W, 3] float32 in [0, 1], T = 4k + 1.
        timestamps: [T] float64, seconds from the start of the source: the times of the source frames that were taken.
        fps: frames per second of `frames`.
        source: name of the source file, without directories.
        sha256: of the source file's bytes, or of the frames' uint8 bytes for a clip made in memory.
    """

    frames: Tensor
    timestamps: Tensor
    fps: Fraction
    source: str
    sha256: str


def clip_from_frames(frames: Tensor, fps: float | Fraction, *, source: str = "frames") -> Clip:
    """A clip from frames already in memory (a ComfyUI IMAGE batch).

    Args:
        frames: [T, H, W, C >= 3] floating point in [0, 1]; channels after the third (alpha) are dropped,
            frames after the last 4k + 1 are dropped.
        fps: their frames per second.
        source: a name for messages and provenance.

    Raises:
        SlotIDError: for another shape or dtype, no frames, NaN, or values far outside [0, 1].

    Warns:
        SlotIDWarning: when one frame is left.
    """
    rate = as_fps(fps)
    picked = check_frames(frames, channels_from=3)
    picked = picked[: floor_4k1(picked.shape[0]), ..., :3].to("cpu", torch.float32).clamp(0.0, 1.0).contiguous()
    if picked.shape[0] == 1:
        warn_single(source)
    digest = hashlib.sha256(repr(tuple(picked.shape)).encode())
    for frame in picked:
        digest.update(as_bytes(frame))
    times = torch.tensor([float(i / rate) for i in range(len(picked))], dtype=torch.float64)
    return Clip(picked, times, rate, source, digest.hexdigest())


def check_frames(frames: Any, *, channels_from: int) -> Tensor:
    """Return `frames` if it is a [T >= 1, H, W, C >= channels_from] finite floating tensor near [0, 1], else raise."""
    expected = "a floating-point tensor [frames, height, width, channels] with values in [0, 1]"
    fix = "Pass a batch of RGB images."
    if not isinstance(frames, Tensor) or not frames.is_floating_point() or frames.ndim != 4:
        kind = f"{frames.dtype} {list(frames.shape)}" if isinstance(frames, Tensor) else type(frames).__name__
        raise SlotIDError(f"The frames are {kind}", expected, fix)
    count, height, width, channels = frames.shape
    if count == 0 or height == 0 or width == 0:
        raise SlotIDError(f"The clip is empty: {list(frames.shape)}", "at least one frame", "Connect frames to use.")
    if channels < channels_from:
        raise SlotIDError(f"The frames have {channels} channels", f"{channels_from} (RGB) or more", fix)
    # One frame at a time: whole-batch comparisons would double the memory of a long clip.
    low, high = (torch.stack([reduce(frame) for frame in frames]) for reduce in (torch.amin, torch.amax))
    broken = (~(low.isfinite() & high.isfinite())).nonzero().flatten().tolist()
    if broken:
        raise SlotIDError(
            f"NaN or infinite values in {len(broken)} of {count} frames (the first: {broken[0]})",
            "finite values in [0, 1]",
            "Look for the step that made them: often a VAE decoded in half precision; run it in float32 or bfloat16.",
        )
    if low.min() < -0.5 or high.max() > 1.5:
        values = f"[{low.min().item():.3g}, {high.max().item():.3g}]"
        raise SlotIDError(f"The frames' values span {values}", "[0, 1]", "Scale the frames, by 1/255 if from bytes.")
    return frames


def as_bytes(frame: Tensor) -> np.ndarray:
    """A floating [H, W, C >= 3] frame in [0, 1] as uint8 [H, W, 3], rounded; values outside are clipped."""
    pixels = frame[..., :3].detach().to("cpu", torch.float32).numpy() * 255.0 + 0.5
    return np.ascontiguousarray(pixels.clip(0.0, 255.0).astype(np.uint8))


def as_fps(value: float | Fraction) -> Fraction:
    """Frames per second as an exact fraction; 59.94 and its kin become n * 1000 / 1001.

    Raises:
        SlotIDError: unless 0 < value <= 240.
    """
    good = isinstance(value, int | float | Fraction) and not isinstance(value, bool) and math.isfinite(value)
    if not good or not 0 < value <= MAX_FPS:
        raise SlotIDError(f"fps is {value!r}", f"a number above 0 and up to {MAX_FPS}", "Give frames per second.")
    exact = Fraction(value).limit_denominator(1_000_000)
    ntsc = Fraction(round(exact * 1001 / 1000) * 1000, 1001)
    if not isinstance(value, Fraction) and exact.denominator != 1 and abs(exact - ntsc) < Fraction(1, 200):
        return ntsc
    return exact


def floor_4k1(count: int) -> int:
    return (count - 1) // 4 * 4 + 1


def warn(message: str, *, above: int = 0) -> None:
    """Warn as the caller of the calling function, or of one `above` functions further up."""
    warnings.warn(message, SlotIDWarning, stacklevel=3 + above)


def warn_single(name: str) -> None:
    message = f"{name} gives one frame: it works, but how this person moves is not part of the identity. Use a clip."
    warn(message, above=1)
