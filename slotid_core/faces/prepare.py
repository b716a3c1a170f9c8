"""The stage itself: from a clip to crops of one person."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..detectors import DEFAULT_PACK, Box, Detector, LandmarksDetector, make_detector
from ..errors import SlotIDError, SlotIDWarning
from ..video import Clip, Progress, as_bytes, check_frames
from .checkup import SMALL, Checkup, examine
from .coverage import Coverage, counted
from .cropping import crop_square, face_mask, fill, smooth
from .selection import select
from .tracking import Track, find_cuts, link


@dataclass(frozen=True)
class Faces:
    """Crops of one person.

    Args:
        crops: [T, size, size, 3] float32 in [0, 1].
        masks: [T, size, size] float32 in [0, 1], 1 in the face, falling softly to 0 around it.
        boxes: [T, 4] float32, the crops' squares as x0, y0, x1, y1 in pixels of the clip; they may leave the frame.
        coverage: what was found.
        clip: the frames that were used, in order of time; `fps` is the rate within each run of them.
        checkup: all the frames that were looked at, with what is wrong with each and why it was left out.
    """

    crops: Tensor
    masks: Tensor
    boxes: Tensor
    coverage: Coverage
    clip: Clip
    checkup: Checkup


def prepare_faces(
    clip: Clip,
    *,
    detector: str | Detector = "dlib",
    person: str | int = "largest",
    margin: float = 0.6,
    size: int = 256,
    smoothing: float = 0.15,
    frames: int | None = None,
    landmarks: Any = None,
    model_folders: Iterable[str | os.PathLike[str]] = (),
    model_pack: str = DEFAULT_PACK,
    progress: Progress | None = None,
) -> Faces:
    """Follow one person's face through the clip, choose the frames and crop them. Deterministic.

    Runs of four frames (one latent frame) of which most are flawed (blurred, too small, off-frame, hidden, a jump) are
    left out, unless nothing would be left; whole_frame takes the clip as it is. Of the rest, `frames` are chosen so
    that they cover its poses and expressions.

    Args:
        clip: frames in order of time.
        detector: "dlib", "insightface", "landmarks", "whole_frame", or an object with `name` and `detect`.
        person: "largest" (the face with the largest area, summed over the clip), "leftmost", or a number counted from
            the left, from 0; both in the first frame that has faces.
        margin: room around the face, as a part of its longer side; the crop's side is (1 + margin) faces. Not used
            by whole_frame, which keeps all of the frame and repeats its edge where it is not square.
        size: side of the crops in pixels, a multiple of 16 from 32 to 1024.
        smoothing: seconds (standard deviation) over which the box is averaged, before and after alike; 0 for none.
        frames: the most frames to keep, brought to 4k + 1; None keeps all that are good.
        landmarks: FACE_LANDMARKS of the clip's frames, for the detector "landmarks".
        model_folders, model_pack: for insightface, see `make_detector`.
        progress: called with (work done, all of it) after each frame searched, examined or cropped; what it raises
            ends the work.

    Raises:
        SlotIDError: no face anywhere, a person that is not there, a detector that is not installed, arguments out of
            range, NaN frames.

    Warns:
        SlotIDWarning: when the face is found in less than half of the frames.
    """
    _check_arguments(margin, size, smoothing, frames)
    person = _person(person)
    check_frames(clip.frames, channels_from=3)
    if isinstance(detector, str):
        detector = make_detector(detector, landmarks=landmarks, model_folders=model_folders, model_pack=model_pack)
    if isinstance(detector, LandmarksDetector):
        _check_count(len(detector), clip)
    whole = detector.name == "whole_frame"

    report = _stages(progress, clip.frames.shape[0])
    found = _detect(clip, detector, report(0))
    cuts = [] if whole else find_cuts(clip.frames)
    tracks = link(found, cuts)
    if not tracks:
        raise _no_face(clip, detector.name)
    track = _choose(tracks, found, person)
    shot = _shot(track, cuts, len(found))
    path = fill(track, shot)
    checkup = examine(clip, track, path, shot, whole=whole, progress=report(1))
    checkup = select(checkup, shot, frames, drop_flaws=not whole)
    used = checkup.kept()
    coverage = _coverage(checkup, found, track, used, shot, detector.name, str(person), cuts)
    if coverage.found < 0.5 * coverage.examined:
        warnings.warn(coverage.report(), SlotIDWarning, stacklevel=2)
    # Smoothed over the frames as filmed, left out ones too: the crop must not jump where some are.
    path = smooth(path, 0.0 if whole else smoothing * float(clip.fps))[[i - shot.start for i in used]]
    clip = replace(clip, frames=clip.frames[used], timestamps=clip.timestamps[used])
    sides = np.exp(path[:, 2:]).max(axis=1) * (1.0 if whole else 1.0 + margin)
    extent = clip.frames.shape[1:3]
    boxes = np.concatenate([path[:, :2] - sides[:, None] / 2, path[:, :2] + sides[:, None] / 2], axis=1)
    crops, masks, cropped = [], [], report(2)
    for frame, place, box in zip(clip.frames, path, boxes, strict=True):
        crops.append(crop_square(frame.numpy(), box, size))
        masks.append(face_mask(place, box, size, extent, whole))
        cropped(len(crops), len(used))
    crops, masks, boxes = (torch.from_numpy(np.asarray(array, np.float32)) for array in (crops, masks, boxes))
    return Faces(crops, masks, boxes, coverage, clip, checkup)


def _coverage(
    checkup: Checkup,
    found: list[list[Box]],
    track: Track,
    used: list[int],
    shot: range,
    detector: str,
    person: str,
    cuts: list[int],
) -> Coverage:
    checks, expressions = checkup.checks, checkup.expressions
    left_out: dict[str, list[int]] = {}
    for i, check in enumerate(checks):
        if check.left_out:
            left_out.setdefault(check.left_out, []).append(i)
    # A face that is half outside, smeared or another's gives points of no face.
    poses = [checks[i].pose if set(checks[i].flaws) <= {SMALL} else None for i in used]
    return Coverage(
        frames=len(used),
        detected=sum(checks[i].found for i in used),
        interpolated=[place for place, i in enumerate(used) if not checks[i].found],
        faces_per_frame=[len(found[i]) for i in used],
        smallest_face_px=min(max(face.width, face.height) for face in track.boxes.values()),
        detector=detector,
        person=person,
        cuts=tuple(cuts),
        examined=len(shot),
        found=sum(check.found for check in checks),
        left_out=left_out,
        poses=tuple(pose and (round(pose.yaw, 1), round(pose.pitch, 1)) for pose in poses),
        expression_source=expressions.source,
        expressions=expressions.strongest(used),
    )


def _check_arguments(margin: float, size: int, smoothing: float, frames: int | None) -> None:
    for label, value, limit in (("margin", margin, 3.0), ("smoothing", smoothing, 5.0)):
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= limit:
            raise SlotIDError(f"{label} is {value!r}", f"a number from 0 to {limit:g}", f"Correct {label}.")
    if not isinstance(size, int) or isinstance(size, bool) or size % 16 or not 32 <= size <= 1024:
        # The VAE halves three times, the encoder's patches once more.
        raise SlotIDError(f"size is {size!r}", "a multiple of 16 from 32 to 1024", "Correct size.")
    if frames is not None and (not isinstance(frames, int) or isinstance(frames, bool) or frames < 1):
        raise SlotIDError(f"frames is {frames!r}", "a whole number from 1 on, or None for all", "Correct frames.")


def _person(person: str | int) -> str | int:
    if isinstance(person, str) and person.isdecimal():
        person = int(person)
    if person in ("largest", "leftmost") or (type(person) is int and person >= 0):
        return person
    choices = "largest, leftmost, or 0, 1, 2 ... from the left"
    raise SlotIDError(f"person is {person!r}", choices, "Choose one of these.")


def _check_count(count: int, clip: Clip) -> None:
    # A batch may have lost up to three frames on its way to 4k + 1.
    if not 0 <= count - clip.frames.shape[0] < 4:
        raise SlotIDError(
            f"The landmarks are of {counted(count, 'frame')}, the clip has {clip.frames.shape[0]}",
            "landmarks found in this clip's own frames",
            "Connect the same frames to the Face Landmarker and to Prepare Face.",
        )


def _stages(progress: Progress | None, count: int) -> Callable[[int], Progress]:
    """Progress of each stage (searched, examined, cropped) as a part of the whole, in frames of all three."""

    def stage(number: int) -> Progress:
        def report(done: int, total: int) -> None:
            if progress is not None:
                progress(number * count + done * count // total, 3 * count)

        return report

    return stage


def _detect(clip: Clip, detector: Detector, progress: Progress) -> list[list[Box]]:
    found = []
    for i, frame in enumerate(clip.frames):
        found.append(detector.detect(as_bytes(frame), i))
        progress(i + 1, clip.frames.shape[0])
    return found


def _no_face(clip: Clip, name: str) -> SlotIDError:
    count, first, last = clip.frames.shape[0], clip.timestamps[0].item(), clip.timestamps[-1].item()
    looked = f"the {count} frames" if count > 1 else "the one frame"
    return SlotIDError(
        f"No face in {looked} of {clip.source} looked at, {first:.2f} s to {last:.2f} s (detector {name})",
        "a face turned more or less to the camera, at least an eighth of the picture's longer side",
        "Choose another part of the clip with start and duration, or another detector; if the clip is already cropped "
        "to the face, the detector whole_frame.",
    )


def _choose(tracks: list[Track], found: list[list[Box]], person: str | int) -> Track:
    if person == "largest":
        return max(tracks, key=lambda track: sum(box.width * box.height for box in track.boxes.values()))
    first = next(i for i, boxes in enumerate(found) if boxes)
    row = sorted((track for track in tracks if first in track.boxes), key=lambda track: track.boxes[first].centre)
    place = 0 if person == "leftmost" else person
    if place >= len(row):
        raise SlotIDError(
            f"person is {place}, and frame {first} shows {counted(len(row), 'face')}",
            f"0 to {len(row) - 1}, counted from the left" if len(row) > 1 else "0, or largest",
            "Choose one of these, or another part of the clip.",
        )
    return row[place]


def _shot(track: Track, cuts: list[int], count: int) -> range:
    inside = next(iter(track.boxes))
    return range(max([0, *(c for c in cuts if c <= inside)]), min([count, *(c for c in cuts if c > inside)]))
