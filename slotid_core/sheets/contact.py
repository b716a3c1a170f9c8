"""The contact sheet of a reference: every frame that was looked at, what was used of it, and why not."""

from __future__ import annotations

import numpy as np
from PIL import Image

from ..faces import Faces
from .coverage_map import coverage_map
from .pages import (
    FLAWED,
    FOUND,
    FRAME_HEIGHT,
    GAP,
    LEFT_OUT,
    cell,
    chosen_columns,
    grid,
    outline,
    page,
    scaled,
    stacked,
)

# More frames than this are shown smaller, so that the sheet stays one that can be looked at.
MANY = 40


def contact_sheet(faces: Faces, *, columns: int | None = None, title: str | None = None) -> np.ndarray:
    """Every frame of the clip with the square that was cropped and the crop beside it, or the reason why it was not.

    Green: used. Amber: used in spite of a flaw, which is named. Red and dark: left out, for the reason named. Below
    stands what poses and expressions the used frames show. The header holds the source, the title and the report, so
    that the sheet explains itself when it is passed on.

    Args:
        faces: what `prepare_faces` gave.
        columns: frames side by side; None chooses by the frames' shape.
        title: a remark after the source's name ("untrained demo weights").
    """
    checkup, coverage = faces.checkup, faces.coverage
    clip, places = checkup.clip, {i: place for place, i in enumerate(checkup.kept())}
    height = FRAME_HEIGHT if len(clip.frames) <= MANY else FRAME_HEIGHT * 2 // 3
    cells = []
    for i, (frame, check) in enumerate(zip(clip.frames, checkup.checks, strict=True)):
        caption = f"{i}   {clip.timestamps[i].item():.2f} s"
        picture = scaled(frame, height)
        if i not in places:
            dark = picture.point(lambda level: level // 3)
            cells.append(cell([dark], caption, (f"left out: {check.left_out}", LEFT_OUT)))
            continue
        flaws = ", ".join(check.flaws)
        box, scale = faces.boxes[places[i]].tolist(), picture.height / frame.shape[0]
        outline(picture, [edge * scale for edge in box], FLAWED if flaws else FOUND)
        crop = scaled(faces.crops[places[i]], height)
        cells.append(cell([picture, crop], caption, (flaws, FLAWED) if flaws else None))
    body = grid(cells, chosen_columns(columns, cells, limit=12))
    if coverage.frames > 1:
        body = stacked([body, Image.fromarray(coverage_map(coverage.to_dict()))], GAP)
    heading = f"{clip.source}    {title}" if title else clip.source
    return page(body, heading, coverage.report().splitlines())
