"""What the slots looked at, as a picture."""

from __future__ import annotations

import colorsys

import torch
from torch.nn import functional as F

from ..slotid_core.faces import Faces
from ..slotid_core.slots import RoutingTrace

_COLUMNS = 9
_SIDE = 128


def routing_picture(faces: Faces, trace: RoutingTrace) -> torch.Tensor:
    """What each slot looked at, as one picture [1, H, W, 3] in [0, 1].

    Above, the crop at the start of each latent frame; below, the same with every place in the colour of the slot that
    took most from it, the darker the more of it went to the dustbin. At most nine latent frames, evenly spaced.
    """
    plan = trace.plan[0].float().cpu()  # [F, S + 1, N]
    frames = torch.linspace(0, plan.shape[0] - 1, min(_COLUMNS, plan.shape[0])).round().long()
    # The first latent frame is the first frame alone, each other one is four.
    crops = faces.crops.cpu()[torch.clamp(frames * 4 - 3, min=0)].movedim(-1, 1)
    crops = F.interpolate(crops, (_SIDE, _SIDE), mode="bilinear", antialias=True)
    slots = plan[frames, :-1]
    kept = slots.sum(1, keepdim=True) / plan[frames].sum(1, keepdim=True)
    colours = _palette(slots.shape[1])[slots.argmax(1)].movedim(-1, 1) * kept / kept.amax()
    tint = F.interpolate(colours.unflatten(-1, trace.grid), (_SIDE, _SIDE), mode="nearest")
    rows = [torch.cat(list(pictures), 2) for pictures in (crops, 0.45 * crops + 0.55 * tint)]
    return torch.cat(rows, 1).movedim(0, -1).unsqueeze(0).clamp(0, 1)


def _palette(slots: int) -> torch.Tensor:
    """One colour per slot: [slots, 3]."""
    return torch.tensor([colorsys.hsv_to_rgb(index / slots, 0.75, 1.0) for index in range(slots)])
