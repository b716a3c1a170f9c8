"""The people of the demo world: what each one looks like (static) and how each one moves (dynamic).

A person is an integer seed. Seeds come from three ranges that never overlap, so that a held-out person has not been
seen by any weights. "Left" and "right" are the person's own: the person's left is on the viewer's right.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..errors import SlotIDError
from .seeds import choice, stream, uniform

TRAIN = range(0, 1_000_000)
VALIDATION = range(1_000_000, 1_010_000)
TEST = range(2_000_000, 2_010_000)

MARKS = ("none", "mole", "earring")

# name -> (low, high); lengths in units of which the head is 0.6 high from centre to crown, hues and mixes in 0 .. 1.
STATIC: dict[str, tuple[float, float]] = {
    "aspect": (0.74, 0.92),
    "jaw": (0.02, 0.36),
    "skin_tone": (0.0, 1.0),
    "skin_hue": (0.0, 1.0),
    "hair_hue": (0.0, 1.0),
    "hair_saturation": (0.15, 0.9),
    "hair_value": (0.18, 0.85),
    "hairline": (0.40, 0.66),
    "parting": (-1.0, 1.0),
    "hair_length": (0.0, 1.0),
    "hair_volume": (0.03, 0.17),
    "eye_gap": (0.34, 0.52),
    "eye_size": (0.095, 0.145),
    "eye_hue": (0.0, 1.0),
    "brow_thickness": (0.014, 0.048),
    "brow_tilt": (-0.35, 0.35),
    "nose_length": (0.13, 0.22),
    "nose_width": (0.055, 0.115),
    "mouth_width": (0.15, 0.24),
    "lip_fullness": (0.018, 0.055),
    "mark_left": (0, len(MARKS) - 1),
    "mark_left_hue": (0.0, 1.0),
    "mark_right": (0, len(MARKS) - 1),
    "mark_right_hue": (0.0, 1.0),
}

# smile_onset: part of the smile's time that passes before it forms. blink_rate per second; bob in frame units and Hz.
DYNAMIC: dict[str, tuple[float, float]] = {
    "smile_asymmetry": (-0.9, 0.9),
    "smile_onset": (0.0, 0.6),
    "brow_coupling": (0.0, 1.0),
    "blink_rate": (0.5, 2.0),
    "bob_amplitude": (0.0, 0.08),
    "bob_frequency": (0.8, 3.2),
}

PARAMETERS = {**STATIC, **DYNAMIC}
_CHOICES = ("mark_left", "mark_right")


@dataclass(frozen=True)
class People:
    """B people. `values[name]` is a float32 tensor [B]; names and ranges are in `PARAMETERS`."""

    seeds: tuple[int, ...]
    values: dict[str, torch.Tensor]

    def __len__(self) -> int:
        return len(self.seeds)

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.values[name]

    def static(self) -> torch.Tensor:
        """[B, 24] static parameters in the order of `STATIC`."""
        return torch.stack([self.values[name] for name in STATIC], dim=-1)

    def dynamic(self) -> torch.Tensor:
        """[B, 6] dynamic parameters in the order of `DYNAMIC`."""
        return torch.stack([self.values[name] for name in DYNAMIC], dim=-1)


def split_of(seed: int) -> str:
    """"train", "validation" or "test". Raises SlotIDError for a seed outside the three ranges."""
    for name, seeds in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        if seed in seeds:
            return name
    raise SlotIDError(
        f"person seed {seed}",
        f"a seed in {TRAIN}, {VALIDATION} or {TEST}",
        "choose a seed inside one of the ranges in slotid_core/demo/people.py",
    )


def people(seeds: Sequence[int]) -> People:
    """The people of these seeds, each independent of the others in the call. Raises SlotIDError outside the ranges."""
    rows = []
    for seed in seeds:
        split_of(seed)
        generator = stream("person", seed)
        rows.append(
            [
                choice(generator, tuple(range(len(MARKS)))) if name in _CHOICES else uniform(generator, low, high)
                for name, (low, high) in PARAMETERS.items()
            ]
        )
    table = torch.tensor(rows, dtype=torch.float32).reshape(len(rows), len(PARAMETERS))
    return People(tuple(int(seed) for seed in seeds), dict(zip(PARAMETERS, table.unbind(dim=-1), strict=True)))
