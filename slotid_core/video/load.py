"""A video file or a photo as a clip, resampled by its timestamps."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import BinaryIO

import numpy as np
import torch

from ..errors import SlotIDError
from .clip import Clip, as_fps, floor_4k1, warn, warn_single
from .decoding import Decoder

Progress = Callable[[int, int], None]

MAX_CLIP_BYTES = 4 * 1024**3


def load_video(
    path: str | os.PathLike[str] | BinaryIO,
    *,
    frames: int = 33,
    fps: float | Fraction = 16,
    start: float = 0.0,
    duration: float | None = None,
    max_side: int = 1024,
    progress: Progress | None = None,
) -> Clip:
    """Decode a video or a still photo and resample it, nearest in time, to `fps`.

    The result has the largest 4k + 1 frames (Wan's VAE takes no other length) that `frames`, `duration` and the
    file allow. Rotation and pixel shape stored in the file are applied, transparency is put over neutral grey.

    Args:
        path: a file, or a seekable binary stream.
        frames: the most frames to take.
        fps: frames per second of the result; 23.976, 29.97, 59.94 mean the exact NTSC fractions.
        start: seconds from the start of the file.
        duration: seconds to use from `start`; None uses what is there.
        max_side: larger pictures are scaled down to this many pixels on the longer side, while decoding.
        progress: called with (frames taken, frames wanted) at every megabyte read and every frame decoded; what it
            raises ends the reading.

    Raises:
        SlotIDError: for a file that is missing, empty, damaged, no video, or too short for `start`, and for
            arguments out of range. Cut-off files are used as long as the part asked for can be read.

    Warns:
        SlotIDWarning: one frame (a photo), frames repeated because the file has fewer per second, HDR colours.
    """
    rate = as_fps(fps)
    begin = _seconds("start", start, zero_allowed=True)
    span = None if duration is None else _seconds("duration", duration, zero_allowed=False)
    _whole("frames", frames, 1, 100_000)
    _whole("max_side", max_side, 16, 8192)
    wanted = frames if span is None else min(frames, math.ceil(span * rate))
    grid = [begin + i / rate for i in range(floor_4k1(wanted))]
    file, name = _open(path)
    try:
        digest = _sha256_of(file, name, lambda: None if progress is None else progress(0, len(grid)))
        decoder = Decoder(file, name, begin, max_side)
        taken = _take(decoder, grid, begin, progress)
    finally:
        if file is not path:
            file.close()
    taken = taken[: floor_4k1(len(taken))]
    if decoder.transfer is not None:
        warn(f"{name} is HDR ({decoder.transfer}), read without tone mapping: colours look pale. Export it as SDR.")
    if len(taken) == 1:
        warn_single(name)
    elif len({time for time, _ in taken}) < 0.75 * len(taken):
        warn(f"{name}: fewer frames than {float(rate):g} per second, so some are repeated; a lower fps avoids it")
    stacked = torch.from_numpy(np.stack([picture for _, picture in taken]))
    times = torch.tensor([float(time) for time, _ in taken], dtype=torch.float64)
    return Clip(stacked.float().div_(255.0), times, rate, name, digest)


def _open(path: str | os.PathLike[str] | BinaryIO) -> tuple[BinaryIO, str]:
    if hasattr(path, "read") and hasattr(path, "seek"):
        return path, os.path.basename(str(getattr(path, "name", "video")))
    name = os.path.basename(os.fspath(path))
    try:
        return open(path, "rb"), name
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SlotIDError(
            f"{name or os.fspath(path)!r} cannot be opened: {reason}", "a video or photo file", "Check the path."
        ) from error


def _sha256_of(file: BinaryIO, name: str, go_on: Callable[[], None]) -> str:
    digest, size = hashlib.sha256(), 0
    file.seek(0)
    while block := file.read(1 << 20):
        digest.update(block)
        size += len(block)
        go_on()
    if size == 0:
        raise SlotIDError(f"{name} is empty (0 bytes)", "a video or photo file", "Copy or export the file again.")
    return digest.hexdigest()


def _take(
    decoder: Decoder, grid: list[Fraction], begin: Fraction, progress: Progress | None
) -> list[tuple[Fraction, np.ndarray]]:
    """The source frame nearest to each time of the grid, as (time, uint8 [H, W, 3]), as far as the file goes."""
    taken: list[tuple[Fraction, np.ndarray]] = []
    previous = None
    for current in decoder:
        while len(taken) < len(grid) and grid[len(taken)] <= current.time:
            goal = grid[len(taken)]
            nearer = previous is not None and goal - previous.time <= current.time - goal
            taken.append((previous if nearer else current).picture())
            _check_memory(decoder.name, taken[-1][1], len(grid))
        if progress is not None:
            progress(len(taken), len(grid))
        if len(taken) == len(grid):
            return taken
        previous = current
    decoder.check_complete(begin)
    if decoder.count == 1 and begin < decoder.end:
        return [previous.picture()]
    while len(taken) < len(grid) and grid[len(taken)] < decoder.end:
        taken.append(previous.picture())
    if not taken:
        raise SlotIDError(
            f"start is {float(begin):g} s, and {decoder.name} ends at {float(decoder.end):.3f} s",
            "a start before the end of the video",
            "Lower start.",
        )
    return taken


def _check_memory(name: str, picture: np.ndarray, count: int) -> None:
    needed = picture.size * 4 * count
    if needed > MAX_CLIP_BYTES:
        height, width = picture.shape[:2]
        raise SlotIDError(
            f"{count} frames of {width} x {height} pixels from {name} need {needed / 1024**3:.1f} GiB",
            f"at most {MAX_CLIP_BYTES / 1024**3:.0f} GiB",
            "Ask for fewer frames or a smaller max_side.",
        )


def _seconds(label: str, value: float, *, zero_allowed: bool) -> Fraction:
    number = isinstance(value, int | float | Fraction) and not isinstance(value, bool) and math.isfinite(value)
    if not number or value < 0 or (value == 0 and not zero_allowed):
        bound = "0 or more" if zero_allowed else "above 0"
        raise SlotIDError(f"{label} is {value!r}", f"seconds, {bound}", f"Correct {label}.")
    return Fraction(value).limit_denominator(1_000_000)


def _whole(label: str, value: int, low: int, high: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise SlotIDError(f"{label} is {value!r}", f"a whole number from {low} to {high}", f"Correct {label}.")
