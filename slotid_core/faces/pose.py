"""Which way a head is turned, from the landmarks of one face and a head of average proportions."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ..detectors import Marks
from ..errors import load_package

# An average head in millimetres, from the tip of the nose: x to the picture's right in a frontal view, y down, z away
# from the camera. After the anthropometric means commonly used with solvePnP; a person differs by some millimetres,
# which turns the measured pitch by several degrees and the measured yaw, by symmetry, hardly at all.
_HEAD = {
    "nose_tip": (0.0, 0.0, 0.0),
    "nose_base": (0.0, 11.0, 12.0),
    "chin": (0.0, 64.0, 18.0),
    "left_eye_outer": (-45.0, -33.0, 28.0),
    "left_eye_inner": (-17.0, -33.0, 22.0),
    "right_eye_inner": (17.0, -33.0, 22.0),
    "right_eye_outer": (45.0, -33.0, 28.0),
    "left_eye": (-31.0, -33.0, 22.0),
    "right_eye": (31.0, -33.0, 22.0),
    "left_mouth": (-25.0, 30.0, 22.0),
    "right_mouth": (25.0, 30.0, 22.0),
}
# Left and right are the picture's. Numbers of the points in each scheme of `Marks`.
POINTS: dict[str, dict[str, int]] = {
    "dlib5": {"right_eye_outer": 0, "right_eye_inner": 1, "left_eye_outer": 2, "left_eye_inner": 3, "nose_base": 4},
    "five": {"left_eye": 0, "right_eye": 1, "nose_tip": 2, "left_mouth": 3, "right_mouth": 4},
    "sixty_eight": {
        "nose_tip": 30,
        "nose_base": 33,
        "chin": 8,
        "left_eye_outer": 36,
        "left_eye_inner": 39,
        "right_eye_inner": 42,
        "right_eye_outer": 45,
        "left_mouth": 48,
        "right_mouth": 54,
    },
    "mesh": {
        "nose_tip": 1,
        "chin": 152,
        "left_eye_outer": 33,
        "left_eye_inner": 133,
        "right_eye_inner": 362,
        "right_eye_outer": 263,
        "left_mouth": 61,
        "right_mouth": 291,
    },
}
# The camera stands this many eye-distances away: far enough that its own perspective, which is not known, is small.
_DISTANCE = 20.0
_EYES = 90.0


class Pose(NamedTuple):
    """Where a face looks, in degrees: yaw > 0 to the picture's right, pitch > 0 up; (0, 0) into the camera."""

    yaw: float
    pitch: float


def pose_of(marks: Marks | None) -> Pose | None:
    """The pose by OpenCV's solvePnP, or None where the points give none (no marks, or all in one place)."""
    if marks is None:
        return None
    cv2 = load_package("cv2", "pack")

    names = POINTS[marks.scheme]
    head = np.array([_HEAD[name] for name in names])
    points = np.array([marks.points[number] for number in names.values()], dtype=float)
    spread = np.linalg.norm(points - points.mean(axis=0), axis=1).max()
    if not np.isfinite(points).all() or spread < 1:
        return None
    scale = np.linalg.norm(head - head.mean(axis=0), axis=1).max() / spread
    camera = np.diag([_DISTANCE * _EYES, _DISTANCE * _EYES, 1.0])
    # Centred, and begun from a frontal view rolled as the eyes are: five points that lie nearly in a plane have two
    # solutions, and this is the one of a face seen from the front.
    across = points[list(names).index(_right(names))] - points[list(names).index(_left(names))]
    roll = np.array([0.0, 0.0, np.arctan2(across[1], across[0])])
    centred = (points - points.mean(axis=0)) * scale
    rotated = head.mean(axis=0)
    start = np.array([-rotated[0], -rotated[1], _DISTANCE * _EYES])
    good, rotation, _ = cv2.solvePnP(
        head, centred, camera, None, roll.reshape(3, 1), start.reshape(3, 1), True, cv2.SOLVEPNP_ITERATIVE
    )
    forward = -cv2.Rodrigues(rotation)[0][:, 2]
    if not good or not np.isfinite(forward).all() or forward[2] >= 0:
        return None
    return Pose(float(np.degrees(np.arctan2(forward[0], -forward[2]))), float(np.degrees(np.arcsin(-forward[1]))))


def _left(names: dict[str, int]) -> str:
    return "left_eye_outer" if "left_eye_outer" in names else "left_eye"


def _right(names: dict[str, int]) -> str:
    return _left(names).replace("left", "right")
