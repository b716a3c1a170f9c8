"""A reference clip as frames in [0, 1] with their times.

Files are decoded with PyAV (imported when first needed) and resampled by timestamps, so that 59.94 fps, variable frame
rates and rotated phone videos come out right. Only the frames that are asked for are kept, already scaled down.
"""

from .clip import Clip, as_bytes, as_fps, check_frames, clip_from_frames
from .load import Progress, load_video
from .save import save_video

__all__ = [
    "Clip",
    "Progress",
    "as_bytes",
    "as_fps",
    "check_frames",
    "clip_from_frames",
    "load_video",
    "save_video",
]
