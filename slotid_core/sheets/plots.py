"""Curves over the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ..errors import SlotIDError
from .pages import BACKGROUND, FAINT, LINE, TEXT, font_of

_SIZE = (760, 240)
_LEFT = 44
_GRID = (60, 62, 67)


class Line(NamedTuple):
    """One curve: its label, a value for each frame (NaN leaves a gap), and its colour."""

    label: str
    values: Sequence[float]
    colour: tuple[int, int, int]


def plot(
    title: str,
    lines: Sequence[Line],
    *,
    low: float = 0.0,
    high: float | None = None,
    level: float | None = None,
    columns: int = 4,
) -> np.ndarray:
    """Curves over the frames 0, 1, ...: uint8 [H, W, 3].

    Args:
        title: above the curves.
        lines: at least one; all of one length.
        low, high: ends of the vertical axis; None takes the largest value.
        level: a value to draw a dashed line at (a threshold).
        columns: labels side by side.

    Raises:
        SlotIDError: no lines, or lines of different lengths.
    """
    counts = {len(line.values) for line in lines}
    if len(counts) != 1 or 0 in counts:
        raise SlotIDError(
            f"curves of {sorted(counts)} values", "one curve or more of one length", "Correct the curves."
        )
    table = np.array([line.values for line in lines], dtype=float)
    if high is None:
        high = float(np.nanmax(table)) if np.isfinite(table).any() else low
    high = high if high > low else low + 1.0
    width, height = _SIZE
    legend = -(-len(lines) // columns) * LINE
    picture = Image.new("RGB", (width, height + 2 * LINE + legend + 8), BACKGROUND)
    draw, top = ImageDraw.Draw(picture), LINE + 4 + legend
    draw.text((0, 0), title, fill=TEXT, font=font_of(14))
    for i, line in enumerate(lines):
        x, y = i % columns * (width // columns), LINE + 2 + i // columns * LINE
        draw.rectangle((x, y + 5, x + 10, y + 10), fill=line.colour)
        draw.text((x + 15, y), line.label, fill=FAINT, font=font_of(12))
    inner = width - _LEFT - 6

    def place(frame: float, value: float) -> tuple[float, float]:
        across = _LEFT + inner * (frame / max(table.shape[1] - 1, 1))
        return across, top + height * (1 - float(np.clip((value - low) / (high - low), 0, 1)))

    for part in range(5):
        value = low + (high - low) * part / 4
        y = place(0, value)[1]
        draw.line((_LEFT, y, width - 6, y), fill=_GRID)
        draw.text((0, y - 7), f"{value:.3g}", fill=FAINT, font=font_of(12))
    for frame in np.unique(np.linspace(0, table.shape[1] - 1, min(table.shape[1], 9)).round().astype(int)):
        draw.text((place(frame, low)[0] - 4, top + height + 3), str(frame), fill=FAINT, font=font_of(12))
    if level is not None:
        y = place(0, level)[1]
        for x in range(_LEFT, width - 6, 12):
            draw.line((x, y, x + 6, y), fill=TEXT)
    for line, values in zip(lines, table, strict=True):
        _draw(draw, [None if np.isnan(v) else place(i, v) for i, v in enumerate(values)], line.colour)
    return np.asarray(picture)


def _draw(draw: ImageDraw.ImageDraw, points: list[tuple[float, float] | None], colour: tuple[int, int, int]) -> None:
    for before, point in zip([None, *points[:-1]], points, strict=True):
        if point is None:
            continue
        if before is not None:
            draw.line((*before, *point), fill=colour, width=2)
        else:
            # A single frame between gaps would otherwise leave no trace.
            draw.ellipse((point[0] - 2, point[1] - 2, point[0] + 2, point[1] + 2), fill=colour)
