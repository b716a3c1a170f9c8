"""What the probe is asked for: the parameters of a person and of a clip, as numbers a network can learn."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..demo.people import MARKS, PARAMETERS, STATIC, People
from ..demo.prompts import BACKGROUNDS, EXPRESSIONS, POSES
from ..demo.renderer import PER_FRAME

SIDES = ("left", "right")
KINDS = tuple(f"mark_{side}" for side in SIDES)
HUES = ("hair_hue", "eye_hue", *(f"{kind}_hue" for kind in KINDS))
NUMERIC = tuple(name for name in PARAMETERS if name not in (*HUES, *KINDS))
STATIC_NUMERIC = tuple(name for name in NUMERIC if name in STATIC)
# These show in a smile alone.
SMILE_ONLY = ("smile_asymmetry", "smile_onset", "brow_coupling")
# These show in a clip alone, not in single frames.
MOVING = ("smile_onset", "blink_rate", "bob_amplitude", "bob_frequency")
# A head that bobs by less than half a pixel of 64 has no frequency to see.
BOB_VISIBLE = 0.015
VOCABULARIES = {"pose": tuple(POSES), "expression": EXPRESSIONS, "background": tuple(BACKGROUNDS)}
YAW_SCALE = 30.0

# What each frame is asked for: how the head stands and, of a smile, how far it tilts the mouth and raises the brows.
TRACK_SCALES = {
    "yaw": 0.5, "pitch": 0.1, "roll": 0.05, "x": 0.03, "y": 0.04, "smile": 0.4, "surprise": 0.4, "blink": 0.4,
    "tilt": 0.25, "raise": 0.3,
}  # fmt: skip
_MIRRORED_TRACKS = ("yaw", "roll", "x", "tilt")
_MIRRORED_NUMBERS = ("parting", "smile_asymmetry")


@dataclass(frozen=True)
class Targets:
    """Truths of N clips of T frames.

    numeric [N, 24] standardised (uniform parameters to mean 0, deviation 1), in the order of NUMERIC, and `shown`
    [N, 24] whether the clip shows it; hues [N, 4, 2] as (sin, cos), in the order of HUES, and `coloured` [N, 4]; kinds
    [N, 2] mark of each side; words [N, 3] pose, expression, background; tracks [N, T, 10] scaled.
    """

    numeric: Tensor
    shown: Tensor
    hues: Tensor
    coloured: Tensor
    kinds: Tensor
    words: Tensor
    tracks: Tensor

    def __getitem__(self, rows: Tensor) -> Targets:
        return Targets(**{name: value[rows] for name, value in vars(self).items()})

    def yaw(self) -> Tensor:
        """Mean yaw [N] in degrees / YAW_SCALE."""
        radians = self.tracks[..., PER_FRAME.index("yaw")].mean(1) * TRACK_SCALES["yaw"]
        return torch.rad2deg(radians) / YAW_SCALE


def targets_of(people: People, tracks: Tensor, words: Tensor) -> Targets:
    """Truths of clips: their people, tracks [N, T, 8] in the order of PER_FRAME, words [N, 3]."""
    numeric = torch.stack([standardised(name, people[name]) for name in NUMERIC], dim=-1)
    angle = 2 * math.pi * torch.stack([people[name] for name in HUES], dim=-1)
    kinds = torch.stack([people[name] for name in KINDS], dim=-1).long()
    smile = tracks[..., PER_FRAME.index("smile")]
    tilt, lift = (smile * people[name][:, None] for name in ("smile_asymmetry", "brow_coupling"))
    scales = torch.tensor(list(TRACK_SCALES.values()))
    worn = kinds > MARKS.index("none")
    return Targets(
        numeric=numeric,
        shown=torch.stack([shown(name, people, words) for name in NUMERIC], dim=-1),
        hues=torch.stack([angle.sin(), angle.cos()], dim=-1),
        coloured=torch.cat([torch.ones_like(worn), worn], dim=-1),
        kinds=kinds,
        words=words,
        tracks=torch.cat([tracks, tilt[..., None], lift[..., None]], -1) / scales,
    )


def mixed(first: Targets, second: Targets, share: Tensor) -> Targets:
    """Truths between those of two sets of clips that differ in numbers alone; `share` [N] is how far on to the other's,
    and may lie beyond 0 .. 1."""
    return replace(
        first,
        numeric=first.numeric.lerp(second.numeric, share[:, None]),
        tracks=first.tracks.lerp(second.tracks, share[:, None, None]),
    )


def shown(name: str, people: People, words: Tensor) -> Tensor:
    """Whether clips with these prompts [N, 3] can show the numeric parameter: [N] bool."""
    if name in SMILE_ONLY:
        return words[:, 1] == EXPRESSIONS.index("smile")
    if name == "bob_frequency":
        return people["bob_amplitude"] > BOB_VISIBLE
    return torch.ones(len(words), dtype=torch.bool)


def standardised(name: str, value: Tensor) -> Tensor:
    """A numeric parameter with mean 0 and deviation 1 over people."""
    low, high = PARAMETERS[name]
    return (value - (low + high) / 2) / ((high - low) / math.sqrt(12))


def unstandardised(name: str, value: Tensor) -> Tensor:
    """The inverse of `standardised`."""
    low, high = PARAMETERS[name]
    return value * ((high - low) / math.sqrt(12)) + (low + high) / 2


def glimpsed(targets: Targets, frames: Tensor) -> Targets:
    """The truths when only some frames [n] of every clip are seen: how the person moves does not show."""
    moving = torch.tensor([name in MOVING for name in NUMERIC])
    return replace(targets, shown=targets.shown & ~moving, tracks=targets.tracks[:, frames])


def mirrored(targets: Targets, rows: Tensor) -> Targets:
    """The truths when the pictures of `rows` [N] bool are mirrored: left becomes right."""
    numbers = torch.tensor([-1.0 if name in _MIRRORED_NUMBERS else 1.0 for name in NUMERIC])
    moves = torch.tensor([-1.0 if name in _MIRRORED_TRACKS else 1.0 for name in TRACK_SCALES])
    sides = [0, 1, 3, 2]
    # POSES runs from the viewer's far left to far right.
    pose = len(POSES) - 1 - targets.words[:, :1]
    return replace(
        targets,
        numeric=torch.where(rows[:, None], targets.numeric * numbers, targets.numeric),
        hues=torch.where(rows[:, None, None], targets.hues[:, sides], targets.hues),
        coloured=torch.where(rows[:, None], targets.coloured[:, sides], targets.coloured),
        kinds=torch.where(rows[:, None], targets.kinds.flip(1), targets.kinds),
        words=torch.where(rows[:, None], torch.cat([pose, targets.words[:, 1:]], 1), targets.words),
        tracks=torch.where(rows[:, None, None], targets.tracks * moves, targets.tracks),
    )
