"""The network that reads a person's parameters from the latents of a reference clip."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..demo.clips import REFERENCE_FRAMES
from ..demo.people import MARKS
from ..demo.renderer import PER_FRAME
from .surface import Patch
from .targets import HUES, KINDS, NUMERIC, TRACK_SCALES

# A latent frame stands for four frames, the first for one; its cells for 8 x 8 pixels.
TIME, _CELL = 4, 8
_LATENTS = -(-(REFERENCE_FRAMES - 1) // TIME) + 1
_TRACKS = len(TRACK_SCALES)
# Brows, eyes, nose and mouth of the head.
FACE = Patch(half_width=0.5, lowest=-0.56, highest=0.36, rows=24, columns=28)
# The tracks that say where the head is come first.
POSE = 5
_WIDE, _FRAME, _READ, _KEPT, _DROPOUT = 96, 192, 96, 24, 0.2
# Maps a frame that the face is looked up in.
_MAPS = 4


class LatentProbe(nn.Module):
    """Reference latents [B, 16, 9, 8, 8] to numeric parameters [B, 24], hues [B, 4, 2], kinds of marks [B, 2, 3] and
    the tracks [B, 33, 10] of the frames.

    It first finds how the head stands in every frame, then reads the face laid flat, as the probe of pixels reads the
    mouth: a network of whole latents learned brows, noses and smiles of 20,480 people by heart and could not read them.
    """

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(16, _WIDE, 3, padding=1), nn.SiLU(), nn.Conv2d(_WIDE, _WIDE, 3, padding=1), nn.SiLU()
        )
        self.frame = nn.Sequential(
            nn.Conv2d(_WIDE, 48, 1), nn.SiLU(), nn.Flatten(), nn.Linear(48 * 64, _FRAME), nn.SiLU()
        )
        self.whole = nn.Sequential(nn.Linear(_FRAME * _LATENTS, 128), nn.SiLU())
        self.tracks = nn.Sequential(
            nn.Conv1d(2 * _FRAME + 128, 192, 3, padding=1), nn.SiLU(), nn.Conv1d(192, TIME * _TRACKS, 1)
        )
        self.face = _Face()
        self.body = nn.Sequential(
            nn.Dropout(_DROPOUT), nn.Linear(2 * _FRAME + 128 + _Face.OUT + REFERENCE_FRAMES * _TRACKS, 256), nn.SiLU(),
            nn.Dropout(_DROPOUT),
        )  # fmt: skip
        self.out = nn.Linear(256, len(NUMERIC) + 2 * len(HUES) + len(MARKS) * len(KINDS))
        self.register_buffer("scales", torch.tensor(list(TRACK_SCALES.values())), persistent=False)

    def forward(self, latents: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Numbers, hues, kinds and tracks as above, and the tracks as they were before the face was read."""
        count = len(latents)
        cells = latents.transpose(1, 2).flatten(0, 1)
        seen = self.trunk(cells)
        frames = self.frame(seen).unflatten(0, (count, _LATENTS))
        # How a head is rolled, or where it rests, is the same in all frames: each is told of all.
        whole, mean = self.whole(frames.flatten(1)), frames.mean(1)
        told = torch.cat([frames, torch.cat([whole, mean], -1)[:, None].expand(-1, _LATENTS, -1)], -1)
        first = _frames(self.tracks(told.transpose(1, 2)).transpose(1, 2))
        face, moved = self.face(cells, seen, first.detach(), self.scales)
        tracks = first + F.pad(moved, (POSE, 0))
        features = torch.cat([mean, frames.amax(1), whole, face, tracks.flatten(1)], -1)
        parts = self.out(self.body(features)).split([len(NUMERIC), 2 * len(HUES), len(MARKS) * len(KINDS)], dim=-1)
        hues, kinds = parts[1].unflatten(-1, (len(HUES), 2)), parts[2].unflatten(-1, (len(KINDS), len(MARKS)))
        return parts[0], hues, kinds, tracks, first


class _Face(nn.Module):
    """The face laid flat in every latent frame: what all show of it, and how it moves."""

    OUT = _READ + _KEPT * (FACE.rows // 4) * (FACE.columns // 4)

    def __init__(self) -> None:
        super().__init__()
        size = TIME * _MAPS * _CELL**2
        self.maps, self.skip = nn.Conv2d(_WIDE, size, 1), nn.Conv2d(16, size, 1)
        self.look = nn.Sequential(
            nn.Conv2d(TIME * _MAPS + 1, 24, 3, padding=1), nn.SiLU(), nn.Conv2d(24, 32, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(32, 48, 3, 2, 1), nn.SiLU(),
        )  # fmt: skip
        inside = 48 * (FACE.rows // 4) * (FACE.columns // 4) + TIME * _TRACKS
        self.each = nn.Sequential(nn.Linear(inside, _READ), nn.SiLU(), nn.Linear(_READ, _READ))
        self.moves = nn.Linear(_READ, TIME * (_TRACKS - POSE))
        self.gate = nn.Linear(_READ, _READ)
        self.keep = nn.Conv2d(48, _KEPT, 1)

    def forward(self, cells: Tensor, seen: Tensor, tracks: Tensor, scales: Tensor) -> tuple[Tensor, Tensor]:
        """Features [B, OUT], and what to add to the tracks [B, 33, 5] of expression.

        Args:
            cells, seen: latents [B * 9, 16, 8, 8] and what the trunk makes of them.
            tracks: [B, 33, 10] in units of `scales`.
        """
        count = len(tracks)
        every = _groups(tracks)
        pose = (every * scales)[..., :POSE].float().flatten(0, 2)
        # Each latent frame holds maps for its four frames, each looked up where the head then is.
        maps = F.pixel_shuffle(self.maps(seen) + self.skip(cells), _CELL).unflatten(1, (TIME, _MAPS)).flatten(0, 1)
        shown = (4 * FACE.facing(pose)).clamp(0, 1)[:, None]
        flat = (FACE.looked_up(maps.float(), pose) * shown).unflatten(0, (-1, TIME)).flatten(1, 2)
        seen = self.look(torch.cat([flat, shown.unflatten(0, (-1, TIME)).mean(1)], 1))
        each = self.each(torch.cat([seen.flatten(1), every.flatten(0, 1).flatten(1).to(seen.dtype)], -1))
        each = each.unflatten(0, (count, _LATENTS))
        moved = _frames(self.moves(F.silu(each)))
        picked = (self.gate(F.silu(each)).softmax(1) * each).sum(1)
        # What faces the viewer most tells most.
        straight = (every[..., PER_FRAME.index("yaw")] * scales[PER_FRAME.index("yaw")]).mean(-1).cos().square()
        kept = self.keep(seen).flatten(1).unflatten(0, (count, _LATENTS))
        kept = (kept * straight[..., None].to(kept.dtype)).sum(1) / straight.sum(1, keepdim=True).to(kept.dtype)
        return torch.cat([picked, kept], -1), moved


def _frames(values: Tensor) -> Tensor:
    """[B, 9, 4 n] to [B, 33, n]: the first latent frame stands for one frame."""
    return values.unflatten(-1, (TIME, -1)).flatten(1, 2)[:, TIME - 1 :]


def _groups(values: Tensor) -> Tensor:
    """[B, 33, n] to [B, 9, 4, n], the first frame four times."""
    return torch.cat([values[:, :1].expand(-1, TIME - 1, -1), values], 1).unflatten(1, (_LATENTS, TIME))
