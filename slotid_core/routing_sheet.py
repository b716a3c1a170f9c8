"""What the slots looked at, as a picture, drawn from the plan itself."""

from __future__ import annotations

import colorsys
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F

from .sheets import rows_sheet

if TYPE_CHECKING:
    import numpy as np

    from .faces import Faces
    from .slots import RoutingTrace

COLUMNS = 9
SIDE = 128


def routing_sheet(faces: Faces, trace: RoutingTrace, *, title: str | None = None) -> np.ndarray:
    """What each slot looked at, uint8 [H, W, 3]: at most nine latent frames, evenly spaced.

    Above, the crop at the start of each latent frame; below, the same with every place in the colour of the slot that
    took most from it, the darker the more of it went to the dustbin.

    Args:
        faces: what was encoded.
        trace: what `SlotID.encode_with_routing` gave for them.
        title: words before the figures in the heading.
    """
    plan = trace.plan[0].float().cpu()  # [F, S + 1, N]
    count = min(COLUMNS, plan.shape[0])
    frames = torch.linspace(0, plan.shape[0] - 1, count).round().long()
    # The first latent frame is the first frame alone, each other one is four.
    crops = faces.crops.cpu()[torch.clamp(frames * 4 - 3, min=0)].movedim(-1, 1)
    crops = F.interpolate(crops, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1)
    slots = plan[frames, :-1]
    kept = slots.sum(1, keepdim=True) / plan[frames].sum(1, keepdim=True)
    colours = _palette(slots.shape[1])[slots.argmax(1)].movedim(-1, 1) * kept / kept.amax()
    tint = F.interpolate(colours.unflatten(-1, trace.grid), (SIDE, SIDE), mode="nearest")
    rows = [
        ("what was read, one crop for each latent frame", crops),
        ("the slot that took most from each place; dark: the dustbin", 0.45 * crops + 0.55 * tint),
    ]
    figures = (
        f"{slots.shape[1]} slots. Dustbin {plan[:, -1].sum(-1).mean():.0%} of the mass. "
        f"Marginal error {trace.marginal_error.mean():.2f}."
    )
    heading = f"{title}   {figures}" if title else figures
    return rows_sheet([(label, pictures.movedim(1, -1)) for label, pictures in rows], columns=count, title=heading)


def _palette(slots: int) -> Tensor:
    """One colour per slot: [slots, 3]."""
    return torch.tensor([colorsys.hsv_to_rgb(index / slots, 0.75, 1.0) for index in range(slots)])
