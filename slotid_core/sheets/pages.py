"""Frames in cells, cells in grids, grids on pages with a heading; and the sheets that need no more than that."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..atomic import write_atomic
from ..errors import SlotIDError
from ..video import as_bytes, check_frames

BACKGROUND = (32, 33, 36)
TEXT = (232, 234, 237)
FAINT = (154, 160, 166)
FOUND = (129, 201, 149)
FLAWED = (253, 186, 84)
LEFT_OUT = (242, 139, 130)
GAP = 12
FRAME_HEIGHT = 132
LINE = 17


def frames_sheet(
    frames: Tensor, columns: int | None = None, *, title: str | None = None, captions: Sequence[str] | None = None
) -> np.ndarray:
    """Frames of one video, in rows.

    Args:
        frames: [T, H, W, C >= 3] in [0, 1].
        columns: frames side by side; None chooses by the frames' shape.
        title: a line above ("untrained demo weights").
        captions: one for each frame; None numbers them.
    """
    check_frames(frames, channels_from=3)
    captions = [str(i) for i in range(len(frames))] if captions is None else captions
    _check_labels("captions", captions, len(frames))
    cells = [cell([scaled(f, FRAME_HEIGHT)], text, None) for f, text in zip(frames, captions, strict=True)]
    return page(grid(cells, chosen_columns(columns, cells, limit=12)), title, [])


def rows_sheet(rows: Sequence[tuple[str, Tensor]], *, columns: int = 8, title: str | None = None) -> np.ndarray:
    """Several videos below each other for comparison, each with its label and `columns` frames spread over its length.

    Args:
        rows: (label, frames [T, H, W, C >= 3] in [0, 1]); lengths and sizes may differ.
        columns: frames shown of each.
        title: a line above.
    """
    if not rows:
        raise SlotIDError("There are no rows for the sheet", "one video or more", "Give labelled videos to compare.")
    _check_positive("columns", columns)
    strips = []
    for label, frames in rows:
        check_frames(frames, channels_from=3)
        shown = np.unique(np.linspace(0, len(frames) - 1, columns).round().astype(int))
        pictures = [scaled(frames[i], FRAME_HEIGHT) for i in shown]
        strips.append(cell(pictures, label, None, above=True))
    return page(grid(strips, 1), title, [])


def save_image(path: str | os.PathLike[str], picture: np.ndarray) -> None:
    """Write a sheet as .png, .jpg or .webp; either the whole file appears or none.

    Raises:
        SlotIDError: for another ending, no uint8 [H, W, 3] array, or a path that cannot be written.
    """
    target = Path(path)
    if target.suffix.lower() not in (".png", ".jpg", ".jpeg", ".webp"):
        raise SlotIDError(f"The picture's name is {target.name!r}", ".png, .jpg or .webp", "Rename the output file.")
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.shape[2:] != (3,):
        kind = f"{picture.dtype} {picture.shape}" if isinstance(picture, np.ndarray) else type(picture).__name__
        raise SlotIDError(f"The picture is {kind}", "a uint8 array [height, width, 3]", "Pass what a sheet returned.")
    write_atomic(target, lambda temporary: Image.fromarray(picture).save(temporary, quality=92))


def scaled(frame: Tensor, height: int) -> Image.Image:
    data = as_bytes(frame)
    width = max(1, round(data.shape[1] * height / data.shape[0]))
    # Very wide frames would make a column of one; their height gives way.
    if width > 4 * height:
        width, height = 4 * height, max(1, round(data.shape[0] * 4 * height / data.shape[1]))
    smaller = height < data.shape[0]
    return Image.fromarray(data).resize((width, height), Image.Resampling.BOX if smaller else Image.Resampling.BICUBIC)


def outline(picture: Image.Image, box: list[float], colour: tuple[int, int, int]) -> None:
    draw = ImageDraw.Draw(picture)
    x0, y0, x1, y1 = (round(edge) for edge in box)
    # A square that leaves the frame shows its visible part only, closed at the border.
    x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, picture.width - 1), min(y1, picture.height - 1)
    if x0 < x1 and y0 < y1:
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=2)


def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)


def cell(
    pictures: list[Image.Image], caption: str, note: tuple[str, tuple[int, int, int]] | None, *, above: bool = False
) -> Image.Image:
    font = font_of(13)
    needed = font.getlength(caption) + (font.getlength(f"   {note[0]}") if note else 0)
    height = max(picture.height for picture in pictures)
    width = max(sum(picture.width for picture in pictures) + 2 * (len(pictures) - 1), int(needed) + 2)
    cell = Image.new("RGB", (width, height + LINE + 3), BACKGROUND)
    draw = ImageDraw.Draw(cell)
    text_y, left = (0 if above else height + 3), 0
    for picture in pictures:
        cell.paste(picture, (left, LINE + 3 if above else 0))
        left += picture.width + 2
    draw.text((0, text_y), caption, fill=TEXT if above else FAINT, font=font)
    if note:
        words, colour = note
        draw.text((font.getlength(f"{caption}   "), text_y), words, fill=colour, font=font)
        draw.rectangle((0, 0, left - 3, height - 1), outline=colour, width=2)
    return cell


def chosen_columns(columns: int | None, cells: list[Image.Image], *, limit: int) -> int:
    if columns is not None:
        _check_positive("columns", columns)
        return min(columns, len(cells))
    # Near three parts wide to two parts high, which fits screens and pages.
    width, height = max(cell.width for cell in cells) + GAP, max(cell.height for cell in cells) + GAP
    return max(1, min(limit, len(cells), round((1.5 * len(cells) * height / width) ** 0.5)))


def grid(cells: list[Image.Image], columns: int) -> Image.Image:
    width, height = max(cell.width for cell in cells), max(cell.height for cell in cells)
    rows = -(-len(cells) // columns)
    size = (columns * (width + GAP) - GAP, rows * (height + GAP) - GAP)
    grid = Image.new("RGB", size, BACKGROUND)
    for i, cell in enumerate(cells):
        grid.paste(cell, (i % columns * (width + GAP), i // columns * (height + GAP)))
    return grid


def stacked(pictures: list[Image.Image], gap: int) -> Image.Image:
    """Pictures below each other."""
    size = (max(p.width for p in pictures), sum(p.height for p in pictures) + gap * (len(pictures) - 1))
    whole, y = Image.new("RGB", size, BACKGROUND), 0
    for picture in pictures:
        whole.paste(picture, (0, y))
        y += picture.height + gap
    return whole


def page(body: Image.Image, heading: str | None, lines: list[str]) -> np.ndarray:
    large, small = font_of(18), font_of(14)
    texts = ([(heading, large, TEXT, 26)] if heading else []) + [(line, small, FAINT, 20) for line in lines]
    wrapped = [
        (part, font, colour, step)
        for text, font, colour, step in texts
        for part in wrap(text, font, max(body.width, 320))
    ]
    head = sum(step for *_, step in wrapped) + (GAP if wrapped else 0)
    width = max([body.width, *(int(font.getlength(text)) + 1 for text, font, *_ in wrapped)])
    page = Image.new("RGB", (width + 2 * GAP, body.height + head + 2 * GAP), BACKGROUND)
    draw, y = ImageDraw.Draw(page), GAP
    for text, font, colour, step in wrapped:
        draw.text((GAP, y), text, fill=colour, font=font)
        y += step
    page.paste(body, (GAP, GAP + head))
    return np.asarray(page)


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> list[str]:
    lines = [""]
    for word in text.split(" "):
        longer = f"{lines[-1]} {word}" if lines[-1] else word
        if lines[-1] and font.getlength(longer) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _check_positive(label: str, value: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise SlotIDError(f"{label} is {value!r}", "a whole number from 1 on", f"Correct {label}.")


def _check_labels(label: str, values: Sequence[str], count: int) -> None:
    if len(values) != count:
        raise SlotIDError(f"{len(values)} {label} for {count} frames", "one for each frame", f"Correct {label}.")
