"""Frames as an mp4, all or nothing."""

from __future__ import annotations

import os
from fractions import Fraction
from pathlib import Path

import numpy as np
from torch import Tensor

from ..atomic import write_atomic
from ..errors import SlotIDError
from .clip import as_bytes, as_fps, check_frames


def save_video(path: str | os.PathLike[str], frames: Tensor, fps: float | Fraction) -> None:
    """Write frames as an H.264 mp4 (yuv420p, BT.709); either the whole file appears or none.

    Args:
        path: where to write, with a name that ends in .mp4; an existing file is replaced.
        frames: [T, H, W, 3] floating point in [0, 1]. Odd sizes get their last row or column doubled.
        fps: frames per second, exact fractions kept.

    Raises:
        SlotIDError: for frames as in `clip_from_frames`, or a path that cannot be written.
    """
    rate = as_fps(fps)
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise SlotIDError(f"The video's name is {target.name!r}", "a name ending in .mp4", "Rename the output file.")
    data = check_frames(frames, channels_from=3)[..., :3]
    write_atomic(target, lambda temporary: _encode(temporary, data, rate))


def _encode(path: Path, data: Tensor, rate: Fraction) -> None:
    import av

    height, width = (side + side % 2 for side in data.shape[1:3])
    with av.open(str(path), "w", format="mp4", options={"movflags": "+faststart", "fflags": "+bitexact"}) as container:
        # The same bytes every time: a fixed thread count, and no macroblock tree, in which x264 reads uninitialised
        # memory when the picture is less than 128 pixels wide.
        options = {"crf": "14", "threads": "4", "mbtree": "0"}
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1
        context.color_range = 1
        for i, picture in enumerate(data):
            pixels = as_bytes(picture)
            pixels = np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)), "edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
            frame = frame.reformat(format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG")
            # PyAV before 15 leaves the converted frame unlabelled, and the encoder believes the frame.
            frame.colorspace = frame.color_range = 1
            frame.pts, frame.time_base = i, 1 / rate
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
