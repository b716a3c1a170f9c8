"""The contact sheets of the report, made of the strips of frames that runs leave beside their results."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..demo.clips import reference_clips
from ..sheets import rows_sheet, save_image
from .conditions import FOLLOWED, FULL, LABELS, WRONG, Condition
from .design import REFERENCE_TAKE
from .renders import to_bytes
from .results import NONE, PACKAGED, TRUTH, Settings, strip_path
from .study import SHOWN_FRAMES, SHOWN_PEOPLE

PHOTOS = ("frontal", "first", "random")
_REFERENCE_FRAMES = (0, 8, 16, 24, 32)
_SIDE, _GAP, _HEAD = 96, 10, 26


def write_sheets(folder: Path, pictures: Path, settings: Settings, conditions: dict[str, Condition]) -> list[str]:
    """Write the sheets for which there are strips; returns their names.

    evaluation_people.png: one person a row; reference, photo, clip, packaged, wrong reference, no identity, truth.
    evaluation_smile.png: one smiling person, one condition a row, as the smile forms.
    """
    strips = {key: _strip(folder, condition) for key, condition in conditions.items() if key != FOLLOWED}
    strips = {key: strip for key, strip in strips.items() if strip is not None}
    if TRUTH not in strips:
        return []
    pictures.mkdir(parents=True, exist_ok=True)
    seeds = settings.design.seeds[: min(len(strips[TRUTH]), SHOWN_PEOPLE)]
    clips = reference_clips(seeds, REFERENCE_TAKE, size=settings.size).frames
    references = to_bytes(clips[:, _REFERENCE_FRAMES]) / 255
    photo = next((key for key in PHOTOS if key in strips), None)
    columns = [key for key in (photo, FULL, PACKAGED, WRONG, NONE, TRUTH) if key in strips]
    groups = {"reference clip": references, **{LABELS[key]: strips[key][:, [0, -1]] for key in columns}}
    save_image(pictures / "evaluation_people.png", people_sheet(groups))
    smiles = [("reference clip", references[0]), *((LABELS[key], strip[0]) for key, strip in strips.items())]
    save_image(pictures / "evaluation_smile.png", rows_sheet(smiles, columns=SHOWN_FRAMES))
    return ["evaluation_people.png", "evaluation_smile.png"]


def people_sheet(groups: dict[str, Tensor]) -> np.ndarray:
    """A picture uint8 [H, W, 3] with one person a row and one group of columns for each condition.

    Args:
        groups: label -> frames [people, n, H, W, 3] in [0, 1].
    """
    font = ImageFont.load_default(size=13)
    rows = len(next(iter(groups.values())))
    widths = [max(part.shape[1] * _SIDE, int(font.getlength(label)) + 4) for label, part in groups.items()]
    page = Image.new("RGB", (sum(widths) + _GAP * (len(widths) + 1), rows * (_SIDE + 2) + _HEAD + _GAP), "white")
    draw, left = ImageDraw.Draw(page), _GAP
    for (label, part), width in zip(groups.items(), widths, strict=True):
        draw.text((left, 6), label, fill="black", font=font)
        for i, person in enumerate(part):
            for j, frame in enumerate(person):
                picture = Image.fromarray(to_bytes(frame).numpy()).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC)
                page.paste(picture, (left + j * _SIDE, _HEAD + i * (_SIDE + 2)))
        left += width + _GAP
    return np.asarray(page)


def _strip(folder: Path, condition: Condition) -> Tensor | None:
    """Frames [people, 5, H, W, 3] in [0, 1] of the condition's first run that left a strip."""
    for run in condition.runs:
        path = strip_path(folder, run.name)
        if path.is_file():
            with Image.open(path) as image:
                pixels = torch.from_numpy(np.array(image.convert("RGB")))
            side = pixels.shape[1] // SHOWN_FRAMES
            return pixels.unflatten(1, (SHOWN_FRAMES, side)).unflatten(0, (-1, side)).movedim(2, 1) / 255
    return None
