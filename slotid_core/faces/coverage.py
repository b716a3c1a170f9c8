"""What of a person a clip shows, as numbers and in plain words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

SMALL_FACE = 64
# Beyond this the far cheek begins to go; within it a face counts as frontal.
SIDE_YAW = 15.0
PITCH_RANGE = 12.0
# Of a movement's full extent: seen, and, for appearance (1 - correlation with the usual look), a face that moves.
SEEN, CHANGED = 0.4, 0.1
_WHY = {
    "blur": "blurred",
    "too small": "the face is too small",
    "off-frame": "the face leaves the picture",
    "occluded": "the face is hidden or turned away",
    "jump": "the face jumps",
    "another shot": "another shot",
    "not needed": "the others cover its poses and expressions",
}


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
        examined, found: frames of that shot, and those of them in which the person's face was found.
        left_out: frames of the clip that were not used, by reason.
        poses: (yaw, pitch) in degrees of each frame used, None where not known.
        expression_source: "blendshapes", "landmarks", "appearance", or "" where nothing was measured.
        expressions: strongest of each movement in the frames used, 0 to about 1.
    """

    frames: int
    detected: int
    interpolated: list[int]
    faces_per_frame: list[int]
    smallest_face_px: float
    detector: str
    person: str = "largest"
    cuts: tuple[int, ...] = ()
    examined: int = 0
    found: int = 0
    left_out: dict[str, list[int]] = field(default_factory=dict)
    poses: tuple[tuple[float, float] | None, ...] = ()
    expression_source: str = ""
    expressions: dict[str, float] = field(default_factory=dict)

    @property
    def fraction(self) -> float:
        """Part of the frames in which the face was found, 0 to 1."""
        return self.detected / self.frames

    def frames_of_clip(self) -> list[int]:
        """The frames used, as numbers of the clip."""
        out = {number for numbers in self.left_out.values() for number in numbers}
        return [number for number in range(self.frames + len(out)) if number not in out]

    def to_dict(self) -> dict[str, Any]:
        """All entries as plain JSON values, with `fraction`."""
        poses = [pose and list(pose) for pose in self.poses]
        return {**asdict(self), "cuts": list(self.cuts), "poses": poses, "fraction": self.fraction}

    def report(self) -> str:
        """In plain words, one remark a line."""
        if self.detector == "whole_frame":
            first = f"The whole frame is taken for the face in {counted(self.frames, 'frame')}; nothing was detected."
            lines = [first, *left_out_lines(self.left_out, self.frames), *advice(self.to_dict())]
            return "\n".join(lines)
        lines = [f"Face found in {self.found} of {counted(self.examined, 'frame')} ({self.detector})."]
        lines += left_out_lines(self.left_out, self.frames)
        if self.interpolated:
            used = self.frames_of_clip()
            gaps = frames_named([used[place] for place in self.interpolated])
            lines.append(f"No face in {gaps}: the crop follows from the neighbours.")
        crowd = [i for i, faces in enumerate(self.faces_per_frame) if faces > 1]
        if crowd:
            most = max(self.faces_per_frame)
            followed = f"number {int(self.person) + 1} from the left" if self.person.isdigit() else f"the {self.person}"
            lines.append(
                f"{'Up to ' if most > 2 else ''}{most} faces in {counted(len(crowd), 'frame')}; followed {followed}. "
                "The setting person chooses another."
            )
        if self.cuts:
            lines.append(f"The clip cuts to another shot at {frames_named(list(self.cuts))}; only one shot was used.")
        lines.append(f"Smallest face: {self.smallest_face_px:.0f} pixels.")
        if self.smallest_face_px < SMALL_FACE:
            lines.append(f"Below {SMALL_FACE} pixels little of a likeness is left: a closer shot is better.")
        return "\n".join(lines + advice(self.to_dict()))


def left_out_lines(left_out: dict[str, list[int]], kept: int) -> list[str]:
    """What was not used and why, one line a reason."""
    total = sum(map(len, left_out.values()))
    head = [f"{counted(kept, 'frame')} kept, {total} left out:"] if total else []
    return head + [f"- {_WHY[reason]}: {frames_named(numbers)}." for reason, numbers in left_out.items()]


def view_of(yaw: float) -> str:
    """The side of the picture that the face looks to, or front."""
    return "front" if abs(yaw) < SIDE_YAW else "right" if yaw > 0 else "left"


def advice(coverage: dict[str, Any]) -> list[str]:
    """What the frames do not show and a video will have to guess, in plain words.

    Args:
        coverage: `Coverage.to_dict()`, as it is or as an identity file keeps it; older files say less.
    """
    known = [pose for pose in coverage.get("poses", []) if pose]
    strongest, source = coverage.get("expressions", {}), coverage.get("expression_source", "")
    shown, guessed = [], []
    if known:
        views = {view_of(yaw) for yaw, _ in known}
        if views == {"front"}:
            shown.append("only frontal")
            guessed.append("side views")
        elif missing := [side for side in ("left", "right") if side not in views]:
            shown.append(f"nothing turned to the {missing[0]} of the picture")
            guessed.append("that side")
        pitches = [pitch for _, pitch in known]
        if max(pitches) - min(pitches) < PITCH_RANGE:
            shown.append("at one height")
            guessed += ["looking up", "looking down"]
    if source in ("blendshapes", "landmarks"):
        absent = [name for name in ("smile", "open mouth") if strongest.get(name, 0.0) < SEEN]
        shown += [f"no {name}" for name in absent]
        guessed += [{"smile": "smiles", "open mouth": "speech"}[name] for name in absent]
    elif source == "appearance" and coverage.get("frames", 1) > 1 and strongest.get("change", 0.0) < CHANGED:
        shown.append("the mouth hardly moves")
        guessed += ["smiles", "speech"]
    if coverage.get("frames", 0) == 1:
        shown, guessed = ["a single picture"], ["how the face moves, and other views,"]
    if not shown:
        return []
    text = f"{_listed(shown)}: {_listed(guessed)} will be guessed."
    return [text[0].upper() + text[1:]]


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


def counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def frames_named(numbers: list[int]) -> str:
    """Frames by their numbers, runs of three and more by their ends ("frames 2, 5, 8-20"); at most twelve entries."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [part for run in runs for part in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]
    return f"frame{'s' * (len(numbers) > 1)} {', '.join(parts[:12])}" + (", ..." if len(parts) > 12 else "")
