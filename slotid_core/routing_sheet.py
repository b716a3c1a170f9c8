"""What the slots looked at, as pictures, curves and words; all from the plan itself, nothing computed again."""

from __future__ import annotations

import colorsys
import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .sheets import Line, plot, rows_sheet

if TYPE_CHECKING:
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
    count = min(COLUMNS, trace.plan.shape[1])
    frames = torch.linspace(0, trace.plan.shape[1] - 1, count).round().long()
    rows = [
        ("what was read, one crop for each latent frame", crops_read(faces, trace)[frames]),
        ("the slot that took most from each place; dark: the dustbin", routing_overlay(faces, trace)[frames]),
    ]
    figures = usage(trace)
    words = (
        f"{figures.slots.shape[1]} slots. Dustbin {figures.dustbin.mean():.0%} of the mass. "
        f"Marginal error {figures.marginal_error.mean():.2f}."
    )
    return rows_sheet(rows, columns=count, title=f"{title}   {words}" if title else words)


def crops_read(faces: Faces, trace: RoutingTrace) -> Tensor:
    """The crop at the start of each latent frame: [F, 128, 128, 3] in [0, 1]."""
    # The first latent frame is the first frame alone, each other one is four.
    starts = torch.clamp(torch.arange(trace.plan.shape[1]) * 4 - 3, min=0)
    crops = faces.crops.cpu()[starts].movedim(-1, 1)
    return F.interpolate(crops, (SIDE, SIDE), mode="bilinear", antialias=True).clamp(0, 1).movedim(1, -1)


def routing_overlay(faces: Faces, trace: RoutingTrace) -> Tensor:
    """Each latent frame's crop with every place in the colour of the slot that took most from it: [F, 128, 128, 3].

    The darker a place, the more of it went to the dustbin.
    """
    plan = _plan(trace)
    slots = plan[:, :-1]
    kept = slots.sum(1, keepdim=True) / plan.sum(1, keepdim=True)
    colours = _palette(slots.shape[1])[slots.argmax(1)].movedim(-1, 1) * kept / kept.amax()
    tint = F.interpolate(colours.unflatten(-1, trace.grid), (SIDE, SIDE), mode="nearest").movedim(1, -1)
    return 0.45 * crops_read(faces, trace) + 0.55 * tint


def slot_pictures(faces: Faces, trace: RoutingTrace) -> Tensor:
    """Where each slot looked, a picture for each latent frame: [F, H, W, 3] in [0, 1].

    A grid of crops with their numbers, one for each slot in its colour and the dustbin (D) last; bright where the slot
    took much of what it took in this frame.
    """
    plan, crops = _plan(trace), crops_read(faces, trace)
    colours = torch.cat([_palette(plan.shape[1] - 1), torch.ones(1, 3)])
    columns = math.ceil(math.sqrt(plan.shape[1]))
    rows = math.ceil(plan.shape[1] / columns)
    peak = plan.amax(-1, keepdim=True).clamp(min=1e-12)
    heat = F.interpolate((plan / peak).unflatten(-1, trace.grid), (SIDE, SIDE), mode="bilinear")
    pictures = torch.zeros(len(plan), rows * SIDE, columns * SIDE, 3)
    for slot, colour in enumerate(colours):
        y, x = slot // columns * SIDE, slot % columns * SIDE
        lit = crops * (0.2 + 0.5 * heat[:, slot, ..., None]) + 0.3 * colour * heat[:, slot, ..., None]
        pictures[:, y : y + SIDE, x : x + SIDE] = lit
    names = [*map(str, range(1, len(colours))), "D"]
    return _numbered(pictures, names, columns)


class Usage(NamedTuple):
    """Shares of the mass: [F, S] of each slot and [F] of the dustbin; and the [F] marginal error (L1)."""

    slots: Tensor
    dustbin: Tensor
    marginal_error: Tensor


def usage(trace: RoutingTrace) -> Usage:
    """What the plan gave to each slot and to the dustbin in each latent frame; both together are 1."""
    plan = _plan(trace)
    shares = plan.sum(-1) / plan.sum((1, 2)).unsqueeze(-1)
    return Usage(shares[:, :-1], shares[:, -1], trace.marginal_error[0].float().cpu())


def usage_plot(trace: RoutingTrace) -> np.ndarray:
    """Each slot's share over the latent frames; below, the dustbin's share and the marginal error: uint8 [H, W, 3]."""
    figures = usage(trace)
    colours = [tuple(round(255 * part) for part in colour) for colour in _palette(figures.slots.shape[1]).tolist()]
    slots = [
        Line(f"slot {i + 1}", share, colour)
        for i, (share, colour) in enumerate(zip(figures.slots.T.tolist(), colours, strict=True))
    ]
    rest = [
        Line("dustbin: share left aside as background", figures.dustbin.tolist(), (232, 234, 237)),
        Line("marginal error", figures.marginal_error.tolist(), (253, 186, 84)),
    ]
    above = plot("share of the clip read by each slot, over latent frames", slots)
    below = plot("what no slot took, and how far the slots are from equal shares", rest, columns=2)
    return np.concatenate([above, below])


def routing_report(trace: RoutingTrace) -> str:
    """The same in words."""
    figures = usage(trace)
    share = figures.slots.mean(0)
    even = float(1 - figures.dustbin.mean()) / len(share)
    lines = [
        f"{len(share)} slots read {len(figures.dustbin)} latent frames.",
        f"Dustbin: {figures.dustbin.mean():.0%} of the mass on average ({figures.dustbin.min():.0%} to "
        f"{figures.dustbin.max():.0%}).",
        f"Busiest slot: {int(share.argmax()) + 1} with {share.max():.1%}; least: {int(share.argmin()) + 1} with "
        f"{share.min():.1%}; an even share is {even:.1%}.",
        f"Marginal error: {figures.marginal_error.mean():.2f} on average, {figures.marginal_error.max():.2f} at most.",
    ]
    idle = [str(i + 1) for i, part in enumerate(share.tolist()) if part < 0.1 * even]
    return "\n".join(lines + [f"Hardly used: slots {', '.join(idle)}."] * bool(idle))


def _plan(trace: RoutingTrace) -> Tensor:
    """[F, S + 1, N] of the first clip of the batch."""
    return trace.plan[0].float().cpu()


def _numbered(pictures: Tensor, names: list[str], columns: int) -> Tensor:
    from PIL import Image, ImageDraw, ImageFont

    height, width = pictures.shape[1:3]
    strip = Image.new("L", (width, height))
    for place, name in enumerate(names):
        corner = (place % columns * SIDE + 5, place // columns * SIDE + 3)
        ImageDraw.Draw(strip).text(corner, name, fill=255, font=ImageFont.load_default(size=14))
    ink = torch.from_numpy(np.asarray(strip).astype(np.float32) / 255).unsqueeze(-1)
    return pictures * (1 - ink) + ink


def _palette(slots: int) -> Tensor:
    """One colour per slot: [slots, 3]."""
    return torch.tensor([colorsys.hsv_to_rgb(index / slots, 0.75, 1.0) for index in range(slots)])
