"""The likeness over time as a picture."""

from __future__ import annotations

import numpy as np

from ..sheets import Line, plot
from .measure import Likeness


def likeness_plot(measured: Likeness) -> np.ndarray:
    """Likeness of each frame looked at, to one reference frame and to the nearest; gaps where there is no face.

    Returns:
        uint8 [H, W, 3].
    """
    faceless = set(measured.faceless)

    def curve(values: tuple[float, ...]) -> list[float]:
        rest = iter(values)
        return [float("nan") if number in faceless else next(rest) for number in measured.frames]

    lines = [
        Line(f"nearest of {len(measured.reference_frames)} reference frames", curve(measured.nearest), (129, 201, 149)),
        Line("one reference frame", curve(measured.single), (138, 180, 248)),
    ]
    title = f"{measured.title}; over the {len(measured.frames)} frames looked at"
    return plot(title, lines, high=1.0, level=measured.same_person, columns=2)
