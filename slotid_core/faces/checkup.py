"""What is wrong with each frame of a clip as a reference, and what it shows of the person."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..detectors import Box
from ..errors import load_package
from ..video import Clip, Progress, as_bytes
from .expression import Expressions, read_expressions
from .pose import Pose, pose_of
from .tracking import Track

BLUR, SMALL, OFF_FRAME, OCCLUDED, JUMP = "blur", "too small", "off-frame", "occluded", "jump"
OTHER_SHOT, NOT_NEEDED = "another shot", "not needed"
# The frame has the sharpness of less than this part of the clip's sharp frames.
BLUR_PART = 0.4
SMALLEST = 40
# This much of a face's box lies in the picture, at least.
INSIDE = 0.85
# Faces that the head moves between two frames at 16 per second, and the ratio of their sizes.
JUMP_DISTANCE, JUMP_SIZE = 0.5, 1.5
# Sharpness is compared at one scale; beyond it, a larger face holds finer detail, not a sharper picture.
_SHARPNESS_SIDE = 96
# Of the sharpness: rounding alone gives flat pictures as much.
_NO_DETAIL = 1e-3


@dataclass(frozen=True)
class FrameCheck:
    """One frame of the clip that was looked at.

    Args:
        found: the person's face was found; the box of other frames follows from the neighbours.
        flaws: what is wrong with it as a reference, of BLUR, SMALL, OFF_FRAME, OCCLUDED, JUMP.
        sharpness: of the face, 0 (flat) upwards; only comparable within a clip.
        pose: where the face looks, None where no landmarks tell.
        left_out: why the frame was not used; "" for frames that were.
    """

    found: bool
    flaws: tuple[str, ...]
    sharpness: float
    pose: Pose | None
    left_out: str = ""


@dataclass(frozen=True)
class Checkup:
    """All frames of a clip that were looked at: `checks[i]` tells of `clip.frames[i]`."""

    clip: Clip
    checks: tuple[FrameCheck, ...]
    expressions: Expressions

    def kept(self) -> list[int]:
        """Numbers of the frames that were used, in order of time."""
        return [i for i, check in enumerate(self.checks) if not check.left_out]


def examine(clip: Clip, track: Track, path: np.ndarray, shot: range, *, whole: bool, progress: Progress) -> Checkup:
    """Check every frame of the clip.

    Args:
        clip: all frames.
        track: the person's boxes.
        path: [len(shot), 4] centre x, y and log width, log height of the face in each frame of the shot.
        shot: the frames without a cut in which the person is seen.
        whole: the frames are face crops already, in which nothing was looked for.
        progress: called with (frames examined, frames).
    """
    frames = [as_bytes(frame) for frame in clip.frames]
    boxes = [track.boxes.get(i) for i in range(len(frames))]
    places = {i: _box(row) for i, row in zip(shot, path, strict=True)}
    sharp = np.zeros(len(frames))
    for i, frame in enumerate(frames):
        if i in places:
            sharp[i] = _sharpness(frame, places[i])
        progress(i + 1, len(frames))
    level = float(np.percentile(sharp[list(shot)], 80)) * BLUR_PART - _NO_DETAIL
    checks = []
    for i, box in enumerate(boxes):
        if i not in places:
            checks.append(FrameCheck(False, (), 0.0, None, OTHER_SHOT))
            continue
        flaws = [] if whole else _flaws(clip, track, i, box, places[i])
        if sharp[i] < level:
            if box is not None:
                flaws.append(BLUR)
            elif flaws == [OCCLUDED] and _still_there(frames, track, places, i):
                # Too blurred for the detector, but not hidden.
                flaws = [BLUR]
        checks.append(FrameCheck(box is not None, tuple(flaws), float(sharp[i]), box and pose_of(box.marks)))
    return Checkup(clip, tuple(checks), read_expressions(frames, boxes))


def _still_there(frames: list[np.ndarray], track: Track, places: dict[int, Box], i: int) -> bool:
    """Whether the place where a face should be looks, roughly, as the nearest found face does."""
    nearest = min(track.boxes, key=lambda frame: (abs(frame - i), frame))
    here, there = _thumbnail(frames[i], places[i]), _thumbnail(frames[nearest], places[nearest])
    return float(here @ there) > 0.8


def _thumbnail(frame: np.ndarray, place: Box) -> np.ndarray:
    """The face in 16 x 16 grey levels, as a vector of mean 0 and length 1 (0 for a flat one)."""
    cv2 = load_package("cv2", "pack")

    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY)
    centre, size = place.centre, (max(round(place.width), 1), max(round(place.height), 1))
    patch = cv2.resize(cv2.getRectSubPix(grey, size, centre), (16, 16), interpolation=cv2.INTER_AREA).astype(float)
    patch = patch.ravel() - patch.mean()
    return patch / max(float(np.linalg.norm(patch)), 1.0)


def _flaws(clip: Clip, track: Track, i: int, box: Box | None, place: Box) -> list[str]:
    flaws, extent = [], clip.frames.shape[1:3]
    if box is None:
        return [OFF_FRAME if _leaving(track, i, place, extent) else OCCLUDED]
    if _inside(box, extent) < INSIDE:
        flaws.append(OFF_FRAME)
    if max(box.width, box.height) < SMALLEST:
        flaws.append(SMALL)
    before = track.boxes.get(i - 1)
    if before is not None:
        sizes = sorted(max(b.width, b.height) for b in (before, box))
        limit = JUMP_DISTANCE * max(16 / float(clip.fps), 1.0)
        step = float(np.linalg.norm(np.subtract(box.centre, before.centre))) / sizes[1]
        if step > limit or sizes[1] > JUMP_SIZE * sizes[0]:
            flaws.append(JUMP)
    return flaws


def _leaving(track: Track, i: int, place: Box, extent: tuple[int, int]) -> bool:
    """Whether a face that was not found is beyond the picture's edge: it was last, or will next be, seen at one."""
    nearest = [
        max((f for f in track.boxes if f < i), default=None),
        min((f for f in track.boxes if f > i), default=None),
    ]
    for frame, step in zip(nearest, (-1, 1), strict=True):
        if frame is None:
            continue
        box, other = track.boxes[frame], track.boxes.get(frame + step)
        motion = np.zeros(2) if other is None else np.subtract(box.centre, other.centre)
        ahead = Box(*(np.array([box.x0, box.y0, box.x1, box.y1]) + 2 * np.tile(motion, 2)).tolist())
        if min(_inside(box, extent), _inside(ahead, extent)) < 0.97:
            return True
    return _inside(place, extent) < INSIDE


def _inside(box: Box, extent: tuple[int, int]) -> float:
    """Part of the box that lies in a picture of (height, width)."""
    width = max(min(box.x1, extent[1]) - max(box.x0, 0), 0)
    height = max(min(box.y1, extent[0]) - max(box.y0, 0), 0)
    return width * height / max(box.width * box.height, 1e-9)


def _box(row: np.ndarray) -> Box:
    half = np.exp(row[2:]) / 2
    return Box(*(row[:2] - half).tolist(), *(row[:2] + half).tolist())


def _sharpness(frame: np.ndarray, place: Box) -> float:
    """Fine detail of the face against its contrast: variance of the Laplacian over the variance of the grey levels."""
    cv2 = load_package("cv2", "pack")

    height, width = frame.shape[:2]
    x0, x1 = (int(np.clip(x, 0, width)) for x in (place.x0, place.x1))
    y0, y1 = (int(np.clip(y, 0, height)) for y in (place.y0, place.y1))
    if x1 - x0 < 8 or y1 - y0 < 8:
        return 0.0
    grey = cv2.cvtColor(np.ascontiguousarray(frame[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY).astype(np.float32)
    scale = _SHARPNESS_SIDE / max(grey.shape)
    if scale < 1:
        grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    # The slight blur takes out noise and the grid of compression, which a blurred face has as much of as a sharp one.
    detail = cv2.Laplacian(cv2.GaussianBlur(grey, (0, 0), 1.0), cv2.CV_32F)
    return float(detail.var() / (grey.var() + 16.0))
