"""Looking a picture up on the head: the skin of a face laid flat, whatever the pose.

In a picture a feature's place varies with pose and head by far more than a person's brow tilts or a lopsided smile
moves a corner of the mouth. Where the pose is known, the surface can be looked up point by point, and the same place of
the patch is the same place of the face in every frame.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..demo.geometry import rotation
from ..demo.people import STATIC
from ..demo.renderer import HEAD_CENTRE, HEAD_HEIGHT, ZOOM

# The width of the mean head: a few percent of width are less than a network has to bear anyway.
_WIDTH = HEAD_HEIGHT * sum(STATIC["aspect"]) / 2
_DEPTH = 0.92 * HEAD_HEIGHT


@dataclass(frozen=True)
class Patch:
    """A grid of rows x columns points on the head: `half_width` along the surface to each side, from `highest`
    to `lowest`, in frame units; the person's left is on the right."""

    half_width: float
    lowest: float
    highest: float
    rows: int
    columns: int

    def looked_up(self, pictures: Tensor, pose: Tensor) -> Tensor:
        """The patch [N, C, rows, columns] of pictures or maps [N, C, H, W].

        Args:
            pose: [N, 5] yaw, pitch, roll in radians; x, y shift of the head in frame units.
        """
        turned = torch.einsum("nij,hwj->nhwi", rotation(*pose[:, :3].unbind(-1)), self._points(pose.device))
        across = (turned[..., 0] + pose[:, 3, None, None]) * ZOOM
        down = -(turned[..., 1] + HEAD_CENTRE + pose[:, 4, None, None]) * ZOOM
        return F.grid_sample(pictures, torch.stack([across, down], -1), padding_mode="border", align_corners=False)

    def facing(self, pose: Tensor) -> Tensor:
        """The cosine [N, rows, columns] of the angle between the surface and the viewer; below 0 it is turned away."""
        radii = torch.tensor([_WIDTH, HEAD_HEIGHT, _DEPTH], device=pose.device)
        normals = F.normalize(self._points(pose.device) / radii.square(), dim=-1)
        return torch.einsum("nj,hwj->nhw", rotation(*pose[:, :3].unbind(-1))[:, 2], normals)

    def _points(self, device: torch.device) -> Tensor:
        longitude = torch.linspace(-self.half_width, self.half_width, self.columns, device=device) / _WIDTH
        up = torch.linspace(self.highest, self.lowest, self.rows, device=device)[:, None]
        around = (1 - (up / HEAD_HEIGHT).square()).sqrt()
        across, depth = _WIDTH * around * longitude.sin(), _DEPTH * around * longitude.cos()
        return torch.stack((across, up.expand(self.rows, self.columns), depth), -1)
