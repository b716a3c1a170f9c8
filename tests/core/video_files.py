"""Small videos that the tests write, and how they read them back."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest

from slotid_core.errors import SlotIDError

SIZE = (64, 48)


def grey(level: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    return np.full((size[1], size[0], 3), level, dtype=np.uint8)


def write(path, pictures, times=None, rate=Fraction(24), codec="libx264", pix_fmt="yuv420p", size=SIZE, **options):
    """A video whose i-th picture is shown at times[i] (seconds), or at i / rate."""
    options = {"g": "12"} | options
    with av.open(str(path), "w", options={"movflags": "faststart"}) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        stream.codec_context.time_base = Fraction(1, 90000)
        for i, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgba" if picture.shape[-1] == 4 else "rgb24")
            time = i / rate if times is None else Fraction(times[i])
            frame.pts, frame.time_base = round(time * 90000), Fraction(1, 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def levels(clip) -> list[int]:
    return (clip.frames.mean(dim=(1, 2, 3)) * 255).round().int().tolist()


def close(found: list[int], expected: list[int], tolerance: int = 2) -> bool:
    return len(found) == len(expected) and all(abs(a - b) <= tolerance for a, b in zip(found, expected, strict=True))


def refusal(call) -> SlotIDError:
    with pytest.raises(SlotIDError) as caught:
        call()
    assert caught.value.found and caught.value.expected and caught.value.remedy
    return caught.value
