"""The painted face of the demo world: eyes, brows, mouth and moles on the head's surface."""

from __future__ import annotations

import torch
from torch import Tensor

from .colours import hsv, mark_colour, over, planes
from .geometry import cover
from .people import MARKS

_BROWN = (0.16, 0.10, 0.08)
_TEETH = (0.97, 0.96, 0.93)
_THROAT = (0.22, 0.05, 0.06)


def _rgb(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values)[:, None, None, None]


def paint_face(
    point: tuple[Tensor, ...],
    p: dict[str, Tensor],
    m: dict[str, Tensor],
    skin: Tensor,
    person: dict[str, Tensor],
    width: Tensor,
    height: float,
    depth: float,
    pixel: Tensor,
) -> Tensor:
    """Albedo [3, N, H, W] of the head.

    `point`: where the rays meet the head, its frame. `p`: person, `m`: moment, both [N, 1, 1] by name; `person`: the
    same [N]. `skin` [3, N, 1, 1]. `pixel` [N, H, W]: the width of a pixel on the surface.
    """
    x, y, z = point
    # Lengths along the surface: u across (person's left positive), v up.
    longitude = torch.atan2(x / width, z / depth)
    u = longitude * width
    v = y
    front = cover(1.75 - longitude.abs(), 0.1)
    smile, surprise = m["smile"], m["surprise"]
    albedo = skin.expand(3, *u.shape)

    blush = (-((u.abs() - 0.24).square() + (v + 0.13).square()) / 0.012).exp() * (0.10 + 0.10 * smile)
    albedo = over(albedo, skin * _rgb((1.0, 0.72, 0.70)), blush * front)
    hair = planes(hsv(person["hair_hue"], person["hair_saturation"], person["hair_value"] * 0.7))
    eye_hue = person["eye_hue"]
    iris = planes(hsv(eye_hue, torch.full_like(eye_hue, 0.8), torch.full_like(eye_hue, 0.75)))

    openness = (1.0 + 0.35 * surprise - 0.22 * smile) * (1.0 - m["blink"])
    raised = 0.075 * surprise + 0.085 * p["brow_coupling"] * smile
    for side in (1.0, -1.0):
        eye_u = side * u - p["eye_gap"] * width
        eye_v = v - 0.085
        half = p["eye_size"]
        arch = (1.0 - (eye_u / half).square()).clamp_min(-1.0)
        upper, lower = 0.62 * half * openness * arch, -0.46 * half * openness * arch
        inside = torch.minimum(torch.minimum(upper - eye_v, eye_v - lower), half - eye_u.abs())
        albedo = over(albedo, _rgb(_BROWN), cover(inside + 0.018, pixel) * front)
        within = cover(inside, pixel) * front
        albedo = over(albedo, _rgb((0.98, 0.98, 0.98)), within)
        radius = torch.sqrt(eye_u.square() + eye_v.square() + 1e-8)
        albedo = over(albedo, iris, cover(0.50 * half - radius, pixel) * within)
        albedo = over(albedo, _rgb((0.04, 0.04, 0.05)), cover(0.23 * half - radius, pixel) * within)

        along = eye_u / (1.25 * half)
        line = 0.085 + 1.28 * half + raised + p["brow_tilt"] * eye_u * 0.9 - 0.035 * along.square()
        thick = p["brow_thickness"] * (1.0 - 0.35 * along.clamp(-1.0, 1.0))
        brow = cover(torch.minimum(thick - (v - line).abs(), 1.25 * half - eye_u.abs()), pixel)
        albedo = over(albedo, hair, brow * front)

        mark = "mark_left" if side > 0 else "mark_right"
        mole = cover(0.066 - torch.sqrt((side * u - 0.80 * width).square() + (v + 0.17).square()), pixel)
        has_mole = (person[mark] == MARKS.index("mole")).float()[:, None, None]
        albedo = over(albedo, planes(mark_colour(person[mark], person[mark + "_hue"])), mole * has_mole * front)

    return _paint_mouth(albedo, u, v + 0.60 * height, p, smile, surprise, skin, pixel, front)


def _paint_mouth(
    albedo: Tensor, u: Tensor, v: Tensor, p: dict[str, Tensor], smile: Tensor, surprise: Tensor, skin: Tensor,
    pixel: Tensor, front: Tensor,
) -> Tensor:
    """Lips, teeth and the open mouth; `v` is measured from the mouth's resting line."""
    half = p["mouth_width"] * (1.0 + 0.38 * smile - 0.38 * surprise)
    across = u / half
    arch = (1.0 - across.square()).clamp_min(-1.0)
    # A corner lifts with the smile; asymmetry moves lift from one corner to the other.
    lift = 0.105 * smile * (1.0 + p["smile_asymmetry"] * across.clamp(-1.3, 1.3)) * (across.square() - 0.35)
    centre = lift
    gap = 0.085 * smile + 0.20 * surprise + 0.004
    # A smile opens as a lens, surprise as an oval.
    opening = torch.lerp(arch, arch.clamp_min(0.0).sqrt(), surprise)
    upper, lower = centre + 0.40 * gap * opening, centre - 0.60 * gap * opening
    inside = torch.minimum(upper - v, v - lower)
    ends = half - u.abs()
    full = p["lip_fullness"] * (1.0 - 0.25 * smile) * (0.35 + 0.65 * arch.clamp_min(0.0))
    lips = torch.minimum(torch.minimum(upper + 0.8 * full - v, v - lower + 1.2 * full), ends)
    lip_colour = skin * _rgb((0.80, 0.42, 0.42)) + _rgb((0.12, 0.0, 0.02))
    albedo = over(albedo, lip_colour, cover(lips, pixel) * front)
    opened = cover(torch.minimum(inside, ends), pixel) * front
    albedo = over(albedo, _rgb(_THROAT), opened)
    teeth = cover(v - (upper - 0.062 * smile), pixel) * (smile / (smile + surprise + 1e-3))
    return over(albedo, _rgb(_TEETH), opened * teeth)
