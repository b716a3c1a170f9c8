"""Ray-cast quadrics for the demo world: ellipsoids and capped cylinders under an orthographic camera.

The screen spans -1 .. 1 with x right and y up; the camera looks along -z. A body is given in its own frame, where its
front is +z. All fields are [N, H, W] (N frames), all numbers of a frame are [N, 1, 1].
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

Field3 = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Rays:
    """One ray per pixel in a body's frame: the points `origin + s * direction`, larger s nearer to the camera.

    `pixel` is the width of a pixel in frame units, over which edges are softened.
    """

    origin: Field3
    direction: Field3
    pixel: float

    def moved(self, x: Tensor | float, y: Tensor | float, z: Tensor | float) -> Rays:
        """The rays as seen from a body at (x, y, z) of this frame."""
        return Rays((self.origin[0] - x, self.origin[1] - y, self.origin[2] - z), self.direction, self.pixel)

    def leaned(self, slope: Tensor | float) -> Rays:
        """The rays in a frame sheared so that a body leans forward by `slope` per unit downwards."""
        (ox, oy, oz), (dx, dy, dz) = self.origin, self.direction
        return Rays((ox, oy, oz + slope * oy), (dx, dy, dz + slope * dy), self.pixel)

    def at(self, s: Tensor) -> Field3:
        """Points at parameter `s`."""
        return tuple(o + s * d for o, d in zip(self.origin, self.direction, strict=True))


@dataclass(frozen=True)
class Hit:
    """Where rays meet a body. `cover` [N,H,W] is 0 .. 1 with soft edges; `near` and `far` are ray parameters.

    `normal` belongs to the near point, in the body's frame, of unit length.
    """

    cover: Tensor
    near: Tensor
    far: Tensor
    point: Field3
    normal: Field3


def rotation(yaw: Tensor, pitch: Tensor, roll: Tensor) -> Tensor:
    """Rotation matrices [N, 3, 3] from radians [N]: positive yaw turns the face to the viewer's right, pitch up."""
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))

    cy, sy, cp, sp, cr, sr = yaw.cos(), yaw.sin(), pitch.cos(), pitch.sin(), roll.cos(), roll.sin()
    about_y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    about_x = matrix(one, zero, zero, zero, cp, sp, zero, -sp, cp)
    about_z = matrix(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    return about_z @ about_y @ about_x


def cast(x: Tensor, y: Tensor, turn: Tensor, pixel: float) -> Rays:
    """Rays through screen points x, y [N,H,W] (already relative to the body's centre) into a body turned by `turn`."""
    inverse = turn.transpose(-1, -2)[..., None, None]
    origin = tuple(inverse[:, i, 0] * x + inverse[:, i, 1] * y for i in range(3))
    return Rays(origin, tuple(inverse[:, i, 2] for i in range(3)), pixel)


def cover(distance: Tensor, pixel: Tensor | float) -> Tensor:
    """Coverage 0 .. 1 of an edge at signed `distance` (inside positive), one pixel wide."""
    return (distance / pixel + 0.5).clamp(0.0, 1.0)


def ellipsoid(
    rays: Rays, radii: tuple[Tensor | float, ...], *, column: bool = False, taper: Tensor | float = 0.0
) -> Hit:
    """Meet an ellipsoid of radii (x, y, z) at the origin.

    `column` continues the lower half as an elliptic cylinder downwards. `taper` narrows the lower half sideways by that
    part at its lowest point (a jaw). Both depend on the height of the point met, found by one fixed-point step that is
    exact for an upright body.
    """
    rx, ry, rz = radii
    (ox, oy, oz), (dx, dy, dz) = rays.origin, rays.direction
    kx, ky, kz = 1.0 / (rx * rx), 1.0 / (ry * ry), 1.0 / (rz * rz)
    if column:
        ky = ky * cover(oy, 0.02)
    tapered = isinstance(taper, Tensor) or taper != 0.0
    for step in range(2 if tapered else 1):
        a = dx * dx * kx + dy * dy * ky + dz * dz * kz
        b = ox * dx * kx + oy * dy * ky + oz * dz * kz
        c = ox * ox * kx + oy * oy * ky + oz * oz * kz
        nearest = (c - b * b / a).clamp_min(0.0)
        root = ((1.0 - nearest).clamp_min(0.0) / a).sqrt()
        near, far = -b / a + root, -b / a - root
        if tapered and step == 0:
            below = (-(oy + near * dy) / ry).clamp(0.0, 1.0)
            kx = kx / (1.0 - taper * below * below).square()
    px, py, pz = rays.at(near)
    nx, ny, nz = px * kx, py * ky, pz * kz
    length = (nx * nx + ny * ny + nz * nz).clamp_min(1e-8).rsqrt()
    edge = (1.0 - nearest.sqrt()) * torch.as_tensor(rx)
    return Hit(cover(edge, rays.pixel), near, far, (px, py, pz), (nx * length, ny * length, nz * length))
