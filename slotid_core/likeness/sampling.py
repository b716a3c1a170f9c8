"""The frames of a video that are measured: evenly spaced, the first and the last among them, as the protocols do."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from ..errors import SlotIDError
from ..video import as_bytes, check_frames
from ..video.decoding import Decoder

MAX_SIDE = 2048


def sample_numbers(total: int, count: int | None) -> list[int]:
    """Numbers of the frames: `np.linspace(0, total - 1, count, dtype=int)`, each once; None takes all.

    The scripts (ConsisID 16 frames, OpenS2V-Eval 32) measure a repeated frame twice where a video is shorter; here such
    a video is measured whole.
    """
    if count is None or count >= total:
        return list(range(total))
    return np.linspace(0, total - 1, count, dtype=int).tolist()


def sampled_frames(frames: Tensor, count: int | None) -> tuple[list[int], list[np.ndarray]]:
    """Numbers and uint8 RGB frames of a batch [T, H, W, C >= 3] in [0, 1]."""
    check_frames(frames, channels_from=3)
    _check(count)
    numbers = sample_numbers(len(frames), count)
    return numbers, [as_bytes(frames[i]) for i in numbers]


def sampled_file(path: str | os.PathLike[str], count: int | None) -> tuple[list[int], list[np.ndarray]]:
    """Numbers, in the file, and uint8 RGB frames of a video or photo.

    Raises:
        SlotIDError: a file that is missing, damaged or no video.
    """
    _check(count)
    path = Path(path)
    if not path.is_file():
        raise SlotIDError(f"there is no file {path.name!r}", "a video or photo", "check the name and the folder.")
    with path.open("rb") as file:
        counter = Decoder(file, path.name, Fraction(0), MAX_SIDE)
        total = sum(1 for _ in counter)
        counter.check_complete(Fraction(0))
        wanted = set(numbers := sample_numbers(total, count))
        file.seek(0)
        decoder = Decoder(file, path.name, Fraction(0), MAX_SIDE)
        return numbers, [frame.picture()[1] for i, frame in enumerate(decoder) if i in wanted]


def _check(count: int | None) -> None:
    if count is not None and (not isinstance(count, int) or isinstance(count, bool) or count < 1):
        raise SlotIDError(
            f"samples is {count!r}", "a whole number from 1 on, or None for all frames", "Correct samples."
        )
