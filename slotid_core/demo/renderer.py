"""The procedural talking head of the demo world: people and tracks in, video frames out.

Everything is computed for all B x T frames at once; `render` works through them in slices that fit the cache. Features
are painted on a ray-cast head in longitude / height coordinates with soft edges, so one sample a pixel is enough.
The pictures depend on nothing but the arguments.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..errors import SlotIDError
from .colours import hsv, mark_colour, over, planes, skin_colour
from .face import paint_face
from .geometry import Hit, cast, cover, ellipsoid, rotation
from .people import MARKS, People

HEAD_HEIGHT = 0.60
HEAD_CENTRE = 0.015
ZOOM = 1.22
PER_FRAME = ("yaw", "pitch", "roll", "x", "y", "smile", "surprise", "blink")
_SLICE_PIXELS = 18 * 64 * 64


@dataclass(frozen=True)
class Tracks:
    """What happens in B clips of T frames.

    Per frame [B, T]: yaw, pitch, roll in radians; x, y head shift in frame units; smile, surprise, blink 0 .. 1.
    Per clip: `light` [B, 3] unit direction towards the light, `ambient` [B]; `background` [B, 2, 3] top and bottom
    colour, `shirt` [B, 3], all in [0, 1].
    """

    yaw: Tensor
    pitch: Tensor
    roll: Tensor
    x: Tensor
    y: Tensor
    smile: Tensor
    surprise: Tensor
    blink: Tensor
    light: Tensor
    ambient: Tensor
    background: Tensor
    shirt: Tensor

    def window(self, start: int, frames: int) -> Tracks:
        """A stretch of every clip."""
        return replace(self, **{name: getattr(self, name)[:, start : start + frames] for name in PER_FRAME})


def render(people: People, tracks: Tracks, size: int = 64, supersample: int = 1) -> Tensor:
    """Frames [B, T, size, size, 3] float32 in [0, 1].

    `supersample` draws that many samples along each side of a pixel and averages them. Raises SlotIDError if the tracks
    are for another number of people or the size is no multiple of 8.
    """
    clips, frames = tracks.yaw.shape
    if clips != len(people):
        raise SlotIDError(f"{len(people)} people and {clips} tracks", "one track per person", "pass as many tracks")
    if size < 16 or size % 8:
        raise SlotIDError(f"size {size}", "a multiple of 8, at least 16", "use 64, 96 or 128")
    index = torch.arange(clips).repeat_interleave(frames)
    values = {name: value[index] for name, value in people.values.items()}
    moments = {
        name: getattr(tracks, name).reshape(-1) if name in PER_FRAME else getattr(tracks, name)[index]
        for name in tracks.__dataclass_fields__
    }
    side = size * supersample
    step = max(1, _SLICE_PIXELS // (side * side))
    slices = []
    for start in range(0, clips * frames, step):
        part = slice(start, start + step)
        image = _frames({k: v[part] for k, v in values.items()}, {k: v[part] for k, v in moments.items()}, side)
        if supersample > 1:
            image = torch.nn.functional.avg_pool2d(image, supersample)
        slices.append(image)
    return torch.cat(slices).permute(0, 2, 3, 1).contiguous().unflatten(0, (clips, frames))


def _frames(person: dict[str, Tensor], moment: dict[str, Tensor], side: int) -> Tensor:
    """Images [N, 3, side, side] of N frames; every value is [N] or [N, ...]."""
    p = {name: value[:, None, None] for name, value in person.items()}
    m = {name: moment[name][:, None, None] for name in ("x", "y", "smile", "surprise", "blink", "ambient")}
    pixel = 2.0 / (side * ZOOM)
    line = ((torch.arange(side) + 0.5) * 2.0 / side - 1.0) / ZOOM
    x, y = line[None, None, :], -line[None, :, None]
    turn = rotation(moment["yaw"], moment["pitch"], moment["roll"])
    light = torch.einsum("nji,nj->ni", turn, moment["light"])
    hx, hy = x - m["x"], y - HEAD_CENTRE - m["y"]
    rays = cast(hx, hy, turn, pixel)

    def lit(hit: Hit, direction: Tensor) -> Tensor:
        facing = sum(n * d for n, d in zip(hit.normal, direction[:, :, None, None].unbind(1), strict=True))
        return m["ambient"] + (1.08 - m["ambient"]) * ((facing + 0.25) / 1.25).clamp_min(0.0)

    skin = planes(skin_colour(person["skin_tone"], person["skin_hue"]))
    hair = planes(hsv(person["hair_hue"], person["hair_saturation"], person["hair_value"]))
    width = HEAD_HEIGHT * p["aspect"]
    depth = HEAD_HEIGHT * 0.92

    background = moment["background"]
    blend = (y * ZOOM + 1.0) / 2.0
    image = planes(background[:, 1]) + (planes(background[:, 0]) - planes(background[:, 1])) * blend
    image = image.expand(3, len(turn), side, side)

    volume = p["hair_volume"]
    shell_rays = rays.moved(0.0, 0.02, -0.04)
    shell = ellipsoid(shell_rays, (width + volume, HEAD_HEIGHT + volume * 0.9, depth + volume), column=True)
    back = shell_rays.at(shell.far)
    image = over(image, hair * 0.45, shell.cover * _hair(back, p, width, depth, pixel, shell=True))

    # The trunk does not turn with the head; it follows a quarter of its sway.
    nx, ny = x - m["x"] * 0.25, y - m["y"] * 0.25
    neck_width = width * 0.40
    round_neck = (1.0 - (nx / neck_width).square()).clamp_min(0.0).sqrt()
    under_chin = 0.58 + 0.3 * cover(-(ny + 0.68), 0.18)
    neck = cover(neck_width - nx.abs(), pixel) * cover(-ny, pixel)
    image = over(image, skin * (under_chin * (0.45 + 0.55 * round_neck)), neck)
    shirt_edge = 1.0 - ((nx / 0.80).square() + ((ny + 1.17) / 0.44).square()).sqrt()
    collar = cover(0.05 - shirt_edge * 0.44, pixel)
    shirt = planes(moment["shirt"]) * (0.88 + 0.25 * shirt_edge.clamp(0.0, 0.6)) * (1.0 - 0.22 * collar)
    image = over(image, shirt, cover(shirt_edge * 0.44, pixel))

    head = ellipsoid(rays, (width, HEAD_HEIGHT, depth), taper=p["jaw"])
    facing = (head.normal[2] * rays.direction[2] + head.normal[0] * rays.direction[0]).clamp_min(0.25)
    albedo = paint_face(head.point, p, m, skin, person, width, HEAD_HEIGHT, depth, pixel / facing)
    albedo = over(albedo, hair, _hair(head.point, p, width, depth, pixel / facing, shell=False))
    image = over(image, albedo * lit(head, light), head.cover)
    surface = torch.where(head.cover > 0.0, head.near, torch.full_like(head.near, -9.0))

    def place(
        image: Tensor, surface: Tensor, hit: Hit, colour: Tensor, show: Tensor | float = 1.0
    ) -> tuple[Tensor, Tensor]:
        front = hit.cover * cover(hit.near - surface, 2.0 * pixel) * show
        return over(image, colour * lit(hit, light), front), torch.where(front > 0.5, hit.near, surface)

    nose_rays = rays.moved(0.0, -0.04 - 0.3 * p["nose_length"], depth * 0.93).leaned(0.55)
    bridge = 1.0 + 0.45 * (nose_rays.origin[1] / p["nose_length"]).clamp(-1.0, 1.0)
    nose = ellipsoid(nose_rays, (p["nose_width"] / bridge, p["nose_length"], 0.125))
    image, surface = place(image, surface, nose, _nose_colour(nose, skin, p))
    for side_sign, mark in ((1.0, "mark_left"), (-1.0, "mark_right")):
        ear_rays = rays.moved(side_sign * width * 0.99, -0.01, -0.03)
        ear = ellipsoid(ear_rays, (0.055, 0.135, 0.085))
        inner = 1.0 - 0.28 * cover(1.0 - ((ear.point[1] / 0.085).square() + (ear.point[2] / 0.05).square()), 0.4)
        image, surface = place(image, surface, ear, skin * 0.96 * inner)
        ring = ellipsoid(rays.moved(side_sign * (width + 0.035), -0.215, 0.0), (0.078, 0.078, 0.078))
        worn = (person[mark] == MARKS.index("earring")).float()[:, None, None]
        image, surface = place(image, surface, ring, planes(mark_colour(person[mark], person[mark + "_hue"])), worn)

    front = _hair(shell.point, p, width, depth, pixel, shell=True) * shell.cover
    strands = 0.93 + 0.07 * torch.cos(26.0 * torch.atan2(shell.point[0], shell.point[2]))
    image = over(image, hair * lit(shell, light) * strands, front)
    return image.clamp(0.0, 1.0).transpose(0, 1)


def _nose_colour(nose: Hit, skin: Tensor, p: dict[str, Tensor]) -> Tensor:
    """Skin, darker underneath and at two nostrils."""
    x, y, z = nose.point
    low = -y / p["nose_length"]
    nostril = cover(0.2 - ((x.abs() / p["nose_width"] - 0.5).square() + (low - 0.86).square()).sqrt(), 0.1)
    shade = 1.0 - 0.22 * cover(low - 0.72, 0.35) - 0.35 * nostril * (z > -0.02)
    return skin * shade


def _hair(
    point: tuple[Tensor, ...], p: dict[str, Tensor], width: Tensor, depth: float, pixel: Tensor | float, *, shell: bool
) -> Tensor:
    """Where hair grows, 0 .. 1 [N,H,W], on the head or on the shell of hair around it.

    It leaves the face open between the hairline and, behind the ears, 110 degrees to each side; below, it hangs down to
    the hair's length.
    """
    x, y, z = point
    longitude = torch.atan2(x / width, z / depth)
    height = y / HEAD_HEIGHT
    sweep = p["parting"] * longitude
    hairline = p["hairline"] + 0.13 * sweep - 0.16 * longitude.square() + 0.05 * torch.cos(3.0 * longitude)
    sides = 1.22 + 0.70 * cover(0.34 - height, 0.16)
    inside = torch.maximum((height - hairline) * HEAD_HEIGHT, (longitude.abs() - sides) * width)
    grown = cover(inside, pixel)
    if shell:
        length = -0.25 - 1.15 * p["hair_length"]
        grown = grown * cover((height - length) * HEAD_HEIGHT, pixel)
    return grown
