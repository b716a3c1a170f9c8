"""What of a person a clip shows, as numbers and in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

SMALL_FACE = 64


@dataclass(frozen=True)
class Coverage:
    """What of the person the clip shows; frame numbers count from 0 in the frames used.

    Args:
        frames: frames used.
        detected: frames in which the person's face was found.
        interpolated: the other frames; their boxes come from the neighbours.
        faces_per_frame: faces found in each frame, of anybody.
        smallest_face_px: smallest found size of the person's face (longer side), in pixels of the clip.
        detector: who found them.
        person: who was followed.
        cuts: frames of the clip at which a new shot begins; only the shot with the person is used.
    """

    frames: int
    detected: int
    interpolated: list[int]
    faces_per_frame: list[int]
    smallest_face_px: float
    detector: str
    person: str = "largest"
    cuts: tuple[int, ...] = ()

    @property
    def fraction(self) -> float:
        """Part of the frames in which the face was found, 0 to 1."""
        return self.detected / self.frames

    def to_dict(self) -> dict[str, Any]:
        """All entries as plain JSON values, with `fraction`."""
        return {**asdict(self), "cuts": list(self.cuts), "fraction": self.fraction}

    def report(self) -> str:
        """In plain words, one remark a line."""
        if self.detector == "whole_frame":
            return f"The whole frame is taken for the face in {counted(self.frames, 'frame')}; nothing was detected."
        lines = [f"Face found in {self.detected} of {counted(self.frames, 'frame')} ({self.detector})."]
        if self.interpolated:
            lines.append(f"No face in {frames_named(self.interpolated)}: the crop follows from the neighbours.")
        crowd = [i for i, faces in enumerate(self.faces_per_frame) if faces > 1]
        if crowd:
            most = max(self.faces_per_frame)
            followed = "the face" if self.person.isdigit() else "the"
            lines.append(
                f"{'Up to ' if most > 2 else ''}{most} faces in {counted(len(crowd), 'frame')}; followed {followed} "
                f"{self.person}; choose person=... for another."
            )
        if self.cuts:
            lines.append(f"The clip cuts to another shot at {frames_named(list(self.cuts))}; only one shot was used.")
        lines.append(f"Smallest face: {self.smallest_face_px:.0f} pixels.")
        if self.smallest_face_px < SMALL_FACE:
            lines.append(f"Below {SMALL_FACE} pixels little of a likeness is left: a closer shot is better.")
        return "\n".join(lines)


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def frames_named(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:12])) + (", ..." if len(numbers) > 12 else "")
    return f"frame{'s' * (len(numbers) > 1)} {shown}"
