"""A video against a reference, frame by frame, with what a single figure hides."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ..errors import SlotIDError
from ..faces.coverage import frames_named
from ..faces.expression import read_expressions
from ..faces.pose import pose_of
from ..video import Progress
from .meters import Measured, Meter


@dataclass(frozen=True)
class Spread:
    """How much a face moves: standard deviations of yaw and pitch in degrees (None without landmarks), and of the
    expression in steps that an eye notices."""

    yaw: float | None
    pitch: float | None
    expression: float


@dataclass(frozen=True)
class Likeness:
    """What was measured.

    Args:
        meter, title, licence, same_person: of the meter.
        frames: numbers of the video's frames that were looked at.
        faceless: those of them without a face; they count in no mean.
        single: likeness of each other frame to the first reference frame with a face.
        nearest: likeness of each to whichever reference frame is most like it.
        reference_frames: reference frames with a face, the ones that are compared with.
        reference_faceless: numbers of the reference's frames without one.
        video_spread, reference_spread: how much the face moves in each.
    """

    meter: str
    title: str
    licence: str
    same_person: float | None
    frames: tuple[int, ...]
    faceless: tuple[int, ...]
    single: tuple[float, ...]
    nearest: tuple[float, ...]
    reference_frames: tuple[int, ...]
    reference_faceless: tuple[int, ...]
    video_spread: Spread | None
    reference_spread: Spread | None

    @property
    def score(self) -> float:
        """The published figure: mean of `single`, 0 if no frame has a face."""
        return float(np.mean(self.single)) if self.single else 0.0

    @property
    def nearest_score(self) -> float:
        """Mean of `nearest`, 0 if no frame has a face."""
        return float(np.mean(self.nearest)) if self.nearest else 0.0

    @property
    def same(self) -> float | None:
        """Part of the frames with a face that are nearer than the meter's level for one person."""
        if self.same_person is None or not self.nearest:
            return None
        return float(np.mean([value >= self.same_person for value in self.nearest]))

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain JSON values."""
        plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}
        return {**plain, "score": self.score, "nearest_score": self.nearest_score, "same": self.same}

    def report(self) -> str:
        """In plain words, one remark a line."""
        seen = len(self.single)
        lines = [self.title, f"Licence: {self.licence}."]
        if not seen:
            return "\n".join([*lines, f"No face in any of the {len(self.frames)} frames looked at: the score is 0."])
        lines.append(f"To one reference frame (the published figure): {self.score:.3f}, lowest {min(self.single):.3f}.")
        count = len(self.reference_frames)
        lines.append(
            f"To the nearest of {count} reference frame{'s' * (count != 1)}: {self.nearest_score:.3f}, lowest "
            f"{min(self.nearest):.3f}."
        )
        if self.same is not None:
            lines.append(
                f"The same person, by {self.meter}'s level of {self.same_person:g}: {self.same:.0%} of frames."
            )
        lines.append(f"Face seen in {seen} of {len(self.frames)} frames.")
        if self.faceless:
            lines.append(f"No face in {frames_named(list(self.faceless))}: not counted.")
        lines += _spread_lines(self.video_spread, self.reference_spread)
        return "\n".join(lines)


def measure_likeness(
    video: tuple[list[int], list[np.ndarray]],
    reference: tuple[list[int], list[np.ndarray]],
    meter: Meter,
    *,
    progress: Progress | None = None,
) -> Likeness:
    """Measure how much the largest face of each frame is like the reference's.

    Args:
        video, reference: numbers and uint8 RGB frames, from `sampled_frames` or `sampled_file`.
        meter: from `make_meter`.
        progress: called with (frames done, frames), where a frame needs a second look also before it; what it raises
            ends the measuring.

    Raises:
        SlotIDError: no face in any of the reference's frames.
    """
    total = len(video[1]) + len(reference[1])
    found: list[Measured | None] = []

    def report() -> None:
        if progress is not None:
            progress(len(found), total)

    for frame in [*reference[1], *video[1]]:
        # A second look takes as long as the first, and a cancel should not wait for both.
        found.append(meter.embed(frame, report))
        report()
    known, seen = found[: len(reference[1])], found[len(reference[1]) :]
    people = [face.embedding for face in known if face is not None]
    if not people:
        raise SlotIDError(
            f"no face in any of the {len(known)} reference frames looked at ({meter.name})",
            "a reference that shows the person's face",
            "give another reference, or choose another meter.",
        )
    # [frames with a face, reference frames with a face]
    table = [[meter.likeness(person, face.embedding) for person in people] for face in seen if face is not None]
    return Likeness(
        meter=meter.name,
        title=meter.title,
        licence=meter.licence,
        same_person=meter.same_person,
        frames=tuple(video[0]),
        faceless=tuple(number for number, face in zip(video[0], seen, strict=True) if face is None),
        single=tuple(row[0] for row in table),
        nearest=tuple(max(row) for row in table),
        reference_frames=tuple(n for n, face in zip(reference[0], known, strict=True) if face is not None),
        reference_faceless=tuple(n for n, face in zip(reference[0], known, strict=True) if face is None),
        video_spread=_spread(video[1], seen),
        reference_spread=_spread(reference[1], known),
    )


def _spread(frames: list[np.ndarray], faces: list[Measured | None]) -> Spread | None:
    """Of two faces or more."""
    boxes = [None if face is None else face.box for face in faces]
    if sum(box is not None for box in boxes) < 2:
        return None
    poses = [pose for box in boxes if box is not None and (pose := pose_of(box.marks)) is not None]
    yaw, pitch = np.std(poses, axis=0).tolist() if len(poses) > 1 else (None, None)
    features = read_expressions(frames, boxes).features
    features = features[~np.isnan(features).any(axis=1)]
    return Spread(yaw, pitch, float(np.sqrt(((features - features.mean(axis=0)) ** 2).sum(axis=1).mean())))


def _spread_lines(video: Spread | None, reference: Spread | None) -> list[str]:
    if video is None:
        return []

    def words(spread: Spread) -> str:
        turns = "" if spread.yaw is None else f"turns {spread.yaw:.0f} and nods {spread.pitch:.0f} degrees, "
        return f"{turns}changes its expression by {spread.expression:.2f}"

    lines = [f"The face {words(video)} (standard deviations)."]
    if reference is not None:
        lines.append(f"In the reference it {words(reference)}.")
        if video.expression < 0.5 * reference.expression:
            lines.append("It is stiffer than the reference: a high likeness may be that of a frozen face.")
    return lines
