"""What poses and expressions a reference shows, as one small picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ..faces.coverage import SIDE_YAW
from .pages import BACKGROUND, FAINT, FOUND, GAP, LINE, TEXT, font_of

_SIDE, _BARS = 220, 230
_YAW, _PITCH = 60.0, 40.0
_GRID = (60, 62, 67)


def coverage_map(coverage: dict[str, Any]) -> np.ndarray:
    """Yaw against pitch, a dot for each frame used, and a bar for the strongest of each expression: uint8 [H, W, 3].

    Args:
        coverage: `Coverage.to_dict()`, as it is or as an identity file keeps it; older files hold no poses.
    """
    picture = Image.new("RGB", (_SIDE + GAP + _BARS, _SIDE + 2 * LINE), BACKGROUND)
    _poses(ImageDraw.Draw(picture), [pose for pose in coverage.get("poses", []) if pose])
    _expressions(ImageDraw.Draw(picture), coverage)
    return np.asarray(picture)


def _poses(draw: ImageDraw.ImageDraw, poses: list[tuple[float, float]]) -> None:
    small = font_of(12)
    heading = "where the face looks" if poses else "poses are not known: no landmarks"
    draw.text((0, 0), heading, fill=TEXT, font=font_of(13))
    top, middle = LINE, _SIDE / 2
    draw.rectangle((0, top, _SIDE - 1, top + _SIDE - 1), outline=_GRID)
    # Between the two lines a face counts as frontal.
    for yaw in (-SIDE_YAW, SIDE_YAW):
        x = middle + yaw / _YAW * middle
        draw.line((x, top, x, top + _SIDE), fill=_GRID)
    draw.line((0, top + middle, _SIDE, top + middle), fill=_GRID)
    draw.text((4, top + middle - 15), "left", fill=FAINT, font=small)
    draw.text((_SIDE - 32, top + middle - 15), "right", fill=FAINT, font=small)
    draw.text((middle + 3, top + 2), "up", fill=FAINT, font=small)
    draw.text((middle + 3, top + _SIDE - 17), "down", fill=FAINT, font=small)
    for yaw, pitch in poses:
        x = middle + float(np.clip(yaw / _YAW, -1, 1)) * (middle - 5)
        y = top + middle - float(np.clip(pitch / _PITCH, -1, 1)) * (middle - 5)
        draw.ellipse((x - 3, y - 3, x + 3, y + 3), fill=FOUND)
    draw.text((0, top + _SIDE + 1), f"{_YAW:g} degrees to a side, {_PITCH:g} up or down", fill=FAINT, font=small)


def _expressions(draw: ImageDraw.ImageDraw, coverage: dict[str, Any]) -> None:
    left, source = _SIDE + GAP, coverage.get("expression_source", "")
    heading = f"expressions, by {source}" if source else "expressions are not known"
    draw.text((left, 0), heading, fill=TEXT, font=font_of(13))
    for row, (name, value) in enumerate(coverage.get("expressions", {}).items()):
        y = LINE + row * 34
        draw.text((left, y), "change of the lower face" if name == "change" else name, fill=FAINT, font=font_of(12))
        draw.rectangle((left, y + 17, left + _BARS - 1, y + 25), outline=_GRID)
        length = float(np.clip(value, 0, 1)) * (_BARS - 1)
        if length >= 1:
            draw.rectangle((left, y + 17, left + length, y + 25), fill=FOUND)
