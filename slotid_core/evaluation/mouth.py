"""Reading how lopsided a smile is, from the mouth laid flat.

In a picture the mouth's place varies with pose and head by far more than a lopsided smile moves its corners, and what
is the same but for its side averages out: a network of whole pictures learns nothing of it for thousands of steps.
Where the head is known, the surface around the mouth can be looked up pixel by pixel; there the lift of a corner is
nearly linear in the colours.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from .surface import Patch

# The mouth rests at -0.36 and is up to 0.33 to each side.
_MOUTH = Patch(half_width=0.48, lowest=-0.58, highest=-0.12, rows=20, columns=32)
# About what yaw, pitch and roll vary by, in radians.
_SPREAD = (0.5, 0.1, 0.05)
# Of the frames of a video, those that smile most are read.
FRAMES_READ = 4
# Squared smiles that count as much as what all frames show: without a smile the answer is the mean, which is none.
_DOUBT = 0.1


def mouth_patches(frames: Tensor, pose: Tensor) -> Tensor:
    """The skin around the mouth [N, 3, 20, 32], the person's left on the right.

    Args:
        frames: [N, 3, H, W].
        pose: [N, 5] yaw, pitch, roll in radians; x, y shift of the head in frame units.
    """
    return _MOUTH.looked_up(frames, pose)


class MouthNet(nn.Module):
    """Mouths and poses to the asymmetry of the smile; a mirrored mouth always gives the opposite number."""

    def __init__(self) -> None:
        super().__init__()
        self.look = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.SiLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.SiLU(),
            nn.Conv2d(32, 32, 3, 2, 1), nn.SiLU(), nn.Flatten(),
        )  # fmt: skip
        self.body = nn.Sequential(nn.Linear(32 * _MOUTH.rows * _MOUTH.columns // 16 + 3, 32), nn.SiLU())
        self.out = nn.Linear(32, 1, bias=False)
        self.register_buffer("spread", torch.tensor(_SPREAD), persistent=False)
        self.register_buffer("mirror", torch.tensor([-1.0, 1.0, -1.0]), persistent=False)
        for layer in self.look:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, clips: Tensor, tracks: Tensor) -> Tensor:
        """Asymmetry [B], standardised, of clips [B, T, 3, 64, 64] from their tracks [B, T, 6] or more: yaw, pitch,
        roll, x, y, smile, as `mouth_patches` takes them. Least squares over the frames that smile most: what a frame
        shows is its smile times the asymmetry."""
        smile = tracks[..., 5].clamp_min(0.0)
        picked = smile.topk(min(FRAMES_READ, smile.shape[1]), dim=1).indices
        rows = torch.arange(len(clips), device=clips.device)[:, None]
        frames, pose = clips[rows, picked].flatten(0, 1), tracks[rows, picked, :5].flatten(0, 1)
        patches = mouth_patches(frames, pose)
        patches = patches - patches.mean((-2, -1), keepdim=True)
        patches = patches / (patches.std((1, 2, 3), keepdim=True) + 0.05)
        turned = pose[:, :3] / self.spread
        each = self._one(patches, turned) - self._one(patches.flip(-1), turned * self.mirror)
        weight = smile.gather(1, picked).square()
        return (weight * each.unflatten(0, picked.shape)).sum(1) / (weight.sum(1) + _DOUBT)

    def _one(self, patches: Tensor, turned: Tensor) -> Tensor:
        return self.out(self.body(torch.cat([self.look(patches), turned], -1)))[:, 0]
