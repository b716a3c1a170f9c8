"""Which boxes of successive frames are the same person, told by place, size and motion alone."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ..detectors import Box
from ..errors import load_package

# A cut changes the picture by this much (mean over a 16 x 16 thumbnail), and far more than the frames around it change.
CUT_LEVEL = 0.1
CUT_FACTOR = 5.0
# Distances in faces: within CLOSE a box continues a track; where nobody else is seen, within ALONE.
CLOSE, ALONE = 0.75, 2.0
MAX_SIZE_RATIO = 1.8
# Motion is carried on over this many missed frames; further it is a guess.
COASTING = 3


@dataclass
class Track:
    """One person's boxes by frame number, in order."""

    boxes: dict[int, Box] = field(default_factory=dict)

    def expected_centre(self, frame: int) -> np.ndarray:
        """Where the person should be at `frame` if the last motion goes on."""
        last = max(self.boxes)
        centre = np.array(self.boxes[last].centre)
        if last - 1 in self.boxes:
            centre += (centre - self.boxes[last - 1].centre) * min(frame - last, COASTING)
        return centre


def find_cuts(frames: Tensor) -> list[int]:
    """Frames at which a new shot begins, from frames [T, H, W, 3]."""
    cv2 = load_package("cv2", "pack")

    thumbs = [cv2.resize(frame[..., :3].numpy(), (16, 16), interpolation=cv2.INTER_AREA) for frame in frames]
    if len(thumbs) < 3:
        return []
    steps = np.abs(np.diff(np.stack(thumbs), axis=0)).mean(axis=(1, 2, 3))
    limit = max(CUT_LEVEL, CUT_FACTOR * float(np.median(steps)))
    return [i + 1 for i, step in enumerate(steps) if step > limit]


def link(found: list[list[Box]], cuts: list[int]) -> list[Track]:
    """Tracks through the boxes of all frames; each box is in exactly one, none goes through a cut."""
    done: list[Track] = []
    open_tracks: list[Track] = []
    for frame, boxes in enumerate(found):
        if frame in cuts:
            done, open_tracks = done + open_tracks, []
        pairs = []
        for t, track in enumerate(open_tracks):
            alone = len(boxes) == 1 and len(found[max(track.boxes)]) == 1
            for b, box in enumerate(boxes):
                distance = _distance(track, frame, box)
                if distance <= (ALONE if alone else CLOSE):
                    pairs.append((distance, t, b))
        taken_tracks: set[int] = set()
        taken_boxes: set[int] = set()
        for _, t, b in sorted(pairs):
            if t not in taken_tracks and b not in taken_boxes:
                open_tracks[t].boxes[frame] = boxes[b]
                taken_tracks.add(t)
                taken_boxes.add(b)
        open_tracks += [Track({frame: box}) for b, box in enumerate(boxes) if b not in taken_boxes]
    return done + open_tracks


def _distance(track: Track, frame: int, box: Box) -> float:
    """Distance in faces from where the track should be; infinite when the size alone rules the box out."""
    last = track.boxes[max(track.boxes)]
    sizes = max(last.width, last.height), max(box.width, box.height)
    if max(sizes) > MAX_SIZE_RATIO * min(sizes):
        return float("inf")
    return float(np.linalg.norm(track.expected_centre(frame) - box.centre)) * 2 / sum(sizes)
