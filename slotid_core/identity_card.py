"""An identity as one picture: who it is, what was seen of them, where it comes from, who agreed to what."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image

from .identity import Identity
from .sheets import coverage_map
from .sheets.pages import FRAME_HEIGHT, GAP, cell, grid, page, scaled, stacked


def identity_card(identity: Identity, *, title: str | None = None) -> np.ndarray:
    """Thumbnails, the map of poses and expressions, and the report: uint8 [H, W, 3].

    Args:
        identity: any, merged ones too.
        title: a line above, such as the file's name; None takes the source's.
    """
    pictures = [scaled(thumbnail, FRAME_HEIGHT) for thumbnail in identity.thumbnails.to(torch.float32) / 255]
    parts = [grid([cell([picture], "", None) for picture in pictures], len(pictures))] if pictures else []
    parts.append(Image.fromarray(coverage_map(identity.coverage)))
    return page(stacked(parts, GAP), title or identity.source or "identity", identity.report().splitlines())
