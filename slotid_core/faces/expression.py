"""What a face does over a clip: from blendshapes or landmarks where there are any, from appearance otherwise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..detectors import Box, Marks
from ..errors import load_package
from .pose import POINTS

# A part of a movement that an eye would notice; steps of this size count as one when frames are chosen.
NOTICEABLE = 0.25
SEEN = 0.4
_MOUTH = (32, 24)
# iBUG's and MediaPipe's numbers of: corners of the mouth, inner lips, upper and lower lid of each eye, brow and eye.
_NUMBERS = {
    "sixty_eight": ((48, 54), (62, 66), ((37, 41), (44, 46)), ((19, 37), (24, 44))),
    "mesh": ((61, 291), (13, 14), ((159, 145), (386, 374)), ((105, 159), (334, 386))),
}


@dataclass(frozen=True)
class Expressions:
    """The expressions of T frames.

    Args:
        source: "blendshapes", "landmarks" or "appearance".
        names: of the columns of `values`.
        values: [T, K], 0 (not at all) to about 1 (fully), NaN in frames without a face. Appearance has one column,
            "change": how far the lower face is from its usual look in this clip.
        features: [T, D], distances between which are in steps of what an eye notices; NaN in frames without a face.
    """

    source: str
    names: tuple[str, ...]
    values: np.ndarray
    features: np.ndarray

    def strongest(self, rows: list[int]) -> dict[str, float]:
        """The strongest of each movement in these frames, 0 where none is known."""
        known = self.values[rows]
        known = known[~np.isnan(known).any(axis=1)]
        return {name: round(float(known[:, i].max()), 3) if len(known) else 0.0 for i, name in enumerate(self.names)}


def read_expressions(frames: list[np.ndarray], boxes: list[Box | None]) -> Expressions:
    """Expressions of one person's face.

    Args:
        frames: uint8 RGB [H, W, 3], T of them.
        boxes: the face in each, with marks where its detector gives them; None where it was not found.
    """
    marks = [box.marks for box in boxes if box is not None]
    if marks and all(m is not None and m.blendshapes for m in marks):
        rows = [None if box is None else _by_blendshapes(box.marks.blendshapes) for box in boxes]
        return _table("blendshapes", ("smile", "open mouth", "brows", "closed eyes"), rows)
    if marks and all(m is not None and m.scheme in _NUMBERS for m in marks):
        rows = [None if box is None else _by_landmarks(box.marks) for box in boxes]
        return _table("landmarks", ("smile", "open mouth", "brows", "closed eyes"), rows)
    return _by_appearance(frames, boxes)


def _table(source: str, names: tuple[str, ...], rows: list[list[float] | None]) -> Expressions:
    values = np.array([[np.nan] * len(names) if row is None else row for row in rows], dtype=float)
    return Expressions(source, names, values, values / NOTICEABLE)


def _by_blendshapes(shapes: dict[str, float]) -> list[float]:
    def mean(*names: str) -> float:
        return float(np.mean([shapes.get(name, 0.0) for name in names]))

    brows = max(shapes.get("browInnerUp", 0.0), mean("browDownLeft", "browDownRight"))
    smile, closed = mean("mouthSmileLeft", "mouthSmileRight"), mean("eyeBlinkLeft", "eyeBlinkRight")
    return [smile, shapes.get("jawOpen", 0.0), brows, closed]


def _by_landmarks(marks: Marks) -> list[float]:
    corners, lips, lids, brows = _NUMBERS[marks.scheme]
    numbers = POINTS[marks.scheme]

    def gap(pair: tuple[int, int]) -> float:
        return float(np.linalg.norm(marks.points[pair[0]] - marks.points[pair[1]]))

    # Measured in widths between the outer corners of the eyes, which turn away together with the mouth. The levels
    # are those of an average face: mouth 0.55 at rest and 0.75 in a broad smile, lids 0.1 open, brows 0.2 above.
    eyes = max(gap((numbers["left_eye_outer"], numbers["right_eye_outer"])), 1e-6)
    smile = (gap(corners) / eyes - 0.55) / 0.2
    lid, brow = (np.mean([gap(pair) for pair in pairs]) / eyes for pairs in (lids, brows))
    parts = [smile, gap(lips) / eyes / 0.25, abs(brow - 0.2) / 0.1, 1 - lid / 0.1]
    return [float(np.clip(part, 0.0, 1.0)) for part in parts]


def _by_appearance(frames: list[np.ndarray], boxes: list[Box | None]) -> Expressions:
    patches = np.full((len(frames), _MOUTH[0] * _MOUTH[1]), np.nan)
    for i, (frame, box) in enumerate(zip(frames, boxes, strict=True)):
        if box is not None:
            patches[i] = lower_face(frame, box)
    change = np.full((len(frames), 1), np.nan)
    known = ~np.isnan(patches[:, 0])
    if known.any():
        usual = np.median(patches[known], axis=0)
        length = float(np.linalg.norm(usual))
        # Flat patches (a made clip) look all the same.
        change[known, 0] = 1 - patches[known] @ usual / length if length else 0.0
    # 1 - correlation of two patches is half their squared distance; an eighth of it is a change one sees.
    return Expressions("appearance", ("change",), change, patches / np.sqrt(2 * 0.125))


def lower_face(frame: np.ndarray, box: Box) -> np.ndarray:
    """The lower half of a face, upright and of one size, as a vector of mean 0 and length 1 (0 for a flat patch)."""
    cv2 = load_package("cv2", "pack")

    grey = cv2.cvtColor(np.ascontiguousarray(frame), cv2.COLOR_RGB2GRAY).astype(np.float32)
    centre, right = np.array(box.centre), np.array([1.0, 0.0])
    if box.marks is not None and box.marks.scheme in POINTS:
        numbers = POINTS[box.marks.scheme]
        eye = "eye_outer" if "left_eye_outer" in numbers else "eye"
        across = box.marks.points[numbers[f"right_{eye}"]] - box.marks.points[numbers[f"left_{eye}"]]
        if np.linalg.norm(across) > 1:
            right = across / np.linalg.norm(across)
    down = np.array([-right[1], right[0]])
    width, height = _MOUTH
    step = 0.7 * box.width / width
    corner = centre + down * 0.12 * box.height - right * step * (width - 1) / 2
    matrix = np.stack([right * step, down * 0.38 * box.height / height, corner], axis=1)
    patch = cv2.warpAffine(
        cv2.GaussianBlur(grey, (0, 0), max(step / 2, 0.5)),
        matrix,
        _MOUTH,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    ).ravel()
    patch = patch - patch.mean()
    length = float(np.linalg.norm(patch))
    return patch / length if length > 1 else np.zeros_like(patch)
