"""References cut in two in time, so that the encoder learns to read partial clips and to say what it found in them.

Artists have clips of one side, photos, and several clips of one person. Of the references that are cut, half are read
part by part, each as if it were a clip of its own, and their tokens weighed together by the slots' evidence, as
identities are merged (`merging.py`); of a quarter only the first part is read, of a quarter only the second.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..slots import weighed
from .flow import stream

WHOLE, BOTH, FIRST, SECOND = range(4)


def draw_parts(seed: int, step: int, rows: Sequence[int], share: float, frames: int) -> dict[str, Tensor]:
    """Which references of a step are cut, and where: a function of (seed, step, row) alone.

    All are cut at one place, so that they can be read as one batch. A first part may be one latent frame, a photo; a
    second may not, because a Wan VAE's later latent frames stand for four frames each.

    Args:
        rows: numbers of the rows in the step's whole batch.
        share: of the rows that are cut.
        frames: latent frames of a reference, three or more.

    Returns:
        `part` [B], one of WHOLE, BOTH, FIRST and SECOND, and `cut` [], the first part's latent frames.
    """
    cut = torch.randint(1, frames - 1, (), generator=stream("cut", seed, step))
    chance = torch.cat([torch.rand(1, generator=stream("part", seed, step, row)) for row in rows]) / share
    part = torch.where(chance < 0.5, BOTH, torch.where(chance < 0.75, FIRST, SECOND))
    return {"part": torch.where(chance < 1, part, WHOLE), "cut": cut}


def read_parts(
    encoder: nn.Module,
    latents: Tensor,
    saliency: Tensor | None = None,
    part: Tensor | None = None,
    cut: Tensor | None = None,
) -> Tensor:
    """Identity tokens [B, 2 S, D_id] of a batch of references.

    Args:
        encoder: an `IdentityEncoder`.
        latents, saliency: what it reads; latents [B, C, F, h, w].
        part, cut: from `draw_parts`; without them every reference is read whole.
    """
    if part is None or cut is None:
        return encoder(latents, saliency)[0]

    def read(rows: Tensor, frames: slice) -> tuple[Tensor, Tensor]:
        tokens, trace = encoder(latents[rows, :, frames], None if saliency is None else saliency[rows, frames])
        return tokens, trace.evidence

    whole, both, first, second = ((part == kind).nonzero()[:, 0] for kind in (WHOLE, BOTH, FIRST, SECOND))
    early, late, n = torch.cat([both, first]), torch.cat([both, second]), len(both)
    tokens = []
    if len(whole):
        tokens.append(read(whole, slice(None))[0])
    parts = [read(rows, frames) for rows, frames in ((early, slice(cut)), (late, slice(cut, None))) if len(rows)]
    if n:
        tokens.append(weighed(*(torch.stack([part[:n] for part in pair]) for pair in zip(*parts, strict=True))))
    tokens += [read_apart[n:] for read_apart, _ in parts]
    return torch.cat(tokens)[torch.cat([whole, both, first, second]).argsort()]
