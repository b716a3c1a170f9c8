"""From the boxes of one person to steady square crops and masks."""

from __future__ import annotations

import numpy as np

from ..errors import load_package
from .tracking import Track


def fill(track: Track, used: range) -> np.ndarray:
    """[T, 4]: centre x, y and log width, log height at every frame, straight between found ones, held at the ends."""
    frames = sorted(track.boxes)
    known = [(*b.centre, np.log(max(b.width, 1.0)), np.log(max(b.height, 1.0))) for b in map(track.boxes.get, frames)]
    return np.stack([np.interp(list(used), frames, column) for column in zip(*known, strict=True)], axis=1)


def smooth(path: np.ndarray, sigma: float) -> np.ndarray:
    """Gaussian average over time, symmetric so that nothing lags; point reflection keeps steady motion at the ends."""
    reach = min(round(3 * sigma), len(path) - 1)
    if reach < 1:
        return path
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    before = 2 * path[0] - path[reach:0:-1]
    after = 2 * path[-1] - path[-2 : -reach - 2 : -1]
    padded = np.concatenate([before, path, after])
    columns = [np.convolve(column, kernel / kernel.sum(), mode="valid") for column in padded.T]
    return np.stack(columns, axis=1)


def crop_square(frame: np.ndarray, box: np.ndarray, size: int) -> np.ndarray:
    """The square `box` of a [H, W, 3] frame as [size, size, 3], to a fraction of a pixel, edges repeated outside."""
    cv2 = load_package("cv2", "pack")

    side = box[2] - box[0]
    # Sampled finer than needed by a whole factor, then averaged: shrinking without aliasing, at any offset.
    factor = max(1, int(np.ceil(side / size - 1e-6)))
    step = side / (size * factor)
    matrix = np.array([[step, 0, box[0] + step / 2 - 0.5], [0, step, box[1] + step / 2 - 0.5]])
    method = (cv2.INTER_LINEAR if factor > 1 else cv2.INTER_CUBIC) | cv2.WARP_INVERSE_MAP
    full = (size * factor, size * factor)
    frame = np.ascontiguousarray(frame[..., :3], dtype=np.float32)
    crop = cv2.warpAffine(frame, matrix, full, flags=method, borderMode=cv2.BORDER_REPLICATE)
    if factor > 1:
        crop = cv2.resize(crop, (size, size), interpolation=cv2.INTER_AREA)
    return crop.clip(0.0, 1.0)


def face_mask(place: np.ndarray, box: np.ndarray, size: int, extent: tuple[int, int], whole: bool) -> np.ndarray:
    """Where the face is in the crop, as [size, size]; 0 wherever the crop leaves the frame.

    1 inside the face's ellipse, falling to 0 at 1.4 times its size; with `whole`, 1 in all of the frame.
    """
    grid = (np.arange(size) + 0.5) / size * (box[2] - box[0])
    x, y = box[0] + grid, box[1] + grid
    inside = ((y >= 0) & (y <= extent[0]))[:, None] & ((x >= 0) & (x <= extent[1]))[None, :]
    if whole:
        return inside.astype(np.float32)
    half = np.exp(place[2:]) / 2
    radius = np.hypot(((y - place[1]) / half[1])[:, None], ((x - place[0]) / half[0])[None, :])
    fall = ((1.4 - radius) / 0.4).clip(0.0, 1.0)
    return (fall * fall * (3 - 2 * fall) * inside).astype(np.float32)
